"""Controls that degrade the spans of a critique and leave its text as it is.

    spans-drop30    each span is removed with probability 0.3
    spans-drop60    the same with 0.6; removes every span that spans-drop30 removes
    spans-flip20    each label is flipped with probability 0.2
    spans-shuffled  each span is moved to a random place of its answer, with its length in words and its label

The draw depends on the seed, the question and the answer, not on the batch: the same answer is degraded in
the same way again. A span over the whole answer cannot be moved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias, get_args

import numpy as np

from didact.controls.base import Control, Verify, altered
from didact.feedback.program import Place, in_order
from didact.feedback_source import FeedbackRequest, FeedbackSource
from didact.rng import generator
from didact.types import Feedback, Span

SpanNoiseName: TypeAlias = Literal["spans-drop30", "spans-drop60", "spans-flip20", "spans-shuffled"]
SPAN_NOISES: tuple[SpanNoiseName, ...] = get_args(SpanNoiseName)
Degrade: TypeAlias = Callable[[Sequence[Span], str, np.random.Generator], Sequence[Span]]
"""(spans, their answer, random generator) -> spans of the same answer."""


class SpanNoise(Control):
    """The source's feedback with degraded spans; a failed feedback unchanged."""

    name: SpanNoiseName

    def critique(
        self, requests: Sequence[FeedbackRequest], source: FeedbackSource, seed: int, verify: Verify | None
    ) -> list[Feedback]:
        stream, degrade = NOISES[self.name]
        found = []
        for request, feedback in zip(requests, source.critique(requests), strict=True):
            if feedback.ok:
                answer = request.turn.text
                rng = generator(seed, stream, request.problem.question, answer)
                spans = tuple(degrade(feedback.spans, answer, rng))
                feedback = altered(feedback, self.name, spans=spans, score=feedback.score)
            found.append(feedback)
        return found


def dropped(share: float, spans: Sequence[Span], answer: str, rng: np.random.Generator) -> list[Span]:
    """The spans without those that are removed with this probability."""
    return [span for span, u in zip(spans, rng.random(len(spans)), strict=True) if u >= share]


def flipped(share: float, spans: Sequence[Span], answer: str, rng: np.random.Generator) -> list[Span]:
    """The spans, each with the other label with this probability."""
    return [
        span.model_copy(update={"label": "poor" if span.label == "good" else "good"}) if u < share else span
        for span, u in zip(spans, rng.random(len(spans)), strict=True)
    ]


def shuffled_places(spans: Sequence[Span], answer: str, rng: np.random.Generator) -> tuple[Span, ...]:
    """The spans in a random order, with the answer's unmarked words distributed between them.

    The unit is a word, or a character where a span begins or ends within a word. Overlapping spans stay
    together.
    """
    units = _units(spans, answer)
    blocks = _blocks(spans, units)
    free = len(units) - sum(last - first for first, last, _ in blocks)
    # An unmarked unit is a block of one without a span.
    deck = [*blocks, *([(0, 1, [])] * free)]
    found, at = [], 0
    for i in rng.permutation(len(deck)):
        first, last, own = deck[i]
        for span in own:
            (start, _), (_, end) = (units[at + unit - first] for unit in _covered(span, units))
            found.append(span.model_copy(update={"start": start, "end": end, "quote": answer[start:end]}))
        at += last - first
    return in_order(found)


def _units(spans: Sequence[Span], answer: str) -> list[Place]:
    """The units of a move: words, or characters other than white space."""
    words = [m.span() for m in re.finditer(r"\S+", answer)]
    starts, ends = {start for start, _ in words}, {end for _, end in words}
    if all(span.start in starts and span.end in ends for span in spans):
        return words
    return [m.span() for m in re.finditer(r"\S", answer)]


def _covered(span: Span, units: Sequence[Place]) -> tuple[int, int]:
    """The indices of a span's first and last unit."""
    inside = [i for i, (start, end) in enumerate(units) if start < span.end and end > span.start]
    return inside[0], inside[-1]


def _blocks(spans: Sequence[Span], units: Sequence[Place]) -> list[tuple[int, int, list[Span]]]:
    """(first unit, one past the last, spans) of each set of spans that share units, without blank spans."""
    blocks: list[tuple[int, int, list[Span]]] = []
    for span in in_order(spans):
        if not span.quote.strip():
            continue
        first, last = _covered(span, units)
        if blocks and first < blocks[-1][1]:
            before = blocks[-1]
            blocks[-1] = before[0], max(before[1], last + 1), [*before[2], span]
        else:
            blocks.append((first, last + 1, [span]))
    return blocks


NOISES: Mapping[SpanNoiseName, tuple[str, Degrade]] = {
    # One stream for both: what the smaller share drops the larger one drops too.
    "spans-drop30": ("spans-drop", partial(dropped, 0.3)),
    "spans-drop60": ("spans-drop", partial(dropped, 0.6)),
    "spans-flip20": ("spans-flip", partial(flipped, 0.2)),
    "spans-shuffled": ("spans-shuffled", shuffled_places),
}
"""The random stream and the function of each."""
