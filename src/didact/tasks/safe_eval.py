"""Answers to generated problems are data: what a third party's scorers would run as Python is not run.

reasoning-gym 0.1.25 scores some answers by running them: `eval` in four generators, sympy's `parse_expr`,
which evaluates, in five. Here the former read literals only, and the latter get no text but plain arithmetic.
"""

from __future__ import annotations

import ast
import re
import sys
from typing import Any

EVALUATED = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Generators that call `eval` on an answer."""
PARSED = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
"""Generators that give an answer to sympy's `parse_expr`."""
MAX_LITERAL_CHARS, MAX_EXPRESSION_CHARS = 4_000, 400

_CHARACTERS = re.compile(r"[0-9a-zA-Z+\-*/^().\s]*")
_WORD = re.compile(r"[a-zA-Z]\w*")
_FUNCTIONS = frozenset({"sin", "cos", "tan", "exp", "log", "ln", "sqrt", "pi"})
_POWER = re.compile(r"\*\*|\^")
_SMALL_POWER = re.compile(
    r"(?:\*\*|\^)\s*(?:\d{1,3}|[a-zA-Z]|\(\s*-?\s*\d{1,3}(?:\s*/\s*\d{1,3})?\s*\))(?![\w.(])"
)
_CHAIN = re.compile(r"\)\s*(?:\*\*|\^)|(?:\*\*|\^)\s*(?:\w+|\([^()]*\))\s*(?:\*\*|\^)")


def reject_code(name: str, data_set: Any) -> None:
    """Give a generator's module a harmless `eval`, which hides the builtin for all its users in this process.

    Args:
        name: The generator.
        data_set: One that it made.
    """
    if name in EVALUATED:
        vars(sys.modules[type(data_set).__module__])["eval"] = read_literal


def may_score(name: str, answer: str, reference: str | None) -> bool:
    """May a generator's scorer be given this text?"""
    return name not in PARSED or answer == reference or is_arithmetic(answer)


def read_literal(text: str) -> Any:
    """The value of a Python literal: what a scorer may use in place of `eval`.

    Raises:
        ValueError: it is no literal, or too long.
    """
    if len(text) > MAX_LITERAL_CHARS or text.count("[") + text.count("(") + text.count("{") > 200:
        raise ValueError(f"a literal of {len(text)} characters is too long")
    try:
        return ast.literal_eval(text)
    except (SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise ValueError(f"not a literal: {error}") from None


def is_arithmetic(text: str) -> bool:
    """Is a text plain arithmetic, safe to be evaluated in a short time?

    >>> is_arithmetic("(8 - 2)*4"), is_arithmetic("x**2/2 + sin(x) + C")
    (True, True)
    >>> is_arithmetic("__import__('os')"), is_arithmetic("9**9**9"), is_arithmetic("x.diff")
    (False, False, False)
    """
    if len(text) > MAX_EXPRESSION_CHARS or not _CHARACTERS.fullmatch(text):
        return False
    if re.search(r"\.\s*[a-zA-Z]|[a-zA-Z)]\s*\.", text):
        return False  # an attribute of something
    if any(len(word) > 1 and word not in _FUNCTIONS for word in _WORD.findall(text)):
        return False
    powers = len(_POWER.findall(text))
    return powers == len(_SMALL_POWER.findall(text)) and not _CHAIN.search(text)
