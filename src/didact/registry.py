"""Every component that ships, by name: the one table behind lists of names, `--help` and "did you mean".

The table is `components.yaml`. Classes are named, not imported, so that it costs nothing. An installed
package adds names through the entry-point groups `didact.methods`, `didact.feedback`, `didact.tasks`,
`didact.engines`, `didact.rewards` and `didact.environments`; a class of your own is named as
`file.py:Class` or `package.module:Class`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from didact.jsonl import read_package_yaml
from didact.settings import Entry, Registry, load_class

_SHIPPED: dict[str, dict[str, dict[str, Any]]] = read_package_yaml("didact", "components.yaml")


def _registry(kind: str, group: str, *requires: str, **families: Any) -> Registry[Any]:
    """The components of one table of `components.yaml`."""
    entries = {name: Entry(e["class"], e["is"], e.get("with", {})) for name, e in _SHIPPED[group].items()}
    return Registry(kind, f"didact.{group}", entries, requires=requires, **families)


def _generators() -> Mapping[str, Entry]:
    """Every generator of reasoning-gym."""
    names: Callable[..., Any] = load_class("didact.tasks.reasoning_gym:generator_names", "task")
    return {name: _generator(name) for name in names()}


def _generator(name: str) -> Entry:
    return Entry("didact.tasks.reasoning_gym:ReasoningGymTaskConfig", defaults={"generator": name})


METHODS = _registry("method", "methods", "collect", "rows")
SOURCES = _registry("feedback source", "feedback", "critique")
REWARDS = _registry("judge of rewards", "rewards", "model_of")
ENGINES = _registry("engine", "engines", "sample", "forward_backward", "optim_step")
TASKS = _registry(
    "task", "tasks", "train_problem", "eval_problems", "verify",
    more=_generators, prefixes={"reasoning_gym": _generator},
)  # fmt: skip
