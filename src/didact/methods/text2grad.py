"""Text2Grad: phrases of a critique turned into signed tokens, and just those updated.

Paper: "Text2Grad: Reinforcement Learning from Natural Language Feedback" (arXiv:2505.22338). A critique c of
an answer y quotes good and poor spans of it; δ_t is 1 in a good one, −1 in a poor one, 0 elsewhere.

    ∇_NL(c → y) = Σ_t δ_t ∇ log π(y_t | x, y_<t)              the paper's NL-gradient: credit direct, β = 0
    r_t = δ_t − β k_t,   A = GAE(r, V),   PPO                 its optimiser: credit gae, the default

methods/span_rewards.py makes δ of spans, methods/token_rewards.py takes the KL off, methods/token_credit.py
has the three forms of credit; `critic_free` compares the answers of a group and needs no value head.

Spans come from any feedback on the answer: a program, a judge, a person or a reward model. Right answers are
criticised too. A critique without spans is a neutral δ = 0 with the KL kept: the answer stays in each mean.
A reward model's reply that cannot be parsed is such a critique: its source calls it ok and gives no spans.
A source that *failed*, as a judge that is down, says nothing about the answer, so that it is missing, as
everywhere in Didact: in no mean, in no loss and not in M.

Departures from the paper: 1. no entropy term (nor has its code one); 2. k₁ as the KL in the reward, which has
the KL's gradient under any credit; the code's, over the whole vocabulary, is `kl: full`; 3. a sum over tokens
divided by the number of answers, in place of a mean over tokens; 4. no whitening unless `credit.whiten`, and
one pass over a batch unless `optim.passes` says more (the code: 4); 5. all ok critiques of an answer count.
Departures from its code, which departs from the paper itself: unlabelled tokens get 0 unless
`spans.compat` says otherwise; no token is left out for being punctuation, which cuts the code's GAE at every
comma; nothing is decoded and encoded again; no batch is skipped for its ratios.
"""

from __future__ import annotations

from collections.abc import Sequence

from didact.advantages import Array
from didact.methods.span_rewards import SpanRewards
from didact.methods.token_rewards import TokenRewards
from didact.rollouts.base import StepContext
from didact.types import Rollout


class Text2Grad(TokenRewards):
    """Span-level policy optimisation. See the top of this file.

    The settings of `TokenRewards`, and

    Attributes:
        spans: How spans become rewards; see `SpanRewards`.
    """

    spans: SpanRewards = SpanRewards()

    @property
    def needs_feedback(self) -> bool:
        return True

    def token_rewards(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Array | None]:
        return span_rewards(self.spans, ctx, rollouts)


def span_rewards(spans: SpanRewards, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Array | None]:
    """The rewards of spans, with their counts in the step's notes."""
    rewards, seen = spans.rewards(rollouts, ctx.renderer.tokenizer)
    tokens = max(1, seen["tokens"])
    ctx.notes.update(
        {
            "tokens_good": seen["good"] / tokens,
            "tokens_poor": seen["poor"] / tokens,
            "answers_unlabelled": seen["unlabelled"],
            "answers_unplaced": seen["unplaced"],
            "spans_misquoted": seen["misquoted"],
        }
    )
    return rewards
