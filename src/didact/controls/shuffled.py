"""The control: every critique is dealt to an answer of *another problem*.

Same source, same texts, same cost, but a critique says nothing about the answer it stands beside.
Whatever a method gains with shuffled critiques, it does not owe to reading them. Shuffling among
answers of one problem would leak, because they share a reference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from didact.feedback_source import FeedbackRequest, FeedbackSource
from didact.rng import generator
from didact.types import Feedback, Message


class ShuffledFeedback:
    """Wraps a source and deals its critiques across problems.

    Args:
        source: Who writes the critiques.
        seed: Which deal; the same batch of requests gets the same deal.
    """

    def __init__(self, source: FeedbackSource, *, seed: int = 0) -> None:
        self.source = source
        self.seed = seed

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One critique of another problem's answer for each request.

        A request that cannot get one (its problem holds more than half of the batch) fails.
        """
        written = self.source.critique(requests)
        return [
            self._dealt(request, own, None if giver is None else written[giver])
            for request, own, giver in zip(requests, written, self.deal(requests), strict=True)
        ]

    def deal(self, requests: Sequence[FeedbackRequest]) -> list[int | None]:
        """For each request, the index of the request whose critique it gets.

        The requests are laid out problem by problem and rotated by the largest problem's share, so
        that nobody lands on their own problem if that is possible at all.
        """
        # By what is asked: under two ids, one question would get its own true critiques.
        by_problem: dict[tuple[Message, ...], list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            by_problem[request.problem.messages].append(i)
        if not by_problem:
            return []
        names = {asked: min(requests[i].problem.id for i in places) for asked, places in by_problem.items()}
        problems = sorted(by_problem, key=lambda asked: (names[asked], str(asked)))
        generator(self.seed, "shuffle", *(names[asked] for asked in problems)).shuffle(problems)
        order = [i for problem in problems for i in by_problem[problem]]
        shift = max(map(len, by_problem.values()))
        givers: list[int | None] = [None] * len(requests)
        for place, i in enumerate(order):
            giver = order[(place + shift) % len(order)]
            if requests[giver].problem.messages != requests[i].problem.messages:
                givers[i] = giver
        return givers

    def _dealt(self, request: FeedbackRequest, own: Feedback, given: Feedback | None) -> Feedback:
        if given is None:
            error = "no critique of another problem is left in this batch: take more problems a step"
            author = own.provenance.model_copy(update={"author": "shuffled:nobody"})
            failure = {"status": "failed", "error": error, "error_kind": "not_dealt"}
            empty = {"text": "", "spans": (), "score": None, "label": None}
            return own.model_copy(update={**failure, **empty, "provenance": author})
        author = given.provenance.model_copy(update={"author": f"shuffled:{given.provenance.author}"})
        # Spans quote the other answer and a score rates it: neither fits this one.
        return given.model_copy(
            update={"turn": request.index, "spans": (), "score": None, "provenance": author}
        )
