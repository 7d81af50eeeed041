"""Math problems whose answers are compared as expressions, not as text."""

from didact.tasks.math.task import MathTask, MathTaskConfig

__all__ = ["MathTask", "MathTaskConfig"]
