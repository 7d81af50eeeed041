"""Controls: what a method reads in place of the critique, to see what it owes to the critique.

    shuffled       a true critique of *another* answer to another problem of the batch
    other-problem  a critique of this answer, written as if another problem of the batch had been asked
    verdict        only whether the answer is right
    reference      the reference itself
    second-try     a fixed sentence that says nothing
    wrong          a false correction, see `misled`
    mixed          a false correction with probability `share`, else the critique: teaches to tell them apart
    spans-…        the true critique with spans that were made worse; see controls/noisy_spans.py

Each changes what the method reads and nothing else: the same rollouts are asked about, at the same
places. Evaluation always gets the true critic. `verdict`, `reference` and `second-try` ask nobody, the
others ask the critic as often as the method itself does (`wrong` and `mixed` a second time where the first
words came out true). More samples at an equal budget of tokens, another control of the field, is a setting
of the method and no source.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

from didact.controls.adversarial_teacher import misled
from didact.controls.distractors import Verify
from didact.controls.noisy_spans import SPAN_NOISES, NoisySpans
from didact.controls.shuffled import ShuffledFeedback
from didact.errors import UsageError, did_you_mean
from didact.feedback.program import RIGHT, WRONG
from didact.feedback_source import FeedbackRequest, FeedbackSource
from didact.feedback_store import SHUFFLED
from didact.types import Feedback, Provenance

Control: TypeAlias = Literal[
    "shuffled", "other-problem", "verdict", "reference", "second-try", "wrong", "mixed",
    "spans-drop30", "spans-drop60", "spans-flip20", "spans-shuffled",
]  # fmt: skip
CONTROLS: tuple[Control, ...] = get_args(Control)
SECOND_TRY = "Please answer once more."
"""All that `second-try` ever says."""
ALONE = "no other problem is in this batch: take more problems a step"


def controlled(
    critic: FeedbackSource,
    control: Control | None,
    *,
    seed: int = 0,
    share: float = 0.5,
    after_right: bool = False,
    verify: Verify | None = None,
) -> FeedbackSource:
    """What a method reads under a control; the critic itself under none.

    Args:
        critic: The true critic.
        control: One of `CONTROLS`, or None.
        seed: Which deal `shuffled` and `other-problem` make, and which lies `wrong` and `mixed` tell.
        share: Probability that `mixed` says what is false, in (0, 1].
        after_right: Let `wrong` and `mixed` speak after right answers, where a dialogue asks.
        verify: The task's verifier, which refuses every false solution of `wrong` and `mixed`.

    Raises:
        UsageError: no such control.
    """
    if control is None:
        return critic
    if control not in CONTROLS:
        raise UsageError(f"unknown control {control!r}: {did_you_mean(control, CONTROLS)}")
    if control == "shuffled":
        return ShuffledFeedback(critic, seed=seed)
    if control == "other-problem":
        return OtherProblem(critic, seed=seed)
    if control in SPAN_NOISES:
        return NoisySpans(critic, control, seed=seed)
    if control in ("wrong", "mixed"):
        share = 1.0 if control == "wrong" else share
        return misled(critic, share=share, seed=seed, verify=verify, after_right=after_right)
    return InPlace(control)


class OtherProblem:
    """Has every answer criticised against another problem of the batch.

    The critique speaks of this answer, in the critic's own manner, but measures it against what was
    not asked. So a critic that compares with a reference names mistakes that are none.

    Args:
        critic: Who writes the critiques.
        seed: Which problem takes whose place; the same batch gets the same deal.
    """

    def __init__(self, critic: FeedbackSource, *, seed: int = 0) -> None:
        self.critic = critic
        self.deal = ShuffledFeedback(critic, seed=seed).deal

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One critique a request; without another problem in the batch it fails."""
        others = self.deal(requests)
        asked = [i for i, other in enumerate(others) if other is not None]
        swapped = [_swapped(requests[i], requests[others[i] or 0]) for i in asked]
        said = dict(zip(asked, self.critic.critique(swapped), strict=True)) if swapped else {}
        return [
            _renamed(said[i]) if i in said else _failed(request, "other-problem", ALONE)
            for i, request in enumerate(requests)
        ]


class InPlace:
    """Says what stands in place of a critique, without asking the critic.

    Args:
        control: verdict, reference or second-try.
    """

    def __init__(self, control: Control) -> None:
        self.control = control
        self._say: Callable[[FeedbackRequest], Feedback] = {
            "verdict": _verdict,
            "reference": _reference,
            "second-try": _second_try,
        }[control]

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One fixed saying a request; where there is nothing to say it from, it fails."""
        return [self._say(request) for request in requests]


def _swapped(request: FeedbackRequest, other: FeedbackRequest) -> FeedbackRequest:
    """The same answer, as one to another problem: a wrong one there, unless it is the reference."""
    reference = other.problem.reference
    right = reference is not None and request.turn.text.strip() == reference.strip()
    turn = request.turn.model_copy(update={"reward": float(right), "correct": right})
    return dataclasses.replace(request, problem=other.problem, turn=turn)


def _renamed(said: Feedback) -> Feedback:
    """Marked as dealt, without what would rate this answer; nobody looked whether it leaks this one's.

    The mark is that of shuffled critiques: the words are still their author's, who may ask for them.
    """
    author = said.provenance.model_copy(update={"author": f"{SHUFFLED}{said.provenance.author}"})
    return said.model_copy(update={"spans": (), "score": None, "leaks": None, "provenance": author})


def _verdict(request: FeedbackRequest) -> Feedback:
    if request.turn.reward is None:
        return _failed(request, "verdict", "nothing verified the answer, so there is no verdict")
    right = request.turn.correct
    text, label = (RIGHT, "right") if right else (WRONG, "wrong")
    return _said(request, "verdict", text, saw_reference=True).model_copy(update={"label": label})


def _reference(request: FeedbackRequest) -> Feedback:
    if request.problem.reference is None:
        return _failed(request, "reference", f"problem {request.problem.id!r} has no reference")
    said = _said(request, "reference", request.problem.reference, saw_reference=True)
    return said.model_copy(update={"leaks": True})


def _second_try(request: FeedbackRequest) -> Feedback:
    return _said(request, "second-try", SECOND_TRY, saw_reference=False)


def _said(request: FeedbackRequest, control: Control, text: str, *, saw_reference: bool) -> Feedback:
    return Feedback(
        turn=request.index,
        text=text,
        source="program",
        saw_reference=saw_reference,
        provenance=Provenance(author=f"control:{control}"),
    )


def _failed(request: FeedbackRequest, control: Control, error: str) -> Feedback:
    return Feedback(
        turn=request.index,
        source="program",
        status="failed",
        error=error,
        saw_reference=False,
        provenance=Provenance(author=f"control:{control}"),
    )
