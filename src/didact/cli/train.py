"""`didact train METHOD`: a run, or the rest of one."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from didact.cli.feedback_options import (
    BaseUrlOption,
    DataOption,
    FeedbackOption,
    JudgeModelOption,
    MaxCostOption,
    MaxRequestsOption,
    PriceInOption,
    PriceOutOption,
    UnsafeOption,
    feedback_changes,
)
from didact.cli.progress import RunProgress
from didact.errors import UsageError
from didact.registry import METHODS

if TYPE_CHECKING:
    from didact.config import RunConfig


def train(
    method: Annotated[
        str | None,
        typer.Argument(help=METHODS.help()),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="A YAML file, or recipe:NAME (see `didact recipes list`).")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, as in --set optim.lr=1e-4.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="tiny (bundled), a folder or a hub id.")] = None,
    task: Annotated[str | None, typer.Option(help="A reasoning-gym generator, code or jsonl.")] = None,
    data: DataOption = None,
    feedback: FeedbackOption = None,
    judge_model: JudgeModelOption = None,
    base_url: BaseUrlOption = None,
    max_cost: MaxCostOption = None,
    max_requests: MaxRequestsOption = None,
    price_in: PriceInOption = None,
    price_out: PriceOutOption = None,
    unsafe_local_exec: UnsafeOption = False,
    seed: Annotated[int | None, typer.Option(help="0 to 99.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new run directory.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Check and show everything, write nothing.")] = False,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run.")] = None,
) -> None:
    """Train a model from feedback on its answers."""
    if task is not None and data is not None:
        raise UsageError("--task and --data both say what is asked: give one of them")
    console = Console(stderr=True)
    changes = {"model__path": model, "task__name": task, "seed": seed}
    changes |= feedback_changes(
        feedback=feedback,
        judge_model=judge_model,
        base_url=base_url,
        max_cost=max_cost,
        max_requests=max_requests,
        price_in=price_in,
        price_out=price_out,
        data=data,
        unsafe_local_exec=unsafe_local_exec,
    )
    if resume is not None:
        given = [method, config, set_, out, *changes.values()]
        if dry_run or any(value is not None for value in given):
            raise UsageError("--resume takes its settings from the run: give nothing else beside it")
        _resume(resume, console)
        return
    if method is None:
        raise UsageError("which method? For example `didact train rltf-sd --out runs/first`")
    from didact.cli.recipes import recipe_config
    from didact.config import load_config

    file = None if config is None else recipe_config(config)
    run_config = load_config(method, file, set_ or [], **changes)
    start(run_config, out, dry_run=dry_run)


def start(config: RunConfig, out: Path | None, *, dry_run: bool = False) -> None:
    """Train by a whole config, with progress on the terminal.

    Args:
        config: The settings.
        out: A new run directory; None makes one under `runs/`.
        dry_run: Check and show everything, write nothing.
    """
    (_dry_run if dry_run else _train)(config, out or default_folder(config), Console(stderr=True))


def default_folder(config: RunConfig) -> Path:
    """A run directory named by method, task and time; the same on every rank of a launch."""
    from didact.distributed import process_group

    now = process_group().run_on_main(lambda: time.strftime("%Y%m%d-%H%M%S"))
    return Path("runs") / f"{config.method}-{config.task.name}-{now}"


def _train(config: RunConfig, out: Path, console: Console) -> None:
    from didact.training.api import run_config as run_training

    command = shlex.join(["didact", *sys.argv[1:]])
    with RunProgress(config, console) as progress:
        run = run_training(config, out, report=progress.report, warn=_warning(console), command=command)
    console.print(f"done: {run.path}  (model in {run.model})", highlight=False, markup=False)


def _resume(path: Path, console: Console) -> None:
    from didact.config import parse_config, read_yaml
    from didact.run_dir import RunDir
    from didact.training.api import resume as resume_training

    config = parse_config(read_yaml(RunDir.open(path).config))
    with RunProgress(config, console) as progress:
        run = resume_training(path, report=progress.report, warn=_warning(console))
    console.print(f"done: {run.path}  (model in {run.model})", highlight=False, markup=False)


def _warning(console: Console) -> Callable[[dict[str, Any]], None]:
    def warn(record: dict[str, Any]) -> None:
        console.print(f"didact: {record['warning']}", highlight=False, markup=False)

    return warn


def _dry_run(config: RunConfig, out: Path, console: Console) -> None:
    from didact.build.checks import check_trains
    from didact.build.components import build
    from didact.methods import make_method
    from didact.run_dir import RunDir

    RunDir.refuse_existing(out)
    check_trains(make_method(config.method, config.settings), config.method)
    parts = build(config)
    problem = parts.task.train_problem(0)
    config = config.model_copy(update={"settings": parts.method.model_dump(mode="json")})
    typer.echo(config.to_yaml(), nl=False)
    typer.echo(f"# would write to {out}")
    typer.echo(f"# first problem: {problem.question!r}")
    typer.echo(f"# prompt of {len(parts.renderer.prompt(problem.messages))} tokens; nothing was written")
