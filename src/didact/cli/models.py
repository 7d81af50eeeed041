"""Models and runs that one command looks at one after the other, under the same task and critic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from didact.errors import DataError

if TYPE_CHECKING:
    from didact.training.config import RunConfig
    from didact.training.setup import Parts


_SHARED = ("task", "feedback", "reward", "sampling", "eval", "seed")


class Looked(NamedTuple):
    """A model with all that it is asked with."""

    name: str
    parts: Parts
    step: int
    """Of the checkpoint; 0 of a model that is no run."""


def each_model(names: Sequence[str], overrides: Sequence[str], task: str | None) -> Iterator[Looked]:
    """The models of a command, loaded one at a time.

    Args:
        names: Run directories (their newest whole checkpoint), "tiny", folders or hub ids. Task, critic,
            sampling and evaluation are those of the first run directory among them, for all.
        overrides: As of `--set`.
        task: Another task's name.

    Raises:
        UsageError, DataError: as of `build`; or a run without a whole checkpoint.
    """
    from didact.training.checkpoint import load_checkpoint
    from didact.training.config import ModelConfig, load_config, read_yaml
    from didact.training.run_dir import RunDir
    from didact.training.setup import build

    def config_of(run: RunDir) -> RunConfig:
        return load_config(str(read_yaml(run.config)["method"]), run.config, overrides, task__name=task)

    runs = {name: run for name in names if (run := RunDir(Path(name))).config.exists()}
    shared = (
        config_of(next(iter(runs.values())))
        if runs
        else load_config("grpo", None, overrides, model__path=names[0], task__name=task)
    )
    for name in names:
        if name not in runs:
            own = {"method": "grpo", "settings": {}, "model": ModelConfig(path=name)}
            yield Looked(name, build(shared.model_copy(update=own), for_training=False), 0)
            continue
        run = runs[name]
        config = config_of(run)
        same = {
            key: getattr(shared, key) for key in ("task", "feedback", "reward", "sampling", "eval", "seed")
        }
        parts = build(config.model_copy(update=same), for_training=False, home=run.path)
        state, torn = load_checkpoint(run.checkpoints, parts.engine)
        for sentence in torn:
            typer.echo(f"didact: {sentence}; taking the one before", err=True)
        if state is None:
            raise DataError(f"{run.path} has no whole checkpoint to look at: train it first")
        yield Looked(name, parts, state.step)
