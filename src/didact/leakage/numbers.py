"""Numbers in a text, however they are written: 1,200 = 1.2e3 = 1.2 × 10³ = "twelve hundred".

Values are exact fractions. Also read: percentages, mixed and worded fractions ("three quarters"),
years ("nineteen eighty-four"), dozens, and simple sums in words ("half of 2400", "one more than 1199").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import islice

from didact.leakage.number_reader import MAX_DIGITS, MAX_POWER, Atom, Number, Reader
from didact.leakage.text import Folded
from didact.leakage.vocabulary import JOIN_NUMBERS, NUMBER_WORDS

# No possessive group here: Python before 3.11.5 does not take back what its last, failed repetition read.
_NUMBER = (
    r"(?:\d{1,3}(?:[,'_]\d{3})+(?![\d_]|,\d|'\d{3})|\d++)(?:\.\d++)?"
    r"(?:e[+-]?\d{1,3}(?!\w|\.\d))?|(?<![\w.])\.\d++"
)
# A letter right before a number makes it a name (x7), a number before a "k" does not.
_ATOM = re.compile(rf"(?<![^\W\d_])(?P<n>{_NUMBER})|[^\W\d_]++|[%/^*+]")
_GAP = re.compile(r"[\s(){}\[\]$€£-]{0,4}\Z")
_BLANKS = re.compile(r"(?<!\d )(?<![\w.,])\d{1,3}(?: \d{3})+(?![\w]|[.,]\d)")
_SEPARATORS = {ord(c): None for c in ",'_"}
_OPERATORS = frozenset("%/^*+")
MAX_NUMBERS = 20_000
"""Of a text's numbers so many are read: it bounds the time that a text of numbers alone takes."""


def numbers(folded: Folded) -> list[Number]:
    """Every number of a text, in order of place; two readings of one place may both be there.

    >>> from didact.leakage.text import fold
    >>> [n.values[0] for n in numbers(fold("1,200 is twelve hundred, not 1.2e4"))]
    [Fraction(1200, 1), Fraction(1200, 1), Fraction(12000, 1)]
    """
    found: list[Number] = []
    group: list[Atom] = []
    text = folded.text
    for m in _ATOM.finditer(text):
        if m.lastgroup is None and m.group() not in NUMBER_WORDS and m.group() not in _OPERATORS:
            continue
        atom = _atom(m, text)
        if group and (len(group) > MAX_NUMBERS or not _GAP.match(text, group[-1].end, atom.start)):
            found += _read(group, text)
            group = []
            if len(found) >= MAX_NUMBERS:
                break
        group.append(atom)
    found += _read(group, text)
    for m in islice(_BLANKS.finditer(text), MAX_NUMBERS):
        value = Fraction(m.group().replace(" ", ""))
        found.append(Number((value,), m.start(), m.end(), False))
    return sorted(found, key=lambda n: (n.start, n.end))


def _read(group: list[Atom], text: str) -> list[Number]:
    if not any(atom.value is not None or atom.text in NUMBER_WORDS - JOIN_NUMBERS for atom in group):
        return []  # "of the", as most groups are
    return Reader(group, text).all()


def _atom(m: re.Match[str], text: str) -> Atom:
    if m.lastgroup != "n":
        return Atom(m.group(), m.start(), m.end(), None)
    written = m.group().translate(_SEPARATORS)
    start = m.start()
    if len(written) > MAX_DIGITS or abs(int(written.partition("e")[2] or 0)) > MAX_POWER:
        return Atom("", start, m.end(), None)  # no number that a person would tell
    value = _value(written)
    sign = text[start - 1 : start] == "-"
    before = text[max(0, start - 2) : start - 1]
    if sign and not (before.isalnum() or before in tuple(")-_]}")):
        return Atom(m.group(), start - 1, m.end(), -value)
    return Atom(m.group(), start, m.end(), value)


@lru_cache(maxsize=1024)
def _value(written: str) -> Fraction:
    return Fraction(written if written[0] != "." else "0" + written)


def values_of(found: Sequence[Number]) -> set[Fraction]:
    """Every value that a text writes out; of a sum in words, what it is worked out from."""
    return {v for n in found for v in (n.operands or n.values)}


class NumberIndex:
    """A text's numbers, read when first needed."""

    def __init__(self, folded: Folded) -> None:
        self.folded = folded

    @cached_property
    def all(self) -> list[Number]:
        return numbers(self.folded)

    @cached_property
    def values(self) -> set[Fraction]:
        return values_of(self.all)
