"""The only loop. Nothing in it knows a method's name.

problems ─ collect ─▶ rollouts ─ rows ─▶ terms ─ forward_backward ─▶ optim_step ─▶ log, checkpoint
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from didact.build.components import RunComponents
from didact.engines.base import AdamParams, Engine
from didact.errors import DataError, Interrupted, NonFiniteError, TrainingGuard, UsageError
from didact.evaluation.token_trace import inspect_update
from didact.methods import LossTerm
from didact.rng import derive_seed, generator
from didact.run_dir import RunDir
from didact.training.checkpoint import State, save_checkpoint
from didact.training.evaluation_step import evaluate_once
from didact.training.metrics import rollout_metrics, term_metrics
from didact.training.monitors import AlarmMonitor, FeedbackFailureGuard
from didact.training.signals import StopSignal
from didact.types import Row

Report = Callable[[dict[str, Any]], None]
"""Called with every line of metrics.jsonl as it is written."""


def train_loop(
    parts: RunComponents, run: RunDir, state: State, stop: StopSignal, report: Report, warn: Report
) -> State:
    """Train from `state` to the end of the config, evaluating and saving on the way; the last state.

    The engine has the weights of `state`; `stop` is polled between steps and inside the stretches that may be
    cut off.

    Raises:
        Interrupted: a signal came, or too many critiques failed; every whole step is saved.
        NonFiniteError: a loss or gradient was not finite; the weights were not touched.
    """
    config, saved = parts.config, -1
    guard = FeedbackFailureGuard(config.feedback.max_failed)
    alarms = AlarmMonitor(run, config.feedback.control, warn)

    def log(record: dict[str, Any] | None) -> None:
        if record is not None:
            alarms.add(record)
            report(record)

    try:
        while config.progress(state.step, state.sampled_tokens) < 1:
            if state.step == 0 or (config.eval.every and state.step % config.eval.every == 0):
                log(evaluate_once(parts, run, state, stop, guard))
            state, record = train_step(parts, run, state, stop, guard)
            log(record)
            guard.check()
            if config.checkpoint_every and state.step % config.checkpoint_every == 0:
                save_checkpoint(run.checkpoints, parts.engine, state)
                saved = state.step
        log(evaluate_once(parts, run, state, stop, guard))
        alarms.end(state.step)
    except NonFiniteError:
        raise  # in the middle of an update: there is no whole step to save
    except (Interrupted, UsageError, DataError, TrainingGuard) as error:
        # Signals and failures cut off only stretches that leave the weights as the last whole step left them.
        save_checkpoint(run.checkpoints, parts.engine, state)
        cure = "" if isinstance(error, Interrupted) else f"mend this in {run.config}, then "
        raise type(error)(
            f"{error}. Everything up to step {state.step} is saved: {cure}go on with "
            f"`didact train --resume {run.path}`"
        ) from None
    if saved != state.step:
        save_checkpoint(run.checkpoints, parts.engine, state)
    return state


def train_step(
    parts: RunComponents, run: RunDir, state: State, stop: StopSignal, guard: FeedbackFailureGuard
) -> tuple[State, dict[str, Any]]:
    """One step: sample and criticise, then update, then log; the new state and its line of metrics.jsonl."""
    config, started = parts.config, time.perf_counter()
    seed = derive_seed(config.seed, "step", state.step)
    progress = config.progress(state.step, state.sampled_tokens)
    ctx = parts.context(seed=seed, step=state.step, progress=progress, method_state=state.method_state)
    parts.pop_reward_cost()  # what an evaluation's scores cost is no part of training
    with stop.interruptible():
        first = state.step * config.problems_per_step
        problems = [parts.task.train_problem(first + i) for i in range(config.problems_per_step)]
        rollouts = parts.method.collect(ctx, problems)
        scores = parts.pop_reward_cost()
    # From here on a signal waits: `rows` may swap other weights in, and the update changes them. The
    # rollouts are written first, so that a loss that is not finite leaves them to be looked at.
    run.add_rollouts(rollouts, state.step + 1)
    guard.add(rollouts)
    terms = [term for term in parts.method.rows(ctx, rollouts) if term.rows]
    params = config.optim.at(state.step, progress)
    batches = minibatches(terms, config.optim.minibatches, config.optim.passes, seed=seed)
    metrics, traces = inspect_update(
        parts.engine, rollouts, terms, state.step + 1, config.inspect,
        lambda: update(parts.engine, batches, params),
    )  # fmt: skip
    run.add_inspected(traces)
    state = state.advanced(rollouts, scores.tokens, updates=len(batches), method_state=ctx.method_state)
    record = {
        "step": state.step,
        "sampled_tokens": state.sampled_tokens,
        "feedback_tokens": state.feedback_tokens,
        **rollout_metrics(rollouts, revises=parts.method.is_multi_turn),
        **scores.metrics(),
        **ctx.metrics,
        "lr": params.lr,
        **metrics,
    }
    run.add_metrics(record)
    run.add_timing({"step": state.step, "seconds": round(time.perf_counter() - started, 4)})
    return state, record


def update(engine: Engine, batches: Iterable[Sequence[LossTerm]], params: AdamParams) -> dict[str, float]:
    """Accumulate every term's gradient and take an optimizer step, for each minibatch of each pass.

    The result has for each term its summed loss and its sums over tokens, and from an engine that compares
    gradients the norm of its gradient and the cosine with the terms before it; then the whole gradient's norm
    before clipping (all of the last step).
    """
    metrics: dict[str, float] = {}
    for terms in batches:
        for term in terms:
            metrics |= term_metrics(term, engine.forward_backward(term.rows, term.loss))
        metrics |= engine.optim_step(params).metrics
    return metrics


def minibatches(terms: Sequence[LossTerm], parts: int, passes: int, *, seed: int) -> list[list[LossTerm]]:
    """The terms of every optimizer step: the minibatches of the first pass, then those of the second, ….

    In one part the terms stay as they are. In several, each term's rows are dealt out in an order drawn
    anew for each pass, with weights times the number of parts: a part's gradient is then an estimate of the
    whole batch's, as its size is under a gradient clip.

    No part is empty, so there are fewer of them where no term has as many rows.
    """
    if not terms:
        return []
    parts = min(parts, max(len(term.rows) for term in terms))
    if parts == 1:
        return [list(terms) for _ in range(passes)]
    return [part for number in range(passes) for part in _dealt(terms, parts, seed, number)]


def _dealt(terms: Sequence[LossTerm], parts: int, seed: int, number: int) -> list[list[LossTerm]]:
    found: list[list[LossTerm]] = [[] for _ in range(parts)]
    for term in terms:
        order = generator(seed, "minibatches", number, term.name).permutation(len(term.rows))
        for part, chosen in enumerate(np.array_split(order, parts)):
            if len(chosen):
                rows = [_weighted(term.rows[i], parts) for i in chosen]
                found[part].append(term._replace(rows=rows))
    return found


def _weighted(row: Row, factor: int) -> Row:
    weights_T = (row.fields["weights"] * factor).astype(np.float32)
    return dataclasses.replace(row, fields={**row.fields, "weights": weights_T})
