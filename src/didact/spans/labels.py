"""Token labels from character spans.

A character is good, poor or neutral; a token takes the label of more than half of its characters, white space
ignored unless the token has nothing else. An id that encodes part of a character owns the whole character.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from didact.errors import DataError, UsageError
from didact.spans.text_normalization import codes_of, is_space
from didact.spans.tokens import Offsets
from didact.types import Floats, Span

Overlap: TypeAlias = Literal["sum_clip", "negative_wins"]
Identical: TypeAlias = Literal["drop", "negative_wins", "keep"]


def token_labels(
    spans: Sequence[Span],
    offsets: Offsets | Sequence[tuple[int, int]],
    text: str,
    *,
    overlap: Overlap = "sum_clip",
    identical: Identical = "drop",
    min_overlap: float = 0.5,
    ended: bool = False,
) -> Floats:
    """δ_t of each sampled id: 1 good, −1 poor, 0 neither.

    Args:
        spans: Spans of the answer, in any order; duplicates count once.
        offsets: [T, 2] of the sampled ids, as from `token_offsets`: starts and ends of those that have a
            width never decrease.
        overlap: The rule for a character in several spans: "sum_clip" takes the sign of the sum of their
            signs, "negative_wins" is poor if one of them is.
        identical: The rule for one range labelled both good and poor: "drop" ignores both, "negative_wins"
            is poor, "keep" applies `overlap`.
        min_overlap: A token is labelled if more than this share of its characters is, in [0, 1]; 1 means all.
        ended: The last id is an end-of-turn id (`stop_reason` "eos"), which is never labelled.

    Returns:
        float32 [T] in {−1, 0, 1}. A zero-width id has 0.

    Raises:
        DataError: a span does not quote this answer, or offsets are out of range or order.
        UsageError: `min_overlap` outside [0, 1].

    >>> spans = [Span(start=3, end=4, quote="5", label="poor")]
    >>> token_labels(spans, [(0, 2), (2, 4), (4, 5), (5, 5)], "is 5.", ended=True).tolist()
    [0.0, -1.0, 0.0, 0.0]
    """
    _check(spans, text, min_overlap)
    kept = _kept(spans, identical)
    found = np.zeros(len(offsets), np.float32)
    if not kept or not len(offsets):
        return found
    places, wide = _places(offsets, len(text))
    touched = wide[_touched(kept, places[wide])]
    if not len(touched):
        return found
    good, poor = _shares(_signs(kept, len(text), overlap), places[touched], text)
    is_good = (good > min_overlap) | (good >= 1)
    is_poor = (poor > min_overlap) | (poor >= 1)
    if overlap == "negative_wins":  # with a low `min_overlap` a token may be both
        is_good &= ~is_poor
    found[touched] = np.subtract(is_good, is_poor, dtype=np.float32)
    if ended:
        found[-1] = 0
    return found


def credited_by(
    spans: Sequence[Span], offsets: Offsets | Sequence[tuple[int, int]], labels: Sequence[float] | Floats
) -> list[Span | None]:
    """The span behind each token label, [T]; None where the label is 0.

    Of the spans with the label's sign, the one that covers most of the token; then the shortest; then the
    first.

    >>> span = Span(start=3, end=4, quote="5", label="poor", phrase="Not 5.")
    >>> credited_by([span], [(0, 2), (2, 4)], [0, -1])[1].phrase
    'Not 5.'
    """
    found: list[Span | None] = []
    for (first, last), label in zip(np.asarray(offsets).tolist(), labels, strict=True):
        sign = "good" if label > 0 else "poor"
        shared = [
            (-(min(s.end, last) - max(s.start, first)), s.end - s.start, s.start, n)
            for n, s in enumerate(spans)
            if label and s.label == sign and s.start < last and first < s.end
        ]
        found.append(spans[min(shared)[3]] if shared else None)
    return found


def _check(spans: Sequence[Span], text: str, min_overlap: float) -> None:
    if not 0 <= min_overlap <= 1:
        raise UsageError(f"min_overlap must lie in [0, 1], not {min_overlap}")
    for span in spans:
        if text[span.start : span.end] != span.quote:
            raise DataError(
                f"a span quotes {span.quote[:40]!r} at [{span.start}, {span.end}), where the answer has "
                f"{text[span.start : span.end][:40]!r}: it is about another answer, or counts something "
                "other than code points"
            )


def _kept(spans: Sequence[Span], identical: Identical) -> list[tuple[int, int, str]]:
    """The distinct spans, after the rule for identical ranges."""
    kept = {(s.start, s.end, s.label) for s in spans if s.end > s.start}
    if identical != "keep":
        both = {(a, b) for a, b, label in kept if label == "good" and (a, b, "poor") in kept}
        gone = ("good", "poor") if identical == "drop" else ("good",)
        kept -= {(a, b, label) for a, b in both for label in gone}
    return sorted(kept)


def _signs(spans: Sequence[tuple[int, int, str]], size: int, overlap: Overlap) -> NDArray[np.int32]:
    """int32 [size]: positive where a character is good, negative where it is poor."""
    signs = np.zeros(size, np.int32)
    for start, end, label in spans:
        signs[start:end] += -1 if label == "poor" else 1
    if overlap == "negative_wins":
        for start, end, label in spans:
            if label == "poor":
                signs[start:end] = -1
    return signs


def _places(offsets: Offsets | Sequence[tuple[int, int]], size: int) -> tuple[Offsets, NDArray[np.int64]]:
    """The offsets as an array, and the indices of ids that have a width; checks range and order."""
    places = np.asarray(offsets, np.int64)
    wide = np.flatnonzero(places[:, 0] != places[:, 1])
    flat = places[wide].ravel()
    backward = np.count_nonzero(flat[1::2] < flat[::2]) + np.count_nonzero(flat[2:] < flat[:-2])
    if backward or places.min() < 0 or places.max() > size:
        before = np.zeros_like(places)
        before[wide[1:]] = places[wide[:-1]]
        first, last = places.T
        behind = (places < before).any(axis=1)
        n = int(np.argmax((first < 0) | (first > last) | (last > size) | behind))
        raise DataError(
            f"sampled id {n} lies at {tuple(places[n].tolist())}, behind one at {tuple(before[n].tolist())}, "
            f"in an answer of {size} characters: take the offsets from this answer's own ids"
        )
    return places, wide


def _touched(spans: Sequence[tuple[int, int, str]], places: Offsets) -> NDArray[np.int64]:
    """Indices of the tokens that overlap a span. Widths are positive."""
    first, last = places.T
    starts, ends, _ = zip(*spans, strict=True)
    begin = last.searchsorted(starts, "right").tolist()
    end = first.searchsorted(ends, "left").tolist()
    touched = np.zeros(len(places), np.bool_)
    for a, b in zip(begin, end, strict=True):
        touched[a:b] = True
    return np.flatnonzero(touched)


def _shares(
    signs: NDArray[np.int32], places: Offsets, text: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """float64 [T] each: the shares of each token's characters that are good and poor. Widths are positive."""
    first, last = places.T
    lengths = last - first
    begins = lengths.cumsum() - lengths
    # The characters of all tokens, concatenated.
    of = (first - begins).repeat(lengths)
    of += np.arange(len(of))
    signs, seen = signs[of], ~is_space(codes_of(text)[of])
    whole = np.add.reduceat(seen, begins, dtype=np.int64)
    if np.count_nonzero(whole) < len(whole):
        seen |= (whole == 0).repeat(lengths)
        whole = np.where(whole == 0, lengths, whole)
    signs *= seen
    good = np.add.reduceat(signs > 0, begins, dtype=np.int64)
    poor = np.add.reduceat(signs < 0, begins, dtype=np.int64)
    return good / whole, poor / whole
