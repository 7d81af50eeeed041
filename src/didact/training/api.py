"""`train` and `resume`: a run from its settings to its directory."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from didact.build.checks import check_trains
from didact.build.components import Instances, RunComponents, build, check_given, describe
from didact.config import RunConfig, parse_config, read_yaml
from didact.distributed import init_process_group, on_main_process
from didact.engines.base import Engine
from didact.errors import CheckpointError, NoOpTrainingError, UsageError
from didact.feedback_source import FeedbackSource
from didact.methods import Method, make_method
from didact.run_dir import RunDir, read_jsonl, write_atomically
from didact.tasks.base import Task
from didact.training.checkpoint import State, check_inputs, load_checkpoint, write_inputs
from didact.training.evaluation_step import find_evaluation
from didact.training.loop import Report, train_loop
from didact.training.monitors import run_alarms
from didact.training.signals import StopSignal


def to_stderr(record: dict[str, Any]) -> None:
    """Print a warning; the default of `warn`."""
    print(record["warning"], file=sys.stderr)


def train(
    method: str | Method,
    *,
    out: str | Path,
    model: str | Mapping[str, Any] | None = None,
    task: str | Mapping[str, Any] | Task | None = None,
    feedback: str | Mapping[str, Any] | FeedbackSource | None = None,
    engine: str | Mapping[str, Any] | Engine | None = None,
    seed: int | None = None,
    report: Report = lambda record: None,
    warn: Report = to_stderr,
    **settings: Any,
) -> RunDir:
    """Train a model and return its run directory.

        run = didact.train("rltf-sd", out="runs/sd", task="spell_backward", steps=50)
        print(run.result.read_text())

    Method, task, feedback and engine are each a name, "file.py:Class", or an object of your own. An object
    is recorded by its class; `resume` needs it again, unless it is pydantic and its module can be imported.

    Args:
        method: A name of `didact.registry.METHODS`, as "rltf-sd", or a `Method`.
        model: "tiny" (bundled, the default), a local folder or a hub id; or a mapping of ModelConfig.
        task: A reasoning-gym generator or another task's name; a mapping of TaskConfig, as
            {"name": "prompts", "settings": {"path": "train.jsonl"}}; or a `Task`.
        feedback: A source's name; a mapping of FeedbackConfig; or a `FeedbackSource`.
        engine: An engine's name; a mapping of EngineConfig; or an `Engine` with its initial weights.
        seed: 0 to 99.
        report: Called with every line of metrics.jsonl.
        warn: Called with {"warning": …} for alarms; each kind once.
        **settings: Any other key of RunConfig, sections as mappings: optim={"lr": 1e-4}.

    Raises:
        UsageError, DataError: settings or data that cannot be used; nothing was written.
        NoOpTrainingError: no weight changed; the run directory is complete all the same.
        Interrupted: a signal came; `resume` goes on.
    """
    values: dict[str, Any] = settings if seed is None else {**settings, "seed": seed}
    given = {"model": model, "task": task, "feedback": feedback, "engine": engine}
    named, objects = _named({**given, "method": method})
    config = parse_config({**values, **named})
    return run_config(config, Path(out), instances=Instances(**objects), report=report, warn=warn)


_NAME_KEYS = {"model": "path", "task": "name", "feedback": "source", "engine": "name"}
"""Sections of a config → their key for a name."""


def _named(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config values for components given as names, mappings or objects; and the objects."""
    values: dict[str, Any] = {}
    objects: dict[str, Any] = {}
    for section, component in given.items():
        key = _NAME_KEYS.get(section)
        if component is None:
            continue
        if isinstance(component, Mapping):
            values[section] = component
            continue
        own: dict[str, Any] = {}
        name = component
        if not isinstance(component, str):
            objects[section] = component
            name, own = describe(component)
        if key is not None:
            values[section] = {key: name, "settings": own} if own else {key: name}
        else:
            values |= {section: name, "settings": own} if own else {section: name}
    return values, objects


def run_config(
    config: RunConfig,
    out: Path,
    *,
    instances: Instances | None = None,
    report: Report = lambda record: None,
    warn: Report = to_stderr,
    command: str = "",
) -> RunDir:
    """Train by a whole config; see `train`."""
    init_process_group()
    RunDir.refuse_existing(out)
    parts = _components(config, out, instances)
    run = RunDir.create(out, config.to_yaml(), command or f"didact train {config.method}")
    write_inputs(run, parts)
    state = State(step=0, initial_weights=parts.engine.weights_hash())
    return _finish(parts, run, state, report, warn)


