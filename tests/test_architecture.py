"""The house rules: imports point up the list, torch stays out of the records, files stay small."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import didact

SOURCE = Path(didact.__file__).parent
FILES = sorted(p for p in SOURCE.rglob("*.py") if "__pycache__" not in p.parts)

FLOORS = [
    "_version",
    "errors",
    "thoughts",
    "types",
    "rng",
    "distributed",
    "jsonl",
    "settings",
    "registry",
    "feedback_source",
    "feedback_store",
    "run_dir",
    "losses",
    "advantages",
    "prompts",
    "rendering",
    "llm",
    "spans",
    "data",
    "engines",
    "tasks",
    "leakage",
    "feedback",
    "annotation",
    "controls",
    "reward_model",
    "rollouts",
    "methods",
    "config",
    "evaluation",
    "build",
    "training",
    "battery",
    "environments",
    "descend",
    "sweep",
    "integrations",
    "cli",
]
"""One floor a package. A package imports itself and what stands above it in this list."""

NARROW = {
    "types": {"thoughts"},
    "errors": set(),
    "rng": set(),
    "spans": {"types", "errors", "spans"},
    "advantages": set(),
    "losses": set(),
    "engines": {"types", "errors", "distributed", "rng", "settings", "losses", "rendering", "llm", "engines"},
    # A plug-in runs inside of another library's processes, where the rest may not be installed.
    "integrations": {"errors", "advantages", "losses"},
}
"""Packages that may import less than their floor allows."""

FILE_LIMIT, FUNCTION_LIMIT = 400, 60


def part_of(path):
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports_of(path):
    """(line, part) of every import of the project, those inside functions and TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import; write it in full"
            names = [
                f"{node.module}.{alias.name}" if node.module == "didact" else node.module
                for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name == "didact" or name.startswith("didact."):
                yield node.lineno, [*name.split("."), ""][1]


def floor(part):
    assert part in FLOORS, f"{part} has no floor: add it to FLOORS and to docs/design.md"
    return FLOORS.index(part)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_up_the_list(path):
    part = part_of(path)
    if part in ("__init__", "__main__"):
        return
    for line, imported in imports_of(path):
        assert imported, f"{path}:{line} imports the package itself"
        allowed = NARROW.get(part)
        where = f"{path.relative_to(SOURCE)}:{line} imports didact.{imported}"
        assert allowed is None or imported in allowed, where
        assert floor(imported) <= floor(part), where


def module_of(path):
    """The dotted name of a source file."""
    parts = ["didact", *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_imported_by(path, modules):
    """The project's modules that a file imports when it is imported itself.

    Imports inside functions and under `if TYPE_CHECKING:` are left out.
    """
    waiting = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def circle_in(graph):
    """The nodes of a circle, or None."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return set(error.args[1])
    return None


def test_a_circle_is_found():
    assert circle_in({"a": {"b", "z"}, "b": {"c"}, "c": set()}) is None
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"b", "c"}


def test_there_is_no_import_circle():
    modules = {module_of(path): path for path in FILES}
    graph = {name: set(modules_imported_by(path, modules)) - {name} for name, path in modules.items()}
    assert circle_in(graph) is None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= FILE_LIMIT
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LIMIT, f"{node.name} has {length} lines"


LIGHT = [
    "thoughts",
    "types",
    "errors",
    "rng",
    "feedback_source",
    "advantages",
    "prompts",
    "spans",
    "data",
    "data.inspection",
    "tasks",
    "tasks.code",
    "tasks.math",
    "tasks.sandbox",
    "tasks.prompts",
    "llm.openai_chat",
    "llm.budget",
    "llm.cache",
    "leakage",
    "feedback",
    "feedback.code",
    "feedback.judge",
    "feedback.length_control",
    "feedback.program",
    "feedback.puzzle_critic",
    "feedback.model_critic",
    "feedback.writing_judge",
    "annotation.human",
    "feedback_store",
    "controls.adversarial_teacher",
    "controls",
    "controls.distractors",
    "reward_model",
    "environments",
    "evaluation.alarms",
    "evaluation.calibration",
    "evaluation.report",
    "evaluation.stats",
    "sweep.report",
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_pattern_has_a_possessive_group(path):
    """Before Python 3.11.5 such a group keeps what its last, failed repetition read (CPython 106052)."""
    strings = (n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant))
    assert not [s for s in strings if isinstance(s, str) and re.search(r"(?<!\\)\)(?:[*+?]|\{[\d,]+\})\+", s)]


def test_records_tasks_and_feedback_need_no_torch():
    present = [
        f"didact.{n}"
        for n in LIGHT
        if (SOURCE / n.replace(".", "/")).exists() or (SOURCE / f"{n.replace('.', '/')}.py").exists()
    ]
    code = (
        "import sys, importlib\n"
        f"for name in {present!r}: importlib.import_module(name)\n"
        "sys.exit(' '.join({'torch', 'transformers'} & set(sys.modules)) or None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(present) == len(LIGHT)


def isort_order(name):
    """Constants, then classes, then functions: ruff's order of __all__."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_public_names_are_those_of_the_stub_and_there():
    stub = ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8"))
    [listed] = [ast.literal_eval(n.value) for n in stub.body if isinstance(n, ast.Assign)]
    imported = [a.name for n in stub.body if isinstance(n, ast.ImportFrom) for a in n.names]
    assert listed == sorted(listed, key=isort_order)
    assert sorted(listed) == sorted(set(imported) - {"__version__"})
    assert set(listed) == set(didact.__all__) - {"__version__"}
    for name in listed:
        assert getattr(didact, name) is not None


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name == "__init__.py" and p.parent != SOURCE], ids=lambda p: p.parent.name
)
def test_what_a_package_exports_is_there(path):
    module = importlib.import_module(".".join(["didact", *path.parent.relative_to(SOURCE).parts]))
    names = list(getattr(module, "__all__", ()))
    assert names == sorted(names, key=isort_order)
    assert all(hasattr(module, name) for name in names)


def test_the_version_has_one_place():
    import tomllib

    project = SOURCE.parent.parent / "pyproject.toml"
    if not project.exists():
        pytest.skip("not a source tree")
    settings = tomllib.loads(project.read_text(encoding="utf-8"))
    assert "version" in settings["project"]["dynamic"]
    assert (project.parent / settings["tool"]["hatch"]["version"]["path"]).samefile(SOURCE / "_version.py")
