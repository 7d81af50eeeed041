"""Problems, and verifiers of answers."""

from didact.tasks.base import BaseTask, BaseTaskConfig, Task, Verdict, validate_task
from didact.tasks.registry import make_task

__all__ = ["BaseTask", "BaseTaskConfig", "Task", "Verdict", "make_task", "validate_task"]
