"""A task from its name in a config or on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from didact.errors import UsageError, did_you_mean
from didact.tasks.base import Task
from didact.tasks.jsonl import JsonlTask
from didact.tasks.reasoning_gym import ReasoningGymTask, generator_names
from didact.tasks.settings import checked

_PREFIX = "reasoning_gym:"


def make_task(spec: str, config: Mapping[str, Any] | None = None, seed: int = 0) -> Task:
    """Build a task.

    Args:
        spec: "jsonl", or a reasoning-gym generator as "spell_backward" or
            "reasoning_gym:spell_backward".
        config: For "jsonl" the arguments of `JsonlTask` (`path` at least); for a generator its own
            settings, and `dense`.
        seed: Which training problems come in which order. Evaluation problems do not depend on it.

    Raises:
        UsageError: an unknown task or setting, with the nearest valid name.
        DataError: a file that cannot be used.
    """
    settings = dict(config or {})
    if spec == "jsonl":
        return _jsonl(settings, seed)
    name = spec.removeprefix(_PREFIX)
    known = generator_names()
    if name not in known:
        raise UsageError(f"unknown task {spec!r}: {did_you_mean(name, [*known, 'jsonl'])}")
    dense = settings.pop("dense", False)
    if not isinstance(dense, bool):
        raise UsageError(f"task {name!r}: dense must be true or false, not {dense!r}")
    return ReasoningGymTask(name, settings, seed=seed, dense=dense)


def _jsonl(settings: dict[str, Any], seed: int) -> JsonlTask:
    settings = checked(JsonlTask.__init__, settings, "task 'jsonl'")
    if "path" not in settings:
        raise UsageError("task 'jsonl' needs the setting 'path': the file to train on")
    return JsonlTask(**settings, seed=seed)
