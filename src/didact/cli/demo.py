"""`didact demo`: the bundled model learns from critiques what scalar rewards cannot teach it.

Each arm is an ordinary `didact train` in a process of its own with one thread, as many in parallel as there
are cores; the report is made from their run directories. Run again, the demo keeps finished arms and resumes
the others.
"""

from __future__ import annotations

import json
import shlex
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from didact.cli.options import JsonFileOption
from didact.cli.terminal import Board, evaluation_line, machine_details, say, step_line, usable_cores
from didact.errors import DidactError

if TYPE_CHECKING:
    from didact.config import RunConfig
    from didact.evaluation.results import Report

ARMS = ("grpo", "rltf-sd", "rltf-fm", "rltf-sd-shuffled")
"""In the order of the report; demo.yaml has them in the order in which they start, the longest first."""


def demo(
    task: Annotated[str, typer.Option(help="A reasoning-gym generator.")] = "spell_backward",
    seed: Annotated[int, typer.Option(help="0 to 99.")] = 0,
    out: Annotated[Path, typer.Option(help="Where runs and report go.")] = Path("runs/demo"),
    json_: JsonFileOption = None,
) -> None:
    """Train the bundled model by GRPO and by RLTF, and compare their first answers."""
    from didact.cli.compare import results_table
    from didact.evaluation.learning_curve_plot import plot_learning_curves
    from didact.evaluation.report import write_report
    from didact.run_dir import write_atomically

    console = Console()
    started = time.monotonic()
    arms = demo_configs(task, seed)
    workers = min(len(arms), usable_cores())
    taken_up = [name for name in arms if (out / name).exists()]
    problems = arms["grpo"].eval.problems
    say(console, f"The bundled model, {task}, {problems} problems it is never trained on.")
    say(console, f"{len(arms)} arms, {workers} at a time, one thread each.\n")
    _train_all(arms, out, workers, console)
    # Arms that were there already were trained in another time than this.
    seconds = None if taken_up else round(time.monotonic() - started, 1)
    shown = "not measured: some arms were there already" if seconds is None else f"{seconds:.0f}"
    details = {"seconds": shown, **machine_details(f"{workers} cores used, one thread an arm")}
    report = demo_report(out, task, seed, details)
    write_report(out / "report.html", report)
    plot_learning_curves(out / "curves", report)
    numbers = {**report.to_json(), "seconds": seconds, "cores": workers}
    for file in (out / "results.json", json_):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(numbers, indent=1) + "\n")
    console.print(results_table(report.arms, report.baseline))
    say(console, f"\n{report.summary}")
    finished = "" if seconds is None else f"   ({seconds:.0f} s in all)"
    say(console, f"report: {out / 'report.html'}{finished}")


def demo_configs(task: str, seed: int) -> dict[str, RunConfig]:
    """The arms' configs by name: the shared settings, the task's, then the arm's own."""
    from didact.config import parse_config, read_yaml
    from didact.sweep.plan import merged
    from didact.tasks import make_task

    plan = read_yaml(Path(str(resources.files("didact") / "assets" / "demo.yaml")))
    make_task(task, seed=seed)
    for_task = merged({"task": {"name": task}}, plan["tasks"].get(task, {}))
    return {
        name: parse_config(merged(merged(plan["shared"], for_task), {**arm, "seed": seed}))
        for name, arm in plan["arms"].items()
    }


def demo_report(out: Path, task: str, seed: int, details: dict[str, str]) -> Report:
    """The report over finished arms, with the untrained model beside them."""
    from didact.evaluation.results import Report
    from didact.run_dir import RunDir
    from didact.training.summary import arm_result, with_differences

    arms = [arm_result(out / "grpo", "base", step=0), *(arm_result(out / name, name) for name in ARMS)]
    arms = with_differences([out / "grpo", *(out / name for name in ARMS)], arms, baseline=1)
    grpo, sd, fm = arms[1:4]
    summary = (
        f"Without feedback, {sd.accuracy:.1%} of first answers are right after RLTF-SD read critiques of its "
        f"answers; after GRPO on the same budget {grpo.accuracy:.1%} are."
    )
    # What learning to predict critiques is good for: the model can do without a critic.
    own, without = fm.accuracy_after_own_critique, grpo.accuracy_after_own_critique
    if own is not None and without is not None:
        summary += (
            f" RLTF-FM learned to write the critiques: after one of its own {own:.1%} are right, and "
            f"{without:.1%} for GRPO."
        )
    command = shlex.join(["didact", "demo", "--task", task, "--seed", str(seed)])
    return Report(
        title="Didact demo: learning from critiques",
        task=task,
        n_eval=len(RunDir.open(out / "grpo").read_evaluation(0)),
        seed=seed,
        arms=arms,
        summary=summary,
        details={"command": command, **details},
    )


def _train_all(arms: dict[str, RunConfig], out: Path, workers: int, console: Console) -> None:
    """Train every arm like a cell of a sweep; one that fails is an error with its exit code."""
    from didact.sweep.plan import Cell
    from didact.sweep.run import is_finished, run_cells

    cells = [Cell(name, config.task.name, name, config.seed, config) for name, config in arms.items()]
    left = {cell.name: cell.config for cell in cells if not is_finished(cell, out)}
    with _Board(out, left, console) as board:
        states = run_cells(cells, out, workers=workers, watch=lambda states: board.show())
    for name, state in states.items():
        if state.status == "failed":
            error = DidactError(f"arm {name} failed: {state.reason}")
            error.exit_code = state.code if state.code > 0 else DidactError.exit_code
            raise error


class _Board(Board):
    """One bar an arm on a terminal; elsewhere a line for each evaluation."""

    def __init__(self, out: Path, arms: dict[str, RunConfig], console: Console) -> None:
        super().__init__(console)
        self.out = out
        self.arms = arms
        self.seen = dict.fromkeys(arms, 0)
        self.rows = {name: self.add_task(name, total=1.0, line="waiting") for name in arms}

    def show(self) -> None:
        """Show what is new in the arms' metrics."""
        from didact.run_dir import RunDir, read_jsonl

        for name, row in self.rows.items():
            records = list(read_jsonl(RunDir(self.out / name).metrics))
            for record in records[self.seen[name] :]:
                if "eval" in record:
                    line = f"{name:18} step {record['step']}: {evaluation_line(record['eval'])}"
                    say(self.console, line)
                else:
                    done = self.arms[name].progress(record["step"], record["sampled_tokens"])
                    self.update(row, completed=done, line=step_line(record))
            self.seen[name] = len(records)
