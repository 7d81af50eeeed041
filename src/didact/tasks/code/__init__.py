"""Python functions to write, verified by their tests."""

from didact.tasks.code.task import CodeReport, CodeTask, CodeTaskConfig, Outcome

__all__ = ["CodeReport", "CodeTask", "CodeTaskConfig", "Outcome"]
