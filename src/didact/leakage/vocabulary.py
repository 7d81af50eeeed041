"""The English of the leak meter, from `english.yaml`: word tables and patterns of phrases."""

from __future__ import annotations

import re
from collections.abc import Collection
from fractions import Fraction
from typing import Any

from didact.jsonl import read_package_yaml

_ENGLISH: dict[str, Any] = read_package_yaml("didact.leakage", "english.yaml")

TYPOGRAPHY: dict[str, str] = _ENGLISH["typography"]


def _words(table: str) -> list[str]:
    words: str = _ENGLISH["words"][table]
    return words.split()


def _numbered(table: str, first: int = 1) -> dict[str, int]:
    """Words with their numbers, counted from `first`."""
    return {word: number for number, word in enumerate(_words(table), first)}


def pattern(text: str, **words: Collection[str]) -> re.Pattern[str]:
    """A pattern of `english.yaml`, or a text with names in braces; `words` are further alternatives."""
    entries: dict[str, str] = {name: "|".join(table) for name, table in words.items()}
    entries |= _ENGLISH["patterns"]
    text = entries.get(text, text)
    while (expanded := re.sub(r"\{([a-z_]+)\}", lambda m: entries[m[1]], text)) != text:
        text = expanded
    return re.compile(text.replace("\n", ""))


UNITS = _numbered("units", 0)
TENS = {word: 10 * i for word, i in _numbered("tens", 2).items()}
SCALES: dict[str, int] = _ENGLISH["scales"]
_PARTS = _numbered("parts", 2) | {"fourth": 4, "hundredth": 100, "thousandth": 1000}
PARTS = {**_PARTS, **{f"{word}s": i for word, i in _PARTS.items()}, "halves": 2}
"""Denominators, and `half` with them."""
TIMES = {word: Fraction(value) for word, value in _ENGLISH["times"].items()}
JOIN_NUMBERS = frozenset(_words("join_numbers"))
"""Words that belong to a number only beside one."""
NUMBER_WORDS = JOIN_NUMBERS.union(UNITS, TENS, SCALES, PARTS, TIMES, _words("more_numbers"))

ORDINALS = _numbered("ordinals")
MONTHS = _numbered("months")
NATO = {word: word[0] for word in _words("nato")}
DIGITS = {**{word: str(i) for word, i in UNITS.items() if i < 10}, "oh": "0", "nought": "0"}
BETWEEN = frozenset(_words("between"))
"""Words between letters that are spelled out."""

COMMON = frozenset(_words("common"))
"""Words that any critique may hold."""
FUNCTION = frozenset(_words("function"))
"""Words without meaning of their own: an n-gram needs another one."""
PARTICLES = frozenset(_words("particles"))
"""Small words inside a name."""
GENERIC = frozenset(_words("generic"))
"""Words of names that many names share."""
MENTIONS = [pattern(f"(?i){form}") for form in _ENGLISH["mentions"]]
"""Forms of an answer that mentions its critique or an attempt before it."""
DATES: list[str] = _ENGLISH["dates"]
"""Patterns of dates, with the names of `months` and `days`."""
