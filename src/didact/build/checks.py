"""What a run refuses before anything is written: a task without a signal, prompts that are too long."""

from __future__ import annotations

from didact.build.source_base import Source
from didact.build.sources import source_settings
from didact.config import RunConfig
from didact.engines.base import Engine
from didact.errors import DataError, UsageError
from didact.methods import SFT, Method
from didact.rendering.renderer import Renderer
from didact.tasks.base import Task, validate_problem
from didact.tasks.code import CodeTask
from didact.tasks.dataset_task import DatasetTask
from didact.tasks.writing import JudgeScoredTask


def check_task(config: RunConfig, method: Method, task: Task) -> None:
    """Refuse a task from which the method could learn nothing, or whose evaluation has no verifier.

    Raises:
        DataError: references are missing, or the first training problem's own scores nothing.
        UsageError: evaluation is on, and the task verifies nothing.
    """
    first = task.train_problem(0)
    judged = isinstance(task, JudgeScoredTask)
    if not judged:
        validate_problem(task, first)
    problems = task.train_problems() if isinstance(task, DatasetTask) else [first]
    bare = [problem.id for problem in problems if problem.reference is None]
    if isinstance(method, SFT) and bare:
        raise DataError(
            f"problem {bare[0]!r} has no reference that is an answer, and SFT learns from nothing else: add "
            "one to every row, or take a method that learns from rewards or critiques"
        )
    source = source_settings(config.feedback.source, config.feedback.settings)
    if method.needs_feedback and source.needs_reference and len(bare) == len(problems):
        raise DataError(
            f"no problem of task {task.name!r} has a reference, so feedback.source={config.feedback.source} "
            "could criticise nothing: add references that are answers, or take another source"
        )
    _check_misleading(config, source, task)
    if config.eval.problems and not judged:
        asked = task.eval_problems(1)[0]
        verdict = task.verify(asked, asked.reference or "")
        if verdict.reward is None and verdict.error is None:
            raise UsageError(
                f"task {task.name!r} verifies no answer, so there is no accuracy: set "
                "task.settings.verifier, or switch evaluation off with --set eval.problems=0"
            )


def _check_misleading(config: RunConfig, source: Source, task: Task) -> None:
    """Refuse a control that shows the critic a false solution where that does not change what it says."""
    control = config.feedback.control
    if control is None or not control.needs_reference:
        return
    if not source.needs_reference or isinstance(task, CodeTask):
        raise UsageError(
            f"feedback.control={control.name} shows the critic a false solution, and feedback.source="
            f"{config.feedback.source} of task {task.name!r} does not go by one: take a source that sees the "
            "reference, as program or teacher, and a task with references that are answers"
        )


def check_lengths(config: RunConfig, method: Method, task: Task, policy: tuple[Engine, Renderer]) -> None:
    """Refuse a file with a prompt that leaves the model no room for an answer.

    Raises:
        DataError: naming the row, its length and the limit.
    """
    engine, renderer = policy
    limit = engine.max_length
    if limit is None or not isinstance(task, DatasetTask):
        return
    only_given = isinstance(method, SFT) and not config.eval.problems
    for problem in task.problems():
        answer = 0 if only_given else config.sampling.max_tokens
        if isinstance(method, SFT) and problem.reference is not None:
            answer = max(answer, len(renderer.answer(problem.reference)))
        length = len(renderer.prompt(problem.messages))
        if length + answer > limit:
            raise DataError(
                f"problem {problem.id!r} has a prompt of {length} tokens, which with {answer} for the answer "
                f"exceeds the model's {limit}: lower sampling.max_tokens, shorten the row, or use a model "
                "with a longer context"
            )
