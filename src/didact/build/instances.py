"""Components given as objects in place of names.

A run's config records their class, and resuming needs the objects again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from didact.config import RunConfig
from didact.engines.base import Engine
from didact.errors import UsageError
from didact.feedback_source import FeedbackSource
from didact.methods import Method
from didact.registry import ENGINES, METHODS, SOURCES, TASKS
from didact.tasks.base import Task

PREFIX = "instance:"
"""Begins the name of a component that only an object can stand for."""


@dataclass(frozen=True)
class Instances:
    """Objects in place of names; None where the config has a name."""

    method: Method | None = None
    feedback: FeedbackSource | None = None
    task: Task | None = None
    engine: Engine | None = None


def describe(component: Any) -> tuple[str, dict[str, Any]]:
    """The name and settings of an object in a config.

    A pydantic object whose class can be imported is "module:Class" with its fields, from which it can be made
    again; any other object is "instance:module.Class" without settings.
    """
    kind = type(component)
    importable = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind
    if not isinstance(component, BaseModel):
        return f"{PREFIX}{kind.__module__}.{kind.__qualname__}", {}
    values = component.model_dump(mode="json")
    if importable and kind.__module__ != "__main__":
        return f"{kind.__module__}:{kind.__qualname__}", values
    return f"{PREFIX}{kind.__module__}.{kind.__qualname__}", values


def check_given(config: RunConfig, instances: Instances) -> None:
    """Compare the objects that were given with those that a config records.

    Raises:
        UsageError: one is missing, or of another class or with other settings than the run's.
    """
    named = {
        "method": (config.method, config.settings),
        "feedback": (config.feedback.source, config.feedback.settings),
        "task": (config.task.name, config.task.settings),
        "engine": (config.engine.name, config.engine.settings),
    }
    tables = {"method": METHODS, "feedback": SOURCES, "task": TASKS, "engine": ENGINES}
    for key, (name, settings) in named.items():
        component = getattr(instances, key)
        if component is not None:
            tables[key].check(component, f"the {key} given")
        if component is None and name.startswith(PREFIX):
            raise UsageError(
                f"the {key} of this run was an object of class {name.removeprefix(PREFIX)}: give it again in "
                f"Python, as didact.resume(PATH, {key}=…), or name the class as file.py:Class in a new run"
            )
        if component is not None and describe(component) != (name, settings):
            given, values = describe(component)
            changed = [k for k in {**settings, **values} if settings.get(k) != values.get(k)]
            where = f" with other settings ({', '.join(changed)})" if given == name else f", not {name}"
            raise UsageError(f"the {key} given is {given}{where}: give the one that the run was made with")
