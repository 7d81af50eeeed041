"""Text normalisation that keeps character offsets.

NFKC, typographic quotes and dashes in ASCII, invisible format characters removed, runs of white space as one
space. Each character of the normalised text maps to the characters of the original that it came from.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_ASCII_PUNCTUATION = str.maketrans(
    dict.fromkeys("‘’‚‛‹›ʼ′´", "'") | dict.fromkeys("“”„‟«»″", '"') | dict.fromkeys("‐‑‒–—―−", "-")
)
# The last white space character of Unicode is U+3000.
_IS_SPACE = np.array([chr(c).isspace() for c in range(0x3002)])
_SPACE = np.uint32(ord(" "))
# Scripts and symbols in which only combining marks change the character before them.
_CONTEXT_FREE = ((0x80, 0x8FF), (0x1E00, 0x2FFF), (0x3000, 0x303F), (0x3400, 0x9FFF), (0x1F000, 0x1FAFF))
_NON_ASCII_RUN = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]+")


@dataclass(frozen=True, eq=False)
class NormalizedText:
    """A normalised text of n characters.

    Attributes:
        first: int64 [n], the original's first character behind each character.
        last: int64 [n], one past the last.
    """

    text: str
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @cached_property
    def caseless(self) -> NormalizedText:
        """The text with case folded; the two characters that "ß" is folded to are both its own."""
        folded = self.text.casefold()
        if len(folded) == len(self.text):  # case folding never shortens
            return NormalizedText(folded, self.first, self.last)
        sizes = [len(c.casefold()) for c in self.text]
        return NormalizedText(folded, self.first.repeat(sizes), self.last.repeat(sizes))

    def span(self, start: int, end: int) -> tuple[int, int] | None:
        """The original's offsets of [start, end); None if a boundary splits one original character, as "f"
        of the ligature "ﬁ"."""
        if start and self.first[start] == self.first[start - 1]:
            return None
        if end < len(self.first) and self.first[end] == self.first[end - 1]:
            return None
        return self.enclosing_span(start, end)

    def enclosing_span(self, start: int, end: int) -> tuple[int, int]:
        """The original's offsets of [start, end), extended to whole characters."""
        return int(self.first[start]), int(self.last[end - 1])


