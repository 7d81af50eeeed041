"""The notation of answers: one spelling for what is written in many, and comparisons that need no algebra."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import Any

from didact.jsonl import read_package_yaml
from didact.tasks.numbers import MOST_DIGITS, last_number

_TABLES: dict[str, Any] = read_package_yaml("didact.tasks.math", "notation.yaml")
_REWRITINGS = [(re.compile(pattern), new) for pattern, new in _TABLES["rewritings"]]
_BESIDE = [re.compile(pattern) for pattern in _TABLES["beside"]]
PLACEHOLDER = re.compile(_TABLES["placeholders"], re.IGNORECASE)
_BASE = re.compile(r"([0-9A-Za-z]+)_\{?([0-9]{1,2})\}?")
_WORDS = re.compile(r"(?:\\text(?:rm)?\s*\{\s*([A-Za-z][A-Za-z ]*?)\s*\}|([A-Za-z]{3,}(?: [A-Za-z]+)*))")


def rewritten(text: str) -> str:
    """An answer in one spelling.

    >>> [rewritten(t) for t in ("=13.", r"{\\bf 5}", "x²", r"2\\le x<5", "A)", "½", "10^3")]
    ['13', '5', 'x^{2}', '[2,5)', 'A', '1/2', '1\\\\times10^{3}']
    """
    text = re.sub("[⁻⁺]?[⁰¹²³⁴-⁹]+", lambda m: f"^{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = re.sub("[¼-¾⅐-⅞]", lambda m: f" {unicodedata.normalize('NFKC', m[0]).replace('⁄', '/')}", text)
    for pattern, new in _REWRITINGS:
        text = pattern.sub(new, text)
    return text.strip()


def split_unit(text: str) -> tuple[str, str]:
    """A number, and the unit, currency or word beside it; any other text, and nothing."""
    for pattern in _BESIDE:
        rest = pattern.sub("", text)
        if rest != text and number(rest) is not None:
            return rest, re.sub(r"\\(?:text|textrm|mathrm)|[\\{}\s]", "", text.replace(rest, "", 1))
    return text, ""


def number(text: str) -> Fraction | None:
    """The exact value of a text that is a number and nothing else."""
    found = last_number(text)
    whole = found is not None and (found.start, found.end) == (0, len(text))
    return found.value if found is not None and whole else None


def compare(gold: str, answer: str) -> bool | None:
    """Whether two rewritten answers are equal: numbers exactly, bases digit by digit, words letter by letter.

    None where that takes algebra.
    """
    if gold.split() == answer.split():
        return True
    values = number(gold), number(answer)
    if values[0] is not None and values[1] is not None:
        ends = all(10**MOST_DIGITS % value.denominator == 0 for value in (values[0], values[1]))
        return values[0] == values[1] or (False if ends else None)  # 0.333333 may stand for 1/3
    bases = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if bases[0] and bases[1]:
        return bases[0].groups() == bases[1].groups()
    words = [m and (m[1] or m[2]).casefold().split() for m in map(_WORDS.fullmatch, (gold, answer))]
    return words[0] == words[1] if all(words) else None
