"""`didact sweep FILE`: methods × tasks × seeds, and a table with intervals at the end."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from didact.cli.recipes import recipe_file
from didact.cli.terminal import Board, machine_details, make_table, percent_interval, say, usable_cores
from didact.errors import DidactError
from didact.evaluation.text_sanitizer import plain_name, plain_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from didact.evaluation.stats import Estimate
    from didact.sweep.plan import Cell, Plan
    from didact.sweep.results import TaskResults
    from didact.sweep.run import CellState


def sweep(
    file: Annotated[str, typer.Argument(help="A sweep's YAML file, or recipe:NAME.")],
    out: Annotated[Path | None, typer.Option(help="Where runs and results go.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells at a time; one a core if not given.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run only these cells, as 'easy/grpo/*'; may be repeated.")
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option(
            help="In place of the file's, as shuffled,verdict: shuffled, other-problem, verdict, reference, "
            "second-try, spans-drop30, spans-drop60, spans-flip20, spans-shuffled."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Check and show the cells, write nothing.")] = False,
) -> None:
    """Train methods on tasks with several seeds and equal budgets, and compare them with intervals.

    Run again, it keeps finished cells and resumes the others.
    """
    from didact.sweep.plan import read_plan
    from didact.sweep.run import run_cells

    path = recipe_file(file, "sweep.yaml")
    plan = read_plan(path, controls=None if controls is None else controls.split(","))
    cells = plan.chosen(only or [])
    out = out or Path("runs") / (path.resolve().parent.name if path.stem == "sweep" else path.stem)
    workers = min(workers or usable_cores(), len(cells))
    if dry_run:
        _show_plan(plan, cells, out, workers)
        return
    console = Console()
    say(console, f"{len(cells)} cells, {workers} at a time, one thread each, in {out}")
    with _Board(out, cells, console) as board:
        states = run_cells(cells, out, workers=workers, watch=board.show)
    command = shlex.join(["didact", *sys.argv[1:]])
    details = {"command": command, **machine_details(f"{workers} cells at a time, one thread each")}
    _finish(plan, out, states, details, console)


def _finish(
    plan: Plan, out: Path, states: dict[str, CellState], details: dict[str, str], console: Console
) -> None:
    """Write results.json and report.html, show the table, and name what failed."""
    from didact.jsonl import write_atomically
    from didact.sweep.collect import collect
    from didact.sweep.report import summary, write_sweep_report

    results = collect(plan, out, states=states, details=details)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "results.json", json.dumps(results.to_json(), indent=1) + "\n")
    write_sweep_report(out / "report.html", results)
    for task in results.tasks:
        console.print(results_table(task, results.baseline))
    for name, alarm in results.alarms:
        say(console, f"{name}: {alarm.name}: {plain_text(alarm.message)}")
    for note in results.notes:
        say(console, note)
    say(console, f"\n{summary(results)}")
    say(console, f"report: {out / 'report.html'}")
    failed = {name: state for name, state in states.items() if state.status == "failed"}
    if not failed:
        return
    reasons = "".join(f"\n  {name}: {state.reason}" for name, state in failed.items())
    error = DidactError(
        f"{len(failed)} of {len(states)} cells failed; {len(results.cells)} are in the results. The same "
        f"command tries those again that failed:{reasons}"
    )
    codes = {state.code for state in failed.values()}
    if len(codes) == 1 and min(codes) > 0:
        error.exit_code = codes.pop()
    raise error


def results_table(task: TaskResults, baseline: str) -> Table:
    """The arms on one task as a table for the terminal, in per cent."""
    title = f"{plain_name(task.task)}: first answers right without feedback, % [95 % interval over seeds]"
    beats = f"beats {plain_name(baseline)}"
    headings = ("arm", "seeds", "right", "over budget", beats, "p (Holm)", "tokens", "critic's")
    rows = [
        (
            plain_name(arm.arm),
            len(arm.seeds),
            _percent(arm.final),
            _percent(arm.area),
            _percent(arm.improvement),
            None if arm.p_holm is None else f"{arm.p_holm:.3f}",
            f"{arm.sampled_tokens:,.0f}",
            f"{arm.feedback_tokens:,.0f}",
        )
        for arm in task.arms
    ]
    return make_table(title, headings, rows)


def _percent(estimate: Estimate | None) -> str:
    return "" if estimate is None else percent_interval(*estimate[:3])


def _show_plan(plan: Plan, cells: Sequence[Cell], out: Path, workers: int) -> None:
    """Print every cell with its budget, and whether it is finished."""
    from didact.methods import make_method
    from didact.registry import SOURCES
    from didact.sweep.run import check_settings, is_finished
    from didact.tasks import make_task

    width = max(len(cell.name) for cell in cells)
    for cell in cells:
        config = cell.config
        check_settings(cell, out)
        make_task(config.task.name, config.task.settings, seed=config.seed)
        make_method(config.method, config.settings)
        SOURCES.make(config.feedback.source, config.feedback.settings)
        tokens = config.max_sampled_tokens
        budget = f"{config.steps:,} steps" if tokens is None else f"{tokens:,} tokens"
        there = ", finished" if is_finished(cell, out) else ""
        typer.echo(f"{cell.name:{width}} {budget}{there}")
    typer.echo(f"# {len(cells)} cells, {workers} at a time, compared with {plan.baseline}")
    typer.echo(f"# would write to {out}; nothing was written")


class _Board(Board):
    """One bar for the sweep on a terminal, with the running cells; elsewhere a line per change."""

    def __init__(self, out: Path, cells: Sequence[Cell], console: Console) -> None:
        super().__init__(console)
        self.out = out
        self.configs: dict[str, Any] = {cell.name: cell.config for cell in cells}
        self.shares = dict.fromkeys(self.configs, 0.0)
        self.width = max(map(len, self.configs))
        self.before: dict[str, str] = {}
        self.last_read = 0.0
        self.row = self.add_task("sweep", total=float(len(self.configs)), line="")

    def show(self, states: dict[str, CellState]) -> None:
        """Show what is new; reads the metrics of running cells once a second."""
        from didact.run_dir import RunDir, read_jsonl

        is_due = self.console.is_terminal and time.monotonic() - self.last_read >= 1
        self.last_read = time.monotonic() if is_due else self.last_read
        for name, state in states.items():
            if state.status != self.before.get(name):
                self._print(name, state)
            if state.status in ("finished", "failed"):
                self.shares[name] = 1.0
            elif state.status == "running" and is_due:
                records = list(read_jsonl(RunDir(self.out / name).metrics))
                if records:
                    last = records[-1]
                    done = self.configs[name].progress(last["step"], last["sampled_tokens"])
                    self.shares[name] = float(done)
        self.before = {name: state.status for name, state in states.items()}
        running = [name for name, state in states.items() if state.status == "running"]
        self.update(self.row, completed=sum(self.shares.values()), line=", ".join(running))

    def _print(self, name: str, state: CellState) -> None:
        if state.status == "waiting":
            return
        word = "taken up: it was finished" if not self.before and state.status == "finished" else state.status
        reason = f": {state.reason}" if state.reason else ""
        if state.status == "elsewhere":
            reason = ": another process runs it; waiting for its end"
        say(self.console, f"{name:{self.width}} {word}{reason}")
