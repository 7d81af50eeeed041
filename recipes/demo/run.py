"""The demo over seeds and tasks: the numbers of this folder's README.

    python recipes/demo/run.py --seeds 0 1 2 3 4 --tasks spell_backward

Runs `didact demo` for every pair in turn, keeps the output in `results/`, and writes the README's table
from everything there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
START, STOP = "<!-- run.py writes from here -->", "<!-- to here -->"


def main() -> None:
    """Run the missing pairs, then write the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    arguments.add_argument("--tasks", nargs="*", default=["spell_backward"])
    arguments.add_argument("--runs", type=Path, default=Path("runs"))
    args = arguments.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for task in args.tasks:
        for seed in args.seeds:
            out, file = args.runs / f"demo-{task}-{seed}", RESULTS / f"{task}-{seed}.json"
            command = ["demo", "--task", task, "--seed", str(seed), "--out", str(out), "--json", str(file)]
            print(" ".join(["didact", *command]), flush=True)
            subprocess.run([sys.executable, "-m", "didact.cli.main", *command], check=True)
    text = (HERE / "README.md").read_text(encoding="utf-8")
    head, tail = text.split(START)[0], text.split(STOP)[1]
    (HERE / "README.md").write_text(f"{head}{START}\n\n{tables()}\n{STOP}{tail}", encoding="utf-8")


def tables() -> str:
    """One Markdown table per task: an arm per row, a seed per column."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text())
        found[result["task"]].append(result)
    return "\n\n".join(_table(task, results) for task, results in sorted(found.items()))


def _table(task: str, results: list[dict[str, Any]]) -> str:
    results.sort(key=lambda result: int(result["seed"]))
    seeds = " | ".join(f"seed {result['seed']}" for result in results)
    lines = [f"### `{task}`, n = {results[0]['n_eval']}", "", f"| arm | {seeds} | after feedback |"]
    lines.append("|---" * (len(results) + 2) + "|")
    by_arm = list(zip(*(result["results"] for result in results), strict=True))
    for arms in by_arm:
        cells = [_share(a["accuracy"], a["ci95"]) for a in arms]
        after = [a["accuracy_after_feedback"] for a in arms if a["accuracy_after_feedback"] is not None]
        mean = f"{100 * sum(after) / len(after):.1f}" if after else ""
        lines.append(f"| {arms[0]['method']} | {' | '.join(cells)} | {mean} |")
    lines += ["", "After at most one critique that the model wrote itself:", ""]
    lines += [f"| arm | {seeds} |", "|---" * (len(results) + 1) + "|"]
    for arms in by_arm:
        cells = [_share(a["accuracy_after_own_critique"], a["own_critique_ci95"]) for a in arms]
        lines.append(f"| {arms[0]['method']} | {' | '.join(cells)} |")
    seconds = ", ".join(f"{result['seconds']:.0f}" for result in results)
    cores = results[0]["cores"]
    return "\n".join(
        [*lines, "", f"Seconds by seed, {cores} cores, evaluation and report included: {seconds}."]
    )


def _share(share: float, interval: list[float]) -> str:
    return f"{100 * share:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


if __name__ == "__main__":
    main()
