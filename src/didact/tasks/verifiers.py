"""Verifiers of the tasks prompts and offline: exact, regex, numeric, a function of your own, or none.

In a config a verifier is a name, or a mapping with its settings:

    verifier: numeric
    verifier: {name: numeric, tolerance: 0.01}
    verifier: {name: regex, pattern: "^yes\\b"}
    verifier: my_checks.py:is_polite
    verifier: none
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, SupportsFloat

from didact.errors import UsageError, did_you_mean
from didact.settings import load_class, validate_kwargs
from didact.tasks.base import Verdict
from didact.tasks.numbers import last_number

VerifyFn = Callable[[str, str, Mapping[str, Any]], Verdict]
"""(answer, reference or "", the whole row) -> Verdict."""


class Verifier(NamedTuple):
    """A function that verifies answers, and what it needs from a row."""

    verify: VerifyFn
    needs_reference: bool
    """Every row must have a reference."""
    reference_is_answer: bool = True
    """The reference is an answer that a critic can compare with, not a pattern."""
    check_reference: Callable[[str], str | None] = lambda reference: None
    """What is wrong with a reference, or None."""
    file: Path | None = None
    """The file of a user's function."""


def make_verifier(spec: str | Mapping[str, Any]) -> Verifier:
    """The verifier of a config value: a key of `VERIFIERS`, "file.py:function", "package.module:function", or
    {"name": one of these, **settings}.

    Raises:
        UsageError: unknown verifier, setting, module or function, with the nearest valid name.
    """
    settings = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f"a verifier needs a name, as {{name: numeric}}, but got {spec!r}")
    if ":" in name:
        if settings:
            raise UsageError(f"verifier {name!r} is a function and takes no settings, not {settings}")
        return user_function(name)
    if name not in VERIFIERS:
        raise UsageError(f"unknown verifier {name!r}: {did_you_mean(name, VERIFIERS)}, or 'file.py:function'")
    return VERIFIERS[name](**validate_kwargs(VERIFIERS[name], settings, f"verifier {name!r}"))


def exact(*, casefold: bool = False) -> Verifier:
    """Right if answer and reference are the same text, apart from white space around them; `casefold` ignores
    case."""

    def verify(answer: str, reference: str, row: Mapping[str, Any]) -> Verdict:
        got, want = answer.strip(), reference.strip()
        return _verdict(got.casefold() == want.casefold() if casefold else got == want)

    return Verifier(verify, needs_reference=True)


def regex(*, pattern: str | None = None) -> Verifier:
    """Right if `re.search` finds a pattern in the answer; anchor it with ^ and $ to match all of it.

    Without one pattern for all rows, each row's reference is its pattern.
    """
    if pattern is not None and (problem := _pattern_problem(pattern)):
        raise UsageError(f"verifier 'regex': {problem}")

    def verify(answer: str, reference: str, row: Mapping[str, Any]) -> Verdict:
        return _verdict(re.search(reference if pattern is None else pattern, answer) is not None)

    if pattern is not None:
        return Verifier(verify, needs_reference=False)
    return Verifier(verify, needs_reference=True, reference_is_answer=False, check_reference=_pattern_problem)


def numeric(*, tolerance: float = 1e-6) -> Verifier:
    """Right if the last numbers in answer and reference, read exactly, differ by at most `tolerance`, ≥ 0."""
    if not tolerance >= 0:
        raise UsageError(f"verifier 'numeric': tolerance must be a number of 0 or above, not {tolerance!r}")

    def verify(answer: str, reference: str, row: Mapping[str, Any]) -> Verdict:
        got, want = last_number(answer), last_number(reference)
        return _verdict(got is not None and want is not None and abs(got.value - want.value) <= tolerance)

    def check(reference: str) -> str | None:
        return f"there is no number in {reference!r}" if last_number(reference) is None else None

    return Verifier(verify, needs_reference=True, check_reference=check)


def none() -> Verifier:
    """No verification: every reward is None. For learning from critiques alone."""
    return Verifier(lambda answer, reference, row: Verdict(None, False), needs_reference=False)


def user_function(spec: str) -> Verifier:
    """A function (answer, row) -> bool or float, as "file.py:function" or "package.module:function".

    `row` is the row of the file as a dict, with its reference as text. True and scores of 1 or more are
    right. If the function raises, the answer has no reward and enters no baseline and no loss.

    Raises:
        UsageError: no such module or function; when verifying, a result that is no bool or finite number.
    """
    function = load_class(spec, f"verifier {spec!r}")

    def verify(answer: str, reference: str, row: Mapping[str, Any]) -> Verdict:
        try:
            score = function(answer, dict(row))
        except SystemExit as error:
            raise UsageError(f"verifier {spec!r} called exit({error.code!r}): return a score") from error
        except Exception as error:
            return Verdict(None, False, f"verifier {spec!r} raised {type(error).__name__}: {error}")
        number = math.nan
        with suppress(Exception):  # an array, a number beyond floats, a signalling NaN
            number = float(score) if isinstance(score, SupportsFloat) else math.nan
        if not math.isfinite(number):
            raise UsageError(
                f"verifier {spec!r} returned {score!r:.200}: return True, False or a finite number"
            )
        return Verdict(number, number >= 1)

    place = Path(spec.rpartition(":")[0])
    return Verifier(verify, needs_reference=False, file=place if place.suffix == ".py" else None)


VERIFIERS: dict[str, Callable[..., Verifier]] = {
    made.__name__: made for made in (exact, regex, numeric, none)
}


def _verdict(right: bool) -> Verdict:
    return Verdict(float(right), right)


def _pattern_problem(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except re.error as error:
        return f"{pattern!r} is not a regular expression: {error}"
    return None
