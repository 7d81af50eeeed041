"""From the spans of critiques to what each sampled token earned.

    s_t = δ_t ∈ {−1, 0, 1}:  1 in a good span, −1 in a poor one, 0 in neither    (Text2Grad, arXiv:2505.22338)

Everything else is an option, off unless it is set, and done in this order: soft δ, normalisation by a span's
length, the first error's weight, the weights of good and poor, the length term.

What a critique may be:

    it has spans                          δ
    it has none, or could not be parsed   δ = 0, an answer like any other: it is in every mean and under the
                                          KL. A source says so by a feedback that is ok and has no spans.
    its source failed (status "failed")   nobody knows δ: the answer is missing, as elsewhere, or δ = 0 with
                                          `failed: neutral`.

Compat presets are the rewards of the published code, which differ from the paper's (its alignment is not
copied): for kodcode +1 for unlabelled words and 0 for good ones; for ultrafeedback +0.1 on every word where
nothing is found; for slf5k a factor σ(6 − (n − 48)) that fades rewards out behind the 48th token after the
first labelled one. In all three, tokens without a letter or digit get 0.

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
from didact.spans import Offsets, credited_by, token_labels, turn_offsets
from didact.types import Feedback, Rollout, Span, Turn

Weight = Annotated[float, Field(ge=0)]
Compat: TypeAlias = Literal["slf5k", "ultrafeedback", "kodcode"]


class Preset(NamedTuple):
    """What the published code gives a word."""

    good: float
    poor: float
    unlabelled: float
    nothing: float
    """Every word, where no span was found."""
    fades: bool = False


PRESETS: Mapping[Compat, Preset] = {
    "slf5k": Preset(1.0, -1.0, 0.0, 0.0, fades=True),
    "ultrafeedback": Preset(1.0, -1.0, 0.0, 0.1),
    "kodcode": Preset(0.0, -1.0, 1.0, 1.0),
}


class SpanRewards(BaseModel):
    """How spans become rewards. See the top of this file.

    Attributes:
        overlap: Where a good and a poor span meet: `sum_clip` adds their signs, `negative_wins` is poor.
        identical: One stretch called both: `drop` it, `negative_wins`, or `keep` it for `overlap`.
        min_overlap: More than this share of a token's characters lies in a span that labels it.
        soft: δ is the mean over an answer's critiques, in [−1, 1], in place of all their spans together.
        length_normalised: A span's tokens share its 1 or −1, so that long quotes do not count more.
        first_error: The tokens of the first poor span count so many times.
        good, poor: Good and poor tokens count so many times.
        length_coef: c ≥ 0 of a length term: the last token gets −c · (tokens above `length_target`) / target.
        length_target: See `length_coef`.
        failed: What a failed critique makes of its answer: `missing`, or `neutral`.
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

    def rewards(self, rollouts: Sequence[Rollout], tokenizer: Any) -> tuple[list[Array | None], Counter[str]]:
        """s_t of each rollout's first answer, [T] each; None where it is missing.

        Returns:
            The rewards, and counts of what is not missing: `tokens`, `good` and `poor` ones; answers
            `unlabelled`; spans `misquoted`, which do not quote their answer and are left out; answers
            `unplaced`, whose ids do not make up their text, which are taken as unlabelled.
        """
        seen: Counter[str] = Counter()
        return [self._answer(rollout, tokenizer, seen) for rollout in rollouts], seen

    def _answer(self, rollout: Rollout, tokenizer: Any, seen: Counter[str]) -> Array | None:
        said = [f for f in rollout.feedback if f.turn == 0 and f.ok]
        if not said and not (self.failed == "neutral" and rollout.feedback_failed(0)):
            return None
        turn = rollout.turns[0]
        quoted = [quoting(f, turn) for f in said]
        seen["misquoted"] += sum(len(f.spans) for f in said) - sum(map(len, quoted))
        try:
            offsets = turn_offsets(turn, tokenizer) if any(quoted) or self.compat else None
        except DataError:
            offsets = None
            seen["unplaced"] += 1
        found_T = np.zeros(len(turn.completion_ids))
        if offsets is not None:
            critiques = quoted if self.soft else [[s for spans in quoted for s in spans]]
            found_T = np.mean([self._shaped(spans, offsets, turn) for spans in critiques], axis=0)
        seen["tokens"] += len(found_T)
        seen["good"] += int((found_T > 0).sum())
        seen["poor"] += int((found_T < 0).sum())
        seen["unlabelled"] += not found_T.any()
        if self.length_coef:
            above = max(0, len(found_T) - self.length_target) / self.length_target
            found_T[-1] -= self.length_coef * above
        return found_T

    def _shaped(self, spans: Sequence[Span], offsets: Offsets, turn: Turn) -> Array:
        """What one critique gives each token."""
        found_T = token_labels(
            spans,
            offsets,
            turn.text,
            overlap=self.overlap,
            identical=self.identical,
            min_overlap=self.min_overlap,
            ended=turn.stop_reason == "eos",
        )
        labels_T = found_T.astype(np.float64)
        if self.compat is not None:
            return published(labels_T, offsets, turn.text, PRESETS[self.compat])
        givers = credited_by(spans, offsets, found_T)
        if self.length_normalised:
            size = Counter(map(place, givers))
            labels_T = labels_T / [size[place(giver)] for giver in givers]
        poor = np.flatnonzero(labels_T < 0)
        if len(poor):
            first = place(givers[poor[0]])
            labels_T[[place(giver) == first for giver in givers]] *= self.first_error
        return np.where(labels_T > 0, self.good, self.poor) * labels_T


SHAPING = ("soft", "length_normalised", "first_error", "good", "poor", "length_coef")
"""The options that a preset stands in place of."""


def published(labels_T: Array, offsets: Offsets, text: str, preset: Preset) -> Array:
    """The published code's rewards for the labels of an answer; 0 for tokens without a letter or digit."""
    word_T = np.array([any(map(str.isalnum, text[first:last])) for first, last in offsets], dtype=bool)
    if labels_T.any():
        found_T = np.select([labels_T > 0, labels_T < 0], [preset.good, preset.poor], preset.unlabelled)
    else:
        found_T = np.full(len(labels_T), preset.nothing)
    found_T = np.where(word_T, found_T, 0.0)
    if preset.fades and found_T.any():
        n_T = np.arange(len(found_T)) - np.flatnonzero(found_T)[0]
        found_T = found_T / (1 + np.exp(-np.clip(6 - (n_T - 48.0), -10, 6)))
    return found_T


def quoting(feedback: Feedback, turn: Turn) -> list[Span]:
    """The spans of a critique that quote this answer; any other is about another one."""
    return [s for s in feedback.spans if turn.text[s.start : s.end] == s.quote]


def place(span: Span | None) -> tuple[int, int, str] | None:
    """What tells spans apart; None for no span."""
    return None if span is None else (span.start, span.end, span.label)
