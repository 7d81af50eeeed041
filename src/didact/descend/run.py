"""`descend` and `resume_descent`: Feedback Descent from its settings to a run directory like any other.

Step 0 is the first instruction, every round a step. The directory has no checkpoints and no model, but

prompts.jsonl     one line a round, and one before the first: the current instruction, the proposal, its
                  scores on the validation problems, and all else that the next round needs

so that `didact compare` and `didact eval` read it as they read a trained run.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from didact.build.components import RunComponents, build
from didact.config import RunConfig, parse_config, read_yaml
from didact.descend.feedback_descent import NAME, DescentState, FeedbackDescent
from didact.errors import DataError, Interrupted, TrainingGuard, UsageError
from didact.rng import derive_seed
from didact.rollouts.base import problem_prompt
from didact.rollouts.system_prompt import InstructedRenderer, instructed
from didact.run_dir import RunDir, append_jsonl, read_jsonl, write_atomically
from didact.settings import validate_settings
from didact.training.checkpoint import State, check_inputs, write_inputs
from didact.training.evaluation_step import eval_problems, evaluate_once, find_evaluation
from didact.training.loop import Report
from didact.training.metrics import rollout_metrics
from didact.training.monitors import FeedbackFailureGuard
from didact.training.signals import StopSignal
from didact.types import Problem

PROMPTS = "prompts.jsonl"
"""The file's name in a run directory."""
ROUNDS = 5
"""As RLTF ran it."""


def descent_settings(config: RunConfig) -> FeedbackDescent:
    """The method's settings, checked.

    Raises:
        UsageError: an unknown setting, or a value out of range.
    """
    return validate_settings(FeedbackDescent, config.settings, NAME)


def descend(
    config: RunConfig, out: Path, *, report: Report = lambda record: None, command: str = ""
) -> RunDir:
    """Improve an instruction by a whole config, whose `steps` are the rounds.

    Args:
        config: With "feedback-descent" as its method.
        report: Called with every line of metrics.jsonl.
        command: For the directory's README.

    Raises:
        UsageError, DataError: settings or data that cannot be used; nothing was written.
        Interrupted: a signal came, or too much failed; `resume_descent` goes on.
    """
    RunDir.refuse_existing(out)
    method = descent_settings(config)
    parts = build(config, home=out)
    train, validation = method.split(parts.task)
    check_room(parts, method, [*train, *validation])
    run = RunDir.create(out, config.to_yaml(), command or f"didact descend --out {out}")
    write_inputs(run, parts)
    return _finish(parts, method, run, train, validation, report)


def resume_descent(path: Path, *, report: Report = lambda record: None) -> RunDir:
    """Go on after the last whole round, with the same result as without the stop.

    Raises:
        UsageError: no descent there, or it has ended.
        CheckpointError: data, model or versions are other than those that it started from.
    """
    run = RunDir.open(path)
    config = parse_config(read_yaml(run.config))
    if config.method != NAME:
        raise UsageError(f"{path} is a run of {config.method}: go on with `didact train --resume {path}`")
    if run.result.exists():
        raise UsageError(f"{path} has ended: see {run.result}, or begin again with a new --out")
    method = descent_settings(config)
    parts = build(config, home=path)
    check_inputs(run, parts)
    train, validation = method.split(parts.task)
    return _finish(parts, method, run, train, validation, report)


def instructed_parts(config: RunConfig, run: RunDir) -> tuple[RunComponents, int]:
    """The model under the instruction that a descent has found so far, and the round that found it stood at.

    Raises:
        DataError: it has not begun.
    """
    method = descent_settings(config)
    standing = _last(run)
    if standing is None:
        raise DataError(f"{run.path} has no whole round to evaluate")
    parts = build(config, for_training=False, home=run.path)
    return _under(parts, method, standing.best), standing.round


def check_room(parts: RunComponents, method: FeedbackDescent, problems: list[Problem]) -> None:
    """Refuse a model that could not hold every problem with the longest instruction and an answer.

    Raises:
        UsageError: naming the problem and the cure.
    """
    renderer, limit = parts.renderer, parts.engine.max_length
    held_out = list(eval_problems(parts)) if parts.config.eval.problems else []
    answer = parts.config.sampling.max_tokens
    for problem in (*problems, *held_out):
        plain = len(problem_prompt(renderer, problem))
        with_one = len(renderer.prompt(instructed(problem.messages, "x", method.place)))
        needed = max(plain, with_one) + method.prompt_tokens + answer
        if limit is not None and needed > limit:
            raise UsageError(
                f"problem {problem.id!r} may need {needed} tokens ({plain} of its own, settings.prompt_tokens"
                f" = {method.prompt_tokens}, sampling.max_tokens = {answer}), and the model takes {limit}: "
                "lower one of the two, or take a model with a longer context"
            )


