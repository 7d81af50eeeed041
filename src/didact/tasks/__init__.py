"""What is asked, and how an answer is verified."""

from didact.tasks.base import Task, Verdict, validate_task
from didact.tasks.jsonl import JsonlTask
from didact.tasks.reasoning_gym import ReasoningGymTask
from didact.tasks.registry import make_task

__all__ = ["JsonlTask", "ReasoningGymTask", "Task", "Verdict", "make_task", "validate_task"]
