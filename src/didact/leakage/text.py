"""Texts folded for comparison, with the place of every character in the original.

Folding ignores case, accents, typographic variants and LaTeX commands. It keeps the order, so that a stretch
of folded text is a stretch of the original. Everything takes time linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeAlias

from didact.leakage.numbers import Number, read_numbers
from didact.leakage.vocabulary import TYPOGRAPHY

Place: TypeAlias = tuple[int, int]
"""(first character, one past the last)."""

# Scripts without blanks between words: each character is a word.
_SOLO = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_SOLO}]|[^\W\d_{_SOLO}]+|\d+")
SOLO = re.compile(rf"[{_SOLO}]")
_MATH = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)?|[-+=/^<>!|()]")
_POWER = re.compile(r"(?<=[\w)])\*\*(?=[\w(])")
_TYPOGRAPHY = str.maketrans({c: plain for plain, others in TYPOGRAPHY.items() for c in others})
_ARTICLES = frozenset(("a", "an", "the"))
JOINERS = frozenset(("and", "then", "or", "next", "finally", "followed", "by", "plus", "also"))
"""Words between the items of a list."""


class Word(NamedTuple):
    """A word of a folded text, with its place in that text."""

    text: str
    start: int
    end: int


class Text:
    """A text folded for comparison.

    Attributes:
        text: Folded: lower case, no accents, plain punctuation, LaTeX commands blanked.

    >>> text = Text("The “Café” is at 5½")
    >>> text.text, text.span(5, 9)
    ('the "cafe" is at 5 1/2', (5, 9))
    """

    def __init__(self, source: str) -> None:
        self.source = source
        folded = source.lower()
        self._at: list[int] | None = None
        if not source.isascii():
            folded, self._at = _fold(source)
        self.text = _without_latex(folded) if "\\" in folded else folded.replace("`", "'")

    def span(self, start: int, end: int) -> Place:
        """The place in the original, in code points, of a non-empty stretch of the folded text."""
        if self._at is None:
            return start, end
        last = self._at[end - 1] + 1
        # An accent that was folded away belongs to its letter.
        while last < len(self.source) and "\u0300" <= self.source[last] <= "\u036f":
            last += 1
        return self._at[start], last

    def original(self, word: Word) -> str:
        """A word as written in the original."""
        start, end = self.span(word.start, word.end)
        return self.source[start:end]

    @cached_property
    def words(self) -> list[Word]:
        """Runs of letters or of digits; other characters only separate."""
        return [Word(m.group(), m.start(), m.end()) for m in _WORD.finditer(self.text)]

    @cached_property
    def vocabulary(self) -> set[str]:
        """The distinct words."""
        return {w.text for w in self.words}

    @cached_property
    def content(self) -> list[Word]:
        """The words without articles; all of them if nothing else is left."""
        return [w for w in self.words if w.text not in _ARTICLES] or self.words

    @cached_property
    def items(self) -> list[Word]:
        """The words without articles and joining words."""
        return [w for w in self.content if w.text not in JOINERS]

    @cached_property
    def math(self) -> list[Word]:
        """Letters, numbers, brackets and operators; the product sign is left out, as in 3x."""
        text = _POWER.sub("^ ", self.text)
        return [Word(m.group(), m.start(), m.end()) for m in _MATH.finditer(text)]

    @cached_property
    def numbers(self) -> list[Number]:
        """See `numbers.read_numbers`."""
        return read_numbers(self.text)

    @cached_property
    def values(self) -> set[Fraction]:
        """Every value that is written out; for arithmetic in words, its operands."""
        return {v for n in self.numbers for v in (n.operands or n.values)}


def _fold(text: str) -> tuple[str, list[int]]:
    """The folded text and, for each of its characters, the index of the original character."""
    pieces: list[str] = []
    at: list[int] = []
    raised = False
    for i, c in enumerate(text):
        piece, power = _fold_char(c)
        if power and not raised:
            piece = "^" + piece
        elif piece.startswith(" ") and len(piece) == 1 and at and pieces[-1][-1:].isdigit():
            piece = "_" if c in "\u00a0\u2009\u202f" else piece  # a separator of thousands
        raised = power
        if piece:
            pieces.append(piece)
            at.extend([i] * len(piece))
    return "".join(pieces), at


@lru_cache(maxsize=4096)
def _fold_char(c: str) -> tuple[str, bool]:
    """A folded character, and whether it is an exponent."""
    if c.isascii():
        return c.lower(), False
    if SOLO.match(c):
        return c, False
    form = unicodedata.normalize("NFKD", c.translate(_TYPOGRAPHY)).casefold()
    plain = "".join(k for k in form if not "\u0300" <= k <= "\u036f").translate(_TYPOGRAPHY)
    kind = unicodedata.decomposition(c).split(" ")[0]
    if kind == "<fraction>":
        plain = " " + plain
    return plain, (kind == "<super>" and plain.isdigit()) or c == "⁻"


_FRACTION = re.compile(r"\\[dt]?frac\s?\{([^{}]{0,100})\}\s?\{([^{}]{0,100})\}")
_PRODUCT = re.compile(r"\\(?:times|cdot|ast)(?![a-z])")
_WRAPPER = re.compile(
    r"\\(?:boxed|fbox|text(?:bf|it|rm|tt)?|math(?:rm|bf|it|sf|tt)|mbox|emph|displaystyle|big|"
    r"quad)(?![a-z])\s?\{?|\\(?:left|right)(?![a-z])|\\[,;!:]"
)


def _without_latex(text: str) -> str:
    """LaTeX commands blanked or written plainly, without moving any character."""
    text = _FRACTION.sub(_fraction, text.replace("`", "'"))
    text = _PRODUCT.sub(lambda m: "*".center(len(m.group())), text)
    text = _WRAPPER.sub(lambda m: " " * len(m.group()), text)
    return text.replace("\\", " ")


def _fraction(m: re.Match[str]) -> str:
    whole = [" "] * len(m.group())
    for group in (1, 2):
        whole[m.start(group) - m.start() : m.end(group) - m.start()] = m.group(group)
    whole[m.end(1) - m.start()] = "/"
    return "".join(whole)


def places(needle: Sequence[Word], hay: Sequence[Word]) -> list[tuple[int, int]]:
    """Where a sequence of words occurs in another, without overlaps: (first, one past the last) index."""
    if not needle or len(needle) > len(hay):
        return []
    joined = f" {' '.join(w.text for w in hay)} "
    wanted = f" {' '.join(w.text for w in needle)} "
    found: list[tuple[int, int]] = []
    index = counted = 0
    at = joined.find(wanted)
    while at >= 0:
        index += joined.count(" ", counted, at)
        counted = at
        found.append((index, index + len(needle)))
        at = joined.find(wanted, at + len(wanted) - 1)
    return found


def alone(text: str, start: int, end: int) -> bool:
    """Whether a stretch is not part of a longer word or number.

    >>> alone("x = 17.5", 4, 6), alone("it is 17.", 6, 8)
    (False, True)
    """
    first, last = text[start], text[end - 1]
    before, after = text[start - 1 : start], text[end : end + 1]
    if first.isalnum() and not SOLO.match(first) and (before.isalnum() or before == "_"):
        return False
    if last.isalnum() and not SOLO.match(last) and (after.isalnum() or after == "_"):
        return False
    if first.isdigit() and before in tuple(".,") and text[max(0, start - 2) : start - 1].isdigit():
        return False
    return not (last.isdigit() and after in tuple(".,") and text[end + 1 : end + 2].isdigit())
