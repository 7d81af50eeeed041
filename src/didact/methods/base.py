"""The interface of a method: what to collect, and how the collected rollouts become loss terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from didact.engines.base import Loss, ValueHeadSettings
from didact.rollouts.base import StepContext
from didact.types import Problem, Rollout, Row, Turn


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
    def needs_entropy(self) -> bool:
        """Is there an entropy bonus, which needs the probabilities of the whole vocabulary?"""
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


Clip = Annotated[float, Field(gt=0)]


def clip_range(low: float, high: float | None) -> dict[str, float]:
    """Settings of `losses.ppo` and `cispo`: ρ in [1 − low, 1 + high]; None for the same on both sides."""
    return {"clip_low": low, "clip_high": low if high is None else high}


class Clipped(BaseModel):
    """PPO's clip, with sides of their own.

    Attributes:
        clip: PPO's ε; None for the plain policy gradient.
        clip_high: ε above 1, where it differs from that below: DAPO's clip-higher (arXiv:2503.14476) is 0.28
            beside a `clip` of 0.2.
    """

    clip: Clip | None = None
    clip_high: Clip | None = None

    @model_validator(mode="after")
    def _has_both_sides(self) -> Self:
        if self.clip_high is not None and self.clip is None:
            raise ValueError("clip_high is the upper side of a clip: give clip too, as clip=0.2")
        return self

    def clipped_loss(self, settings: Mapping[str, float]) -> Loss:
        """`losses.ppo`, or without a clip `losses.policy_gradient`."""
        if self.clip is None:
            return Loss("policy_gradient", settings)
        return Loss("ppo", {**settings, **clip_range(self.clip, self.clip_high)})


class PolicyGradientMethod(Method):
    """A method that trains sampled answers by their advantages.

    Attributes:
        normalise: What the sum over a step's sampled tokens is divided by. `dialogues`: M, the dialogues, as
            in Dr. GRPO (arXiv:2503.20783) up to its constant. `answers`: M and, for each answer, its own
            length, as in GRPO (arXiv:2402.03300). `tokens`: their number, as in DAPO (arXiv:2503.14476).
        entropy_coef: c ≥ 0 of a bonus: c H, the entropy of the policy in nats, is added to the objective at
            every sampled token.
    """

    normalise: Literal["dialogues", "answers", "tokens"] = "dialogues"
    entropy_coef: Annotated[float, Field(ge=0)] = 0.0

    @property
    def needs_entropy(self) -> bool:
        return self.entropy_coef > 0

    def divisor(self, dialogues: int, turns: Iterable[Turn]) -> Callable[[Turn], int]:
        """What a turn's weights are divided by, of M dialogues that are not missing with all their turns."""
        if self.normalise == "tokens":
            total = max(1, sum(len(turn.completion_ids) for turn in turns))
            return lambda turn: total
        if self.normalise == "answers":
            return lambda turn: dialogues * len(turn.completion_ids)
        return lambda turn: dialogues
