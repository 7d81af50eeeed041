"""Python functions to write, verified by their tests."""

from didact.tasks.code.report import CodeReport, Outcome
from didact.tasks.code.task import CodeTask, CodeTaskConfig

__all__ = ["CodeReport", "CodeTask", "CodeTaskConfig", "Outcome"]
