r"""Code problems of three shapes, distinguished by their columns, and the program in an answer to one.

    own        {"prompt": "Add two numbers.", "signature": "def add(a, b):", "examples": ["add(1, 2) == 3"],
                "tests": ["add(0, 0) == 0"], "reference": "def add(a, b):\n    return a + b\n"}
    humaneval  {"task_id", "prompt", "entry_point", "canonical_solution", "test": "def check(candidate): …"}
    mbpp       {"task_id", "text" or "prompt", "code", "test_list": ["assert …"], "test_setup_code"}

Tests are converted for verification outside the sandbox (`unit_tests`). A row with a test that cannot be
converted is refused, or left out if `skip` is set: no problem runs with fewer tests than it has.

Of an answer only lines are matched. A model's text is never parsed or compiled outside the sandbox, because
deeply nested text can crash CPython's compiler.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from didact.data.faults import shown
from didact.errors import DataError, did_you_mean
from didact.tasks.code.unit_tests import Unconvertible, convert, parse_test, parsed
from didact.tasks.dataset_task import FileRow, LoadedFile, LoadedProblem, read_file
from didact.types import Problem

_HOW = "Answer with the whole function in one ```python block. Use nothing but Python's standard library."
_TAG = re.compile(r"</?(?:answer|code|python)>|\[/?PYTHON\]", re.IGNORECASE)
_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([\w+#.-]{0,20})")
_OPENING = re.compile(
    r"(?:async[ \t]+def|def|class|import|from)[ \t]+\w|@\w|[A-Za-z_]\w{0,60}[ \t]*(?::[^=]{0,80})?=[^=]"
)
_PYTHON = {"", "python", "py", "python3", "py3"}
_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)
_NAME = re.compile(r"(?:async[ \t]+)?def[ \t]+([A-Za-z_]\w*)[ \t]*\(")


class _CodeProblem(NamedTuple):
    """One row, independent of its shape; all fields from the third on become the problem's metadata."""

    question: str
    reference: str | None
    entry_point: str
    examples: list[str]
    tests: list[str]
    setup: str = ""
    prefix: str = ""
    tolerance: float | None = None


def load(path: Path, shape: str = "auto", *, skip: bool = False) -> LoadedFile:
    """Read a file whose rows are of one of the `SHAPES`, or for "auto" of one by the columns of each row.

    Raises:
        DataError: naming the row, the column and the cure.
    """
    problems, left_out = list[LoadedProblem](), dict[str, str]()
    for row in read_file(path):
        kind, identity = _shape(row, shape), row.identity("id", "task_id")
        try:
            read = SHAPES[kind].read(row)
            texts = (*read.examples, *read.tests)
            if not [test for text in texts for test in parse_test(text, read.entry_point, read.tolerance)]:
                raise Unconvertible("no test")
        except Unconvertible as error:
            if kind == "own":
                row.fail("tests", f"{error}; write a test as 'f(1) == 2'")
            left_out[identity] = str(error)
            continue
        metadata = {"shape": kind, **dict(list(read._asdict().items())[2:])}
        if isinstance(level := row.values.get("level"), str):
            metadata["level"] = level
        problem = Problem.ask(read.question, id=identity, reference=read.reference, **metadata)
        problems.append(LoadedProblem(problem, row, " ".join(read.question.split())))
    if left_out and not skip:
        first, why = next(iter(left_out.items()))
        raise DataError(
            f"{path}: {len(left_out)} of {len(left_out) + len(problems)} problems have a test that cannot be "
            f"verified outside the sandbox, the first {first!r} ({why}). Set unconvertible=skip to leave "
            "them out. Nothing was written."
        )
    return LoadedFile(str(path), problems, left_out, (path,))


def _shape(row: FileRow, wanted: str) -> str:
    kinds = [wanted] if wanted != "auto" else [k for k, s in SHAPES.items() if s.distinctive in row.values]
    if not kinds:
        row.fail(
            None,
            "no column tells the shape: 'tests' (own), 'test' (humaneval) or 'test_list' (mbpp); "
            f"{did_you_mean('tests', row.values)}",
        )
    for column in SHAPES[kinds[0]].needed:
        if row.values.get(column) is None:
            row.missing(column, f"a row of the shape {kinds[0]} needs it")
    return kinds[0]


