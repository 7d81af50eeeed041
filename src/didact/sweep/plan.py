"""The plan of a sweep: one YAML file, methods × tasks × seeds, and what must be equal between them.

    title: What it is about
    shared: {…}              any settings of a run, for every cell
    tasks:                   name → settings on top of the shared ones
      easy: {task: {name: spell_backward}, max_sampled_tokens: 20000}
    methods:                 name → settings on top of the task's; `method` is the name unless given
      grpo: {}
      rltf-sd: {settings: {lambda_sd: 0.3}, controls: [shuffled]}
    controls: [verdict]      for every method that reads critiques and names none itself
    seeds: [0, 1, 2]
    baseline: grpo           what the others are compared with; the first method unless given
    unequal_budgets: false   true lets the methods of a task differ in steps or sampled tokens

A control is an arm of its own, named METHOD-CONTROL, that differs from its method in `feedback.control`
alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from didact.config import RunConfig, parse_config, read_yaml
from didact.controls import CONTROLS, ControlName
from didact.errors import DataError, UsageError, did_you_mean
from didact.methods import make_method
from didact.settings import Section, validate_settings

Settings = dict[str, Any]
Named = Annotated[dict[str, Settings | None], Field(min_length=1)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
BUDGET = ("steps", "max_sampled_tokens")
"""The keys of a run that say how long it lasts."""
PROTOCOL = ("task", "reward", "eval")
"""The sections that must be the same for what is compared."""


class SweepFile(Section):
    """A sweep as it is written; see the top of this file."""

    title: str = "A sweep"
    shared: Settings = Field(default_factory=dict)
    tasks: Named
    methods: Named
    controls: list[ControlName] = Field(default_factory=list)
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=100)]], Field(min_length=1)]
    baseline: str | None = None
    unequal_budgets: bool = False


@dataclass(frozen=True)
class Arm:
    """A method with its settings, or a control of it."""

    name: str
    control: str | None = None
    of: str | None = None
    """The arm that a control belongs to."""


@dataclass(frozen=True)
class Cell:
    """One run: an arm on a task with a seed."""

    name: str
    """task/arm/seed-N, which is also its run directory within the sweep's."""
    task: str
    arm: str
    seed: int
    config: RunConfig


@dataclass(frozen=True)
class Plan:
    """All cells of a sweep, task by task, arm by arm, seed by seed."""

    file: SweepFile
    arms: list[Arm]
    baseline: str
    cells: list[Cell]

    def chosen(self, patterns: Sequence[str]) -> list[Cell]:
        """The cells whose names match one of the patterns, as "*/grpo/*"; all for no pattern."""
        names = [cell.name for cell in self.cells]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError(f"--only {pattern!r} matches no cell: {did_you_mean(pattern, names)}")
        return [c for c in self.cells if not patterns or any(fnmatchcase(c.name, p) for p in patterns)]


def read_plan(file: Path, *, controls: Sequence[str] | None = None) -> Plan:
    """The plan in a file, with `controls` in place of all that it names.

    Raises:
        UsageError: a wrong key or value, a method or setting that does not exist, or methods of a task
            that differ in budget or evaluation.
        DataError: not readable as YAML.
    """
    written = validate_settings(SweepFile, read_yaml(file), str(file))
    if controls is not None:
        controls = [word.strip() for word in controls if word.strip()]
        for word in controls:
            if word not in CONTROLS:
                raise UsageError(f"--controls {word!r}: {did_you_mean(word, CONTROLS)}")
    _check_names(written)
    arms = _arms(written, controls)
    names = [arm.name for arm in arms]
    baseline = written.baseline or names[0]
    if baseline not in names:
        raise UsageError(f"baseline: no method {baseline!r}: {did_you_mean(baseline, names)}")
    cells = [
        Cell(f"{task}/{arm.name}/seed-{seed}", task, arm.name, seed, _config(written, task, arm, seed))
        for task in written.tasks
        for arm in arms
        for seed in written.seeds
    ]
    for task in written.tasks:
        one_a_arm = [c for c in cells if c.task == task and c.seed == written.seeds[0]]
        _check_equal(one_a_arm, unequal_budgets=written.unequal_budgets)
    return Plan(written, arms, baseline, cells)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings put over each other; neither is changed.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _check_names(written: SweepFile) -> None:
    for kind, names in (("task", written.tasks), ("method", written.methods)):
        for name in names:
            if not _NAME.fullmatch(name):
                raise UsageError(
                    f"{kind} {name!r} names a directory: use letters, digits, '.', '_' and '-', and begin "
                    "with a letter or digit"
                )
    if len(set(written.seeds)) < len(written.seeds):
        raise UsageError(f"seeds: {written.seeds} has one of them twice: name each once")


def _arms(written: SweepFile, controls: Sequence[str] | None) -> list[Arm]:
    """The methods, each followed by its controls."""
    found: list[Arm] = []
    for name, settings in written.methods.items():
        found.append(Arm(name))
        values = merged(written.shared, settings or {})
        own = values.get("controls")
        reads = make_method(values.get("method", name), values.get("settings", {})).needs_feedback
        if own and not reads:
            raise UsageError(
                f"methods.{name}.controls: {name} reads no critique, so nothing can stand in place of one: "
                "remove them"
            )
        wanted = controls if controls is not None else written.controls if own is None else own
        for control in wanted if reads else ():
            if control not in CONTROLS:
                raise UsageError(f"methods.{name}.controls: {control!r}: {did_you_mean(control, CONTROLS)}")
            found.append(Arm(f"{name}-{control}", control, name))
    names = [arm.name for arm in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two arms are named {twice!r}: rename the method, or name each control once")
    return found


def _config(written: SweepFile, task: str, arm: Arm, seed: int) -> RunConfig:
    """The settings of a cell, with its method's checked."""
    name = arm.of or arm.name
    own = {k: v for k, v in (written.methods[name] or {}).items() if k != "controls"}
    default: Settings = {"method": name, "task": {"name": task}}
    values = merged(merged(default, written.shared), merged(written.tasks[task] or {}, own))
    for key in ("seed", "controls"):
        if key in values:
            raise UsageError(f"{key} belongs at the top of a sweep's file, not into {task!r} or {name!r}")
    if arm.control is not None:
        feedback = values.get("feedback") or {}
        if feedback.get("control") is not None:
            raise UsageError(f"methods.{name}: a control of what has feedback.control itself: remove one")
        values = merged(values, {"feedback": {"control": arm.control}})
    try:
        config = parse_config({**values, "seed": seed})
        make_method(config.method, config.settings)
    except (UsageError, DataError) as error:
        raise UsageError(f"{task}, {arm.name}: {error}") from None
    return config


def _check_equal(cells: Sequence[Cell], *, unequal_budgets: bool) -> None:
    """Refuse arms of one task that are asked different things, or may learn for longer than others."""
    first, *others = cells
    if not first.config.eval.problems:
        raise UsageError(f"task {first.task!r}: eval.problems is 0, so nothing would be found out: raise it")
    for other in others:
        for key in (*PROTOCOL, *BUDGET):
            mine, theirs = getattr(first.config, key), getattr(other.config, key)
            if mine == theirs or (key in BUDGET and unequal_budgets):
                continue
            if key in BUDGET:
                raise UsageError(
                    f"task {first.task!r}: {first.arm} has {key} = {mine} and {other.arm} has {theirs}, so "
                    "they learn for different lengths: make them equal, or say `unequal_budgets: true`"
                )
            raise UsageError(
                f"task {first.task!r}: {first.arm} and {other.arm} differ in `{key}`, so their results "
                "cannot be compared: move it to the task"
            )
