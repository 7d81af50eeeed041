"""`didact descend`: optimise an instruction from critiques, without training."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from didact.cli.options import (
    DryRunOption,
    ModelOption,
    OutOption,
    ResumeOption,
    SeedOption,
    SetOption,
    TaskOption,
    feedback_options,
    refuse_beside_resume,
)
from didact.cli.recipes import recipe_file
from didact.cli.terminal import evaluation_line
from didact.cli.train import default_folder, show_config
from didact.evaluation.text_sanitizer import plain_name

if TYPE_CHECKING:
    from didact.config import RunConfig
    from didact.run_dir import RunDir


@feedback_options
def descend(
    changes: dict[str, Any],
    config: Annotated[
        str | None, typer.Option(help="A YAML file of any method, or recipe:NAME: the task and the model.")
    ] = None,
    set_: SetOption = None,
    model: ModelOption = None,
    task: TaskOption = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Proposals. [default: 5]")] = None,
    seed: SeedOption = None,
    out: OutOption = None,
    dry_run: DryRunOption = False,
    resume: ResumeOption = None,
) -> None:
    """Optimise the instruction before every problem by Feedback Descent (arXiv:2511.07919); trains no weight.

    Each round criticises wrong answers, lets the model write another instruction, and keeps it if it does
    better on training problems that were held out. `didact compare` and `didact eval` read the run directory.
    """
    from didact.descend.run import descend as run_descent
    from didact.descend.run import resume_descent

    own = {"model__path": model, "task__name": task, "seed": seed, "steps": rounds}
    if resume is not None:
        refuse_beside_resume([config, set_, out, dry_run, *own.values(), *changes.values()])
        _show_result(resume_descent(resume, report=_report))
        return
    run_config = _config(config, set_ or [], own | changes)
    out = out or default_folder(run_config)
    if dry_run:
        _dry_run(run_config, out)
        return
    command = shlex.join(["didact", *sys.argv[1:]])
    _show_result(run_descent(run_config, out, report=_report, command=command))


def _config(name: str | None, overrides: list[str], changes: dict[str, Any]) -> RunConfig:
    """The settings; 5 rounds unless given here or in a file of this method."""
    from didact.config import borrow_config, read_yaml
    from didact.descend.feedback_descent import NAME
    from didact.descend.run import ROUNDS

    file = None if name is None else recipe_file(name)
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
    show_config(config)
    typer.echo(f"# {len(train)} problems to learn from, {len(validation)} to compare on")
    typer.echo(f"# would write to {out}; nothing was written")


def _report(record: dict[str, Any]) -> None:
    """Print one line of metrics.jsonl in a few words."""
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


def _show_result(run: RunDir) -> None:
    """Print the instruction and the paired difference that it makes."""
    from didact.evaluation.stats import paired_difference
    from didact.training.summary import correct_or_nan

    result = json.loads(run.result.read_text(encoding="utf-8"))
    sides = [
        [correct_or_nan(r.turns[0]) for r in rollouts]
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
