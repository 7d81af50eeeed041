"""Text as it is compared when it is not copied exactly, with the way back to its characters.

NFKC, typographic quotes and dashes written plainly, invisible format characters left out, every run of
white space one space. Each character of the form knows which characters of the text it came from.
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

_PLAIN = str.maketrans(
    dict.fromkeys("‘’‚‛‹›ʼ′´", "'") | dict.fromkeys("“”„‟«»″", '"') | dict.fromkeys("‐‑‒–—―−", "-")
)
# The last white space of Unicode is U+3000.
_IS_SPACE = np.array([chr(c).isspace() for c in range(0x3002)])
_SPACE = np.uint32(ord(" "))
# Scripts and signs in which only marks change what stands before them.
_STEADY = ((0x80, 0x8FF), (0x1E00, 0x2FFF), (0x3000, 0x303F), (0x3400, 0x9FFF), (0x1F000, 0x1FAFF))
_BEYOND_ASCII = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]+")


@dataclass(frozen=True, eq=False)
class NormalizedText:
    """A text's form.

    Attributes:
        text: The form.
        first: Of each of its characters, the first character of the text that it came from.
        last: One past the last one.
    """

    text: str
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @cached_property
    def caseless(self) -> str:
        """The form without upper case, character for character."""
        return caseless(self.text)

    def span(self, start: int, end: int) -> tuple[int, int] | None:
        """The text's characters behind a stretch of the form; None if it begins or ends inside of what
        one piece of the text became, as "f" of a ligature "ﬁ"."""
        if start and self.first[start] == self.first[start - 1]:
            return None
        if end < len(self.first) and self.first[end] == self.first[end - 1]:
            return None
        return int(self.first[start]), int(self.last[end - 1])

    def around(self, start: int, end: int) -> tuple[int, int]:
        """The same, with such pieces whole."""
        return int(self.first[start]), int(self.last[end - 1])


class _EachOnce:
    """A function from characters to code points, for whole texts: each character is asked for once."""

    def __init__(self, of: Callable[[str], int]) -> None:
        self._of = of
        self._known = np.zeros(sys.maxunicode + 1, np.uint32)  # 0: not asked yet

    def __call__(self, codes: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """[characters]: of each code point."""
        found = self._known.take(codes, mode="clip")
        if np.count_nonzero(found) < len(found):
            for code in set(codes[found == 0].tolist()):
                self._known[code] = self._of(chr(code))
            found = self._known.take(codes, mode="clip")
        return found


_folded = _EachOnce(lambda c: ord(f) if len(f := c.casefold()) == 1 else ord(c))


def caseless(text: str) -> str:
    """A text without upper case, character for character: "ß" stays, because "ss" is two."""
    return text.lower() if text.isascii() else _text(_folded(codes_of(text)))


def normal(text: str) -> NormalizedText:
    """A text's form.

    >>> n = normal("“It’s  5\\r\\nﬁne”")
    >>> n.text, n.span(6, 7), n.span(8, 9)
    ('"It\\'s 5 fine"', (7, 8), None)
    """
    codes = _alone(codes_of(text))
    if codes is not None:
        return _one_space(codes)
    form, first, last = _by_regions(text)
    return _one_space(codes_of(form), first, last)


def normalize(text: str) -> str:
    """A text's form alone, without white space at its ends.

    >>> form_of(" It’s  5\\r\\nﬁne ")
    "It's 5 fine"
    """
    if not text.isascii():
        codes = _alone(codes_of(text))
        text = _by_regions(text)[0] if codes is None else _text(codes)
    return " ".join(text.split())


def _alone(codes: NDArray[np.uint32]) -> NDArray[np.uint32] | None:
    """A text's form before white space, where each character becomes one, whatever stands beside it."""
    forms = _simple_forms(codes)
    return None if forms.max(initial=0) == _NOT_SIMPLE else forms


def _by_regions(text: str) -> tuple[str, NDArray[np.int64], NDArray[np.int64]]:
    """The form of a text in which characters change with their neighbours, or change in number, before white
    space; with the first character of the text that each came from, and one past the last."""
    forms: list[str] = []
    first: list[NDArray[np.int64]] = []
    last: list[NDArray[np.int64]] = []

    def add(form: str, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        forms.append(form)
        first.append(begins)
        last.append(ends)

    at = 0
    for found in [*_BEYOND_ASCII.finditer(text), None]:
        start, end = found.span() if found else (len(text), len(text))
        places = np.arange(at, start)
        add(text[at:start], places, places + 1)
        if found:
            form, begins, ends = _region(found.group())
            add(form, begins + start, ends + start)
        at = end
    return "".join(forms), np.concatenate(first), np.concatenate(last)


def _one_space(
    codes: NDArray[np.uint32],
    first: NDArray[np.int64] | None = None,
    last: NDArray[np.int64] | None = None,
) -> NormalizedText:
    """Every run of white space as one space, which comes from the whole run.

    Without `first` and `last` each character of the form stands where it did in the text.
    """
    space = is_space(codes)
    # Where each character of the form begins, and the end: a run's later white space begins none.
    begins = np.ones(len(codes) + 1, np.bool_)
    begins[1:-1] = ~(space[1:] & space[:-1])
    bounds = np.flatnonzero(begins)
    places, ends = bounds[:-1], bounds[1:]
    text = _text(np.where(space, _SPACE, codes)[begins[:-1]])
    if first is None or last is None:
        return NormalizedText(text, places, ends)
    return NormalizedText(text, first[places], last[ends - 1])


def codes_of(text: str) -> NDArray[np.uint32]:
    """The code point of each character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _text(codes: NDArray[np.uint32]) -> str:
    return codes.tobytes().decode("utf-32-le", "surrogatepass")


def is_space(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which of some characters are white space."""
    # Whatever lies behind the table is none, as its last entry.
    return _IS_SPACE.take(codes, mode="clip")


def _simple(c: str) -> str | None:
    """What a character becomes wherever it stands; None where that depends on others or is not one."""
    if c.isascii():
        return c
    if not any(first <= ord(c) <= last for first, last in _STEADY):
        return None
    if unicodedata.category(c) in ("Mn", "Mc", "Me", "Cf", "Cn", "Lm"):
        return None
    form = _written(c)
    return form if len(form) == 1 and not unicodedata.combining(form) else None


_NOT_SIMPLE = sys.maxunicode + 1
_simple_forms = _EachOnce(lambda c: _NOT_SIMPLE if (form := _simple(c)) is None else ord(form))


@lru_cache(maxsize=4096)
def _region(text: str) -> tuple[str, NDArray[np.int64], NDArray[np.int64]]:
    """The form of characters beyond ASCII and of the one before them, which they may change."""
    pieces = [(start, end, _written(text[start:end])) for start, end in segments(text)]
    first = [start for start, _, form in pieces for _ in form]
    last = [end for _, end, form in pieces for _ in form]
    return "".join(form for _, _, form in pieces), np.array(first, np.int64), np.array(last, np.int64)


def _written(piece: str) -> str:
    """One piece in NFKC and plain typography; nothing of a character that is never seen."""
    if piece.isascii():
        return piece
    plain = unicodedata.normalize("NFKC", piece.translate(_PLAIN)).translate(_PLAIN)
    if plain[:1] == " " and not piece.isspace():
        plain = piece  # an accent that stands alone, which NFKC puts upon a space
    return "".join(c for c in plain if unicodedata.category(c) != "Cf")


def segments(text: str) -> list[tuple[int, int]]:
    """The text in pieces of which each has an NFKC of its own: theirs together are the whole text's.

    >>> segments("cafe\\u0301s")
    [(0, 1), (1, 2), (2, 3), (3, 5), (5, 6)]
    """
    bounds: list[int] = []
    for i, c in enumerate(text):
        if not bounds or c < "\x80" or not _joins(text[bounds[-1] : i], c):
            bounds.append(i)
    return list(pairwise([*bounds, len(text)]))


def _joins(before: str, c: str) -> bool:
    """Does a character change with what stands before it?"""
    alone = unicodedata.normalize("NFKC", c)
    if unicodedata.combining(alone[0]):
        return True
    together = unicodedata.normalize("NFKC", before + c)
    return together != unicodedata.normalize("NFKC", before) + alone
