"""Unit tests as data: a call to run inside the sandbox, and a comparison to make outside it.

    "f([3, 1]) == [1, 3]"                 a test of a problem's row
    "assert abs(candidate(2) - 1.41) < 1e-2, 'root'"     the same in HumanEval's form

Only the call enters the sandbox. The expected value, the comparison and the functions around the call
(`sorted(…)`, `set(…)`, `abs(… - v) < t`, `not …`) stay outside, so that a program can neither see nor replace
them. A test of another form, as one that computes its expected value with the program's own functions or at
random, is refused.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from didact.tasks.code.values import VIEWS, Plain, plain, same, shown, truthy

LONGEST_TEST = 20_000
_COMPARED: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.Is: "==",
    ast.NotEq: "!=",
    ast.IsNot: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Unconvertible(ValueError):
    """A test that cannot be verified outside the sandbox."""


@dataclass(frozen=True)
class UnitTest:
    """One test."""

    call: str
    """The expression that is evaluated inside: a call of the requested function."""
    check: str
    """One of "==", "!=", "<", "<=", ">", ">=", "in", "truthy" or "falsy"."""
    expected: Plain | None
    """The value to compare with; None for "truthy" and "falsy"."""
    views: tuple[str, ...] = ()
    """Names of `VIEWS` that are applied to the returned value first, the innermost first."""
    tolerance: float | None = None
    """For floats; None for exact equality."""

    def passes(self, got: Plain) -> bool:
        """The returned value passes the test."""
        try:
            for view in self.views:
                got = VIEWS[view](got)
        except (ValueError, TypeError):
            return False
        if self.expected is None:
            if got.kind == "other":  # true in Python for most, but a program could forge it
                return False
            return truthy(got) == (self.check == "truthy")
        if self.check in ("==", "!="):
            return same(self.expected, got, self.tolerance) == (self.check == "==")
        if self.check == "in":
            return any(same(item, got, self.tolerance) for item in self.expected.value)
        if self.expected.kind != got.kind or got.kind not in ("number", "str"):
            return False
        return _ORDER[self.check](got.value, self.expected.value)

    @property
    def wanted(self) -> str:
        """The expected value in words, as "[1, 3]" or "something true"."""
        if self.expected is None:
            return "something true" if self.check == "truthy" else "something false"
        value = shown(self.expected)
        words = {"==": "", "!=": "anything but ", "in": "one of "}
        close = "" if self.tolerance is None or self.expected.kind != "number" else "about "
        around = "".join(f"{view} of it: " for view in reversed(self.views))
        return around + words.get(self.check, f"a value {self.check} ") + close * (self.check == "==") + value


@lru_cache(maxsize=8192)
def parse_test(text: str, entry_point: str, tolerance: float | None = None) -> tuple[UnitTest, ...]:
    """The unit tests in one expression or `assert`.

    An `and` gives one unit test for each side. Each must call `entry_point`. The tolerance is used for floats
    if the test itself has none.

    Raises:
        Unconvertible: naming the part that cannot be verified outside the sandbox.
    """
    if len(text) > LONGEST_TEST:
        raise Unconvertible(f"a test of more than {LONGEST_TEST} characters")
    tests = list[UnitTest]()
    for statement in parsed(text.strip()).body:
        if isinstance(statement, ast.Assert):
            tests += convert(statement.test, entry_point, tolerance)
        elif isinstance(statement, ast.Expr):
            tests += convert(statement.value, entry_point, tolerance)
        else:
            raise Unconvertible(f"a statement that is no assert: {_source(statement)}")
    return tuple(tests)


def parsed(text: str) -> ast.Module:
    """The syntax tree of a text that may be no Python."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unconvertible(f"not Python: {error}") from None


