"""`didact train METHOD`: a run, or the rest of one."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console

from didact.cli.options import (
    ConfigOption,
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
from didact.cli.terminal import RunProgress, say
from didact.errors import UsageError
from didact.registry import METHODS

if TYPE_CHECKING:
    from didact.config import RunConfig
    from didact.run_dir import RunDir


@feedback_options
def train(
    changes: dict[str, Any],
    method: Annotated[str | None, typer.Argument(help=METHODS.help())] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    model: ModelOption = None,
    task: TaskOption = None,
    data: Annotated[
        str | None,
        typer.Option(help="Your prompts: a JSONL, CSV or Parquet file, or a Hugging Face dataset id."),
    ] = None,
    offline_data: Annotated[
        Path | None,
        typer.Option(help="Recorded answers with feedback to learn from: a file of `didact data import`."),
    ] = None,
    seed: SeedOption = None,
    out: OutOption = None,
    dry_run: DryRunOption = False,
    resume: ResumeOption = None,
) -> None:
    """Train a model from feedback on its answers."""
    if resume is not None:
        given = [method, config, set_, model, task, data, offline_data, seed, out, dry_run, *changes.values()]
        refuse_beside_resume(given)
        _resume(resume)
        return
    if method is None:
        raise UsageError("which method? For example `didact train rltf-sd --out runs/first`")
    named = {"--task": task, "--data": data, "--offline-data": offline_data}
    if len(both := [option for option, value in named.items() if value is not None]) > 1:
        raise UsageError(f"{both[0]} and {both[1]} both name the problems: give one of them")
    own: dict[str, Any] = {"model__path": model, "seed": seed, "task__name": task}
    if data is not None:
        own |= {"task__name": "prompts", "task__settings__path": data}
    elif offline_data is not None:
        own |= _offline(str(offline_data), changes["feedback__source"])
    # The task's name comes first: another task drops the settings of the file's.
    changes = own | {key: value for key, value in changes.items() if value is not None}
    from didact.config import load_config

    file = None if config is None else recipe_file(config)
    start(load_config(method, file, set_ or [], **changes), out, dry_run=dry_run)


def _offline(path: str, source: str | None) -> dict[str, Any]:
    """Take first answers from a file, and the critiques too unless another source is named."""
    changes: dict[str, Any] = {"task__name": "offline", "task__settings__path": path}
    if source in (None, "recorded", "human"):
        changes |= {"feedback__source": source or "recorded", "feedback__settings__path": path}
    if source == "human":
        changes["task__settings__critique_sources"] = ["human"]
    return changes


def start(config: RunConfig, out: Path | None, *, dry_run: bool = False) -> None:
    """Train by a config in a new run directory, None being one under `runs/`; a dry run only checks."""
    out = out or default_folder(config)
    if dry_run:
        _dry_run(config, out)
        return
    from didact.training.api import run_config as run_training

    _follow(config, partial(run_training, config, out, command=shlex.join(["didact", *sys.argv[1:]])))


def default_folder(config: RunConfig) -> Path:
    """A run directory named by method, task and time; the same on every rank of a launch."""
    from didact.distributed import process_group

    now = process_group().run_on_main(lambda: time.strftime("%Y%m%d-%H%M%S"))
    # Of a component named as dir/file.py:Class, only the class.
    method, task = (name.rpartition(":")[2] for name in (config.method, config.task.name))
    return Path("runs") / f"{method}-{task}-{now}"


def _resume(path: Path) -> None:
    from didact.config import parse_config, read_yaml
    from didact.run_dir import RunDir
    from didact.training.api import resume as resume_training

    config = parse_config(read_yaml(RunDir.open(path).config))
    _follow(config, partial(resume_training, path))


def _follow(config: RunConfig, training: Callable[..., RunDir]) -> None:
    """Train, with progress on the terminal."""
    console = Console(stderr=True)
    with RunProgress(config, console) as progress:
        run = training(report=progress.report, warn=progress.warn)
    say(console, f"done: {run.path}  (model in {run.model})")


def _dry_run(config: RunConfig, out: Path) -> None:
    from didact.build.checks import check_trains
    from didact.build.components import build
    from didact.methods import make_method
    from didact.rollouts.base import problem_prompt
    from didact.run_dir import RunDir

    RunDir.refuse_existing(out)
    check_trains(make_method(config.method, config.settings), config.method)
    parts = build(config)
    problem = parts.task.train_problem(0)
    length = len(problem_prompt(parts.renderer, problem))
    show_config(config.model_copy(update={"settings": parts.method.model_dump(mode="json")}))
    typer.echo(f"# would write to {out}")
    typer.echo(f"# first problem: {problem.question!r}")
    typer.echo(f"# prompt of {length} tokens; nothing was written")


def show_config(config: RunConfig) -> None:
    """Print two YAML documents: the settings that differ from the defaults, then all of them."""
    from didact.config import RunConfig as Config
    from didact.methods import make_method

    try:
        own_defaults = make_method(config.method, {}).model_dump(mode="json")
    except UsageError:  # a method with required settings
        own_defaults = {}
    defaults = Config(method="").model_dump(mode="json") | {"settings": own_defaults}
    changed = differences(config.model_dump(mode="json"), defaults)
    typer.echo("# differs from the defaults")
    typer.echo(yaml.safe_dump(changed, sort_keys=False, allow_unicode=True), nl=False)
    typer.echo("---\n# everything")
    typer.echo(config.to_yaml(), nl=False)


def differences(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a nested mapping that another does not have, or has with another value.

    >>> differences({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 2, "d": 4}})
    {'b': {'d': 3}}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        default = defaults.get(key)
        if key in defaults and value == default:
            continue
        nested = isinstance(value, Mapping) and isinstance(default, Mapping)
        found[key] = differences(value, default) if nested else value  # type: ignore[arg-type]
    return found
