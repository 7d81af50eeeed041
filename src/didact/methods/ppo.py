"""PPO with a scalar reward at the last token: the baseline of Text2Grad.

    s_T = R at the last token, 0 before it,   r_t = s_t − β k_t,   A = GAE(r, V)

Papers: arXiv:1707.06347; on language models arXiv:1909.08593. Value head, GAE, KL and clip are those of
Text2Grad (methods/token_level_pg.py), so that the two differ only in where the reward is given. R is the
task's, or the feedback's score, or Σ_t δ_t: the sum of Text2Grad's rewards of the answer.

With `credit: critic_free` and β = 0 it is single-turn GRPO. `credit: direct` would train the last token only
and is refused. An answer without R is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import model_validator

from didact.advantages import Array
from didact.methods.text2grad import SpanRewards, span_metrics, span_rewards
from didact.methods.token_level_pg import Direct, TokenLevelPolicyGradient
from didact.rollouts.base import StepContext
from didact.types import Rollout


class PPO(TokenLevelPolicyGradient):
    """Actor-critic with one reward an answer.

    The settings of `TokenLevelPolicyGradient`, and

    Attributes:
        reward: The `task`'s reward, the feedback's `score`, or the sum of the rewards of its `spans`.
        spans: How spans become token rewards, for `reward: spans`.
    """

    reward: Literal["task", "score", "spans"] = "task"
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
            None if reward is None else at_last_token(reward, len(rollout.turns[0].completion_ids))
            for rollout, reward in zip(rollouts, self.answer_rewards(ctx, rollouts), strict=True)
        ]

    def answer_rewards(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[float | None]:
        """R of each rollout's answer; None where it is unknown."""
        if self.reward == "task":
            return [rollout.turns[0].reward for rollout in rollouts]
        if self.reward == "score":
            feedback = [rollout.feedback_on(0) for rollout in rollouts]
            return [None if f is None else f.score for f in feedback]
        by_token, counts = span_rewards(rollouts, ctx.renderer.tokenizer, self.spans)
        ctx.metrics.update(span_metrics(counts))
        return [None if rewards_T is None else float(rewards_T.sum()) for rewards_T in by_token]


def at_last_token(reward: float, length: int) -> Array:
    """[T] rewards: 0, and the reward at the last token."""
    rewards_T = np.zeros(length)
    rewards_T[-1] = reward
    return rewards_T
