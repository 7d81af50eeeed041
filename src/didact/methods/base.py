"""What a method is: how feedback becomes learning, in two functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from didact.engines.base import Loss, ValueHeadSettings
from didact.rollouts.base import StepContext
from didact.types import Problem, Rollout, Row


class Term(NamedTuple):
    """One term of an update: rows and the loss that they are trained with."""

    name: str
    """Names it in the metrics, as "sd"."""
    loss: Loss
    rows: list[Row]


class Method(BaseModel):
    """A frozen set of settings with `collect` and `rows`. A new algorithm is a new file.

    Subclasses open with their paper, their formula and their departures from the paper.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def needs_feedback(self) -> bool:
        """Does it ask a feedback source?"""
        return False

    @property
    def revises(self) -> bool:
        """Does a critique lead to a second answer, so that one without it is worth counting?"""
        return self.needs_feedback

    @property
    def learns_from_references(self) -> bool:
        """Does it train on the problems' references, so that every training problem must have one?"""
        return False

    @property
    def trains_weights(self) -> bool:
        """Does it change weights? One that only changes the prompt is not run by the training loop."""
        return True

    @property
    def needs_reference(self) -> bool:
        """Does it score under the starting weights, so that the engine must keep them?"""
        return False

    @property
    def uses_dialogue_teacher(self) -> bool:
        """Is its critic a teacher in a dialogue?

        Unless told otherwise, such a teacher hints where it is a program; where it is a model, it is the
        policy as it started, and sees the whole dialogue.
        """
        return False

    @property
    def critic(self) -> ValueHeadSettings | None:
        """How the value head is trained that it needs; None where it needs none."""
        return None

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        """Sample, and have criticised, what this step learns from."""
        raise NotImplementedError

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Term]:
        """The update's terms; one without rows is left out. Every normaliser is in the rows' weights."""
        raise NotImplementedError
