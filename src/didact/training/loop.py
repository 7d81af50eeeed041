"""The only loop. Nothing in it knows a method's name.

problems ─ collect ─▶ rollouts ─ rows ─▶ terms ─ forward_backward ─▶ optim_step ─▶ log, checkpoint
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from didact.build.setup import RunComponents
from didact.engines.base import AdamParams, Engine
from didact.errors import DataError, Interrupted, NonFiniteError, TrainingGuard, UsageError
from didact.evaluation.by_turn import PROTOCOLS
from didact.evaluation.calibration import calibration
from didact.evaluation.evaluate import evaluate
from didact.evaluation.token_trace import inspect_update
from didact.methods import Term
from didact.rng import derive_seed
from didact.run_dir import RunDir, read_jsonl
from didact.training.alarm_monitor import AlarmMonitor
from didact.training.checkpoint import State, save_checkpoint
from didact.training.failure_rate_guard import FeedbackFailureGuard
from didact.training.metrics import rollout_metrics, term_metrics
from didact.training.minibatches import minibatches
from didact.training.signals import StopSignal

Report = Callable[[dict[str, Any]], None]
"""Told of every line of metrics.jsonl as it is written."""


def train_loop(
    parts: RunComponents, run: RunDir, state: State, stop: StopSignal, report: Report, warn: Report
) -> State:
    """Train from `state` to the end of the config, evaluating and saving on the way.

    Args:
        parts: Engine (standing where `state` says), method, task, critics.
        run: Where to write.
        state: Where to begin.
        stop: Polled between steps and inside the stretches that may be cut off.
        report: Told of every metrics line.
        warn: Told {"warning": …} of what looks wrong in them.

    Returns:
        The state after the last step, checkpointed.

    Raises:
        Interrupted: a signal came, or too many critiques failed; every whole step is saved.
        NonFiniteError: a loss or gradient was not finite; the weights were not touched.
    """
    config = parts.config
    saved: int | None = None
    watch = FeedbackFailureGuard(config.feedback.max_failed)
    alarms = AlarmMonitor(run, config.feedback.control, warn)

    def told(record: dict[str, Any]) -> None:
        alarms.add(record)
        report(record)

    try:
        while config.progress(state.step, state.sampled_tokens) < 1:
            if state.step == 0 or (config.eval.every and state.step % config.eval.every == 0):
                evaluate_once(parts, run, state, stop, told, watch)
            state = train_step(parts, run, state, stop, told, watch)
            watch.check()
            if config.checkpoint_every and state.step % config.checkpoint_every == 0:
                save_checkpoint(run.checkpoints, parts.engine, state)
                saved = state.step
        evaluate_once(parts, run, state, stop, told, watch)
        alarms.end(state.step)
    except Interrupted as stopped:
        # Signals only cut off stretches that leave the engine where the last whole step put it.
        save_checkpoint(run.checkpoints, parts.engine, state)
        raise Interrupted(
            f"{stopped} after step {state.step}, which is saved: go on with "
            f"`didact train --resume {run.path}`"
        ) from None
    except (UsageError, DataError, TrainingGuard) as error:
        if isinstance(error, NonFiniteError):
            raise  # in the middle of an update
        # As with a key that expires or a budget that is spent: whoever mends it loses nothing.
        save_checkpoint(run.checkpoints, parts.engine, state)
        raise type(error)(
            f"{error}. Everything up to step {state.step} is saved: mend this in {run.config}, then go on "
            f"with `didact train --resume {run.path}`"
        ) from None
    if saved != state.step:
        save_checkpoint(run.checkpoints, parts.engine, state)
    return state


def train_step(
    parts: RunComponents,
    run: RunDir,
    state: State,
    stop: StopSignal,
    report: Report,
    watch: FeedbackFailureGuard,
) -> State:
    """One step: sample and criticise, then update, then write down what happened."""
    config, started = parts.config, time.perf_counter()
    seed = derive_seed(config.seed, "step", state.step)
    progress = config.progress(state.step, state.sampled_tokens)
    ctx = parts.context(seed=seed, step=state.step, progress=progress, memory=state.memory)
    parts.bill()  # what an evaluation's scores cost is no part of training
    with stop.interruptible():
        first = state.step * config.problems_per_step
        problems = [parts.task.train_problem(first + i) for i in range(config.problems_per_step)]
        rollouts = parts.method.collect(ctx, problems)
        scores = parts.bill()
    # From here on a signal waits: `rows` may swap other weights in, and the update changes them. The
    # rollouts are written first, so that a loss that is not finite leaves them to be looked at.
    run.add_rollouts(rollouts, state.step + 1)
    watch.add(rollouts)
    terms = parts.method.rows(ctx, rollouts)
    params = config.optim.at(state.step, progress)
    steps = minibatches(terms, config.optim.minibatches, config.optim.passes, seed=seed)
    metrics, inspected = inspect_update(
        parts.engine,
        rollouts,
        terms,
        state.step + 1,
        config.inspect,
        lambda: update(parts.engine, steps, params),
    )
    if inspected:
        run.add_inspected(inspected)
    feedback_tokens = sum(r.feedback_tokens for r in rollouts) + scores.tokens
    state = state.model_copy(
        update={
            "step": state.step + 1,
            "sampled_tokens": state.sampled_tokens + sum(r.sampled_tokens for r in rollouts),
            "feedback_tokens": state.feedback_tokens + feedback_tokens,
            "updates": state.updates + len(steps),
            "memory": ctx.memory,
        }
    )
    record = {
        "step": state.step,
        "sampled_tokens": state.sampled_tokens,
        "feedback_tokens": state.feedback_tokens,
        **rollout_metrics(rollouts, revises=parts.method.revises),
        **scores.metrics(),
        **ctx.notes,
        "lr": params.lr,
        **metrics,
    }
    run.add_metrics(record)
    run.add_timing({"step": state.step, "seconds": round(time.perf_counter() - started, 4)})
    report(record)
    return state


def update(engine: Engine, steps: Iterable[Sequence[Term]], params: AdamParams) -> dict[str, float]:
    """Accumulate every term's gradient and take a step, for each minibatch of each pass.

    Returns:
        Per term its summed loss and its sums over tokens, and from an engine that compares gradients its
        gradient's norm and cosine with the sum of the terms before it; then the whole gradient's norm before
        clipping (all of the last step).
    """
    metrics: dict[str, float] = {}
    for terms in steps:
        for term in terms:
            metrics |= term_metrics(term, engine.forward_backward(term.rows, term.loss))
        metrics |= engine.optim_step(params).metrics
    return metrics


def evaluate_once(
    parts: RunComponents,
    run: RunDir,
    state: State,
    stop: StopSignal,
    report: Report,
    watch: FeedbackFailureGuard,
) -> None:
    """Evaluate the weights of this step, unless metrics.jsonl already says how good they are.

    Where too many critiques fail nothing is written down, so that a resumed run evaluates again.
    """
    config = parts.config.eval
    if not config.problems or evaluated(run, state.step) is not None:
        return
    started = time.perf_counter()
    with stop.interruptible():
        problems = parts.eval_problems()
        ctx = parts.eval_context(state.step)
        evaluation = evaluate(ctx, problems, temperature=config.temperature, feedback=config.feedback)
        watch.add(evaluation.rollouts)
        watch.check()
        values = evaluation.metrics() | parts.against_start(run, evaluation)
        ends = parts.config.progress(state.step, state.sampled_tokens) >= 1
        if config.own_critique and (state.step == 0 or ends):
            own = dataclasses.replace(ctx, feedback=parts.own_critic())
            criticised = evaluate(own, problems, temperature=config.temperature)
            values |= criticised.metrics("own_critique") | calibration(criticised.rollouts)
        if config.didactic_turns and ends:
            most = config.didactic_problems
            values["by_turn"] = parts.by_turn(state.step, config.didactic_turns, PROTOCOLS, most)
    record = {
        "step": state.step,
        "sampled_tokens": state.sampled_tokens,
        "eval": values,
    }
    run.add_evaluation(evaluation.rollouts, state.step)
    run.add_metrics(record)
    seconds = round(time.perf_counter() - started, 4)
    run.add_timing({"step": state.step, "eval_seconds": seconds})
    report(record)


def evaluated(run: RunDir, step: int) -> dict[str, Any] | None:
    """The evaluation that metrics.jsonl holds for a step."""
    for record in read_jsonl(run.metrics):
        if record["step"] == step and "eval" in record:
            found: dict[str, Any] = record["eval"]
            return found
    return None
