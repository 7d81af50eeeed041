"""Controls with false corrections: always (`wrong`), or with a given probability (`mixed`).

A false correction is written by the source itself, which is shown a false solution in place of the reference
(`distractors.py`). It thus has the style of a true critique and differs from one in content only:

    a correct answer  is called wrong, with a correct part of it named as the mistake
    a wrong answer    is criticised for a correct part, and its mistakes are not mentioned;
                      where it has no correct part, or the source names no parts, it is called correct

A program that compares is then false with certainty. A model that was shown a false solution may still write
something true. docs/algorithms/rl2f.md has training with `mixed` and `after_right`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from didact.controls.base import Control, Verify, altered, authored, judged
from didact.controls.distractors import PUZZLE_DISTRACTORS, make_distractor
from didact.feedback.program import WRONG, ProgramCritic
from didact.feedback.puzzle_critic import PuzzleCritic
from didact.feedback_source import FeedbackRequest, FeedbackSource
from didact.rng import generator
from didact.types import Feedback


class Wrong(Control):
    """Every critique is a false correction; it fails where there is none.

    Whether a critique is false, and which false solution it is based on, depends on (seed, rollout, turn,
    answer) only. Without a rollout id the problem's id takes its place; equal answers get equal critiques.

    Attributes:
        after_right: Also criticise correct answers, in dialogues that would otherwise end there.
    """

    replaces_reference: ClassVar[bool] = True

    name: str = "wrong"
    after_right: bool = False

    @property
    def probability(self) -> float:
        """Of a false correction."""
        return 1.0

    @property
    def critiques_correct_answers(self) -> bool:
        return self.after_right

    def critique(
        self, requests: Sequence[FeedbackRequest], source: FeedbackSource, seed: int, verify: Verify | None
    ) -> list[Feedback]:
        rngs = [_rng(request, seed) for request in requests]
        false = {i for i, rng in enumerate(rngs) if rng.random() < self.probability}
        asked = {
            i: _misled(request, source, verify, rngs[i]) if i in false else request
            for i, request in enumerate(requests)
        }
        found = _ask(source, {i: request for i, request in asked.items() if request is not None})
        # "The answer is wrong" is true of a wrong answer, which is then called correct.
        open_ = [i for i in false if i not in found or (found[i].ok and found[i].text.strip() == WRONG)]
        found |= _ask(source, {i: _as_right(requests[i]) for i in open_ if not requests[i].turn.correct})
        for i in false:
            request = requests[i]
            error = f"no false correction of this answer to problem {request.problem.id!r} was found"
            feedback = found.get(i) or authored(request, "wrong", status="failed", error=error)
            found[i] = altered(feedback, "wrong", misleading=feedback.ok)
        return [found[i] for i in range(len(requests))]

    def false_solution(
        self, request: FeedbackRequest, source: FeedbackSource, seed: int, verify: Verify | None
    ) -> str | None:
        """The solution that a false correction of this answer is based on; None where there is none, or where
        it is no text, as for a puzzle."""
        rng = _rng(request, seed)
        rng.random()  # the draw that decides whether the critique is false
        misled = None if isinstance(source, PuzzleCritic) else _misled(request, source, verify, rng)
        return None if misled is None else misled.problem.reference


class Mixed(Wrong):
    """A critique is a false correction with probability `share`, in (0, 1]."""

    name: str = "mixed"
    share: Annotated[float, Field(gt=0, le=1)] = 0.5

    @property
    def probability(self) -> float:
        return self.share


def _rng(request: FeedbackRequest, seed: int) -> np.random.Generator:
    rollout = request.problem.id if request.rollout is None else request.rollout
    return generator(seed, "misled", rollout, request.index, request.turn.text)


def _ask(source: FeedbackSource, requests: dict[int, FeedbackRequest]) -> dict[int, Feedback]:
    if not requests:
        return {}
    return dict(zip(requests, source.critique(list(requests.values())), strict=True))


def _misled(
    request: FeedbackRequest, source: FeedbackSource, verify: Verify | None, rng: np.random.Generator
) -> FeedbackRequest | None:
    """The request with a false solution in place of the true one; None without one."""
    problem, turn = request.problem, request.turn
    if isinstance(source, PuzzleCritic):
        task = source.task
        final = task.final_answer(turn.answer) or ""
        solution = PUZZLE_DISTRACTORS[task.name](problem.metadata, final, turn.correct, rng)
        if solution is None:
            return None
        false = problem.model_copy(update={"metadata": {**problem.metadata, "solution": solution}})
        return judged(request, false, right=False)
    if problem.reference is None:
        return None
    if isinstance(source, ProgramCritic):  # it compares, and must find exactly one difference
        kept = None if turn.correct else problem.reference
        solution = make_distractor(problem, turn.answer, rng, verify, kept=kept)
    else:
        solution = make_distractor(problem, problem.reference, rng, verify)
    if solution is None or solution.strip() == turn.answer.strip():
        return None
    return judged(request, problem.model_copy(update={"reference": solution}), right=False)


def _as_right(request: FeedbackRequest) -> FeedbackRequest:
    """The request with the answer itself as the reference."""
    problem = request.problem.model_copy(update={"reference": request.turn.answer})
    return judged(request, problem, right=True)
