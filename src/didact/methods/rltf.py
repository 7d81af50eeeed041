"""RLTF: self-distillation (SD), feedback modelling (FM), or both, on top of two-turn GRPO.

Paper: "Expanding the Capabilities of Reinforcement Learning via Text Feedback"
(arXiv:2602.02482). One dialogue: question x₀, answer y₀, critique c₀, revision y₁ of a fresh prompt
x₁ = f(x₀, y₀, c₀); rewards r₀, r₁ against the original question; M dialogues a step, N a question.

    ĝ      = ĝ_RL + λ_SD ĝ_SD + λ_FM ĝ_FM
    ĝ_RL   = two-turn GRPO (methods/grpo.py): R = r₀ + γ r₁, centred, no std division    (Alg. 1)
    ĝ_SD   = 1/M Σᵢ (r₁ᵢ − b⁽⁰⁾) ∇ log π(y₁ᵢ | x₀),   b⁽⁰⁾ = mean of r₀ over the N        (§3.1)
    ĝ_FM   = 1/M Σᵢ ∇ log π(c₀ᵢ | f_FeeMol(x₀, y₀ᵢ))                                      (Alg. 3)
             or, with fm_turns: every, Σ_h ∇ log π(c_hᵢ | f_FeeMol(x₀, y_hᵢ)), h < H       (Eq. 9)

SD trains the plain prompt on the revision, with the *first* turn's mean as baseline and without an
importance weight; methods/self_distillation.py has the other baselines and weightings. FM is cross-entropy
on the critique's tokens, asked for without private input. With λ_SD = λ_FM = 0 this is two-turn GRPO
exactly.

Departures from the paper: 1. λ_SD and λ_FM default to Table 2's 0.1 and 0.2 and are settings;
2. SD and FM can be used together, which the paper never does; 3. ĝ is divided by the number M of
dialogues in the step, where the authors' code takes a plain sum (Adam does not notice, the gradient
clip does); 4. no reward for format: r is the task's; 5. FM asks about (x₀, y_h) at every turn, which is what
a critic is shown, where Eq. 9 has (x_h, y_h): the same at the first turn. With fm_turns: every, the last
answer is criticised too, though nothing follows.
The authors' released scripts run a second-turn baseline in SD by oversight; this file follows the
paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from didact.engines.base import Loss, takes
from didact.methods.base import Term
from didact.methods.self_distillation import SelfDistillation, linear_warmup
from didact.rendering.renderer import critique_messages
from didact.rollouts.base import StepContext
from didact.rollouts.multi_turn import criticise
from didact.types import Problem, Rollout, Row

CriticisedTurns: TypeAlias = Literal["first", "every"]

MODELLED: dict[CriticisedTurns, Callable[[Rollout], range]] = {
    "first": lambda rollout: range(1),
    "every": lambda rollout: range(len(rollout.turns)),
}
"""Which turns' critiques FM learns."""


class RLTF(SelfDistillation):
    """RL from text feedback: GRPO in two or more turns with two more terms. See the top of this file.

    The settings of `SelfDistillation`, and

    Attributes:
        lambda_fm: λ_FM ≥ 0; 0 switches feedback modelling off.
        lambda_fm_ramp: λ_FM rises linearly from 0 over this share of the run; 0 for none.
        fm_turns: Learn the critique of the first answer only, or of every answer.
    """

    lambda_fm: Annotated[float, Field(ge=0)] = 0.2
    lambda_fm_ramp: Annotated[float, Field(ge=0, le=1)] = 0.0
    fm_turns: CriticisedTurns = "first"

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        rollouts = super().collect(ctx, problems)
        if self.lambda_fm and self.fm_turns == "every":
            criticise(ctx, rollouts, self.turns - 1, early_stop=self.early_stop)
        return rollouts

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Term]:
        terms = [*super().rows(ctx, rollouts), self.fm_term(ctx, rollouts)]
        return [term for term in terms if term.rows]

    def fm_term(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> Term:
        """The rows of `feedback_modelling` with their loss."""
        return Term("fm", Loss("cross_entropy"), self.feedback_modelling(ctx, rollouts))

    def feedback_modelling(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Row]:
        """Rows f_FeeMol(x₀, y_h) → c_h with weight λ_FM / M; right answers that stopped have none."""
        strength = linear_warmup(self.lambda_fm, self.lambda_fm_ramp, ctx.progress)
        if not strength:
            return []
        weight = strength / max(1, sum(not r.feedback_failed(0) for r in rollouts))
        rows = [
            self._modelled(ctx, rollout, h, weight)
            for rollout in rollouts
            for h in MODELLED[self.fm_turns](rollout)
        ]
        # How long an attempt or a critique is, is the models' doing, and must not end the run.
        return [row for row in rows if row is not None and takes(ctx.engine, len(row))]

    def _modelled(self, ctx: StepContext, rollout: Rollout, h: int, weight: float) -> Row | None:
        critique = rollout.feedback_on(h)
        if critique is None or not critique.text:
            return None
        request = critique_messages(rollout.problem, rollout.turns[h].text.strip())
        return Row.from_completion(
            ctx.renderer.prompt(request), ctx.renderer.answer(critique.text), weights=weight
        )
