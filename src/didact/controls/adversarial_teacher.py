"""The wrong teacher, and the mixed one: with a given probability a critic says what is false.

A false correction comes from the critic itself, who is shown a false solution in place of the reference (see
`decoys`). So it is in the same voice as a true one and can only be told by what it says:

    a right answer   is called wrong, with a right part of it named as the mistake
    a wrong answer   is blamed for a part that is right, and its true mistakes are passed over;
                     where it has no right part, or the critic names no parts, it is called right

A program that compares is thereby false for certain. A model that was shown a false solution is misled, and
may all the same say something true.

Training on the verifier's rewards with a mixed teacher rewards the answer that resists what is false and
follows what is true. `after_right` also lets the teacher speak after a right answer: see
`didact.feedback_source.speaks_after_right`, and `correct_from_turn` for what such a dialogue is then worth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from didact.controls.distractors import Verify, decoy
from didact.controls.puzzle_distractors import PUZZLE_DECOYS
from didact.errors import UsageError
from didact.feedback.program import WRONG, ProgramCritic
from didact.feedback.puzzle_critic import PuzzleCritic
from didact.feedback_source import FeedbackRequest, FeedbackSource
from didact.leakage import LeakGuard
from didact.rng import generator
from didact.types import Feedback, Problem, Provenance, Rollout

FALSE = "wrong:"
"""Before an author's name on a critique that was made to be false."""


def is_false(feedback: Feedback) -> bool:
    """Was this critique made to be false?"""
    return feedback.ok and feedback.provenance.author.startswith(FALSE)


def correct_from_turn(rollout: Rollout) -> int | None:
    """The turn from which on all answers are right, or None if the last one is not.

    Of a dialogue that ends at its first right answer this is the last turn. Where the teacher speaks after
    right answers, it is the turn at which the answer was found that nobody talked the student out of: a
    discount by turn then costs nothing for having been right and having stayed so.

    >>> from didact.types import Problem, Turn
    >>> def t(r): return Turn(prompt_ids=(1,), completion_ids=(2,), logprobs=None, text="", stop_reason="eos",
    ...                       reward=r)
    >>> p = Problem.ask("?", id="p")
    >>> [standing_since(Rollout(id="r", group="g", problem=p, turns=tuple(map(t, rewards))))
    ...  for rewards in ([0, 1], [0, 1, 1], [1, 0, 1], [1, 0])]
    [1, 1, 2, None]
    """
    wrong = [h for h, turn in enumerate(rollout.turns) if not turn.correct]
    since = wrong[-1] + 1 if wrong else 0
    return since if since < len(rollout.turns) else None


def misled(
    critic: FeedbackSource,
    *,
    share: float = 1.0,
    seed: int = 0,
    verify: Verify | None = None,
    after_right: bool = False,
) -> FeedbackSource:
    """An `AdversarialTeacher`, with its arguments; one inside a leak guard stays inside, so that leaks are
    measured by the true reference."""
    inner = critic.source if isinstance(critic, LeakGuard) else critic
    found = AdversarialTeacher(inner, share=share, seed=seed, verify=verify, after_right=after_right)
    return LeakGuard(found, critic.policy, critic.meter) if isinstance(critic, LeakGuard) else found


