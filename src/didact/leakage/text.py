"""Text as the leak meter compares it: folded, with every character's place in the original kept.

Folding ignores case, accents, typographic variants and LaTeX commands. It never reorders, so a stretch
of folded text is a stretch of the original. Everything here takes time linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

# Scripts that write no blanks between words: each character is a word.
_SOLO = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_SOLO}]|[^\W\d_{_SOLO}]+|\d+")
SOLO = re.compile(rf"[{_SOLO}]")
_MATH = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)?|[-+=/^<>!|()]")
_POWER = re.compile(r"(?<=[\w)])\*\*(?=[\w(])")
_TYPOGRAPHY = str.maketrans(
    {
        **dict.fromkeys("‐‑‒–—―−﹣－", "-"),
        **dict.fromkeys("‘’‚‛′`´", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("×·⋅∙✕✖", "*"),
        **dict.fromkeys("÷⁄∕", "/"),
        "≤": "<=",
        "≥": ">=",
        "≠": "!=",
    }
)
_ARTICLES = frozenset(("a", "an", "the"))
JOINERS = frozenset(("and", "then", "or", "next", "finally", "followed", "by", "plus", "also"))
"""Words that join the items of a list; an answer told item by item holds them in between."""


class Word(NamedTuple):
    """A word of a folded text, with its place in that text."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Folded:
    """A text folded for comparison.

    Attributes:
        source: The original.
        text: Folded: lower case, no accents, plain punctuation, LaTeX commands blanked.
        at: For each folded character the original's index that it comes from; None where both agree.
    """

    source: str
    text: str
    at: Sequence[int] | None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The original's stretch, in code points, of a folded stretch that is not empty."""
        if self.at is None:
            return start, end
        last = self.at[end - 1] + 1
        # An accent that was folded away belongs to its letter.
        while last < len(self.source) and "\u0300" <= self.source[last] <= "\u036f":
            last += 1
        return self.at[start], last

    def original(self, word: Word) -> str:
        """A word as it stands in the original."""
        start, end = self.span(word.start, word.end)
        return self.source[start:end]

    @cached_property
    def words(self) -> list[Word]:
        """Runs of letters or of digits; other characters only separate."""
        return [Word(m.group(), m.start(), m.end()) for m in _WORD.finditer(self.text)]

    @cached_property
    def content(self) -> list[Word]:
        """The words without articles; all of them where nothing else is there."""
        kept = [w for w in self.words if w.text not in _ARTICLES]
        return kept or self.words

    @cached_property
    def items(self) -> list[Word]:
        """The words without articles and joining words."""
        return [w for w in self.content if w.text not in JOINERS]

    @cached_property
    def math(self) -> list[Word]:
        """Letters, numbers, brackets and operators; a product's sign is left out, as in 3x."""
        text = _POWER.sub("^ ", self.text)
        return [Word(m.group(), m.start(), m.end()) for m in _MATH.finditer(text)]


def fold(text: str) -> Folded:
    """Fold a text.

    >>> folded = fold("The “Café” is at 5½")
    >>> folded.text, folded.span(5, 9)
    ('the "cafe" is at 5 1/2', (5, 9))
    """
    at: Sequence[int] | None = None
    folded = text.lower()
    if not text.isascii():
        pieces: list[str] = []
        placed: list[int] = []
        at = placed
        raised = False
        for i, c in enumerate(text):
            piece, power = _fold_char(c)
            if power and not raised:
                piece = "^" + piece
            elif piece.startswith(" ") and len(piece) == 1 and placed and pieces[-1][-1:].isdigit():
                piece = "_" if c in "\u00a0\u2009\u202f" else piece  # a separator of thousands
            raised = power
            if piece:
                pieces.append(piece)
                placed.extend([i] * len(piece))
        folded = "".join(pieces)
    return Folded(text, _without_latex(folded) if "\\" in folded else folded.replace("`", "'"), at)


@lru_cache(maxsize=4096)
def _fold_char(c: str) -> tuple[str, bool]:
    """A character folded, and whether it was an exponent."""
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
    """LaTeX commands blanked or written plainly, character for character in the same places."""
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
    """Where a sequence of words stands in another: (first, one past the last) indices, never overlapping."""
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
    """Is this stretch no part of a longer word or number?

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