def _own(row: FileRow) -> _CodeProblem:
    signature, statement = row.text("signature").strip(), row.text("prompt").strip()
    match = _NAME.match(signature)
    if match is None:
        row.fail("signature", f"must start with 'def name(', not {shown(signature)}")
    examples, tests = row.texts("examples"), row.texts("tests")
    tolerance = row.values.get("tolerance")
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool) and tolerance >= 0
    if tolerance is not None and not number:
        row.fail("tolerance", f"must be a number of 0 or above, or null, not {shown(tolerance)}")
    if not tests:
        row.fail("tests", "is empty; write at least one test, as 'f(1) == 2'")
    parts = [statement, f"```python\n{signature}\n```"]
    if examples:
        parts.append("For example:\n" + "\n".join(examples))
    return _CodeProblem(
        "\n\n".join([*parts, _HOW]),
        row.text("reference"),
        match[1],
        examples,
        tests,
        setup=row.text("setup", default=""),
        tolerance=None if tolerance is None else float(tolerance),
    )


def _mbpp(row: FileRow) -> _CodeProblem:
    statement = row.text("text" if "text" in row.values else "prompt").strip()
    code, tests = row.text("code").replace("\r\n", "\n"), row.texts("test_list")
    tests = [*tests, *row.texts("challenge_test_list")]
    if not tests:
        row.fail("test_list", "is empty; write at least one test")
    setup = "\n".join([*row.texts("test_imports"), row.text("test_setup_code", default="")])
    entry_point = _called(tests[0], code)
    question = f"{statement}\n\nYour function must pass tests such as:\n{tests[0].strip()}\n\n{_HOW}"
    return _CodeProblem(question, code, entry_point, tests[:1], tests[1:], setup.strip())


def _called(test: str, code: str) -> str:
    """The function of the reference that a test calls."""
    for node in ast.walk(parsed(test.strip())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and defines(code, node.func.id):
            return node.func.id
    raise Unconvertible("the first test calls nothing that the reference defines")


def _humaneval(row: FileRow) -> _CodeProblem:
    prompt, entry_point = row.text("prompt"), row.text("entry_point")
    setup, tests = _check_function(row.text("test"), entry_point)
    solution = row.values.get("canonical_solution")
    reference = prompt + solution if isinstance(solution, str) else None
    question = f"Complete this Python function.\n\n```python\n{prompt.strip()}\n```\n\n{_HOW}"
    return _CodeProblem(question, reference, entry_point, [], tests, setup, prefix=prompt)


def _check_function(source: str, entry_point: str) -> tuple[str, list[str]]:
    """(imports, asserts) of `def check(candidate)`, its parameter renamed to the function's name."""
    setup, tests = list[str](), list[str]()
    for node in parsed(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            setup.append(ast.unparse(node))
        elif isinstance(node, ast.FunctionDef) and node.name == "check" and len(node.args.args) == 1:
            body = [_Renamed(node.args.args[0].arg, entry_point).visit(inner) for inner in node.body]
            tests += _asserts(body, setup, entry_point)
        elif not _is_no_test(node):
            raise Unconvertible(f"line {node.lineno} of its test is neither an import nor check(candidate)")
    return "\n".join(setup), tests


def _asserts(body: list[ast.stmt], setup: list[str], entry_point: str) -> list[str]:
    tests = list[str]()
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            setup.append(ast.unparse(node))
        elif isinstance(node, ast.Assert):
            if convert(node.test, entry_point):  # `assert True` is no test
                tests.append(ast.unparse(node.test))
        elif not _is_no_test(node):
            kind = type(node).__name__.lower()
            raise Unconvertible(f"line {node.lineno} of its test is no assert but a statement ({kind})")
    return tests


def _is_no_test(node: ast.stmt) -> bool:
    """A docstring, `pass`, or HumanEval's METADATA."""
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Name) and target.id == "METADATA" for target in node.targets)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


