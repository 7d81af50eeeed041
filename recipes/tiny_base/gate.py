"""Measure what the tiny model can and cannot do: the gate that a build has to pass.

    python recipes/tiny_base/gate.py [MODEL_DIR]

measures a saved model (default: the bundled one), and writes `gate.json` and the README's table.
Exit status 4: the model does not pass.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples import CIPHERS, CRITIC, DEMO, SUMS

from didact.engines.base import SamplingParams
from didact.engines.local import LocalEngine
from didact.evaluation.evaluate import evaluate
from didact.evaluation.stats import wilson
from didact.rendering.renderer import Renderer
from didact.rollouts.base import StepContext
from didact.tasks import make_task

HERE = Path(__file__).parent
BUNDLED = HERE.parents[1] / "src" / "didact" / "assets" / "tiny"
PROBLEMS = 300
LONGEST_ANSWER = 24
EASY = ("spell_backward", {"min_word_len": 3, "max_word_len": 4})
BETWEEN = ("spell_backward", {"min_word_len": 5, "max_word_len": 5})
LONGER = ("spell_backward", {"min_word_len": 8, "max_word_len": 8})
UNSEEN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("gcd", {}),
    ("products", {"min_digits": 1, "max_digits": 2}),
    ("count_bits", {}),
    ("simple_equations", {}),
)
"""Generators that occur nowhere in the training data: their questions are read as bytes."""
FAMILIES = (
    ("demo", *DEMO),
    ("easy", *EASY),
    ("between", *BETWEEN),
    ("mix", *SUMS),
    ("mix", *CIPHERS),
    ("unseen", *LONGER),
    *(("unseen", *family) for family in UNSEEN),
)
FIRST_AT_MOST, AFTER_AT_LEAST = 0.01, 0.5
MEASURES = ("first_sampled", "first_greedy", "after_feedback")
START, STOP = "<!-- gate.py writes from here -->", "<!-- to here -->"


def gate(model_dir: Path) -> dict[str, Any]:
    """Measure every family; `faults` lists the reasons to fail, if any."""
    engine = LocalEngine.from_pretrained(str(model_dir))
    rows, faults = [], []
    for role, name, config in FAMILIES:
        found = measure(engine, name, config)
        rows.append({"role": role, "task": name, "config": config, **found})
        print(f"{role:7}{name:18}" + "  ".join(f"{m} {show(found[m])}" for m in MEASURES), flush=True)
        if role == "demo":
            faults += [
                f"{name}: {m} is {show(found[m])}, above {FIRST_AT_MOST:.0%}"
                for m in ("first_sampled", "first_greedy")
                if share(found[m]) > FIRST_AT_MOST
            ]
        if role == "demo" and share(found["after_feedback"]) <= AFTER_AT_LEAST:
            faults.append(f"{name}: after_feedback is {show(found['after_feedback'])}, not above 50%")
    return {"passed": not faults, "faults": faults, "problems": PROBLEMS, "rows": rows}


def measure(engine: LocalEngine, name: str, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """First answers, sampled and greedy, and sampled answers after a critique of a wrong sampled one."""
    task = make_task(name, dict(config))
    sampling = SamplingParams(max_tokens=LONGEST_ANSWER)
    ctx = StepContext(engine, Renderer(engine.tokenizer), task, CRITIC, sampling, seed=0)
    problems = task.eval_problems(PROBLEMS)
    sampled = evaluate(ctx, problems, temperature=1.0)
    greedy = evaluate(ctx, problems, temperature=0.0, feedback=False)
    revised = [rollout.turns[1].correct for rollout in sampled.rollouts if len(rollout.turns) > 1]
    outcomes = (sampled.first.tolist(), greedy.first.tolist(), revised)
    return {m: rate(found) for m, found in zip(MEASURES, outcomes, strict=True)}


def rate(outcomes: Sequence[bool]) -> dict[str, Any]:
    """A share of n trials with its 95% Wilson interval; no interval for no trials."""
    right, n = sum(outcomes), len(outcomes)
    return {"right": right, "n": n, "ci95": list(wilson(right, n)) if n else None}


def share(found: Mapping[str, Any]) -> float:
    return found["right"] / found["n"] if found["n"] else 0.0


def show(found: Mapping[str, Any]) -> str:
    """`12.0% [8.8%, 16.2%] of 300`"""
    if not found["n"]:
        return "none to revise"
    low, high = found["ci95"]
    return f"{share(found):.1%} [{low:.1%}, {high:.1%}] of {found['n']}"


def write_report(report: Mapping[str, Any]) -> None:
    """gate.json, and the README's table from it."""
    (HERE / "gate.json").write_text(json.dumps(report, indent=1) + "\n")
    readme = HERE / "README.md"
    head, _, rest = readme.read_text().partition(START)
    tail = rest.partition(STOP)[2]
    readme.write_text(f"{head}{START}\n\n{table(report)}\n{STOP}{tail}")


def table(report: Mapping[str, Any]) -> str:
    """The rates as a Markdown table, and how the model was built."""
    lines = [
        "| task | role | first answer, sampled | first, greedy | after feedback, sampled |",
        "|---" * 5 + "|",
    ]
    for row in report["rows"]:
        settings = ", ".join(f"{k}={v}" for k, v in row["config"].items())
        cells = [f"`{row['task']}` {settings}".strip(), row["role"], *(show(row[m]) for m in MEASURES)]
        lines.append("| " + " | ".join(cells) + " |")
    if "build" in report:
        lines += ["", "Built with " + ", ".join(f"{k} {v}" for k, v in report["build"].items()) + "."]
    return "\n".join(lines) + "\n"


def main(model_dir: Path) -> int:
    report = gate(model_dir)
    if (HERE / "gate.json").exists():
        stored = json.loads((HERE / "gate.json").read_text())
        report |= {"build": stored["build"]} if "build" in stored else {}
    write_report(report)
    for fault in report["faults"]:
        print("gate:", fault, file=sys.stderr)
    return 0 if report["passed"] else 4


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else BUNDLED))