class _CodePointMap:
    """A function from characters to code points, vectorised; each character is computed once."""

    def __init__(self, of: Callable[[str], int]) -> None:
        self._of = of
        self._known = np.zeros(sys.maxunicode + 1, np.uint32)  # 0: not computed yet

    def __call__(self, codes: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Map code points, uint32 [n]."""
        found = self._known.take(codes, mode="clip")
        if np.count_nonzero(found) < len(found):
            for code in set(codes[found == 0].tolist()):
                self._known[code] = self._of(chr(code))
            found = self._known.take(codes, mode="clip")
        return found


def normalize_with_offsets(text: str) -> NormalizedText:
    """Normalise a text.

    >>> n = normalize_with_offsets("“It’s  5\\r\\nﬁne”")
    >>> n.text, n.span(6, 7), n.span(8, 9)
    ('"It\\'s 5 fine"', (7, 8), None)
    """
    codes = _one_to_one(codes_of(text))
    if codes is not None:
        return _collapse_space(codes)
    normalized, first, last = _by_runs(text)
    return _collapse_space(codes_of(normalized), first, last)


def normalize(text: str) -> str:
    """The normalised text alone, stripped.

    >>> normalize(" It’s  5\\r\\nﬁne ")
    "It's 5 fine"
    """
    if not text.isascii():
        codes = _one_to_one(codes_of(text))
        text = _by_runs(text)[0] if codes is None else _decode(codes)
    return " ".join(text.split())


def _one_to_one(codes: NDArray[np.uint32]) -> NDArray[np.uint32] | None:
    """Normalise each character by itself, white space aside; None if one depends on its neighbours."""
    found = _context_free_forms(codes)
    return None if found.max(initial=0) == _NOT_CONTEXT_FREE else found


def _by_runs(text: str) -> tuple[str, NDArray[np.int64], NDArray[np.int64]]:
    """Normalise runs of non-ASCII characters in context, white space aside: (text, first, last)."""
    parts: list[tuple[str, NDArray[np.int64], NDArray[np.int64]]] = []
    at = 0
    for found in [*_NON_ASCII_RUN.finditer(text), None]:
        start, end = found.span() if found else (len(text), len(text))
        ascii_part = np.arange(at, start)
        parts.append((text[at:start], ascii_part, ascii_part + 1))
        if found:
            form, first, last = _normalize_run(found.group())
            parts.append((form, first + start, last + start))
        at = end
    forms, firsts, lasts = zip(*parts, strict=True)
    return "".join(forms), np.concatenate(firsts), np.concatenate(lasts)


def _collapse_space(
    codes: NDArray[np.uint32], first: NDArray[np.int64] | None = None, last: NDArray[np.int64] | None = None
) -> NormalizedText:
    """Replace each run of white space by one space that maps to the whole run.

    Without `first` and `last`, characters map to themselves.
    """
    space = is_space(codes)
    kept = np.ones(len(codes) + 1, np.bool_)  # the first character of each run, and the end
    kept[1:-1] = ~(space[1:] & space[:-1])
    bounds = np.flatnonzero(kept)
    begins, ends = bounds[:-1], bounds[1:]
    text = _decode(np.where(space, _SPACE, codes)[kept[:-1]])
    if first is None or last is None:
        return NormalizedText(text, begins, ends)
    return NormalizedText(text, first[begins], last[ends - 1])


def codes_of(text: str) -> NDArray[np.uint32]:
    """The code points of a text, uint32 [n]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _decode(codes: NDArray[np.uint32]) -> str:
    return codes.tobytes().decode("utf-32-le", "surrogatepass")


def is_space(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which code points are white space, bool [n]."""
    return _IS_SPACE.take(codes, mode="clip")  # the table's last entry is no white space


def _context_free_form(c: str) -> str | None:
    """The one character that a character is normalised to in every context; None if there is none."""
    if c.isascii():
        return c
    if not any(first <= ord(c) <= last for first, last in _CONTEXT_FREE):
        return None
    if unicodedata.category(c) in ("Mn", "Mc", "Me", "Cf", "Cn", "Lm"):
        return None
    form = _normalize_segment(c)
    return form if len(form) == 1 and not unicodedata.combining(form) else None


_NOT_CONTEXT_FREE = sys.maxunicode + 1
_context_free_forms = _CodePointMap(
    lambda c: _NOT_CONTEXT_FREE if (form := _context_free_form(c)) is None else ord(form)
)


@lru_cache(maxsize=4096)
def _normalize_run(text: str) -> tuple[str, NDArray[np.int64], NDArray[np.int64]]:
    """Normalise non-ASCII characters and the one before them, which they may change."""
    parts = [(start, end, _normalize_segment(text[start:end])) for start, end in segments(text)]
    first = [start for start, _, form in parts for _ in form]
    last = [end for _, end, form in parts for _ in form]
    return "".join(form for _, _, form in parts), np.array(first, np.int64), np.array(last, np.int64)


def _normalize_segment(segment: str) -> str:
    if segment.isascii():
        return segment
    form = unicodedata.normalize("NFKC", segment.translate(_ASCII_PUNCTUATION)).translate(_ASCII_PUNCTUATION)
    if form[:1] == " " and not segment.isspace():
        form = segment  # a lone accent, which NFKC would combine with a space
    return "".join(c for c in form if unicodedata.category(c) != "Cf")


def segments(text: str) -> list[tuple[int, int]]:
    """Offsets of segments whose NFKC forms, joined, are the NFKC form of the text.

    >>> segments("cafe\\u0301s")
    [(0, 1), (1, 2), (2, 3), (3, 5), (5, 6)]
    """
    bounds: list[int] = []
    for i, c in enumerate(text):
        if not bounds or c < "\x80" or not _combines(text[bounds[-1] : i], c):
            bounds.append(i)
    return list(pairwise([*bounds, len(text)]))


def _combines(before: str, c: str) -> bool:
    """Does a character change with the segment before it?"""
    if before.isspace():  # white space is collapsed, so that a mark after it must map to itself
        return False
    alone = unicodedata.normalize("NFKC", c)
    if unicodedata.combining(alone[0]):
        return True
    together = unicodedata.normalize("NFKC", before + c)
    return together != unicodedata.normalize("NFKC", before) + alone