class _Renamed(ast.NodeTransformer):
    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.copy_location(ast.Name(self.new, node.ctx), node) if node.id == self.old else node


class CodeShape(NamedTuple):
    """The columns of one form of code problems."""

    distinctive: str
    """A row with this column has this shape."""
    needed: tuple[str, ...]
    read: Callable[[FileRow], _CodeProblem]


SHAPES = {
    "own": CodeShape("tests", ("prompt", "signature", "tests", "reference"), _own),
    "humaneval": CodeShape("test", ("prompt", "entry_point", "test"), _humaneval),
    "mbpp": CodeShape("test_list", ("test_list", "code"), _mbpp),
}


def program_in(answer: str, entry_point: str, prefix: str = "") -> str | None:
    """The program in an answer, or None if there is none.

    Of several fenced blocks, or <answer> and [PYTHON] tags, the last that defines the function, with those
    that only import and define; else the last in Python. An unclosed block extends to the end. Without a
    fence, from the first line that looks like code to the last that Python reads. The `prefix` is put before
    an answer that only continues the function.
    """
    fenced = any(map(_FENCE.match, answer.split("\n")))
    blocks = [b for b in _blocks(answer if fenced else _TAG.sub("\n```\n", answer)) if b.strip()]
    named = [text for text in blocks if defines(text, entry_point)]
    if named:
        trees = {text: _parsed(text) for text in blocks if text not in named}
        pieces = {
            text
            for text, tree in trees.items()
            if isinstance(tree, ast.Module) and all(isinstance(node, _DEFINITIONS) for node in tree.body)
        }
        program = "\n".join(text for text in blocks if text in pieces or text is named[-1])
    elif blocks and not defines(answer, entry_point):
        program = blocks[-1]
    else:
        lines = [line for line in answer.split("\n") if not _FENCE.match(line)]
        first = next((i for i, line in enumerate(lines) if _OPENING.match(line)), 0)
        continues = prefix and not defines(answer, entry_point)
        program = answer if continues else _readable("\n".join(lines[first:]), entry_point)
    if not program.strip():
        return None
    if not prefix or defines(program, entry_point):
        return program
    if program[:1] not in (" ", "\t", "\n"):
        program = "\n".join("    " + line if line.strip() else line for line in program.split("\n"))
    return prefix + program


def defines(text: str, name: str) -> bool:
    """A line at the left margin defines or assigns this name."""
    quoted = re.escape(name)
    pattern = rf"^(?:(?:async[ \t]+)?def[ \t]+{quoted}[ \t]*\(|class[ \t]+{quoted}\b|{quoted}[ \t]*=[^=])"
    return re.search(pattern, text, re.MULTILINE) is not None


def _parsed(program: str) -> ast.Module | int:
    """The syntax tree of a model's text, or the line that is none. Nothing runs."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return getattr(error, "lineno", None) or 1


def _readable(program: str, entry_point: str) -> str:
    """The program without the prose behind it; all of it where that has no function of this name."""
    text, parsed = program, _parsed(program)
    while isinstance(parsed, int) and parsed > 1:
        text = "\n".join(text.split("\n")[: parsed - 1])
        parsed = _parsed(text)
    return text if isinstance(parsed, ast.Module) and defines(text, entry_point) else program


def _blocks(answer: str) -> list[str]:
    """The texts of fenced blocks in Python or without a language."""
    found, lines, fence, wanted, indent = list[str](), list[str](), "", False, ""
    for line in answer.split("\n"):
        match = _FENCE.match(line)
        if not fence and match:
            indent, fence, wanted, lines = match[1], match[2], match[3].lower() in _PYTHON, []
        elif fence and match and match[2].startswith(fence) and not line.strip().strip(fence[0]):
            if wanted:
                found.append("\n".join(lines) + "\n")
            fence = ""
        elif fence:
            lines.append(line.removeprefix(indent))
    if fence and wanted:
        found.append("\n".join(lines) + "\n")
    return found
