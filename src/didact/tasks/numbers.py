"""The last number of a text, read exactly: large integers, decimals, fractions, signs and separators."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

READ_CHARS = 20_000
"""Characters at the end of a text that are searched."""
MOST_DIGITS = 400
"""A longer number, and one with a larger exponent, is none."""
_DASHES = r"\-−–—‐‑‒﹣－"
_BY = r"[,'’_ \u00a0\u2009\u202f]"
_VULGAR = "[¼-¾⅐-⅞]"
_NUMBER = re.compile(
    rf"(?P<sign>[{_DASHES}+＋][ ]?)?(?=\.?[0-9]|{_VULGAR})"
    rf"(?P<whole>[0-9]{{1,3}}(?P<by>{_BY})[0-9]{{3}}(?:(?P=by)[0-9]{{3}})*(?![0-9])"
    r"|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])|[0-9]+)?"
    r"(?:\.(?P<decimals>[0-9]+))?"
    rf"(?:[ ]?(?P<vulgar>{_VULGAR})|(?:[ ](?P<over>[0-9]+))?[ ]?[/⁄][ ]?(?P<under>[0-9]+)(?![0-9]*[/⁄]))?"
    r"(?:[eE](?P<e>[-+−]?[0-9]+)|[ ]?(?:[×x*·⋅]|\\times|\\cdot)[ ]?10"
    r"(?:(?:\^|\*\*)\{?(?P<power>[-+−]?[0-9]+)\}?|(?P<raised>[⁻⁺]?[⁰¹²³⁴-⁹]+)))?"
)


class ExactNumber(NamedTuple):
    """A number in a text."""

    value: Fraction
    written: str
    """In ASCII, as it is written where that is an integer, a decimal or a fraction a/b."""
    start: int
    end: int


def last_number(text: str) -> ExactNumber | None:
    """The last number in a text; None if there is none, or it has too many digits.

    A dash before it is a sign unless it follows a number, a closing bracket or a single letter.

    >>> texts = "about 1,250.5 apples", "5-3 = 2.", "x = – 3", "1/2", "3 ½", "1e-5", "1 000 000", "?"
    >>> [n and str(n.value) for n in map(last_number, texts)]
    ['2501/2', '2', '-3', '1/2', '7/2', '1/100000', '1000000', None]
    """
    first = max(0, len(text) - READ_CHARS)
    # Digits of other scripts, one for one.
    ascii_ = "".join(c if c < "\x80" else str(unicodedata.decimal(c, c)) for c in text[first:])
    numbers = list(_NUMBER.finditer(ascii_))
    return _read(numbers[-1], first) if numbers else None


def _read(found: re.Match[str], first: int) -> ExactNumber | None:
    """The number of a match, `first` characters into its text."""
    whole = found["whole"] or "0"
    if found["by"] == " " and len(whole.split(" ")[0]) == 3 and set(whole[3:]) - set(" 0"):
        whole = whole.rpartition(" ")[2]  # a list of numbers
    digits = re.sub(r"\D", "", whole)
    over, under = found["over"], found["under"]
    if under and found.string[: found.start()].endswith(("/", "⁄")):
        digits, under = under, None  # the year of a date
    raised = "".join(str(unicodedata.digit(c, c)) for c in found["raised"] or "").translate(
        {8315: "-", 8314: "+"}
    )
    exponent = (found["e"] or found["power"] or raised or "0").replace("−", "-")
    longest = max(len(part or "") for part in (digits, found["decimals"], over, under))
    if longest > MOST_DIGITS or len(exponent) > 4 or abs(int(exponent)) > MOST_DIGITS or int(under or 1) == 0:
        return None
    value = Fraction(f"{digits}.{found['decimals'] or 0}")
    if found["vulgar"]:
        value += Fraction(unicodedata.numeric(found["vulgar"])).limit_denominator(100)
    elif under:
        value = value + Fraction(int(over), int(under)) if over else value / int(under)
    value *= Fraction(10) ** int(exponent)
    negative = _is_negative(found)
    written = ("-" if negative else "") + (digits if found["whole"] else "")
    written += (f".{found['decimals']}" if found["decimals"] else "") + (f"/{under}" if under else "")
    value = -value if negative else value
    simple = not (over or found["vulgar"] or int(exponent))
    return ExactNumber(value, written if simple else str(value), first + found.start(), first + found.end())


def _is_negative(found: re.Match[str]) -> bool:
    """Whether the sign before a number is a minus: no operator, hyphen or bullet."""
    sign, before = found["sign"], found.string[max(0, found.start() - 100) : found.start()]
    if not sign or sign[0] not in _DASHES:
        return False
    if before and not before[-1].isspace():
        return not re.search(r"[\w.)\]}%]\Z", before)
    if len(sign) == 1 or not before.strip():
        return True
    on_line = before.rpartition("\n")[2]
    return bool(on_line.strip()) and not re.search(r"(?:[0-9)\]}%]|\b[^\W\d_])\s*\Z", on_line)
