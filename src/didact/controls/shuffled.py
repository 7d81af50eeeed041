"""Controls that exchange problems within a batch: shuffled critiques, and critiques of another problem.

Source, texts and cost are the same, but a shuffled critique carries no information about the answer it is
given with. Whatever a method gains with shuffled critiques does not come from reading them. They are dealt
across *problems*: answers to one problem share a reference, which shuffling among them would leak.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from didact.controls.base import Control, Verify, altered
from didact.feedback_source import FeedbackRequest, FeedbackSource
from didact.rng import generator
from didact.types import Feedback, Message, Provenance

NOT_DEALT: dict[str, Any] = {
    "status": "failed",
    "error": "no critique of another problem is left in this batch: take more problems a step",
    "error_kind": "not_dealt",
}
"""The fields of a critique that could not be dealt."""


class Shuffled(Control):
    """Every answer gets the true critique of an answer to another problem.

    A request that cannot get one (its problem has more than half of the batch) fails.
    """

    name: str = "shuffled"

    def critique(
        self, requests: Sequence[FeedbackRequest], source: FeedbackSource, seed: int, verify: Verify | None
    ) -> list[Feedback]:
        written = source.critique(requests)
        dealt = []
        for request, own, giver in zip(requests, written, deal(requests, seed), strict=True):
            if giver is None:
                lost = {**NOT_DEALT, "text": "", "label": None, "spans": ()}
                dealt.append(altered(own, self.name, **lost))
            else:
                # Spans quote the other answer.
                dealt.append(altered(written[giver], self.name, turn=request.index, spans=()))
        return dealt


class OtherProblem(Control):
    """Every answer is criticised as an answer to another problem of the batch; without one it fails.

    The critique is about this answer, in the source's own style, but measured against a problem that was not
    asked. A source that compares with a reference thus names mistakes that are none.
    """

    name: str = "other-problem"

    def critique(
        self, requests: Sequence[FeedbackRequest], source: FeedbackSource, seed: int, verify: Verify | None
    ) -> list[Feedback]:
        swapped = {
            i: _swapped(request, requests[other])
            for i, (request, other) in enumerate(zip(requests, deal(requests, seed), strict=True))
            if other is not None
        }
        written = dict(zip(swapped, source.critique(list(swapped.values())), strict=True)) if swapped else {}
        return [
            # Whether it leaks was measured by the other problem's reference.
            altered(written[i], self.name, spans=(), leaks=None) if i in written else _failed(request)
            for i, request in enumerate(requests)
        ]


def deal(requests: Sequence[FeedbackRequest], seed: int) -> list[int | None]:
    """For each request, the index of a request about another problem, each used once; None without one.

    The requests are laid out problem by problem and rotated by the size of the largest problem, so that no
    request meets its own problem if that is possible at all.
    """
    # Problems are told apart by their messages: under two ids, one question would get its own critiques.
    by_problem: dict[tuple[Message, ...], list[int]] = defaultdict(list)
    for i, request in enumerate(requests):
        by_problem[request.problem.messages].append(i)
    if not by_problem:
        return []
    names = {asked: min(requests[i].problem.id for i in places) for asked, places in by_problem.items()}
    problems = sorted(by_problem, key=lambda asked: (names[asked], str(asked)))
    generator(seed, "shuffle", *(names[asked] for asked in problems)).shuffle(problems)
    order = [i for problem in problems for i in by_problem[problem]]
    shift = max(map(len, by_problem.values()))
    givers: list[int | None] = [None] * len(requests)
    for place, i in enumerate(order):
        giver = order[(place + shift) % len(order)]
        if requests[giver].problem.messages != requests[i].problem.messages:
            givers[i] = giver
    return givers


def _swapped(request: FeedbackRequest, other: FeedbackRequest) -> FeedbackRequest:
    """The same answer, given to another problem: a wrong one there, unless it equals the reference."""
    reference = other.problem.reference
    right = reference is not None and request.turn.text.strip() == reference.strip()
    turn = request.turn.model_copy(update={"reward": float(right), "correct": right})
    return dataclasses.replace(request, problem=other.problem, turn=turn)


def _failed(request: FeedbackRequest) -> Feedback:
    return Feedback(
        turn=request.index,
        source="program",
        saw_reference=False,
        provenance=Provenance(author="control", control="other-problem"),
        **NOT_DEALT,
    )
