"""Text2Grad: the spans of a critique become signed token rewards, and only those tokens are updated.

Paper: "Text2Grad: Reinforcement Learning from Natural Language Feedback" (arXiv:2505.22338). A critique c of
an answer y quotes good and poor spans of it.

    δ_t = 1 in a good span, −1 in a poor one, 0 elsewhere     `spans.token_labels`, shaped by `span_rewards`
    ∇_NL(c → y) = Σ_t δ_t ∇ log π(y_t | x, y_<t)              the paper's NL-gradient: credit direct, β = 0
    r_t = δ_t − β k_t                                         the KL in the reward: methods/token_level_pg.py
    A = GAE(r, V), PPO                                        its optimiser: credit gae, the default

docs/algorithms/text2grad.md has the other credits, the departures from the paper and from its code, and what
is learned where a critique has no spans or failed.

Shape: T sampled tokens of one answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from didact.advantages import Array
from didact.errors import DataError
from didact.methods.token_level_pg import TokenLevelPolicyGradient
from didact.rollouts.base import StepContext
from didact.spans import Offsets, credited_by, token_labels, turn_offsets
from didact.types import Feedback, Rollout, Span, Turn

Weight = Annotated[float, Field(ge=0)]
Compat: TypeAlias = Literal["slf5k", "ultrafeedback", "kodcode"]


class SpanRewards(BaseModel):
    """How spans become token rewards.

    The options from `soft` to `length_coef` are off by default and are applied in this order.

    Attributes:
        overlap: Where a good and a poor span meet: `sum_clip` adds their signs, `negative_wins` is poor.
        identical: A stretch with both labels: `drop` it, `negative_wins`, or `keep` it for `overlap`.
        min_overlap: A span labels a token if it covers more than this share of its characters.
        soft: δ is the mean over an answer's critiques, in [−1, 1], in place of all their spans together.
        length_normalised: A span's tokens share its 1 or −1, so that long quotes do not count more.
        first_error: Factor of the tokens of the first poor span.
        good, poor: Factors of good and poor tokens.
        length_coef: c ≥ 0 of a length term: the last token gets −c · (tokens above `length_target`) / target.
        length_target: See `length_coef`.
        failed: An answer whose critiques failed is `missing`, or `neutral` with δ = 0.
        compat: Rewards of the published code, in place of the options from `soft` to `length_coef`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    overlap: Literal["sum_clip", "negative_wins"] = "sum_clip"
    identical: Literal["drop", "negative_wins", "keep"] = "drop"
    min_overlap: Annotated[float, Field(ge=0, le=1)] = 0.5
    soft: bool = False
    length_normalised: bool = False
    first_error: Weight = 1.0
    good: Weight = 1.0
    poor: Weight = 1.0
    length_coef: Weight = 0.0
    length_target: Annotated[int, Field(ge=1)] = 64
    failed: Literal["missing", "neutral"] = "missing"
    compat: Compat | None = None

    @model_validator(mode="after")
    def _presets_stand_alone(self) -> SpanRewards:
        changed = [n for n in SHAPING if getattr(self, n) != type(self).model_fields[n].default]
        if self.compat is not None and changed:
            raise ValueError(f"compat={self.compat} is what the published code does: leave out {changed[0]}")
        return self


SHAPING = ("soft", "length_normalised", "first_error", "good", "poor", "length_coef")
"""The options that a preset replaces."""


class Text2Grad(TokenLevelPolicyGradient):
    """Span-level policy optimisation.

    The settings of `TokenLevelPolicyGradient`, and `spans`: how spans become token rewards.
    """

    spans: SpanRewards = SpanRewards()

    @property
    def needs_feedback(self) -> bool:
        return True

    def token_rewards(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Array | None]:
        rewards, counts = span_rewards(rollouts, ctx.renderer.tokenizer, self.spans)
        ctx.metrics.update(span_metrics(counts))
        return rewards


def span_rewards(
    rollouts: Sequence[Rollout], tokenizer: Any, settings: SpanRewards
) -> tuple[list[Array | None], Counter[str]]:
    """δ_t of each rollout's first answer, [T] each; None where it is missing.

    Returns:
        The rewards, and counts over the answers that are not missing: `tokens`, of them `good` and `poor`;
        answers `unlabelled`; spans `misquoted`, which do not quote their answer and are ignored; answers
        `unplaced`, whose ids do not decode to their text, which count as unlabelled.
    """
    counts: Counter[str] = Counter()
    return [answer_rewards(rollout, tokenizer, settings, counts) for rollout in rollouts], counts


def span_metrics(counts: Counter[str]) -> dict[str, float]:
    """The counts of `span_rewards` as metrics."""
    tokens = max(1, counts["tokens"])
    return {
        "tokens_good": counts["good"] / tokens,
        "tokens_poor": counts["poor"] / tokens,
        "answers_unlabelled": counts["unlabelled"],
        "answers_unplaced": counts["unplaced"],
        "spans_misquoted": counts["misquoted"],
    }


