"""Spans made worse on purpose, to see what a method owes to them; the words of the critique stay.

    spans-drop30    three in ten spans are missing
    spans-drop60    six in ten, those of spans-drop30 among them
    spans-flip20    two in ten say good for poor, or poor for good
    spans-shuffled  each span stands somewhere in its answer, over as many words and with its label

What happens to a span depends on the seed, the question and the answer, and not on the batch: an annotator
who overlooked something overlooks it again. A span over the whole answer has nowhere else to go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from didact.feedback.answer_spans import Place, in_order
from didact.feedback_source import FeedbackRequest, FeedbackSource
from didact.feedback_store import SHUFFLED
from didact.rng import generator
from didact.types import Feedback, Span

SpanNoise: TypeAlias = Literal["spans-drop30", "spans-drop60", "spans-flip20", "spans-shuffled"]
SPAN_NOISES: tuple[SpanNoise, ...] = get_args(SpanNoise)
Worsen: TypeAlias = Callable[[Sequence[Span], str, np.random.Generator], Sequence[Span]]
"""(spans, their answer, the draw) -> spans of the same answer."""
OTHER = {"good": "poor", "poor": "good"}


class NoisySpans:
    """Wraps a source and makes its spans worse.

    Args:
        source: Who writes the critiques.
        noise: One of `SPAN_NOISES`.
        seed: Which spans it hits.
    """

    def __init__(self, source: FeedbackSource, noise: SpanNoise, *, seed: int = 0) -> None:
        self.source, self.noise, self.seed = source, noise, seed
        self._stream, self._worsen = NOISES[noise]

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """What the source says, with worse spans; a failed feedback as it is."""
        said = self.source.critique(requests)
        return [self._one(request, own) for request, own in zip(requests, said, strict=True)]

    def _one(self, request: FeedbackRequest, said: Feedback) -> Feedback:
        if not said.ok:
            return said
        answer = request.turn.text
        draw = generator(self.seed, self._stream, request.problem.question, answer)
        # The mark of controls: the words are still their author's, who may ask for them.
        author = said.provenance.model_copy(update={"author": f"{SHUFFLED}{said.provenance.author}"})
        return said.model_copy(
            update={"spans": tuple(self._worsen(said.spans, answer, draw)), "provenance": author}
        )


def dropped(share: float) -> Worsen:
    """Each span is missing with this probability."""

    def worsen(spans: Sequence[Span], answer: str, draw: np.random.Generator) -> list[Span]:
        return [span for span, u in zip(spans, draw.random(len(spans)), strict=True) if u >= share]

    return worsen


def flipped(share: float) -> Worsen:
    """Each span has the other label with this probability."""

    def worsen(spans: Sequence[Span], answer: str, draw: np.random.Generator) -> list[Span]:
        return [
            span.model_copy(update={"label": "poor" if span.label == "good" else "good"})
            if u < share
            else span
            for span, u in zip(spans, draw.random(len(spans)), strict=True)
        ]

    return worsen


def shuffled_places(spans: Sequence[Span], answer: str, draw: np.random.Generator) -> tuple[Span, ...]:
    """The spans in a random order, with the answer's unmarked words dealt between them.

    Words are moved over whole; where a span begins or ends within a word, characters are. Spans that overlap
    stay together.
    """
    units = _units(spans, answer)
    blocks = _blocks(spans, units)
    free = len(units) - sum(last - first for first, last, _ in blocks)
    # An unmarked unit is a block of one without a span.
    deck = [*blocks, *([(0, 1, [])] * free)]
    found, at = [], 0
    for i in draw.permutation(len(deck)):
        first, last, own = deck[i]
        for span in own:
            (start, _), (_, end) = (units[at + unit - first] for unit in _covered(span, units))
            found.append(span.model_copy(update={"start": start, "end": end, "quote": answer[start:end]}))
        at += last - first
    return in_order(found)


def _units(spans: Sequence[Span], answer: str) -> list[Place]:
    """What is moved: words, or characters other than white space."""
    words = [m.span() for m in re.finditer(r"\S+", answer)]
    starts, ends = {start for start, _ in words}, {end for _, end in words}
    if all(span.start in starts and span.end in ends for span in spans):
        return words
    return [m.span() for m in re.finditer(r"\S", answer)]


def _covered(span: Span, units: Sequence[Place]) -> tuple[int, int]:
    """Its first and its last unit."""
    inside = [i for i, (start, end) in enumerate(units) if start < span.end and end > span.start]
    return inside[0], inside[-1]


def _blocks(spans: Sequence[Span], units: Sequence[Place]) -> list[tuple[int, int, list[Span]]]:
    """(first unit, one past the last, spans) of spans that share units; blank ones are left out."""
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


NOISES: Mapping[SpanNoise, tuple[str, Worsen]] = {
    # One stream for both, so that what the smaller share drops the larger one drops too.
    "spans-drop30": ("spans-drop", dropped(0.3)),
    "spans-drop60": ("spans-drop", dropped(0.6)),
    "spans-flip20": ("spans-flip", flipped(0.2)),
    "spans-shuffled": ("spans-shuffled", shuffled_places),
}
"""The stream of the draw, and what is done with it."""
