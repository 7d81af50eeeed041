"""Controls that replace the critique: by a known text, or by exchanging problems within a batch.

Exchanged critiques have the same source, texts and cost, but a shuffled critique carries no information about
the answer it is given with: whatever a method gains with it does not come from reading. They are dealt across
*problems*: answers to one problem share a reference, which shuffling among them would leak. A known text does
not call the source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from didact.controls.base import Control, Verify, altered, authored, judged
from didact.feedback.program import RIGHT, WRONG
from didact.feedback_source import FeedbackRequest, FeedbackSource
from didact.rng import generator
from didact.types import Feedback, Message

SubstituteName: TypeAlias = Literal["verdict", "reference", "second-try"]
SUBSTITUTES: tuple[SubstituteName, ...] = get_args(SubstituteName)
SECOND_TRY = "Please answer once more."
"""The text of `second-try`."""
NOT_DEALT: dict[str, Any] = {
    "status": "failed",
    "error": "no critique of another problem is left in this batch: take more problems a step",
    "error_kind": "not_dealt",
}
"""The fields of a critique that could not be dealt."""


class Substitute(Control):
    """`verdict`: right or wrong. `reference`: the reference. `second-try`: a request without information.

    A feedback is failed where the verdict or the reference is missing.
    """

    repeats_by_design: ClassVar[bool] = True

    name: SubstituteName

    def critique(
        self, requests: Sequence[FeedbackRequest], source: FeedbackSource, seed: int, verify: Verify | None
    ) -> list[Feedback]:
        return [self._written(request) for request in requests]

    def _written(self, request: FeedbackRequest) -> Feedback:
        reference = request.problem.reference
        if self.name == "second-try":
            return authored(request, self.name, text=SECOND_TRY)
        if self.name == "reference" and reference is not None:
            return authored(request, self.name, saw_reference=True, text=reference, leaks=True)
        if self.name == "reference":
            error = f"problem {request.problem.id!r} has no reference"
            return authored(request, self.name, status="failed", error=error, error_kind="missing_reference")
        if request.turn.reward is None:
            error = "nothing verified the answer, so there is no verdict"
            return authored(request, self.name, status="failed", error=error)
        text, label = (RIGHT, "right") if request.turn.correct else (WRONG, "wrong")
        return authored(request, self.name, saw_reference=True, text=text, label=label)


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
        for request, critique, giver in zip(requests, written, deal(requests, seed), strict=True):
            if giver is None:
                lost = {**NOT_DEALT, "text": "", "label": None, "spans": ()}
                dealt.append(altered(critique, self.name, **lost))
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
            altered(written[i], self.name, spans=(), leaks=None)
            if i in written
            else authored(request, self.name, **NOT_DEALT)
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
    right = reference is not None and request.turn.answer.strip() == reference.strip()
    return judged(request, other.problem, right=right)
