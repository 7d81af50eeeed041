"""The models and runs that a command evaluates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from didact.errors import DataError

if TYPE_CHECKING:
    from didact.build.components import RunComponents
    from didact.config import RunConfig
    from didact.run_dir import RunDir


_SHARED = ("task", "feedback", "reward", "sampling", "eval", "seed")


class LoadedModel(NamedTuple):
    """A model with the components to evaluate it."""

    name: str
    parts: RunComponents
    step: int
    """Of the checkpoint; 0 outside a run."""


def each_model(names: Sequence[str], overrides: Sequence[str] = (), **changes: Any) -> Iterator[LoadedModel]:
    """Load models one at a time, all with the same task, critic, sampling and evaluation.

    Args:
        names: Run directories (newest whole checkpoint), "tiny", folders or hub ids. The shared settings are
            those of the first run directory among them.
        overrides: Values of `--set`.
        **changes: Keyword values of `load_config`.

    Raises:
        UsageError, DataError: see `build`; or a run without a whole checkpoint.
    """
    from didact.config import ModelConfig
    from didact.run_dir import RunDir

    first = next((name for name in names if RunDir(Path(name)).config.exists()), names[0])
    shared = config_of(first, overrides, **changes)
    same = {key: getattr(shared, key) for key in _SHARED}
    for name in names:
        run = RunDir(Path(name))
        if run.config.exists():
            config = config_of(name, overrides, **changes).model_copy(update=same)
        else:
            own = {"method": "grpo", "settings": {}, "model": ModelConfig(path=name)}
            config = shared.model_copy(update=own)
        yield LoadedModel(name, *load_model(config, run))


def config_of(name: str, overrides: Sequence[str] = (), **changes: Any) -> RunConfig:
    """The config of a run directory, or the default one with any other model; see `each_model`."""
    from didact.config import load_config, read_yaml
    from didact.run_dir import RunDir

    run = RunDir(Path(name))
    if not run.config.exists():
        return load_config("grpo", None, overrides, model__path=name, **changes)
    return load_config(str(read_yaml(run.config)["method"]), run.config, overrides, **changes)


def load_model(config: RunConfig, run: RunDir) -> tuple[RunComponents, int]:
    """The components with the run's newest whole checkpoint, and its step; 0 outside a run."""
    from didact.build.components import build
    from didact.training.checkpoint import load_checkpoint

    if not run.config.exists():
        return build(config, for_training=False), 0
    parts = build(config, for_training=False, home=run.path)
    state, torn = load_checkpoint(run.checkpoints, parts.engine)
    for sentence in torn:
        typer.echo(f"didact: {sentence}; taking the one before", err=True)
    if state is None:
        raise DataError(f"{run.path} has no whole checkpoint to look at: train it first")
    return parts, state.step
