"""Write the README's tables from what the sweeps found.

    python recipes/rltf_paper_tasks/table.py runs/warm_start runs/rltf_paper_tasks runs/rltf_ablation

What a directory found goes to results/NAME.json first, so that the tables can be written again without the
runs; without arguments they are written from there.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAPER: dict[str, dict[str, tuple[float, float | None]]] = {
    "knights_knaves": {
        "base": (0.058, None), "grpo": (0.373, None), "grpo-2turn": (0.352, 0.636),
        "rltf-sd": (0.802, 0.896), "rltf-fm": (0.880, 0.910),
    },
    "binary_matrix": {
        "base": (0.001, None), "grpo": (0.125, None), "grpo-2turn": (0.950, 0.978),
        "rltf-sd": (0.976, 0.989), "rltf-fm": (0.978, 0.993),
    },
    "shortest_path": {
        "base": (0.034, None), "grpo": (0.385, None), "grpo-2turn": (0.384, 0.836),
        "rltf-sd": (0.830, 0.892), "rltf-fm": (0.905, 0.976),
    },
}  # fmt: skip
"""RLTF (arXiv:2602.02482), Tables 1 and 4: first turn, second turn; no intervals and no seeds are given."""
PAPER_ABLATION = {
    "rltf-sd": 0.79, "second-turn": 0.58, "ppo": 0.38, "rejection-sampling": 0.36, "cispo": 0.33,
}  # fmt: skip
"""The paper's Figs. 2 to 4 on knights_knaves at the end of training, read off, ±.01."""


Table: TypeAlias = Callable[[Mapping[str, Any]], Iterable[str]]


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def estimate(found: Mapping[str, Any] | None) -> str:
    """`41.5 [38.0, 45.2]`, in per cent."""
    if found is None:
        return "–"
    if found["low"] is None:
        return percent(found["value"])
    return f"{percent(found['value'])} [{percent(found['low'])}, {percent(found['high'])}]"


def paired(difference: Sequence[float] | None) -> str:
    """`+3.5 [+1.0, +6.2]`, in points."""
    if difference is None:
        return "–"
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in difference))


def main_tables(results: Mapping[str, Any]) -> Iterable[str]:
    """One table a task, the paper's numbers in its last two columns."""
    for task in results["tasks"]:
        paper = PAPER[task["task"]]
        base = task["base_accuracy"]
        yield f"**{task['task']}**, {task['n_eval']} evaluation problems, budget {task['budget']}"
        yield ""
        yield (
            f"| arm | seeds | first answer | mean over the budget | at step {task['equal_steps']} "
            "| after a hint | after own critique | against GRPO, paired | control against its method "
            "| paper: first | paper: second |"
        )
        yield "|---" * 11 + "|"
        yield f"| start | – | {percent(base)} | – | – | – | – | – | – | {percent(paper['base'][0])} | – |"
        for arm in task["arms"]:
            first, second = paper.get(arm["arm"], (None, None))
            yield "| " + " | ".join([
                f"`{arm['arm']}`", str(len(arm["seeds"])), estimate(arm["final"]), estimate(arm["area"]),
                estimate(arm["at_equal_steps"]), estimate(arm["after_feedback"]),
                estimate(arm["after_own_critique"]),
                paired(arm["difference"]), paired(arm["to_method"]), percent(first), percent(second),
            ]) + " |"  # fmt: skip
        yield ""


def ablation_table(results: Mapping[str, Any]) -> Iterable[str]:
    for task in results["tasks"]:
        yield f"**{task['task']}**, {task['n_eval']} evaluation problems, budget {task['budget']}"
        yield ""
        yield (
            "| arm | seeds | first answer | mean over the budget | against `rltf-sd`, paired | p (Holm) "
            "| paper |"
        )
        yield "|---" * 7 + "|"
        for arm in task["arms"]:
            cells = [f"`{arm['arm']}`", str(len(arm["seeds"])), estimate(arm["final"]), estimate(arm["area"])]
            cells.append(paired(arm["difference"]))
            cells.append("–" if arm["p_holm"] is None else f"{arm['p_holm']:.3f}")
            cells.append(percent(PAPER_ABLATION.get(arm["arm"])))
            yield "| " + " | ".join(cells) + " |"
        yield ""


def warm_table(report: Mapping[str, Any]) -> Iterable[str]:
    """What the small model can do before any reinforcement learning."""
    yield "| puzzle | first answer | after a hint, of those that were wrong | longest prompt, tokens |"
    yield "|---" * 4 + "|"
    for row in report["measured"]:
        cells = [row["task"], share(row["first"]), share(row["revised"]), str(row["prompt_tokens"])]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield "Built with " + ", ".join(f"{key} {value}" for key, value in report["build"].items()) + "."


def share(found: Mapping[str, Any]) -> str:
    """`26.5 [20.9, 33.0] of 200`, in per cent."""
    low, high = found["ci95"]
    value = found["right"] / found["n"]
    return f"{percent(value)} [{percent(low)}, {percent(high)}] of {found['n']}"


def how(results: Mapping[str, Any]) -> Iterable[str]:
    """Machine, time and what a reader must know."""
    minutes = sum(cell["seconds"] for cell in results["cells"]) / 60
    yield f"{len(results['cells'])} runs, {minutes:.0f} minutes of training, evaluations aside."
    for key, value in results.get("details", {}).items():
        yield f"{key}: {value}."
    yield from results.get("notes", [])
    if results["missing"]:
        yield f"{len(results['missing'])} runs are missing."


def with_notes(table: Table) -> Table:
    """A sweep's table with how it was run."""
    return lambda results: [*table(results), *(f"- {line}" for line in how(results))]


TABLES: dict[str, tuple[str, Table]] = {
    "warm_start": ("warm_start.json", warm_table),
    "rltf_paper_tasks": ("results.json", with_notes(main_tables)),
    "rltf_ablation": ("results.json", with_notes(ablation_table)),
}
"""By the name of a directory: the file in it that counts, and the table that is made from that."""


def write(readme: Path) -> None:
    """Put every table between its marks."""
    text = readme.read_text(encoding="utf-8")
    for name, (_, table) in TABLES.items():
        stored = RESULTS / f"{name}.json"
        if not stored.exists():
            continue
        results = json.loads(stored.read_text(encoding="utf-8"))
        start, stop = f"<!-- {name}: table.py writes from here -->", f"<!-- {name}: to here -->"
        head, _, rest = text.partition(start)
        tail = rest.partition(stop)[2]
        body = "\n".join(table(results))
        text = f"{head}{start}\n\n{body}\n\n{stop}{tail}"
    readme.write_text(text, encoding="utf-8")


def main(directories: Sequence[str]) -> int:
    RESULTS.mkdir(exist_ok=True)
    for directory in map(Path, directories):
        if directory.name not in TABLES:
            print(f"{directory}: its name must be one of {', '.join(TABLES)}", file=sys.stderr)
            return 2
        shutil.copy(directory / TABLES[directory.name][0], RESULTS / f"{directory.name}.json")
    write(HERE / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
