"""Code problems from JSON lines of three shapes, told apart by their columns.

    own        {"prompt": "Add two numbers.", "signature": "def add(a, b):", "examples": ["add(1, 2) == 3"],
                "tests": ["add(0, 0) == 0"], "reference": "def add(a, b):\\n    return a + b\\n"}
    humaneval  {"task_id", "prompt", "entry_point", "canonical_solution", "test": "def check(candidate): …"}
    mbpp       {"task_id", "text" or "prompt", "code", "test_list": ["assert …"], "test_setup_code"}

Tests become cases that are verified outside the sandbox (`cases`). A row with a test that has no such
form is refused, or left out by name where `skip` says so: it is never run with fewer tests than it has.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from didact.errors import DataError, did_you_mean
from didact.tasks.code.cases import Unconvertible, convert, parse_test
from didact.tasks.code.extract import defines
from didact.tasks.dataset_task import Place, ReadFile, ReadRow
from didact.tasks.jsonl import json_lines
from didact.types import Problem

SHAPES = ("own", "humaneval", "mbpp")
_HOW = "Answer with the whole function in one ```python block. Use nothing but Python's standard library."
_NEEDED = {
    "own": ("prompt", "signature", "tests", "reference"),
    "humaneval": ("prompt", "entry_point", "test"),
    "mbpp": ("test_list", "code"),
}
_NAME = re.compile(r"(?:async[ \t]+)?def[ \t]+([A-Za-z_]\w*)[ \t]*\(")


@dataclass(frozen=True)
class _Read:
    """One row in the words of all shapes."""

    question: str
    entry_point: str
    examples: list[str]
    tests: list[str]
    reference: str | None
    setup: str = ""
    prefix: str = ""
    tolerance: float | None = None


def load(path: Path, shape: str = "auto", *, skip: bool = False) -> ReadFile:
    """Read a file.

    Args:
        path: JSON lines.
        shape: One of `SHAPES`, or "auto" to tell by the columns of each row.
        skip: Leave rows out whose tests cannot be verified outside the sandbox.

    Raises:
        DataError: naming the line, the column and the cure.
    """
    rows, left_out = list[ReadRow](), dict[str, str]()
    lines_of_id = dict[str, int]()
    for place, row in json_lines(path):
        kind = _shape(place, row, shape)
        identity = _identity(place, row, lines_of_id)
        try:
            read = _READERS[kind](place, row)
            cases = [c for t in [*read.examples, *read.tests] for c in _cases(t, read)]
            if not cases:
                raise Unconvertible("no test")
        except Unconvertible as error:
            if kind == "own":
                place.fail(f"column 'tests': {error}; write a test as 'f(1) == 2'")
            left_out[identity] = str(error)
            continue
        rows.append(_row(place, identity, read, row, kind))
    if left_out and not skip:
        first, why = next(iter(left_out.items()))
        raise DataError(
            f"{path}: {len(left_out)} of {len(left_out) + len(rows)} problems have a test that cannot be "
            f"verified outside the sandbox, the first {first!r} ({why}). Set unconvertible=skip to leave "
            "them out. Nothing was written."
        )
    if not rows:
        raise DataError(f"{path} has no problem that can be used: write one JSON object a line")
    return ReadFile(rows, left_out)


def _cases(test: str, read: _Read) -> tuple[Any, ...]:
    return parse_test(test, read.entry_point, read.tolerance)


def _row(place: Place, identity: str, read: _Read, row: dict[str, Any], kind: str) -> ReadRow:
    metadata = {
        "shape": kind, "entry_point": read.entry_point, "examples": read.examples, "tests": read.tests,
        "setup": read.setup, "prefix": read.prefix, "tolerance": read.tolerance,
    }  # fmt: skip
    if isinstance(row.get("level"), str):
        metadata["level"] = row["level"]
    problem = Problem.ask(read.question, id=identity, reference=read.reference, **metadata)
    return ReadRow(problem, place, " ".join(read.question.split()))


def _shape(place: Place, row: dict[str, Any], wanted: str) -> str:
    candidates = SHAPES if wanted == "auto" else (wanted,)
    telling = {"own": "tests", "humaneval": "test", "mbpp": "test_list"}
    for kind in candidates:
        if telling[kind] in row or len(candidates) == 1:
            missing = [name for name in _NEEDED[kind] if row.get(name) is None]
            if missing:
                column = missing[0]
                place.fail(
                    f"there is no column {column!r}, which a row of the shape {kind} needs: "
                    f"{did_you_mean(column, map(str, row))}"
                )
            return kind
    return place.fail(
        "no column tells the shape: 'tests' (own), 'test' (humaneval) or 'test_list' (mbpp); "
        f"{did_you_mean('tests', map(str, row))}"
    )


def _identity(place: Place, row: dict[str, Any], lines_of_id: dict[str, int]) -> str:
    name = "id" if "id" in row else "task_id"
    identity = row.get(name, f"{place.path.stem}/{place.line}")
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        place.fail(f"column {name!r} must be a string or an integer, not {identity!r}")
    identity = str(identity)
    if identity in lines_of_id:
        place.fail(f"column {name!r}: {identity!r} is already the id of line {lines_of_id[identity]}")
    lines_of_id[identity] = place.line
    return identity


def _text(place: Place, row: dict[str, Any], name: str, *, default: str | None = None) -> str:
    value = row.get(name, default) if default is not None else row.get(name)
    if not isinstance(value, str) or (default is None and not value.strip()):
        place.fail(f"column {name!r} must be a text that says something, not {str(value)[:60]!r}")
    return value


def _texts(place: Place, row: dict[str, Any], name: str) -> list[str]:
    value = row.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        place.fail(f"column {name!r} must be a list of texts, not {str(value)[:60]!r}")
    return value


def _own(place: Place, row: dict[str, Any]) -> _Read:
    signature, statement = _text(place, row, "signature"), _text(place, row, "prompt")
    match = _NAME.match(signature.strip())
    if match is None:
        place.fail(f"column 'signature' must open with 'def name(', not {signature[:60]!r}")
    examples, tests = _texts(place, row, "examples"), _texts(place, row, "tests")
    tolerance = row.get("tolerance")
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool) and tolerance >= 0
    if tolerance is not None and not number:
        place.fail(f"column 'tolerance' must be a number of 0 or above, or null, not {tolerance!r}")
    if not tests:
        place.fail("column 'tests' is empty; write at least one test, as 'f(1) == 2'")
    parts = [statement.strip(), f"```python\n{signature.strip()}\n```"]
    if examples:
        parts.append("For example:\n" + "\n".join(examples))
    reference = _text(place, row, "reference")
    question = "\n\n".join([*parts, _HOW])
    return _Read(
        question, match[1], examples, tests, reference, _text(place, row, "setup", default=""),
        tolerance=None if tolerance is None else float(tolerance),
    )  # fmt: skip


def _mbpp(place: Place, row: dict[str, Any]) -> _Read:
    statement = _text(place, row, "text" if "text" in row else "prompt")
    code, tests = _text(place, row, "code").replace("\r\n", "\n"), _texts(place, row, "test_list")
    tests = [*tests, *_texts(place, row, "challenge_test_list")]
    if not tests:
        place.fail("column 'test_list' is empty; write at least one test")
    setup = "\n".join([*_texts(place, row, "test_imports"), _text(place, row, "test_setup_code", default="")])
    entry_point = _called(tests[0], code)
    shown = f"Your function must pass tests such as:\n{tests[0].strip()}"
    question = "\n\n".join([statement.strip(), shown, _HOW])
    return _Read(question, entry_point, tests[:1], tests[1:], code, setup.strip())


def _called(test: str, code: str) -> str:
    """The function of the reference that a test calls."""
    try:
        names = [n.func.id for n in ast.walk(ast.parse(test.strip())) if _is_plain_call(n)]  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unconvertible(f"not Python: {error}") from None
    for name in names:
        if defines(code, name):
            return str(name)
    raise Unconvertible("the first test calls nothing that the reference defines")


def _is_plain_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def _humaneval(place: Place, row: dict[str, Any]) -> _Read:
    prompt, entry_point = _text(place, row, "prompt"), _text(place, row, "entry_point")
    setup, tests = _check_function(_text(place, row, "test"), entry_point)
    solution = row.get("canonical_solution")
    reference = prompt + solution if isinstance(solution, str) else None
    fence = f"```python\n{prompt.strip()}\n```"
    question = "\n\n".join(["Complete this Python function.", fence, _HOW])
    return _Read(question, entry_point, [], tests, reference, setup, prefix=prompt)


def _check_function(source: str, entry_point: str) -> tuple[str, list[str]]:
    """(imports, asserts) of `def check(candidate)`, its parameter renamed to the function's name."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unconvertible(f"not Python: {error}") from None
    setup, tests = list[str](), list[str]()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            setup.append(ast.unparse(node))
        elif isinstance(node, ast.FunctionDef) and node.name == "check" and len(node.args.args) == 1:
            body = [_Renamed(node.args.args[0].arg, entry_point).visit(inner) for inner in node.body]
            tests += _asserts(body, setup, entry_point)
        elif not _says_nothing(node):
            raise Unconvertible(f"line {node.lineno} of its test is neither an import nor check(candidate)")
    return "\n".join(setup), tests


def _asserts(body: list[ast.stmt], setup: list[str], entry_point: str) -> list[str]:
    tests = list[str]()
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            setup.append(ast.unparse(node))
        elif isinstance(node, ast.Assert):
            if convert(node.test, entry_point):  # `assert True` says nothing
                tests.append(ast.unparse(node.test))
        elif not _says_nothing(node):
            kind = type(node).__name__.lower()
            raise Unconvertible(f"line {node.lineno} of its test is no assert but a statement ({kind})")
    return tests


def _says_nothing(node: ast.stmt) -> bool:
    """A docstring, `pass`, or HumanEval's METADATA."""
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Name) and target.id == "METADATA" for target in node.targets)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


class _Renamed(ast.NodeTransformer):
    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.copy_location(ast.Name(self.new, node.ctx), node) if node.id == self.old else node


_READERS: dict[str, Callable[[Place, dict[str, Any]], _Read]] = {
    "own": _own,
    "humaneval": _humaneval,
    "mbpp": _mbpp,
}
