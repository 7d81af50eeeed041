"""Write docs/api.md: every public name with its signature and the first paragraph of its docstring.

python docs/api.py
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import didact
from didact.registry import ENGINES, METHODS, REWARDS, SOURCES, TASKS

PAGE = Path(__file__).parent / "api.md"
STUB = Path(didact.__file__).with_suffix(".pyi")
HEAD = """\
# What `didact` exports

Written by `python docs/api.py` from the docstrings. Everything here is `didact.NAME`; the
rest is internal.

An extension is a class: a [`Method`](#didactmethods), a [`FeedbackSource`](#didactfeedback_source), a
[`Task`](#didacttasksbase) or an [`Engine`](#didactenginesbase). It is given as an object
(`didact.train(MyMethod(), …)`), as `my_file.py:MyMethod` on the command line and in YAML, or by a name that
an installed package announces in the entry-point groups `didact.methods`, `didact.feedback`, `didact.tasks`
and `didact.engines`. [recipes/custom_method.py](../recipes/custom_method.py) has three of them in 60 lines.
"""


def page() -> str:
    """The page's text."""
    parts = [HEAD, "## Names that ship", *map(_table, (METHODS, SOURCES, TASKS, REWARDS, ENGINES))]
    for node in ast.parse(STUB.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module != "_version":
            parts.append(f"## didact.{node.module}")
            parts += [_entry(alias.name) for alias in node.names]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _table(registry: Any) -> str:
    rows = [f"| `{name}` | {registry.entry(name).summary} |" for name in registry]
    return "\n".join([f"| {registry.kind} | |", "|---|---|", *rows])


def _entry(name: str) -> str:
    value = getattr(didact, name)
    if not callable(value):
        return f"### {name}\n\nA `{type(value).__name__}`."
    text = inspect.getdoc(value) or ""
    first = " ".join(re.split(r"\n\s*\n", text)[0].split())
    return f"### {name}{_signature(value)}\n\n{first}{_members(value)}"


def _signature(value: Any) -> str:
    if isinstance(value, type) and (
        issubclass(value, BaseModel | Exception) or getattr(value, "_is_protocol", 0)
    ):
        return ""
    try:
        names = [
            name if p.default is p.empty else f"{name}={'…' if callable(p.default) else repr(p.default)}"
            for name, p in inspect.signature(value).parameters.items()
            if name != "self"
        ]
    except ValueError:
        return ""
    shown = ", ".join(re.sub(r"<[^<>]*>", "…", name) for name in names)
    return f"({shown})"


def _members(value: Any) -> str:
    """The fields of a record and the methods of a class, with their first lines."""
    if not isinstance(value, type) or issubclass(value, Exception):
        return ""
    lines = []
    if issubclass(value, BaseModel):
        fields = (f"`{field}`" for field in value.model_fields)
        lines.append(f"Fields: {', '.join(fields)}." if value.model_fields else "")
    for name, member in vars(value).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        first = " ".join(re.split(r"\n\s*\n", inspect.getdoc(function) or "")[0].split())
        call = name if isinstance(member, property) else f"{name}()"
        lines.append(f"- `{call}`: {first}")
    return "\n\n" + "\n".join(lines).strip() if any(lines) else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
