"""PPO with a scalar reward at the last token: what Text2Grad is measured against.

    s_T = R at the last token, 0 before it,   r_t = s_t − β k_t,   A = GAE(r, V)

Papers: arXiv:1707.06347; on language models arXiv:1909.08593. Value head, GAE, KL and clip are those of
Text2Grad (methods/token_rewards.py), so that the two differ in where the reward stands alone. R is the
task's, or the critic's score, or Σ_t δ_t: all that Text2Grad would have given this answer, in one sum.

With `credit: critic_free` and β = 0 it is GRPO of one turn. `credit: direct` would train the last token alone
and is refused. An answer without R is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
from pydantic import model_validator

from didact.advantages import Array
from didact.methods.span_rewards import SpanRewards
from didact.methods.text2grad import span_rewards
from didact.methods.token_credit import Direct
from didact.methods.token_rewards import TokenRewards
from didact.rollouts.base import StepContext
from didact.types import Rollout

Reward: TypeAlias = Literal["task", "score", "spans"]


class PPO(TokenRewards):
    """Actor and critic with one reward an answer. See the top of this file.

    The settings of `TokenRewards`, and

    Attributes:
        reward: The `task`'s verdict, the critic's `score`, or the sum of what `spans` give.
        spans: How spans become rewards, for `reward: spans`.
    """

    reward: Reward = "task"
    spans: SpanRewards = SpanRewards()

    @model_validator(mode="after")
    def _reaches_all_tokens(self) -> PPO:
        if isinstance(self.credit, Direct):
            raise ValueError(
                "credit=direct gives a reward at the last token to that token alone: take gae or critic_free"
            )
        return self

    @property
    def needs_feedback(self) -> bool:
        return self.reward != "task"

    def token_rewards(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Array | None]:
        return [
            None if reward is None else _at_the_end(reward, len(rollout.turns[0].completion_ids))
            for rollout, reward in zip(rollouts, REWARDS[self.reward](self, ctx, rollouts), strict=True)
        ]


def _task(method: PPO, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[float | None]:
    return [rollout.turns[0].reward for rollout in rollouts]


def _score(method: PPO, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[float | None]:
    said = [rollout.feedback_on(0) for rollout in rollouts]
    return [None if feedback is None else feedback.score for feedback in said]


def _spans(method: PPO, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[float | None]:
    found = span_rewards(method.spans, ctx, rollouts)
    return [None if rewards_T is None else float(rewards_T.sum()) for rewards_T in found]


REWARDS: Mapping[Reward, Callable[[PPO, StepContext, Sequence[Rollout]], list[float | None]]] = {
    "task": _task,
    "score": _score,
    "spans": _spans,
}
"""R of each rollout's answer; None where nobody knows."""


def _at_the_end(reward: float, length: int) -> Array:
    rewards_T = np.zeros(length)
    rewards_T[-1] = reward
    return rewards_T