def answer_rewards(
    rollout: Rollout, tokenizer: Any, settings: SpanRewards, counts: Counter[str]
) -> Array | None:
    """δ_t of one answer, [T], or None; adds to the counts."""
    critiques = [f for f in rollout.feedback if f.turn == 0 and f.ok]
    if not critiques and not (settings.failed == "neutral" and rollout.feedback_failed(0)):
        return None
    turn = rollout.turns[0]
    quoted = [quoting(critique, turn) for critique in critiques]
    counts["misquoted"] += sum(len(f.spans) for f in critiques) - sum(map(len, quoted))
    try:
        offsets = turn_offsets(turn, tokenizer) if any(quoted) or settings.compat else None
    except DataError:
        offsets = None
        counts["unplaced"] += 1
    rewards_T = np.zeros(len(turn.completion_ids))
    if offsets is not None:
        together = [[span for spans in quoted for span in spans]]
        shaped = [shaped_rewards(s, offsets, turn, settings) for s in (quoted if settings.soft else together)]
        rewards_T = np.mean(shaped, axis=0)
    counts["tokens"] += len(rewards_T)
    counts["good"] += int((rewards_T > 0).sum())
    counts["poor"] += int((rewards_T < 0).sum())
    counts["unlabelled"] += not rewards_T.any()
    if settings.length_coef:
        above = max(0, len(rewards_T) - settings.length_target) / settings.length_target
        rewards_T[-1] -= settings.length_coef * above
    return rewards_T


def quoting(feedback: Feedback, turn: Turn) -> list[Span]:
    """The spans of a critique that quote this answer."""
    return [s for s in feedback.spans if turn.text[s.start : s.end] == s.quote]


def shaped_rewards(spans: Sequence[Span], offsets: Offsets, turn: Turn, settings: SpanRewards) -> Array:
    """δ_t of a set of spans, [T], with the options of `settings`."""
    preset = None if settings.compat is None else PRESETS[settings.compat]
    labels_T = token_labels(
        united(spans, turn.text) if preset is not None and preset.unites else spans,
        offsets,
        turn.text,
        overlap=settings.overlap,
        identical=settings.identical,
        min_overlap=settings.min_overlap,
        ended=turn.stop_reason == "eos",
    )
    rewards_T = labels_T.astype(np.float64)
    if preset is not None:
        return published_rewards(rewards_T, offsets, turn.text, preset)
    keys = [span_key(span) for span in credited_by(spans, offsets, labels_T)]
    if settings.length_normalised:
        sizes = Counter(keys)
        rewards_T = rewards_T / [sizes[key] for key in keys]
    if (rewards_T < 0).any():
        first = keys[int(np.argmax(rewards_T < 0))]
        rewards_T[[key == first for key in keys]] *= settings.first_error
    return np.where(rewards_T > 0, settings.good, settings.poor) * rewards_T


def span_key(span: Span | None) -> tuple[int, int, str] | None:
    """Place and label of a span, which identify it; None for no span."""
    return None if span is None else (span.start, span.end, span.label)


class Preset(NamedTuple):
    """The reward of a word in the published code."""

    good: float
    poor: float
    unlabelled: float
    nothing: float
    """Of every word, where no span was found."""
    fades: bool = False
    unites: bool = False


PRESETS: Mapping[Compat, Preset] = {
    "slf5k": Preset(1.0, -1.0, 0.0, 0.0, fades=True),
    "ultrafeedback": Preset(1.0, -1.0, 0.0, 0.1),
    "kodcode": Preset(0.0, -1.0, 1.0, 1.0, unites=True),
}


def united(spans: Sequence[Span], text: str) -> list[Span]:
    """Spans that overlap as one span over all of them, with the least label: poor if any is poor."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda s: s.start):
        start, end, label = span.start, span.end, span.label
        if found and start < found[-1].end:
            last = found.pop()
            start, end = last.start, max(end, last.end)
            label = "poor" if "poor" in (label, last.label) else "good"
        found.append(Span(start=start, end=end, quote=text[start:end], label=label))
    return found


def published_rewards(labels_T: Array, offsets: Offsets, text: str, preset: Preset) -> Array:
    """The published code's rewards, [T]; 0 for tokens without a letter or digit."""
    word_T = np.array([any(map(str.isalnum, text[first:last])) for first, last in offsets], dtype=bool)
    if labels_T.any():
        rewards_T = np.select([labels_T > 0, labels_T < 0], [preset.good, preset.poor], preset.unlabelled)
    else:
        rewards_T = np.full(len(labels_T), preset.nothing)
    rewards_T = np.where(word_T, rewards_T, 0.0)
    if preset.fades and rewards_T.any():
        n_T = np.arange(len(rewards_T)) - np.flatnonzero(rewards_T)[0] + 1
        rewards_T = rewards_T / (1 + np.exp(np.clip(n_T - 54.0, -10, 6)))
    return rewards_T
