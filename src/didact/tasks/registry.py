"""A task from its name in a config or on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from didact.errors import UsageError, did_you_mean
from didact.settings import validate_kwargs
from didact.tasks.base import Task
from didact.tasks.code import CodeTask
from didact.tasks.jsonl import JsonlTask
from didact.tasks.math import MathTask
from didact.tasks.mixture import MixtureTask
from didact.tasks.offline import OfflineTask
from didact.tasks.procedural import BoxedProceduralTask
from didact.tasks.reasoning_gym import generator_names
from didact.tasks.writing import WritingTask

_PREFIX = "reasoning_gym:"
FROM_FILES: dict[str, tuple[Callable[..., Any], str | None]] = {
    "jsonl": (JsonlTask, "path"),
    "recorded": (OfflineTask, "path"),
    "code": (CodeTask, None),
    "math": (MathTask, None),
    "writing": (WritingTask, None),
    "mixture": (MixtureTask, "parts"),
}
"""Tasks that are no single generator: their class, and the setting that they cannot do without."""
_OWN = ("dense", "boxed", "instruction", "format_penalty")
"""Settings of `BoxedProceduralTask`; all others are the generator's."""


def make_task(spec: str, config: Mapping[str, Any] | None = None, seed: int = 0) -> Task:
    """Build a task.

    Args:
        spec: "jsonl", "recorded", "code", "math", "writing", or a reasoning-gym generator as
            "spell_backward" or "reasoning_gym:spell_backward".
        config: For the first five the arguments of `JsonlTask`, `OfflineTask`, `CodeTask`, `MathTask` and
            `WritingTask` (whose judge is bound afterwards); for a generator its own settings, and
            those of `BoxedProceduralTask`.
        seed: Which training problems come in which order. Evaluation problems do not depend on it.

    Raises:
        UsageError: an unknown task or setting, with the nearest valid name.
        DataError: a file that cannot be used.
    """
    settings = dict(config or {})
    if spec in FROM_FILES:
        kind, needed = FROM_FILES[spec]
        settings = validate_kwargs(kind.__init__, settings, f"task {spec!r}")
        if needed and needed not in settings:
            raise UsageError(f"task {spec!r} needs the setting {needed!r}: what to train on")
        task: Task = kind(**settings, seed=seed)
        return task
    name = spec.removeprefix(_PREFIX)
    known = generator_names()
    if name not in known:
        raise UsageError(f"unknown task {spec!r}: {did_you_mean(name, [*known, *FROM_FILES])}")
    own = {key: settings.pop(key) for key in _OWN if key in settings}
    for key in ("dense", "boxed"):
        if not isinstance(own.get(key, False), bool):
            raise UsageError(f"task {name!r}: {key} must be true or false, not {own[key]!r}")
    own = validate_kwargs(BoxedProceduralTask.__init__, own, f"task {name!r}")
    return BoxedProceduralTask(name, settings, seed=seed, **own)
