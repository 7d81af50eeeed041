"""Dates in a text: "14 March 1879", "March 14th, 1879", "the fourteenth of March", 1879-03-14, 3/14/1879."""

from __future__ import annotations

import re
from typing import NamedTuple

from didact.leakage.vocabulary import MONTHS, ORDINALS

_MONTH_OF = {**MONTHS, **{m[:3]: i for m, i in MONTHS.items()}, "sept": 9}
_ORDINAL_OF = {
    **ORDINALS,
    "thirtieth": 30,
    **{f"twenty{dash}{w}": 20 + i for w, i in ORDINALS.items() if i < 10 for dash in "- "},
    **{f"thirty{dash}first": 31 for dash in "- "},
}
_M = rf"(?P<month>{'|'.join(sorted(_MONTH_OF, key=len, reverse=True))})\b\.?"
_D = rf"(?P<day>\d{{1,2}}(?:st|nd|rd|th)?|{'|'.join(sorted(_ORDINAL_OF, key=len, reverse=True))})\b"
_Y = r"(?P<year>\d{4})\b"
_FORMS = [
    re.compile(
        rf"\b{_D}\s{{1,3}}(?:day\s{{1,3}})?(?:of\s{{1,3}})?{_M}"
        rf"(?:\s{{0,3}},?\s{{0,3}}(?:of\s{{1,3}})?(?:the year\s{{1,3}})?{_Y})?"
    ),
    re.compile(rf"\b{_M}\s{{1,3}}(?:the\s{{1,3}})?{_D}(?:\s{{0,3}},?\s{{0,3}}(?:of\s{{1,3}})?{_Y})?"),
    re.compile(rf"\b{_M}(?:\s{{0,3}},?\s{{0,3}}(?:of\s{{1,3}})?){_Y}"),
    re.compile(r"\b(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})\b"),
    re.compile(r"\b(?P<day>\d{1,2})[-/.](?P<month>\d{1,2})[-/.](?P<year>\d{4})\b"),
    re.compile(r"\b(?P<month>\d{1,2})[-/.](?P<day>\d{1,2})[-/.](?P<year>\d{4})\b"),
]


class Date(NamedTuple):
    """A date in a folded text; parts that are not given are None."""

    year: int | None
    month: int
    day: int | None
    start: int
    end: int

    @property
    def parts(self) -> set[tuple[str, int]]:
        """The parts that are given, as (name, value)."""
        given = {"year": self.year, "month": self.month, "day": self.day}
        return {(name, value) for name, value in given.items() if value is not None}


def dates(text: str) -> list[Date]:
    """Every date of a folded text that names a month; day/month and month/day both count.

    >>> [d[:3] for d in dates("born on march 14th, 1879")]
    [(1879, 3, 14)]
    """
    found = []
    for form in _FORMS:
        for m in form.finditer(text):
            given = m.groupdict()
            month = _MONTH_OF.get(given["month"]) or int(given["month"])
            year, day = given.get("year"), _day(given.get("day"))
            if 1 <= month <= 12 and (day is None or 1 <= day <= 31):
                found.append(Date(int(year) if year else None, month, day, m.start(), m.end()))
    return found


def _day(word: str | None) -> int | None:
    if word is None:
        return None
    return _ORDINAL_OF.get(word) or int(re.sub(r"\D", "", word))
