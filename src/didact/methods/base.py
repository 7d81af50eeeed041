"""The interface of a method: what to collect, and how the collected rollouts become loss terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from didact.engines.base import Loss, ValueHeadSettings
from didact.rollouts.base import StepContext
from didact.types import Problem, Rollout, Row


class LossTerm(NamedTuple):
    """One term of an update: rows and the loss that they are trained with."""

    name: str
    """Its name in the metrics, as "sd"."""
    loss: Loss
    rows: list[Row]


class Method(BaseModel):
    """A frozen set of settings with `collect` and `rows`. A new algorithm is a new file.

    The file of a method opens with its paper, its formula and its departures from the paper.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def needs_feedback(self) -> bool:
        """Does it use a feedback source?"""
        return False

    @property
    def is_multi_turn(self) -> bool:
        """Does a critique lead to a second answer, so that a missing second answer is worth counting?"""
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
        """Does it need log-probs under the initial weights, so that the engine must keep them?"""
        return False

    @property
    def uses_dialogue_teacher(self) -> bool:
        """Is its feedback source a teacher in a dialogue?

        By default such a teacher hints if it is a program; if it is a model, it has the policy's initial
        weights and sees the whole dialogue.
        """
        return False

    @property
    def value_head(self) -> ValueHeadSettings | None:
        """How its value head is trained; None without one."""
        return None

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        """Sample the rollouts of one step, with their critiques."""
        raise NotImplementedError

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[LossTerm]:
        """The update's terms, without empty ones. Every normaliser is in the rows' weights."""
        raise NotImplementedError
