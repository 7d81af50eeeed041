"""Every error that Didact raises on purpose. A message names the thing, the place and the cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DidactError(Exception):
    """Base of all errors that Didact raises on purpose."""

    exit_code = 1


class UsageError(DidactError, ValueError):
    """A wrong word on the command line, in a config or in a call."""

    exit_code = 2


class CapabilityError(UsageError):
    """The engine cannot do what the method needs. Nothing is approximated in silence."""


class DataError(DidactError, ValueError):
    """A file, column or row that cannot be used."""

    exit_code = 3


class CheckpointError(DataError):
    """A checkpoint that is torn, or belongs to another run."""


class TrainingGuard(DidactError, RuntimeError):
    """Training would be wrong or for nothing, so it stopped before the step."""

    exit_code = 4


class BudgetExceeded(TrainingGuard):
    """The limit on requests or cost of a model server is reached; raise it, then resume."""


class NonFiniteError(TrainingGuard):
    """NaN or Inf in a loss or a gradient; the weights were not touched."""


class NoOpTrainingError(TrainingGuard):
    """A run in which no weight changed."""


class Interrupted(DidactError):
    """Stopped by a signal after a checkpoint; the run can be resumed."""

    exit_code = 75


def install_command(extra: str) -> str:
    """The command that installs one of Didact's extras, as the cure in an error message.

    >>> install_command("math")
    "pip install 'didact-rl[math]' (in a checkout: pip install -e '.[math]')"
    """
    return f"pip install 'didact-rl[{extra}]' (in a checkout: pip install -e '.[{extra}]')"


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """The nearest valid words, as the tail of an error message.

    >>> did_you_mean("rltf-ds", ["grpo", "rltf-sd"])
    "did you mean 'rltf-sd'? Valid: grpo, rltf-sd"
    """
    names = sorted(valid)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = names if len(names) <= 20 else [*difflib.get_close_matches(word, names, 8, 0.2), "…"]
    return f"{hint}Valid: {', '.join(shown)}"