def _finish(
    parts: RunComponents,
    method: FeedbackDescent,
    run: RunDir,
    train: list[Problem],
    validation: list[Problem],
    report: Report,
) -> RunDir:
    standing = _last(run)
    run.rewind(0 if standing is None else standing.round)
    with StopSignal() as stop:
        try:
            standing = _rounds(parts, method, run, (train, validation), standing, stop, report)
        except (Interrupted, UsageError, DataError, TrainingGuard) as error:
            raise type(error)(
                f"{error}. Every whole round is saved: go on with `didact descend --resume {run.path}`"
            ) from None
    result = {
        "method": NAME,
        "task": parts.config.task.name,
        "seed": parts.config.seed,
        "steps": standing.round,
        "updates": 0,
        "sampled_tokens": standing.sampled_tokens,
        "feedback_tokens": standing.feedback_tokens,
        "eval": find_evaluation(run, standing.round),
        "weights": parts.engine.weights_hash(),
        "prompt": standing.best,
    }
    write_atomically(run.result, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return run


def _rounds(
    parts: RunComponents,
    method: FeedbackDescent,
    run: RunDir,
    problems: tuple[list[Problem], list[Problem]],
    standing: DescentState | None,
    stop: StopSignal,
    report: Report,
) -> DescentState:
    config, watch = parts.config, FeedbackFailureGuard(parts.config.feedback.max_failed)
    train, validation = problems

    def evaluated(standing: DescentState) -> None:
        state = State(
            step=standing.round,
            sampled_tokens=standing.sampled_tokens,
            feedback_tokens=standing.feedback_tokens,
        )
        record = evaluate_once(_under(parts, method, standing.best), run, state, stop, watch)
        if record is not None:
            report(record)

    validating = parts.context(seed=derive_seed(config.seed, "validation"), step=0, progress=0.0)
    if standing is None:
        with stop.interruptible():
            standing = method.begin(validating, validation)
        standing = standing.model_copy(update={"feedback_tokens": parts.pop_reward_cost().tokens})
        _keep(run, standing)
    if standing.round == 0:
        evaluated(standing)
    while config.progress(standing.round, standing.sampled_tokens) < 1:
        started, step, size = time.perf_counter(), standing.round, config.problems_per_step
        seed = derive_seed(config.seed, "step", step)
        ctx = parts.context(seed=seed, step=step, progress=step / config.steps)
        batch = [train[(step * size + i) % len(train)] for i in range(min(size, len(train)))]
        parts.pop_reward_cost()  # what an evaluation's scores cost is no part of the descent
        with stop.interruptible():
            done = method.round(ctx, validating, standing, batch, validation)
        watch.add(done.rollouts)
        watch.check()
        bill = parts.pop_reward_cost()
        tokens = done.standing.feedback_tokens + bill.tokens
        standing = done.standing.model_copy(update={"feedback_tokens": tokens})
        run.add_rollouts(done.rollouts, standing.round)
        record: dict[str, Any] = {
            "step": standing.round,
            "sampled_tokens": standing.sampled_tokens,
            "feedback_tokens": standing.feedback_tokens,
            **rollout_metrics(done.rollouts),
            **bill.metrics(),
            **done.metrics(),
        }
        if done.proposal.error is not None:
            record["no_proposal"] = done.proposal.error
        run.add_metrics(record)
        run.add_timing({"step": standing.round, "seconds": round(time.perf_counter() - started, 4)})
        _keep(run, standing, tried=done.proposal.text, error=done.proposal.error)
        report(record)
    evaluated(standing)
    return standing


def _under(parts: RunComponents, method: FeedbackDescent, instruction: str) -> RunComponents:
    renderer = InstructedRenderer(parts.renderer, instruction, method.place)
    return dataclasses.replace(parts, renderer=renderer)


def _keep(run: RunDir, standing: DescentState, **tried: Any) -> None:
    append_jsonl(run.path / PROMPTS, [{**standing.model_dump(mode="json"), **tried}])


def _last(run: RunDir) -> DescentState | None:
    """Where the last whole round left the descent."""
    found = None
    for record in read_jsonl(run.path / PROMPTS):
        found = DescentState.model_validate(
            {k: v for k, v in record.items() if k in DescentState.model_fields}
        )
    return found
