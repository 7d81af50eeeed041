"""`train` and `resume`: a run from its settings to its directory."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from didact.build.components import RunComponents, build
from didact.build.reward_models import write_card
from didact.config import RunConfig, parse_config, read_yaml
from didact.errors import CheckpointError, NoOpTrainingError, UsageError
from didact.run_dir import RunDir, read_jsonl, write_atomically
from didact.training.alarm_monitor import run_alarms
from didact.training.checkpoint import State, load_checkpoint
from didact.training.evaluation_step import find_evaluation
from didact.training.fingerprint import check_inputs, write_inputs
from didact.training.loop import Report, train_loop
from didact.training.signals import StopSignal


def to_stderr(record: dict[str, Any]) -> None:
    """Print a warning where nobody else takes it."""
    print(record["warning"], file=sys.stderr)


def train(
    method: str,
    *,
    out: str | Path,
    model: str | Mapping[str, Any] | None = None,
    task: str | Mapping[str, Any] | None = None,
    seed: int | None = None,
    report: Report = lambda record: None,
    warn: Report = to_stderr,
    **settings: Any,
) -> RunDir:
    """Train a model and return its run directory.

        run = didact.train("rltf-sd", out="runs/sd", task="spell_backward", steps=50)
        print(run.result.read_text())

    Args:
        method: "sft", "grpo", "grpo-2turn", "rltf-sd", "rltf-fm", "rltf", "rltf-self", "rl2f",
            "sft-dialogues", "text2grad", "ppo" or "ilf".
        out: A new directory.
        model: "tiny" (bundled, the default), a local folder or a hub id; or a mapping of ModelConfig.
        task: A reasoning-gym generator's name; or a mapping of TaskConfig, as
            {"name": "jsonl", "settings": {"path": "train.jsonl"}}.
        seed: 0 to 99.
        report: Called with every line of metrics.jsonl.
        warn: Called with {"warning": …} where they look wrong; each kind of alarm once.
        **settings: Any other key of RunConfig, sections as mappings: optim={"lr": 1e-4}.

    Raises:
        UsageError, DataError: settings or data that cannot be used; nothing was written.
        NoOpTrainingError: no weight changed; the run directory is complete all the same.
        Interrupted: a signal came; `resume` goes on.
    """
    values: dict[str, Any] = {**settings, "method": method}
    if model is not None:
        values["model"] = {"path": model} if isinstance(model, str) else model
    if task is not None:
        values["task"] = {"name": task} if isinstance(task, str) else task
    if seed is not None:
        values["seed"] = seed
    return run_config(parse_config(values), Path(out), report=report, warn=warn)


def run_config(
    config: RunConfig,
    out: Path,
    *,
    report: Report = lambda record: None,
    warn: Report = to_stderr,
    command: str = "",
) -> RunDir:
    """Train by a whole config; see `train`."""
    RunDir.refuse_existing(out)
    parts = build(config, home=out)
    run = RunDir.create(out, config.to_yaml(), command or f"didact train {config.method}")
    write_inputs(run, parts)
    state = State(step=0, initial_weights=parts.engine.weights_hash())
    return _finish(parts, run, state, report, warn)


def resume(
    path: str | Path,
    *,
    report: Report = lambda record: None,
    warn: Report = to_stderr,
) -> RunDir:
    """Go on with a run from its newest whole checkpoint, bit for bit.

    Args:
        path: The run directory.
        report: Called with every new line of metrics.jsonl.
        warn: Called with {"warning": …} for every torn checkpoint that is passed over, and for alarms.

    Raises:
        UsageError: no run there, or it has ended.
        CheckpointError: checkpoints are there, but none is whole; or data, model or versions are other
            than those that the run started from.
    """
    run = RunDir.open(Path(path))
    if run.result.exists():
        raise UsageError(f"{path} has ended: see {run.result}, or train again with a new --out")
    parts = build(parse_config(read_yaml(run.config)), home=run.path)
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


def _finish(parts: RunComponents, run: RunDir, state: State, report: Report, warn: Report) -> RunDir:
    with StopSignal() as stop:
        state = train_loop(parts, run, state, stop, report, warn)
    parts.engine.save_pretrained(run.model)
    write_card(parts.task, run.model)
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
