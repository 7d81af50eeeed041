"""`didact compare RUN…`: runs side by side on the same problems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from didact.cli.terminal import make_table, percent, percent_interval, points
from didact.errors import UsageError
from didact.evaluation.text_sanitizer import plain_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from didact.evaluation.results import ArmResult


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; the first is the baseline.")],
    html: Annotated[Path | None, typer.Option(help="Also write a report here.")] = None,
) -> None:
    """Compare runs by first-turn accuracy, paired problem by problem with the first one."""
    from didact.config import read_yaml
    from didact.evaluation.report import write_report
    from didact.evaluation.results import Report
    from didact.run_dir import RunDir
    from didact.training.summary import arm_result, with_differences

    if len(runs) < 2:
        raise UsageError("comparing needs at least two run directories")
    names = [path.resolve().name for path in runs]
    if len(set(names)) < len(names):
        names = [str(path) for path in runs]
    arms = [arm_result(path, name) for path, name in zip(runs, names, strict=True)]
    arms = with_differences(runs, arms, baseline=0)
    Console().print(results_table(arms, names[0]))
    if html is not None:
        first = RunDir.open(runs[0])
        config = read_yaml(first.config)
        best = max(arms, key=lambda arm: arm.accuracy)
        report = Report(
            title="Didact: runs compared",
            task=config["task"]["name"],
            n_eval=len(first.read_evaluation(arms[0].steps)),
            seed=config["seed"],
            arms=arms,
            summary=f"{best.method} answers {best.accuracy:.1%} right without feedback, the most of these.",
            baseline=names[0],
            details={"command": "didact compare " + " ".join(map(str, runs))},
        )
        write_report(html, report)
        typer.echo(f"report: {html}")


def results_table(arms: Sequence[ArmResult], baseline: str) -> Table:
    """The arms as a table, in per cent; with mean rewards where these are not the shares of right answers."""
    shown = any(arm.reward not in (None, arm.accuracy) for arm in arms)
    columns = ["method", "right", f"minus {plain_name(baseline)}", "after\ncritic", "after\nself", "tokens"]
    rows = [
        (
            plain_name(arm.method),
            percent_interval(arm.accuracy, *arm.ci95),
            None if arm.difference is None else points(*arm.difference),
            percent(arm.accuracy_after_feedback),
            percent(arm.accuracy_after_own_critique),
            f"{arm.sampled_tokens:,}",
            *([None if arm.reward is None else f"{arm.reward:.3f}"] if shown else []),
        )
        for arm in arms
    ]
    headings = [*columns, "reward"] if shown else columns
    return make_table("First answers right without feedback, % [95 % interval]", headings, rows, no_wrap=3)
