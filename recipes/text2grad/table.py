"""Write the README's tables from the results of the study.

    python recipes/text2grad/table.py runs/text2grad/warm runs/text2grad/rm_* runs/text2grad/study_*

Without arguments they are written from results/.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from didact.evaluation.stats import iqm_interval

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from readme_tables import Table, difference, estimate, headed, main, row, share, with_notes  # noqa: E402

EVERY = {"binary_matrix": 320, "code": 128}
"""Answers sampled by an arm between two evaluations."""
OURS = "direct"
"""The arm that the ablations change."""
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""Student's t at 97.5 %, by degrees of freedom."""


def study(results: Mapping[str, Any]) -> Iterable[str]:
    """One table per task: accuracy by samples, and tests against the baseline."""
    for task in results["tasks"]:
        cells = [cell for cell in results["cells"] if cell["task"] == task["task"]]
        points = max(len(cell["curve"]) for cell in cells)
        every = EVERY[task["task"]]
        yield (
            f"**{task['task']}**, {task['n_eval']} evaluation problems; "
            f"the start is right on {100 * task['base_accuracy']:.1f} %"
        )
        yield ""
        seen = [f"after {every * k:,} answers" for k in range(1, points)]
        against = f"against `{results['baseline']}`, paired"
        ours = f"mean over the budget against `{OURS}`, by seed"
        yield from headed(["arm", "seeds", *seen, "mean over the budget", against, "p (Holm)", ours])
        for arm in task["arms"]:
            curves = [cell["curve"] for cell in cells if cell["arm"] == arm["arm"]]
            whole = all(len(curve) == points for curve in curves)
            yield row([
                f"`{arm['arm']}`", str(len(arm["seeds"])),
                *(at(curves, k) if whole else "–" for k in range(1, points - 1)), estimate(arm["final"]),
                estimate(arm["area"]) if whole else "–", difference(arm["difference"]),
                "–" if arm["p_holm"] is None else f"{arm['p_holm']:.3f}",
                by_seed(cells, arm["arm"], OURS) if whole else "–",
            ])  # fmt: skip
        yield ""


def at(curves: Sequence[Sequence[Sequence[float]]], k: int) -> str:
    """The interquartile mean over seeds at the k-th evaluation."""
    return estimate(iqm_interval([[curve[k][1] for curve in curves]], seed=0)._asdict())


def by_seed(cells: Sequence[Mapping[str, Any]], arm: str, other: str) -> str:
    """The mean difference of two arms over the budget, paired by seed, with Student's 95 % interval."""
    areas = [{c["seed"]: c["area"] for c in cells if c["arm"] == name} for name in (arm, other)]
    apart = [areas[0][seed] - areas[1][seed] for seed in sorted(areas[0].keys() & areas[1].keys())]
    if arm == other or len(apart) - 1 not in STUDENT:
        return "–"
    half = STUDENT[len(apart) - 1] * stdev(apart) / len(apart) ** 0.5
    return difference([mean(apart), mean(apart) - half, mean(apart) + half])


def warm(report: Mapping[str, Any]) -> Iterable[str]:
    """Accuracy of the small model before any reinforcement learning."""
    yield from headed(["task", "first answers right", "tokens of an answer", "longest prompt, tokens"])
    for found in report["measured"]:
        answer = f"{found['answer_tokens']:.1f}"
        yield row([f"`{found['task']}`", share(found), answer, str(found["prompt_tokens"])])
    yield ""
    yield "Built with " + ", ".join(f"{key} {value}" for key, value in report["build"].items()) + "."


def reward_model(found: Mapping[str, Any]) -> Iterable[str]:
    """Marks on held-out answers, token by token."""
    yield from headed(["marks", "precision", "recall", "F1"])
    for polarity in ("good", "poor"):
        scores = found[polarity]["all"]
        yield row([polarity, *(measured(scores[key]) for key in ("precision", "recall", "f1"))])
    yield ""
    names = {
        "marks' IoU": "iou", "answers marked exactly": "exact", "replies that cannot be read": "failures",
        "tokens marked": "coverage", "by the annotator": "coverage_gold",
    }  # fmt: skip
    rest = "; ".join(f"{words} {measured(found[key])}" for words, key in names.items())
    yield f"{found['answers']} held-out answers: {rest}."


def measured(found: Mapping[str, Any]) -> str:
    """`0.912 [0.880, 0.940]`."""
    if found["value"] is None:
        return "–"
    return f"{found['value']:.3f}" + (" [{:.3f}, {:.3f}]".format(*found["ci95"]) if found["ci95"] else "")


MARKS = "reward_model/measured.json"
TABLES: dict[str, tuple[str, Table]] = {
    "warm": ("warm_start.json", warm),
    "rm_matrix": (MARKS, reward_model),
    "rm_code": (MARKS, reward_model),
    "rm_code_bare": (MARKS, reward_model),
    "study_matrix": ("results.json", with_notes(study)),
    "study_code": ("results.json", with_notes(study)),
}
"""Directory name → (its results file, the function that makes the table)."""


if __name__ == "__main__":
    sys.exit(main(HERE, TABLES, sys.argv[1:]))
