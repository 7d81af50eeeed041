"""Tables in a recipe's README, written from results that are stored beside it.

A run's results are copied to results/NAME.json first, so that the tables can be written again without the
runs.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Table: TypeAlias = Callable[[Mapping[str, Any]], Iterable[str]]


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def estimate(found: Mapping[str, Any] | None) -> str:
    """`41.5 [38.0, 45.2]`, in percent."""
    if found is None:
        return "–"
    if found["low"] is None:
        return percent(found["value"])
    return f"{percent(found['value'])} [{percent(found['low'])}, {percent(found['high'])}]"


def difference(found: Sequence[float] | None) -> str:
    """`+3.1 [-0.2, +6.4]`, in percentage points."""
    return "–" if found is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * v for v in found))


def share(found: Mapping[str, Any]) -> str:
    """`26.5 [20.9, 33.0] of 200`, in percent."""
    low, high = found["ci95"]
    value = found["right"] / found["n"]
    return f"{percent(value)} [{percent(low)}, {percent(high)}] of {found['n']}"


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def headed(names: Sequence[str]) -> list[str]:
    return [row(names), "|---" * len(names) + "|"]


def how(results: Mapping[str, Any]) -> Iterable[str]:
    """Number of runs, minutes of training, machine and notes."""
    minutes = sum(cell["seconds"] for cell in results["cells"]) / 60
    yield f"{len(results['cells'])} runs, {minutes:.0f} minutes of training, evaluations aside."
    for key, value in results.get("details", {}).items():
        yield f"{key}: {value}."
    yield from results.get("notes", [])
    if results["missing"]:
        yield f"{len(results['missing'])} runs are missing."


def with_notes(table: Table) -> Table:
    """A sweep's table, followed by `how` it was run."""
    return lambda results: [*table(results), *(f"- {line}" for line in how(results))]


def write(readme: Path, tables: Mapping[str, tuple[str, Table]]) -> None:
    """Replace every table between its markers."""
    text = readme.read_text(encoding="utf-8")
    for name, (_, table) in tables.items():
        stored = readme.parent / "results" / f"{name}.json"
        if not stored.exists():
            continue
        results = json.loads(stored.read_text(encoding="utf-8"))
        start, stop = f"<!-- {name}: table.py writes from here -->", f"<!-- {name}: to here -->"
        head, _, rest = text.partition(start)
        tail = rest.partition(stop)[2]
        body = "\n".join(table(results))
        text = f"{head}{start}\n\n{body}\n\n{stop}{tail}"
    readme.write_text(text, encoding="utf-8")


def main(here: Path, tables: Mapping[str, tuple[str, Table]], directories: Sequence[str]) -> int:
    """Store the results of the given directories, and write the README.

    Args:
        here: The recipe's folder.
        tables: Directory name → (its results file, the function that makes the table).
        directories: Runs whose results are copied; none to use what is stored.
    """
    results = here / "results"
    results.mkdir(exist_ok=True)
    for directory in map(Path, directories):
        if directory.name not in tables:
            print(f"{directory}: its name must be one of {', '.join(tables)}", file=sys.stderr)
            return 2
        shutil.copy(directory / tables[directory.name][0], results / f"{directory.name}.json")
    write(here / "README.md", tables)
    return 0
