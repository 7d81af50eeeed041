"""Policy optimisation by reward a token: what Text2Grad and PPO share.

    r_t = s_t − β k_t,      g = 1/M Σᵢ Σ_t A_t ∇ log π(y_t | x, y_<t)

s_t is what a subclass says that token t earned, k_t an estimate of how far the policy is from the starting
weights there, A_t what `credit` makes of r (methods/token_credit.py). M answers a step; a sum over tokens, no
division by an answer's length. An answer of which nobody knows what it earned is missing: it has no row and
is in no mean.

    kl        k_t                                      expected gradient, at one token
    k1        log π(y_t) − log π_ref(y_t), a reward    of β KL(π ‖ π_ref)
    k3        e^−k₁ + k₁ − 1, a reward                 of β KL(π ‖ π_ref) − β KL(π_ref ‖ π), ≈ 0 nearby
    full      Σ_v π(v) log π(v)/π_ref(v), a reward     none: no token changes its own k_t; their code's
    k3_loss   k₃, with β Σ_t k₃ added to the loss      of β KL(π_ref ‖ π); GRPO's

Rewards also act through the tokens that follow, where credit looks ahead. `direct` does not, so it takes k1
or k3_loss alone. tests/test_text2grad.py enumerates the table. π_ref is REFERENCE of the engine: a copy of
the starting weights, or the model without its adapter. π is scored when the step begins, by the same kernel,
so that k is exactly 0 at the start.

Shape: T sampled tokens of one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from didact.advantages import Array
from didact.engines.base import REFERENCE, ValueHeadSettings
from didact.errors import CapabilityError, UsageError
from didact.methods.base import Method, Term
from didact.methods.token_credit import GAE, AnyCredit, CriticFree, Direct, Fields, Rewarded
from didact.rollouts.base import StepContext
from didact.rollouts.multi_turn import criticise
from didact.rollouts.single_turn import recorded_turn, single_turn
from didact.types import Problem, Rollout, Row, Turn

KL_COEF = "kl_coef"
"""What an adaptive β is called in the checkpoint and in the metrics."""


class TokenRewards(Method):
    """Single answers, rewarded token by token. See the top of this file.

    Attributes:
        samples: N, answers a problem.
        credit: `direct`, `gae` or `critic_free`, by name or with settings.
        kl_coef: β ≥ 0; 0 for no KL and no reference.
        kl: Which estimate of it, and where it goes.
        kl_target: Adapt β so that an answer's summed k comes to so many nats; None keeps β.
        kl_horizon: Answers over which β adapts (arXiv:1909.08593, §2.2).
    """

    samples: Annotated[int, Field(ge=1)] = 8
    credit: AnyCredit = GAE()
    kl_coef: Annotated[float, Field(ge=0)] = 0.05
    kl: Literal["k1", "k3", "full", "k3_loss"] = "k1"
    kl_target: Annotated[float, Field(gt=0)] | None = None
    kl_horizon: Annotated[int, Field(ge=1)] = 10_000

    @model_validator(mode="after")
    def _fits_together(self) -> TokenRewards:
        if isinstance(self.credit, Direct) and self.kl_coef and self.kl in ("full", "k3"):
            raise ValueError(
                f"kl={self.kl} acts through the tokens that follow, which direct gives no credit for, so it "
                "would hold nothing: take kl=k1 or kl=k3_loss"
            )
        if isinstance(self.credit, CriticFree) and self.credit.baseline and self.samples < 2:
            raise ValueError(
                "critic_free compares a problem's answers: take samples=2 or more, or baseline=false"
            )
        return self

    @property
    def revises(self) -> bool:
        return False

    @property
    def needs_reference(self) -> bool:
        return self.kl_coef > 0

    @property
    def critic(self) -> ValueHeadSettings | None:
        return self.credit.critic

    def token_rewards(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Array | None]:
        """s_t of each rollout's answer, [T] each; None where nobody knows."""
        raise NotImplementedError

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        """Answers, sampled or given, and what is said about each, right ones too.

        Raises:
            CapabilityError: the engine has not what the credit or the KL needs.
            UsageError: answers are given, and this credit is one for samples.
        """
        self.check(ctx)
        first = single_turn if ctx.recorded is None else recorded_turn
        rollouts = first(ctx, problems, self.samples)
        if self.needs_feedback:
            criticise(ctx, rollouts, 0, early_stop=False)
        return rollouts

    def check(self, ctx: StepContext) -> None:
        """Refuse an engine or answers that this cannot learn with; see `collect`."""
        able = ctx.engine.capabilities
        if self.critic is not None and not able.critic:
            raise CapabilityError(
                "credit=gae needs a value head, which this engine has not: take credit=critic_free, which "
                "compares the answers of a group instead, or a local engine with critic=CriticSettings()"
            )
        if self.kl == "full" and self.kl_coef and not able.full_kl:
            raise CapabilityError(
                "kl=full needs the probabilities of the whole vocabulary, which this engine does not give: "
                "take kl=k1 or kl=k3_loss"
            )
        if ctx.recorded is not None and not self.credit.takes_given:
            raise UsageError(
                "this task's answers are given, and credit for what follows is for answers that the policy "
                "sampled: take credit=direct"
            )

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Term]:
        earned = zip(rollouts, self.token_rewards(ctx, rollouts), strict=True)
        known = [(rollout, rewards_T) for rollout, rewards_T in earned if rewards_T is not None]
        if not known:
            return []
        turns, weight = [rollout.turns[0] for rollout, _ in known], 1 / len(known)
        bare = [_row(turn, {}, weight) for turn in turns]
        beta, (kl, reference) = self.coefficient(ctx), self.distances(ctx, bare)
        # What stands in the loss is no reward.
        penalty = 0.0 if self.kl == "k3_loss" else beta
        answers = [
            Rewarded(row, rollout.group, rewards_T - penalty * kl_T)
            for row, (rollout, rewards_T), kl_T in zip(bare, known, kl, strict=True)
        ]
        credited = self.credit.fields(ctx, answers)
        loss = self.credit.loss({} if reference is None else {"kl_coef": beta})
        columns = [dict(fields) for fields in credited]
        for i, turn in enumerate(turns):
            if loss.name != "policy_gradient":
                columns[i]["old_logprobs"] = np.asarray(turn.logprobs, np.float64)
            if reference is not None:
                columns[i]["ref_logprobs"] = reference[i]
        rows = [_row(turn, own, weight) for turn, own in zip(turns, columns, strict=True) if _counts(own)]
        self._adapt(ctx, beta, kl)
        return [Term("rl", loss, rows)] if rows else []

    def coefficient(self, ctx: StepContext) -> float:
        """β of this step."""
        return ctx.memory.get(KL_COEF, self.kl_coef) if self.kl_target is not None else self.kl_coef

    def distances(self, ctx: StepContext, rows: Sequence[Row]) -> tuple[list[Array], list[Array] | None]:
        """k of each answer, [T] each; and log π_ref of its tokens where that belongs into the loss."""
        lengths = [int(np.count_nonzero(row.fields["weights"])) for row in rows]
        if not self.kl_coef:
            return [np.zeros(n) for n in lengths], None
        if self.kl == "full":
            return _ends(ctx.engine.full_kl(rows), lengths), None
        own = _ends(ctx.engine.logprobs(rows), lengths)
        reference = _ends(ctx.engine.logprobs(rows, weights=REFERENCE), lengths)
        k1 = [a - b for a, b in zip(own, reference, strict=True)]
        if self.kl == "k1":
            return k1, None
        return [np.exp(-k) + k - 1 for k in k1], reference if self.kl == "k3_loss" else None

    def _adapt(self, ctx: StepContext, beta: float, kl: Sequence[Array]) -> None:
        """Note the distance, and move β towards its target."""
        if not self.kl_coef:
            return
        distance = float(np.mean([kl_T.sum() for kl_T in kl]))
        ctx.notes.update({"kl": distance, KL_COEF: beta})
        if self.kl_target is not None:
            error = float(np.clip(distance / self.kl_target - 1, -0.2, 0.2))
            ctx.memory[KL_COEF] = beta * (1 + error * len(kl) / self.kl_horizon)


def _row(turn: Turn, fields: Fields, weight: float) -> Row:
    columns = {name: values_T.tolist() for name, values_T in fields.items()}
    return Row.from_completion(turn.prompt_ids, turn.completion_ids, weights=weight, **columns)


def _counts(fields: Fields) -> bool:
    """Has it a gradient? Without advantages, only a value or a KL in the loss has one."""
    return bool(fields["advantages"].any()) or bool({"returns", "ref_logprobs"} & fields.keys())


def _ends(columns: Sequence[NDArray[np.float32]], lengths: Sequence[int]) -> list[Array]:
    """The answers' part of whole rows' columns."""
    return [column[-n:].astype(np.float64) for column, n in zip(columns, lengths, strict=True)]
