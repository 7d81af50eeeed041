"""Problems, verifiers of answers, and a task by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from didact.registry import TASKS
from didact.tasks.base import BaseTask, BaseTaskConfig, Task, Verdict, validate_task

__all__ = ["BaseTask", "BaseTaskConfig", "Task", "Verdict", "make_task", "validate_task"]


def make_task(spec: str, config: Mapping[str, Any] | None = None, seed: int = 0) -> Task:
    """Build a task.

    Args:
        spec: A name of `didact.registry.TASKS`, a reasoning-gym generator as "spell_backward" or
            "reasoning_gym:spell_backward", or your own class as "file.py:Class".
        config: Its settings; of a generator also the generator's own.
        seed: Which training problems come in which order. Evaluation problems do not depend on it.

    Raises:
        UsageError: an unknown task or setting, with the nearest valid name.
        DataError: a file that cannot be used.
    """
    made = TASKS.make(spec, config, seed=seed)
    task: Task = made.build(seed) if isinstance(made, BaseTaskConfig) else made
    return task
