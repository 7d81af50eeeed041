"""Protection against scorers of reasoning-gym that evaluate an answer as Python.

reasoning-gym 0.1.25 calls `eval` in four generators, and sympy's `parse_expr`, which evaluates, in five. Here
the former read literals only, and the latter receive nothing but plain arithmetic.
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
    """Replace `eval` in a generator's module by `read_literal`, for the whole process.

    Args:
        name: The generator.
        data_set: A data set of it.
    """
    if name in EVALUATED:
        vars(sys.modules[type(data_set).__module__])["eval"] = read_literal


def may_score(name: str, answer: str, reference: str | None) -> bool:
    """The generator's scorer may read this answer."""
    return name not in PARSED or answer == reference or is_arithmetic(answer)


def read_literal(text: str) -> Any:
    """The value of a Python literal.

    Raises:
        ValueError: the text is no literal, or too long.
    """
    if len(text) > MAX_LITERAL_CHARS or text.count("[") + text.count("(") + text.count("{") > 200:
        raise ValueError(f"a literal of {len(text)} characters is too long")
    try:
        return ast.literal_eval(text)
    except (SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise ValueError(f"not a literal: {error}") from None


def is_arithmetic(text: str) -> bool:
    """The text is plain arithmetic that is safe and fast to evaluate.

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
