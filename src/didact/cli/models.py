"""Models and runs that one command looks at one after the other, under the same task and critic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from didact.errors import DataError

if TYPE_CHECKING:
    from didact.build.components import RunComponents
    from didact.config import RunConfig
    from didact.run_dir import RunDir


_SHARED = ("task", "feedback", "reward", "sampling", "eval", "seed")


class LoadedModel(NamedTuple):
    """A model with all that it is asked with."""

    name: str
    parts: RunComponents
    step: int
    """Of the checkpoint; 0 of a model that is no run."""


def each_model(names: Sequence[str], overrides: Sequence[str], task: str | None) -> Iterator[LoadedModel]:
    """The models of a command, loaded one at a time.

    Args:
        names: Run directories (their newest whole checkpoint), "tiny", folders or hub ids. Task, critic,
            sampling and evaluation are those of the first run directory among them, for all.
        overrides: As of `--set`.
        task: Another task's name.

    Raises:
        UsageError, DataError: as of `build`; or a run without a whole checkpoint.
    """
    from didact.build.components import build
    from didact.config import ModelConfig
    from didact.run_dir import RunDir

    first = next((name for name in names if RunDir(Path(name)).config.exists()), names[0])
    shared = config_of(first, overrides, task)
    same = {key: getattr(shared, key) for key in _SHARED}
    for name in names:
        run = RunDir(Path(name))
        if not run.config.exists():
            own = {"method": "grpo", "settings": {}, "model": ModelConfig(path=name)}
            yield LoadedModel(name, build(shared.model_copy(update=own), for_training=False), 0)
            continue
        config = config_of(name, overrides, task).model_copy(update=same)
        parts = build(config, for_training=False, home=run.path)
        yield LoadedModel(name, parts, load_newest(run, parts))


def config_of(name: str, overrides: Sequence[str], task: str | None) -> RunConfig:
    """The config of a run directory, or a plain one for any other model.

    Args:
        name: The run directory, "tiny", a folder or a hub id.
        overrides: As of `--set`.
        task: Another task's name.
    """
    from didact.config import load_config, read_yaml
    from didact.run_dir import RunDir

    run = RunDir(Path(name))
    if not run.config.exists():
        return load_config("grpo", None, overrides, model__path=name, task__name=task)
    return load_config(str(read_yaml(run.config)["method"]), run.config, overrides, task__name=task)


def load_newest(run: RunDir, parts: RunComponents) -> int:
    """Put a run's newest whole checkpoint into the engine; its step.

    Raises:
        DataError: it has none.
    """
    from didact.training.checkpoint import load_checkpoint

    state, torn = load_checkpoint(run.checkpoints, parts.engine)
    for sentence in torn:
        typer.echo(f"didact: {sentence}; taking the one before", err=True)
    if state is None:
        raise DataError(f"{run.path} has no whole checkpoint to look at: train it first")
    return state.step
