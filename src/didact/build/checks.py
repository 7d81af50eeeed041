"""What a run refuses before anything is written: a task without a signal, prompts that are too long."""

from __future__ import annotations

from typing import Any

from didact.config import RunConfig
from didact.engines.base import Engine
from didact.errors import DataError, UsageError
from didact.methods import Method
from didact.rendering.renderer import Renderer
from didact.rollouts.base import problem_prompt
from didact.tasks.base import BaseTask, validate_problem


def check_trains(method: Method, name: str) -> None:
    """Refuse a method that changes no weight, naming the command that runs it."""
    if not method.trains_weights:
        raise UsageError(
            f"{name} changes a prompt and no weight, so there is nothing to train, resume or sweep: run "
            "`didact descend`, or go on with `didact descend --resume RUN`"
        )


def check_task(config: RunConfig, method: Method, task: BaseTask, source: Any) -> None:
    """Refuse a task from which the method could learn nothing, or whose evaluation has no verifier.

    Raises:
        DataError: references are missing, or the first training problem's own scores nothing.
        UsageError: evaluation is on, and the task verifies nothing.
    """
    first = task.train_problem(0)
    if not task.needs_judge:
        validate_problem(task, first)
    problems = task.all_train_problems() or [first]
    bare = [problem.id for problem in problems if problem.reference is None]
    if method.learns_from_references and bare:
        raise DataError(
            f"problem {bare[0]!r} has no reference that is an answer, and {config.method} learns from "
            "nothing else: add one to every row, or take a method that learns from rewards or critiques"
        )
    needs_reference = getattr(source, "needs_reference", False)
    if method.needs_feedback and needs_reference and len(bare) == len(problems):
        raise DataError(
            f"no problem of task {task.name!r} has a reference, so feedback.source={config.feedback.source} "
            "could criticise nothing: add references that are answers, or take another source"
        )
    _check_misleading(config, needs_reference, task)
    if config.eval.problems and not task.needs_judge:
        asked = task.eval_problems(1)[0]
        verdict = task.verify(asked, asked.reference or "")
        if verdict.reward is None and verdict.error is None:
            raise UsageError(
                f"task {task.name!r} verifies no answer, so there is no accuracy: set "
                "task.settings.verifier, or switch evaluation off with --set eval.problems=0"
            )


def _check_misleading(config: RunConfig, needs_reference: bool, task: BaseTask) -> None:
    """Refuse a control that shows the critic a false solution where the critic does not use the reference."""
    control = config.feedback.control
    if control is None or not control.replaces_reference:
        return
    if not (needs_reference and task.critic_uses_reference):
        raise UsageError(
            f"feedback.control={control.name} shows the critic a false solution, and feedback.source="
            f"{config.feedback.source} of task {task.name!r} does not go by one: take a source that sees the "
            "reference, as program or teacher, and a task with references that are answers"
        )


def check_lengths(config: RunConfig, method: Method, task: BaseTask, policy: tuple[Engine, Renderer]) -> None:
    """Refuse a file with a prompt that the chat template does not render, or that leaves no room to answer.

    Raises:
        DataError: naming the row, and its length and the limit.
        UsageError: the chat template does not render the dialogues of the method or the evaluation.
    """
    engine, renderer = policy
    if method.uses_dialogue_teacher or config.eval.dialogue is not None:
        renderer.follow_up("a")
    limit = engine.max_length
    only_given = method.learns_from_references and not config.eval.problems
    for problem in task.all_problems() or ():
        answer = 0 if only_given else config.sampling.max_tokens
        if method.learns_from_references and problem.reference is not None:
            answer = max(answer, len(renderer.answer(problem.reference)))
        length = len(problem_prompt(renderer, problem))
        if limit is not None and length + answer > limit:
            raise DataError(
                f"problem {problem.id!r} has a prompt of {length} tokens, which with {answer} for the answer "
                f"exceeds the model's {limit}: lower sampling.max_tokens, shorten the row, or use a model "
                "with a longer context"
            )
