"""The numbers in a text, in any notation: 1,200 = 1.2e3 = 1.2 × 10³ = "twelve hundred".

Values are exact fractions. Also read: percentages, mixed and worded fractions ("three quarters"),
years ("nineteen eighty-four"), dozens, and simple sums in words ("half of 2400", "one more than 1199").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from typing import NamedTuple

from didact.leakage.vocabulary import JOIN_NUMBERS, NUMBER_WORDS, PARTS, SCALES, TENS, TIMES, UNITS

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
MAX_POWER, MAX_DIGITS = 100, 400
_CALCULATE = frozenset(("plus", "+", "minus", "less", "times", "*", "multiplied"))
_COMPARED = {("more", "than"): 1, ("less", "than"): -1, ("fewer", "than"): -1, ("short", "of"): -1}
_MULTIPLIED = {"doubled": 2, "tripled": 3}
_STARTS = frozenset((*UNITS, *TENS, "a", "dozen", "dozens"))
SMALL = 10
"""Any text may have whole numbers up to this: a mention alone is no leak."""


class Number(NamedTuple):
    """A number in a text.

    Attributes:
        values: The possible values: a percentage is also its hundredth.
        start: First character in the folded text.
        end: One past the last character.
        common: A small whole number or a worded fraction, which any text may have.
        operands: The operands of arithmetic in words; empty if the number is written out.
        worded: Written in words.
    """

    values: tuple[Fraction, ...]
    start: int
    end: int
    common: bool = False
    operands: tuple[Fraction, ...] = ()
    worded: bool = False


class Atom(NamedTuple):
    """A piece of a number: digits, a word or a sign."""

    text: str
    start: int
    end: int
    value: Fraction | None
    """None for a word or an operator."""


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
        found.append(Number((value,), m.start(), m.end()))
    return sorted(found, key=lambda n: (n.start, n.end))


def _read(group: list[Atom], text: str) -> list[Number]:
    if not any(atom.value is not None or atom.text in NUMBER_WORDS - JOIN_NUMBERS for atom in group):
        return []  # "of the", as most groups are
    return _Reader(group, text).all()


def _atom(m: re.Match[str], text: str) -> Atom:
    if m.lastgroup != "n":
        return Atom(m.group(), m.start(), m.end(), None)
    written = m.group().translate(_SEPARATORS)
    start = m.start()
    if len(written) > MAX_DIGITS or abs(int(written.partition("e")[2] or 0)) > MAX_POWER:
        return Atom("", start, m.end(), None)  # too large to be an answer
    value = Fraction(written)
    sign = text[start - 1 : start] == "-"
    before = text[max(0, start - 2) : start - 1]
    if sign and not (before.isalnum() or before in tuple(")-_]}")):
        return Atom(m.group(), start - 1, m.end(), -value)
    return Atom(m.group(), start, m.end(), value)


class _Reader(NamedTuple):
    """Reads the numbers in adjacent atoms of a folded text."""

    atoms: Sequence[Atom]
    text: str

    def all(self) -> list[Number]:
        """Every number; one place may have two readings."""
        found: list[Number] = []
        i = 0
        while i < len(self.atoms):
            read = self.multiple(i) or self.plain(i)
            if read is None:
                i += 1
                continue
            number, i = read
            year = self.year(found[-1], number) if found else None
            found += [n for n in (number, year, self.arithmetic(number, i)) if n is not None]
        return found

    def word(self, i: int) -> str:
        """The i-th atom if it is a word; else empty."""
        return self.atoms[i].text if i < len(self.atoms) and self.atoms[i].value is None else ""

    def plain(self, i: int) -> tuple[Number, int] | None:
        """A number that is written out, with its fraction, power and percent sign, and the index after it."""
        start, sign = self.atoms[i].start, 1
        if self.word(i) in ("minus", "negative"):
            sign, i = -1, i + 1
        if part := self.part(i):
            value, i = part
            return Number((sign * value,), start, self.atoms[i - 1].end, common=True), i
        read = self.cardinal(i)
        if read is None:
            return None
        value, i = read
        worded = self.atoms[i - 1].value is None
        common = value.denominator == 1 and abs(value) <= SMALL
        if fraction := self.fraction(value, i):
            value, i = fraction
        value, i = self.power(value, i)
        values: tuple[Fraction, ...] = (sign * value,)
        common = common and (worded if fraction else value.denominator == 1)
        percent = 2 if (self.word(i), self.word(i + 1)) == ("per", "cent") else 1
        if percent == 2 or self.word(i) in ("%", "percent"):
            values, common, i = (values[0] / 100, values[0]), False, i + percent
        return Number(values, start, self.atoms[i - 1].end, common, worded=worded), i

    def part(self, i: int) -> tuple[Fraction, int] | None:
        """ "a half", "one third", "three quarters", "a hundredth"."""
        value = Fraction(1)
        if self.word(i) in ("a", "an"):
            i += 1
        elif self.word(i) in UNITS and self.word(i + 1) in PARTS:
            value, i = Fraction(UNITS[self.word(i)]), i + 1
        elif self.word(i) != "half":
            return None
        if self.word(i) in PARTS:
            return value / PARTS[self.word(i)], i + 1
        return None

    def cardinal(self, i: int) -> tuple[Fraction, int] | None:
        """Digits or words, with dozens, hundreds and thousands, and "point one four"."""
        if i >= len(self.atoms) or (self.atoms[i].value is None and self.atoms[i].text not in _STARTS):
            return None
        total, group, last, begin = Fraction(0), Fraction(0), "", i
        while i < len(self.atoms):
            atom, word = self.atoms[i], self.word(i)
            if atom.value is not None and not last:
                group, last = atom.value, "digits"
            elif word in UNITS and last in ("", "hundred", "scale", "and", "tens"):
                if last == "tens" and not 0 < UNITS[word] < 10:
                    break
                group, last = group + UNITS[word], "unit"
            elif word in TENS and last in ("", "hundred", "scale", "and"):
                group, last = group + TENS[word], "tens"
            elif word == "a" and not last and self.word(i + 1) in ("hundred", "dozen", *SCALES):
                group, last = Fraction(1), "unit"
            elif word in ("hundred", "hundreds") and last in ("unit", "tens", "digits", "dozen"):
                group, last = group * 100, "hundred"
            elif word in ("dozen", "dozens") and last != "and":
                total, group, last = Fraction(0), (total + group or Fraction(1)) * 12, "dozen"
            elif (word in SCALES or word in ("thousands", "millions")) and last not in ("", "scale", "and"):
                if word in ("k", "bn") and last != "digits":
                    break
                total, group, last = total + group * SCALES[word.removesuffix("s")], Fraction(0), "scale"
            elif word == "and" and last in ("hundred", "scale") and self.word(i + 1) in {**UNITS, **TENS}:
                last = "and"
            else:
                break
            i += 1
        if not last:
            return None
        return self.decimals(total + group, i) if i > begin else None

    def decimals(self, value: Fraction, i: int) -> tuple[Fraction, int]:
        """ "three point one four"."""
        if self.word(i) != "point":
            return value, i
        digits, j = "", i + 1
        while j < len(self.atoms) and len(digits) < MAX_DIGITS:
            if self.word(j) in ("oh", *UNITS) and UNITS.get(self.word(j), 0) < 10:
                digits += str(UNITS.get(self.word(j), 0))
            elif self.atoms[j].value is not None and self.atoms[j].text.isdigit():
                digits += self.atoms[j].text
            else:
                break
            j += 1
        if not digits:
            return value, i
        return value + Fraction(int(digits), 10 ** len(digits)), j

    def fraction(self, value: Fraction, i: int) -> tuple[Fraction, int] | None:
        """The fraction after a number: "3 1/2", "3/4", "three over four", "two thirds", "six and a half"."""
        if self.word(i) in PARTS and value.denominator == 1 and self.word(i) not in TIMES:
            return value / PARTS[self.word(i)], i + 1
        if self.word(i) in ("/", "over") and (below := self.cardinal(i + 1)) and below[0] > 0:
            return value / below[0], below[1]
        if self.word(i) == "and" and (part := self.part(i + 1)) and 0 < part[0] < 1:
            return value + part[0], part[1]
        above = self.atoms[i].value if i < len(self.atoms) else None
        if above is None or above.denominator != 1 or self.word(i + 1) != "/":
            return None
        below = self.cardinal(i + 2)
        if below is None or not 0 < above < below[0]:
            return None
        if "\n" in self.text[self.atoms[i - 1].end : self.atoms[i].start]:
            return None
        return value + above / below[0], below[1]

    def power(self, value: Fraction, i: int) -> tuple[Fraction, int]:
        """ "1.2 * 10^3", "10^3", "10**3"."""
        j, base, factor = i, value, Fraction(1)
        if self.word(j) == "*" and j + 1 < len(self.atoms) and self.atoms[j + 1].value == 10:
            base, factor, j = Fraction(10), value, j + 2
        stars = self.word(j) == "*" and self.word(j + 1) == "*"
        if self.word(j) != "^" and not stars:
            return value, i
        j += 1 + stars
        raised = self.atoms[j].value if j < len(self.atoms) else None
        if raised is None or raised.denominator != 1 or abs(raised) > MAX_POWER or base == 0:
            return value, i
        if len(str(base.numerator)) + len(str(base.denominator)) > 12:
            return value, i
        return factor * base ** int(raised), j + 1

    def multiple(self, i: int) -> tuple[Number, int] | None:
        """ "half of 2400", "twice 600", "two thirds of 1800"."""
        if part := self.part(i):
            times, j = part
        elif self.word(i) in TIMES:
            times, j = TIMES[self.word(i)], i + 1
        else:
            return None
        bridged = j
        while self.word(bridged) in ("of", "the") or (bridged > j and self.word(bridged) == "a"):
            bridged += 1
        if (read := self.cardinal(bridged)) is None:
            return None
        value, end = read
        place = self.atoms[i].start, self.atoms[end - 1].end
        return Number((times * value,), *place, operands=(value,)), end

    def arithmetic(self, number: Number, i: int) -> Number | None:
        """The result of arithmetic that goes on after a number.

        "600 doubled", "one more than 1199", "3 short of 50", "1000 plus 200", "sixty minus one", "three times
        400"; a minus sign counts as a dash.
        """
        first, second, left = self.word(i), self.word(i + 1), number.values[-1]
        if first in _MULTIPLIED:
            result = _MULTIPLIED[first] * left
            return Number((result,), number.start, self.atoms[i].end, operands=(left,))
        compared = _COMPARED.get((first, second))
        if compared is None and first not in _CALCULATE:
            return None
        long = compared is not None or (first, second) in (("*", "*"), ("multiplied", "by"))
        read = self.cardinal(i + (2 if long else 1))
        if read is None:
            return None
        right, end = read
        if compared is not None:
            result = right + compared * left
        elif first in ("plus", "+"):
            result = left + right
        else:
            result = left - right if first in ("minus", "less") else left * right
        if compared is None and abs(result) <= SMALL:
            return None
        return Number((result,), number.start, self.atoms[end - 1].end, operands=(left, right))

    def year(self, before: Number, after: Number) -> Number | None:
        """Two numbers in words read as one: "nineteen eighty-four", "one twenty"."""
        high, low = before.values[0], after.values[0]
        if not (before.worded and after.worded and 1 <= high <= 99 and 10 <= low <= 99):
            return None
        if before.operands or after.operands or self.text[before.end : after.start].strip(" -"):
            return None
        return Number((high * 100 + low,), before.start, after.end, worded=True)
