"""The numbers in a text, in any notation: 1,200 = 1.2e3 = 1.2 × 10³ = "twelve hundred".

Values are exact fractions. Also read: percentages, mixed and worded fractions ("three quarters"),
years ("nineteen eighty-four"), dozens, and simple sums in words ("half of 2400", "one more than 1199").
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from itertools import islice

from didact.leakage.number_reader import MAX_DIGITS, MAX_POWER, Atom, Number, Reader
from didact.leakage.vocabulary import JOIN_NUMBERS, NUMBER_WORDS

# No possessive group here: before Python 3.11.5 it keeps what its last, failed repetition read.
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
"""The most numbers that are read of one text, which bounds the time."""


def read_numbers(text: str) -> list[Number]:
    """Every number of a folded text, in order of place; one place may have two readings.

    >>> [n.values[0] for n in read_numbers("1,200 is twelve hundred, not 1.2e4")]
    [Fraction(1200, 1), Fraction(1200, 1), Fraction(12000, 1)]
    """
    found: list[Number] = []
    group: list[Atom] = []
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
        return Atom("", start, m.end(), None)  # too large to be an answer
    value = _value(written)
    sign = text[start - 1 : start] == "-"
    before = text[max(0, start - 2) : start - 1]
    if sign and not (before.isalnum() or before in tuple(")-_]}")):
        return Atom(m.group(), start - 1, m.end(), -value)
    return Atom(m.group(), start, m.end(), value)


@lru_cache(maxsize=1024)
def _value(written: str) -> Fraction:
    return Fraction(written if written[0] != "." else "0" + written)