class AdversarialTeacher:
    """Wraps a critic: with probability `share` it says what is false.

    Whether a critique is false, and which lie it is, depends on (seed, rollout, turn, answer) alone. Without
    a rollout's id the problem's stands for it, and equal answers then get the same.

    Args:
        critic: Who writes the critiques, true and false ones.
        share: Probability of a false one, in (0, 1]; 1 is the wrong teacher.
        seed: Which.
        verify: The task's verifier; it has refused every false solution.
        after_right: Also speak after right answers, where the dialogue asks.

    Raises:
        UsageError: the share is out of range.
    """

    def __init__(
        self,
        critic: FeedbackSource,
        *,
        share: float = 1.0,
        seed: int = 0,
        verify: Verify | None = None,
        after_right: bool = False,
    ) -> None:
        if not 0 < share <= 1:
            raise UsageError(f"the share of false corrections must lie above 0 and at most at 1, not {share}")
        self.source, self.share, self.seed, self.verify = critic, share, seed, verify
        self.speaks_after_right = after_right

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback a request, in order. Where nothing false can be said, it fails."""
        rngs = [self._rng(request) for request in requests]
        false = {i for i, rng in enumerate(rngs) if rng.random() < self.share}
        asked = {i: self._lie(r, rngs[i]) if i in false else r for i, r in enumerate(requests)}
        found = self._ask({i: request for i, request in asked.items() if request is not None})
        # "The answer is wrong" is no lie about a wrong answer, which is then called right.
        open_ = [i for i in false if i not in found or (found[i].ok and found[i].text.strip() == WRONG)]
        found |= self._ask({i: _as_right(requests[i]) for i in open_ if not requests[i].turn.correct})
        said = [found.get(i) or _nothing(request) for i, request in enumerate(requests)]
        return [_marked(feedback) if i in false else feedback for i, feedback in enumerate(said)]

    def false_solution(self, request: FeedbackRequest) -> str | None:
        """The text that a false correction of this answer holds to be the solution; None where it is no
        text, as a puzzle's, or there is none."""
        rng = self._rng(request)
        rng.random()  # whether it is one
        held = None if isinstance(self.source, PuzzleCritic) else self._lie(request, rng)
        return None if held is None else held.problem.reference

    def _rng(self, request: FeedbackRequest) -> np.random.Generator:
        who = request.problem.id if request.rollout is None else request.rollout
        return generator(self.seed, "misled", who, request.index, request.turn.text)

    def _ask(self, requests: dict[int, FeedbackRequest]) -> dict[int, Feedback]:
        if not requests:
            return {}
        return dict(zip(requests, self.source.critique(list(requests.values())), strict=True))

    def _lie(self, request: FeedbackRequest, rng: np.random.Generator) -> FeedbackRequest | None:
        """The request as somebody makes it who holds a false solution to be right; None without one."""
        problem, turn = request.problem, request.turn
        if isinstance(self.source, PuzzleCritic):
            task = self.source.task
            final = task.final_answer(turn.text) or ""
            solution = PUZZLE_DECOYS[task.name](problem.metadata, final, turn.correct, rng)
            if solution is None:
                return None
            held = problem.model_copy(update={"metadata": {**problem.metadata, "solution": solution}})
            return _as_wrong(request, held)
        if problem.reference is None:
            return None
        if isinstance(self.source, ProgramCritic):  # it compares, and must find one difference
            kept = None if turn.correct else problem.reference
            solution = decoy(problem, turn.text, rng, self.verify, kept=kept)
        else:
            solution = decoy(problem, problem.reference, rng, self.verify)
        if solution is None or solution.strip() == turn.text.strip():
            return None
        return _as_wrong(request, problem.model_copy(update={"reference": solution}))


def _as_wrong(request: FeedbackRequest, problem: Problem) -> FeedbackRequest:
    turn = request.turn.model_copy(update={"reward": 0.0, "correct": False})
    return dataclasses.replace(request, problem=problem, turn=turn)


def _as_right(request: FeedbackRequest) -> FeedbackRequest:
    """The answer itself held to be the solution."""
    turn = request.turn.model_copy(update={"reward": 1.0, "correct": True})
    problem = request.problem.model_copy(update={"reference": request.turn.text})
    return dataclasses.replace(request, problem=problem, turn=turn)


def _marked(said: Feedback) -> Feedback:
    """Marked as false; the score rates an answer that was not given so."""
    author = said.provenance.model_copy(update={"author": f"{FALSE}{said.provenance.author}"})
    return said.model_copy(update={"score": None, "provenance": author})


def _nothing(request: FeedbackRequest) -> Feedback:
    return Feedback(
        turn=request.index,
        source="program",
        status="failed",
        error=f"nothing false could be said of this answer to problem {request.problem.id!r}",
        saw_reference=False,
        provenance=Provenance(author="nobody"),
    )