def convert(test: ast.expr, entry_point: str, tolerance: float | None = None) -> list[UnitTest]:
    """The unit tests of one condition; see `parse_test`."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return [part for value in test.values for part in convert(value, entry_point, tolerance)]
    if isinstance(test, ast.Constant) and test.value:
        return []
    if _is_call_of(test, "isclose"):
        return [_isclose(test, entry_point)]
    if isinstance(test, ast.Compare):
        if len(test.ops) != 1:
            raise Unconvertible(f"a chain of comparisons: {_source(test)}")
        return [_compare(test.left, test.ops[0], test.comparators[0], entry_point, tolerance)]
    negated = test.operand if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) else None
    call, views = _call(negated or test, entry_point)
    return [UnitTest(call, "falsy" if negated else "truthy", None, views)]


def _compare(left: ast.expr, op: ast.cmpop, right: ast.expr, entry: str, tolerance: float | None) -> UnitTest:
    if isinstance(op, ast.In) and _calls(left, entry):
        call, views = _call(left, entry)
        options = plain(constant(right))
        if options.kind not in ("list", "tuple", "set"):
            raise Unconvertible(f"`in` something that is no list: {_source(right)}")
        return UnitTest(call, "in", options, views, tolerance)
    name = _COMPARED.get(type(op))
    if name is None:
        raise Unconvertible(f"the comparison {_source(left)} … {_source(right)}")
    if not _calls(left, entry) and not _calls(right, entry):
        raise Unconvertible(f"neither {_source(left)} nor {_source(right)} calls {entry}")
    if not _calls(left, entry):
        left, right, name = right, left, _FLIPPED[name]
    if _calls(right, entry):
        raise Unconvertible(f"the expected value is computed by the program: {_source(right)}")
    difference = _difference(left)
    if difference is not None and name in ("<", "<="):
        return _near(difference.left, difference.right, entry, _number(right))
    call, views = _call(left, entry)
    return UnitTest(call, name, plain(constant(right)), views, tolerance)


def _difference(node: ast.expr) -> ast.BinOp | None:
    """The difference of which the expression is the absolute value, or None."""
    if not (_is_call_of(node, "abs") and isinstance(node, ast.Call) and len(node.args) == 1):
        return None
    inner = node.args[0]
    return inner if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub) else None


def _near(left: ast.expr, right: ast.expr, entry: str, tolerance: float) -> UnitTest:
    """The test that the call on one side is near the number on the other."""
    if not _calls(left, entry):
        left, right = right, left
    call, views = _call(left, entry)
    return UnitTest(call, "==", plain(float(_number(right))), views, tolerance)


def _isclose(node: ast.expr, entry: str) -> UnitTest:
    assert isinstance(node, ast.Call)
    if len(node.args) != 2:
        raise Unconvertible(f"isclose without two values: {_source(node)}")
    bounds = [_number(word.value) for word in node.keywords]
    left, right = node.args
    return _near(left, right, entry, max(bounds, default=1e-9))


def _call(node: ast.expr, entry: str) -> tuple[str, tuple[str, ...]]:
    """The call of the program, and the views around it, the innermost first."""
    views = list[str]()
    while isinstance(node, ast.Call) and not _is_call_of(node, entry):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in VIEWS or len(node.args) != 1 or node.keywords:
            raise Unconvertible(f"{_source(node)} is no call of {entry}, nor {'/'.join(VIEWS)} of one")
        views.append(name)
        node = node.args[0]
    if not _is_call_of(node, entry):
        raise Unconvertible(f"{_source(node)} is no call of {entry}")
    return ast.unparse(node), tuple(reversed(views))


def _calls(node: ast.expr, entry: str) -> bool:
    return any(_is_call_of(inner, entry) for inner in ast.walk(node))


def _is_call_of(node: ast.AST, name: str) -> bool:
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    return (isinstance(function, ast.Name) and function.id == name) or (
        isinstance(function, ast.Attribute) and function.attr == name == "isclose"
    )


def _source(node: ast.AST) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 60 else text[:59] + "…"


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "set": set, "frozenset": frozenset, "list": list, "tuple": tuple, "sorted": sorted, "float": float,
    "int": int, "str": str, "dict": dict, "len": len, "abs": abs,
}  # fmt: skip
_CONSTANTS = {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan, "tau": math.tau}
_LARGEST = 100_000


def constant(node: ast.expr) -> Any:
    """The value of an expression of literals and arithmetic, computed without running code.

    Raises:
        Unconvertible: it is not constant, or too large.
    """
    try:
        return _constant(node)
    except Unconvertible:
        raise
    except (TypeError, ValueError, ArithmeticError, KeyError, RecursionError) as error:
        raise Unconvertible(f"the expected value {_source(node)} cannot be computed: {error}") from None


def _constant(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and node.value is not ...:
        return node.value
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        items = [_constant(item) for item in node.elts]
        return {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)](items)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_constant(k): _constant(v) for k, v in zip(node.keys, node.values, strict=True) if k}
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_constant(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _arithmetic(node.op, _constant(node.left), _constant(node.right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        function = _FUNCTIONS.get(node.func.id)
        if function is not None:
            return function(*(_constant(argument) for argument in node.args))
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "math":
        return _CONSTANTS[node.attr]
    raise Unconvertible(f"the expected value {_source(node)} is no constant")


def _arithmetic(op: ast.operator, left: Any, right: Any) -> Any:
    def size(value: Any) -> float:
        return len(value) if isinstance(value, str | bytes | list | tuple) else abs(value)

    if isinstance(op, ast.Pow):
        small = isinstance(right, float) or (isinstance(right, int) and abs(right) <= 1000)
        if not small or size(left) > _LARGEST:
            raise Unconvertible("the expected value is too large")
    sequence = isinstance(left, str | bytes | list | tuple) or isinstance(right, str | bytes | list | tuple)
    if isinstance(op, ast.Mult) and sequence and size(left) * size(right) > _LARGEST:
        raise Unconvertible("the expected value is too large")
    if isinstance(op, ast.Mod) and isinstance(left, str | bytes):
        raise Unconvertible("the expected value formats a text")
    return _BINARY[type(op)](left, right)


def _number(node: ast.expr) -> float:
    value = constant(node)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unconvertible(f"{_source(node)} is no number")
    return value
