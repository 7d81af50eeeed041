"""Write the README's tables from the results of the sweeps.

    python recipes/rltf_paper_tasks/table.py runs/warm_start runs/rltf_paper_tasks runs/rltf_ablation

Results are copied to results/NAME.json first, so that the tables can be written again without the runs;
without arguments they are written from there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from readme_tables import Table, difference, estimate, main, percent, share, with_notes  # noqa: E402

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
"""RLTF (arXiv:2602.02482), Tables 1 and 4: first turn, second turn; no intervals, no seeds."""
PAPER_ABLATION = {
    "rltf-sd": 0.79, "second-turn": 0.58, "ppo": 0.38, "rejection-sampling": 0.36, "cispo": 0.33,
}  # fmt: skip
"""The paper's Figs. 2 to 4 on knights_knaves at the end of training, read off, ±.01."""


def main_tables(results: Mapping[str, Any]) -> Iterable[str]:
    """One table per task, with the paper's numbers in the last two columns."""
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
                difference(arm["difference"]), difference(arm["to_method"]), percent(first), percent(second),
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
            cells.append(difference(arm["difference"]))
            cells.append("–" if arm["p_holm"] is None else f"{arm['p_holm']:.3f}")
            cells.append(percent(PAPER_ABLATION.get(arm["arm"])))
            yield "| " + " | ".join(cells) + " |"
        yield ""


def warm_table(report: Mapping[str, Any]) -> Iterable[str]:
    """Accuracy of the small model before any reinforcement learning."""
    yield "| puzzle | first answer | after a hint, of those that were wrong | longest prompt, tokens |"
    yield "|---" * 4 + "|"
    for row in report["measured"]:
        cells = [row["task"], share(row["first"]), share(row["revised"]), str(row["prompt_tokens"])]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield "Built with " + ", ".join(f"{key} {value}" for key, value in report["build"].items()) + "."


TABLES: dict[str, tuple[str, Table]] = {
    "warm_start": ("warm_start.json", warm_table),
    "rltf_paper_tasks": ("results.json", with_notes(main_tables)),
    "rltf_ablation": ("results.json", with_notes(ablation_table)),
}
"""Directory name → (its results file, the function that makes the table)."""


if __name__ == "__main__":
    sys.exit(main(HERE, TABLES, sys.argv[1:]))