def resume(
    path: str | Path,
    *,
    method: Method | None = None,
    feedback: FeedbackSource | None = None,
    task: Task | None = None,
    engine: Engine | None = None,
    report: Report = lambda record: None,
    warn: Report = to_stderr,
) -> RunDir:
    """Go on with a run from its newest whole checkpoint, bit for bit.

    Args:
        method, feedback, task, engine: The objects of a run that was made with objects.
        report: Called with every new line of metrics.jsonl.
        warn: Called with {"warning": …} for every torn checkpoint that is skipped, and for alarms.

    Raises:
        UsageError: no run there, it has ended, or an object is missing or not the run's.
        CheckpointError: there are checkpoints, but none is whole; or data, model, code or versions differ
            from those that the run started from.
    """
    init_process_group()
    warn = on_main_process(warn)
    run = RunDir.open(Path(path))
    if run.result.exists():
        raise UsageError(f"{path} has ended: see {run.result}, or train again with a new --out")
    instances = Instances(method, feedback, task, engine)
    parts = _components(parse_config(read_yaml(run.config)), run.path, instances)
    check_inputs(run, parts)
    initial = parts.engine.weights_hash()
    state, torn = load_checkpoint(run.checkpoints, parts.engine)
    for sentence in torn:
        warn({"warning": f"{sentence}; taking the one before"})
    if state is None:
        if torn:
            raise CheckpointError(
                f"{path}: no checkpoint is whole, so there is nothing to go on from. "
                "Train again with a new --out; rollouts and feedback of this run are untouched."
            )
        state = State(step=0, initial_weights=initial)
    run.rewind(state.step)
    return _finish(parts, run, state, report, warn)


def _components(config: RunConfig, home: Path, instances: Instances | None) -> RunComponents:
    given = instances or Instances()
    check_given(config, given)
    check_trains(given.method or make_method(config.method, config.settings), config.method)
    return build(config, home=home, instances=given)


def _finish(parts: RunComponents, run: RunDir, state: State, report: Report, warn: Report) -> RunDir:
    report, warn = on_main_process(report), on_main_process(warn)
    with StopSignal() as stop:
        state = train_loop(parts, run, state, stop, report, warn)
    parts.engine.save_pretrained(run.model)
    parts.task.write_beside(run.model)
    result = {
        "method": parts.config.method,
        "task": parts.config.task.name,
        "seed": parts.config.seed,
        "steps": state.step,
        "updates": state.updates,
        "sampled_tokens": state.sampled_tokens,
        "feedback_tokens": state.feedback_tokens,
        "eval": find_evaluation(run, state.step),
        "alarms": [alarm._asdict() for alarm in run_alarms(run, state.step)],
        "weights": parts.engine.weights_hash(),
    }
    write_atomically(run.result, json.dumps(result, indent=1) + "\n")
    if result["weights"] == state.initial_weights:
        raise NoOpTrainingError(
            f"no weight changed in {state.step} steps, so {run.model} is the model it started from. "
            + _why_nothing(run, state)
        )
    return run


def _why_nothing(run: RunDir, state: State) -> str:
    """Why no weight changed, as far as the metrics tell, and the cure."""
    steps = [record for record in read_jsonl(run.metrics) if "eval" not in record]
    failed = sum(record.get("feedback_failed", 0) for record in steps)
    if failed and not any(record.get("second_turns") for record in steps):
        return (
            f"All {failed} critiques that were asked for failed: the reasons are in the column `error` of "
            f"{run.feedback}"
        )
    labelled = [record["tokens_good"] + record["tokens_poor"] for record in steps if "tokens_good" in record]
    if labelled and not any(labelled):
        return (
            f"No critique quoted anything of an answer (tokens_good and tokens_poor are 0 throughout "
            f"{run.metrics}), so no token had a label: take a source that gives spans, or look at "
            "spans_misquoted and answers_unplaced there"
        )
    if state.updates:
        return f"{state.updates} updates were too small to change a weight: raise optim.lr"
    if not any("reward_first" in record for record in steps):
        return "Nothing verified any answer: give the task a verifier that works, or learn from critiques"
    return (
        f"Every group of answers had the same reward (look at reward_first in {run.metrics}): take an "
        "easier task, more samples, or a method that learns from critiques"
    )
