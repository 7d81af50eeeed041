"""`didact descend`: a better instruction from critiques, and no weight changed."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from didact.cli.feedback_options import (
    BaseUrlOption,
    FeedbackOption,
    JudgeModelOption,
    MaxRequestsOption,
    feedback_changes,
)
from didact.errors import UsageError

if TYPE_CHECKING:
    from didact.config import RunConfig
    from didact.run_dir import RunDir


def descend(
    config: Annotated[
        str | None,
        typer.Option(help="A YAML file of any method, or recipe:NAME: what is asked, by which model."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting, as in --set settings.validation=32."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="tiny (bundled), a folder or a hub id.")] = None,
    task: Annotated[str | None, typer.Option(help="A task, as in `didact train --task`.")] = None,
    feedback: FeedbackOption = None,
    judge_model: JudgeModelOption = None,
    base_url: BaseUrlOption = None,
    max_requests: MaxRequestsOption = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Proposals. [default: 5]")] = None,
    seed: Annotated[int | None, typer.Option(help="0 to 99.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new run directory.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Check and show everything, write nothing.")] = False,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run.")] = None,
) -> None:
    """Improve the instruction before every problem, by Feedback Descent (arXiv:2511.07919).

    The peer of training that changes no weight: a round has wrong answers criticised, lets the model write
    another instruction, and keeps it if it does better on training problems that were put aside. The run
    directory is read by `didact compare` and `didact eval` like any other.
    """
    from didact.descend.run import resume_descent

    changes = {"model__path": model, "task__name": task, "seed": seed, "steps": rounds}
    changes |= feedback_changes(
        feedback=feedback, judge_model=judge_model, base_url=base_url, max_requests=max_requests
    )
    if resume is not None:
        if dry_run or any(value is not None for value in (config, set_, out, *changes.values())):
            raise UsageError("--resume takes its settings from the run: give nothing else beside it")
        _tell(resume_descent(resume, report=_report))
        return
    run_config = _config(config, set_ or [], changes)
    out = out or Path("runs") / f"{run_config.method}-{run_config.task.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if dry_run:
        _dry_run(run_config, out)
        return
    from didact.descend.run import descend as run_descent

    command = shlex.join(["didact", *sys.argv[1:]])
    _tell(run_descent(run_config, out, report=_report, command=command))


def _config(name: str | None, overrides: list[str], changes: dict[str, Any]) -> RunConfig:
    """The settings; of a file for another method, whose steps are no rounds, 5 rounds."""
    from didact.cli.recipes import recipe_config
    from didact.config import borrow_config, read_yaml
    from didact.descend.feedback_descent import NAME
    from didact.descend.run import ROUNDS

    file = None if name is None else recipe_config(name)
    own = file is not None and read_yaml(file).get("method") == NAME
    if changes["steps"] is None and not own:
        changes = {**changes, "steps": ROUNDS}
    return borrow_config(NAME, file, overrides, **changes)


def _dry_run(config: RunConfig, out: Path) -> None:
    from didact.build.components import build
    from didact.descend.run import check_room, descent_settings
    from didact.run_dir import RunDir

    RunDir.refuse_existing(out)
    method = descent_settings(config)
    parts = build(config)
    train, validation = method.split(parts.task)
    check_room(parts, method, [*train, *validation])
    config = config.model_copy(update={"settings": method.model_dump(mode="json")})
    typer.echo(config.to_yaml(), nl=False)
    typer.echo(f"# {len(train)} problems to learn from, {len(validation)} to compare on")
    typer.echo(f"# would write to {out}; nothing was written")


def _report(record: dict[str, Any]) -> None:
    """One line of metrics.jsonl in a few words."""
    from didact.cli.progress import evaluation_line
    from didact.evaluation.text_sanitizer import plain_name

    if "eval" in record:
        typer.echo(f"round {record['step']}: {evaluation_line(record['eval'])}", err=True)
        return
    line = f"round {record['step']}: "
    if "validation_candidate" in record:
        line += f"{record['validation_candidate']:.3f} against {record['validation_best']:.3f} on "
        line += f"{record['validation_n']} validation problems, {'kept' if record['kept'] else 'not kept'}"
    else:
        line += f"no new instruction to try: {plain_name(record.get('no_proposal', ''), 200)}"
    typer.echo(line, err=True)


def _tell(run: RunDir) -> None:
    """What came of it: the instruction, and the paired difference that it makes."""
    from didact.evaluation.stats import paired_difference
    from didact.evaluation.text_sanitizer import plain_name

    result = json.loads(run.result.read_text(encoding="utf-8"))
    sides = [
        [float("nan") if r.turns[0].reward is None else float(r.turns[0].correct) for r in rollouts]
        for rollouts in (run.read_evaluation(result["steps"]), run.read_evaluation(0))
    ]
    if len(sides[0]) == len(sides[1]) > 1:
        found = paired_difference(*sides, seed=0)
        typer.echo(
            f"right without feedback, against the first instruction: {100 * found.mean:+.1f} points "
            f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}] on {found.n} problems"
        )
    typer.echo(f"instruction: {plain_name(result['prompt'], 2000) or '(none)'}")
    typer.echo(f"done: {run.path}", err=True)
