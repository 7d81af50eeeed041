"""RLTF: self-distillation (SD), feedback modelling (FM), or both, on top of two-turn GRPO.

Paper: "Expanding the Capabilities of Reinforcement Learning via Text Feedback"
(arXiv:2602.02482). One dialogue: question x₀, answer y₀, critique c₀, revision y₁ of a fresh prompt
x₁ = f(x₀, y₀, c₀); rewards r₀, r₁ against the original question; M dialogues a step, N a question.

    ĝ      = ĝ_RL + λ_SD ĝ_SD + λ_FM ĝ_FM
    ĝ_RL   = two-turn GRPO (methods/grpo.py): R = r₀ + γ r₁, centred, no std division    (Alg. 1)
    ĝ_SD   = 1/M Σᵢ (r₁ᵢ − b⁽⁰⁾) ∇ log π(y₁ᵢ | x₀),   b⁽⁰⁾ = mean of r₀ over the N        (§3.1)
    ĝ_FM   = 1/M Σᵢ ∇ log π(c₀ᵢ | f_FeeMol(x₀, y₀ᵢ))                                      (Alg. 3)

SD trains the plain prompt on the revision, with the *first* turn's mean as baseline and without an
importance weight. FM is cross-entropy on the critique's tokens, asked for without private input.
With λ_SD = λ_FM = 0 this is two-turn GRPO exactly.

Departures from the paper: 1. λ_SD and λ_FM default to Table 2's 0.1 and 0.2 and are settings;
2. SD and FM can be used together, which the paper never does; 3. ĝ is divided by the number M of
dialogues in the step, where the authors' code takes a plain sum (Adam does not notice, the gradient
clip does); 4. `mask_below` (their code's −5: drop the tokens of y₁ that x₀ makes unlikely, not in
the paper) is off unless set; 5. no reward for format: r is the task's.
The authors' released scripts run a second-turn baseline in SD by oversight; this file follows the
paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from didact.credit import first_turn_baseline
from didact.engines.base import Loss
from didact.methods.base import Term
from didact.methods.grpo import GRPO, turn_rewards
from didact.rollouts.base import Context
from didact.rollouts.render import critique_messages
from didact.types import Rollout, Row


class RLTF(GRPO):
    """RL from text feedback: two-turn GRPO with two more terms. See the top of this file.

    Attributes:
        lambda_sd: λ_SD ≥ 0; 0 switches self-distillation off.
        lambda_fm: λ_FM ≥ 0; 0 switches feedback modelling off.
        lambda_sd_ramp: λ_SD rises linearly from 0 over this share of the run (the paper's 0 → 0.1
            on mathematics is 1.0); 0 for none.
        mask_below: SD ignores tokens of y₁ with log π(token | x₀) below this, in nats; None for none.
    """

    turns: Literal[2] = 2
    lambda_sd: Annotated[float, Field(ge=0)] = 0.1
    lambda_fm: Annotated[float, Field(ge=0)] = 0.2
    lambda_sd_ramp: Annotated[float, Field(ge=0, le=1)] = 0.0
    mask_below: Annotated[float, Field(lt=0)] | None = None

    def rows(self, ctx: Context, rollouts: Sequence[Rollout]) -> list[Term]:
        terms = [
            *super().rows(ctx, rollouts),
            Term("sd", Loss("policy_gradient"), self.self_distillation(ctx, rollouts)),
            Term("fm", Loss("cross_entropy"), self.feedback_modelling(ctx, rollouts)),
        ]
        return [term for term in terms if term.rows]

    def self_distillation(self, ctx: Context, rollouts: Sequence[Rollout]) -> list[Row]:
        """Rows x₀ → y₁ with advantage r₁ − b⁽⁰⁾ and weight λ_SD / M."""
        strength = self.lambda_sd
        if self.lambda_sd_ramp:
            strength *= min(1.0, ctx.progress / self.lambda_sd_ramp)
        if not strength:
            return []
        r = turn_rewards(rollouts)
        groups = [rollout.group for rollout in rollouts]
        advantages_N = first_turn_baseline(r.second, r.first, groups)
        weight = strength / max(1, int(np.count_nonzero(~np.isnan(r.first))))
        rows = [
            Row.from_completion(
                rollout.turns[0].prompt_ids,
                rollout.turns[1].completion_ids,
                weights=weight,
                advantages=float(advantage),
            )
            for rollout, advantage in zip(rollouts, advantages_N, strict=True)
            if not np.isnan(advantage) and advantage != 0.0
        ]
        return rows if self.mask_below is None else _masked(ctx, rows, self.mask_below)

    def feedback_modelling(self, ctx: Context, rollouts: Sequence[Rollout]) -> list[Row]:
        """Rows f_FeeMol(x₀, y₀) → c₀ with weight λ_FM / M; right first answers that stopped have none."""
        if not self.lambda_fm:
            return []
        known = sum(not r.feedback_failed(0) for r in rollouts)
        rows = []
        for rollout in rollouts:
            critique = rollout.feedback_on(0)
            if critique is None or not critique.text:
                continue
            request = critique_messages(rollout.problem, rollout.turns[0].text.strip())
            rows.append(
                Row.from_completion(
                    ctx.renderer.prompt(request),
                    ctx.renderer.answer(critique.text),
                    weights=self.lambda_fm / known,
                )
            )
        # How long an attempt or a critique is, is the models' doing, and must not end the run.
        limit = ctx.engine.max_length
        return [row for row in rows if limit is None or len(row) <= limit]


def _masked(ctx: Context, rows: Sequence[Row], below: float) -> list[Row]:
    """Weight 0 on tokens that are too unlikely after x₀ to learn from safely."""
    masked = []
    for row, logprobs_T in zip(rows, ctx.engine.logprobs(rows), strict=True):
        weights_T = np.where(logprobs_T < below, 0.0, row.fields["weights"]).astype(np.float32)
        masked.append(dataclasses.replace(row, fields={**row.fields, "weights": weights_T}))
    return masked
