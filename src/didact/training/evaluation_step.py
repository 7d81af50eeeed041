"""Evaluations of a run: the same problems and draws for every method and seed, and no controls."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from typing import Any

from didact.build.components import RunComponents
from didact.build.rewards import against_start
from didact.config import DialogueEvalConfig
from didact.distributed import on_main_process
from didact.engines.base import SamplingParams
from didact.errors import UsageError
from didact.evaluation.by_turn import PROTOCOLS, DialogueProtocol, family_tables
from didact.evaluation.calibration import calibration
from didact.evaluation.evaluate import evaluate
from didact.feedback.model_critic import ModelCritic
from didact.feedback_source import FeedbackSource
from didact.rng import derive_seed
from didact.rollouts.base import StepContext
from didact.rollouts.engine_chat import EngineChat
from didact.run_dir import RunDir, read_jsonl
from didact.tasks.base import Task
from didact.training.checkpoint import State
from didact.training.monitors import FeedbackFailureGuard
from didact.training.signals import StopSignal
from didact.types import Problem


def evaluate_once(
    parts: RunComponents, run: RunDir, state: State, stop: StopSignal, guard: FeedbackFailureGuard
) -> dict[str, Any] | None:
    """Evaluate the weights of this step, unless metrics.jsonl has its evaluation already.

    Where too many critiques fail nothing is written, so that a resumed run evaluates again. The result is the
    line that was added to metrics.jsonl; None where nothing was evaluated.
    """
    config = parts.config.eval
    if not config.problems or find_evaluation(run, state.step) is not None:
        return None
    started = time.perf_counter()
    with stop.interruptible():
        problems, ctx = eval_problems(parts), eval_context(parts, state.step)
        evaluation = evaluate(ctx, problems, temperature=config.temperature, feedback=config.feedback)
        guard.add(evaluation.rollouts)
        guard.check()
        values = evaluation.metrics()
        if parts.scoring is not None and parts.config.reward is not None:
            values |= against_start(parts.scoring, parts.config.reward.pairwise, run, evaluation)
        is_last = parts.config.progress(state.step, state.sampled_tokens) >= 1
        if config.own_critique and (state.step == 0 or is_last):
            own = dataclasses.replace(ctx, feedback=self_critic(parts, config.own_critique))
            criticised = evaluate(own, problems, temperature=config.temperature)
            values |= criticised.metrics("own_critique") | calibration(criticised.rollouts)
        if config.dialogue is not None and is_last:
            values["by_turn"] = by_turn(parts, state.step, config.dialogue, PROTOCOLS)
    record = {"step": state.step, "sampled_tokens": state.sampled_tokens, "eval": values}
    run.add_evaluation(evaluation.rollouts, state.step)
    run.add_metrics(record)
    run.add_timing({"step": state.step, "eval_seconds": round(time.perf_counter() - started, 4)})
    return record


@on_main_process
def find_evaluation(run: RunDir, step: int) -> dict[str, Any] | None:
    """The evaluation of a step in metrics.jsonl."""
    for record in read_jsonl(run.metrics):
        if record["step"] == step and "eval" in record:
            found: dict[str, Any] = record["eval"]
            return found
    return None


def eval_context(parts: RunComponents, step: int, *, seed: int = 0) -> StepContext:
    """The context of an evaluation: true critiques, and draws that are the same for every run."""
    ctx = parts.context(seed=derive_seed(seed, "eval"), step=step, progress=0.0)
    return dataclasses.replace(ctx, feedback=parts.critic, offline=None)


def eval_problems(parts: RunComponents, n: int | None = None, task: Task | None = None) -> Sequence[Problem]:
    """The configured slice of evaluation problems, or the first `n` of it; of `task` in place of the run's.

    Raises:
        UsageError: the task has none there.
    """
    chosen, task = parts.config.eval, task or parts.task
    problems = task.eval_problems(chosen.offset + (n or chosen.problems))[chosen.offset :]
    if not problems:
        raise UsageError(
            f"task {task.name!r} has no evaluation problem after the first {chosen.offset}: lower eval.offset"
        )
    return problems


def self_critic(parts: RunComponents, max_tokens: int) -> FeedbackSource:
    """The model as the greedy critic of its own answers, without private information."""
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    return ModelCritic(EngineChat(parts.engine, parts.renderer, params=params))


def by_turn(
    parts: RunComponents,
    step: int,
    dialogue: DialogueEvalConfig,
    protocols: Collection[DialogueProtocol],
    *,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Results of dialogues turn by turn, for each generator; see `evaluation.by_turn.family_tables`."""
    chosen, task = parts.config.eval, parts.task
    n = min(dialogue.problems, chosen.problems)
    families = task.families()
    asked = {name: eval_problems(parts, n, family) for name, family in families.items()}
    ctx = eval_context(parts, step, seed=seed)
    return family_tables(task, ctx, asked, protocols, dialogue, chosen.temperature)
