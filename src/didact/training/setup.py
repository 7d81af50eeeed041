"""From settings to the things they name: task, critic, method, engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from didact.engines.base import Engine
from didact.engines.local import LocalEngine, LoraSettings
from didact.errors import DataError, UsageError
from didact.feedback.base import FeedbackSource
from didact.feedback.program import ProgramCritic
from didact.feedback.shuffled import ShuffledFeedback
from didact.methods import SFT, Method, make_method
from didact.randomness import derive_seed
from didact.rollouts.base import Context
from didact.rollouts.render import Renderer
from didact.tasks import JsonlTask, make_task
from didact.tasks.base import Task, validate_problem, validate_task
from didact.training.config import FeedbackConfig, ModelConfig, RunConfig
from didact.types import Problem

TINY = "tiny"
"""The bundled model's name."""


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    config: RunConfig
    task: Task
    critic: FeedbackSource
    """Writes true critiques, also for evaluation."""
    feedback: FeedbackSource
    """What the method gets to read: the critic, or a control that wraps it."""
    method: Method
    engine: Engine
    renderer: Renderer

    def context(self, *, seed: int, step: int, progress: float) -> Context:
        """What one training step may use."""
        return Context(
            engine=self.engine,
            renderer=self.renderer,
            task=self.task,
            feedback=self.feedback,
            sampling=self.config.sampling.params(),
            seed=seed,
            step=step,
            progress=progress,
        )

    def eval_context(self, step: int) -> Context:
        """What an evaluation may use: true critiques, and draws that are the same for every run."""
        ctx = self.context(seed=derive_seed(0, "eval"), step=step, progress=0.0)
        return dataclasses.replace(ctx, feedback=self.critic)

    def eval_problems(self) -> Sequence[Problem]:
        """The configured stretch of evaluation problems.

        Raises:
            UsageError: the task has none there.
        """
        chosen = self.config.eval
        problems = self.task.eval_problems(chosen.offset + chosen.problems)[chosen.offset :]
        if not problems:
            raise UsageError(
                f"task {self.task.name!r} has no evaluation problem after the first {chosen.offset}: "
                "lower eval.offset"
            )
        return problems


def build(config: RunConfig, *, for_training: bool = True) -> Parts:
    """Make everything that a config names, the cheap things first.

    Args:
        config: The settings.
        for_training: Also check that the method can learn from what the task offers.

    Raises:
        UsageError, DataError: a name, file or row that cannot be used; nothing was written.
    """
    method = make_method(config.method, config.settings)
    task = make_task(config.task.name, config.task.settings, seed=config.seed)
    validate_task(task)
    if for_training:
        check_task(config, method, task)
    critic = make_critic(config.feedback)
    feedback = ShuffledFeedback(critic, seed=config.seed) if config.feedback.shuffled else critic
    engine = make_engine(config.model, keep_reference=method.needs_reference)
    renderer = Renderer(engine.tokenizer, config.model.chat_template, engine.end_ids)
    parts = Parts(config, task, critic, feedback, method, engine, renderer)
    if for_training:
        check_lengths(parts)
    return parts


def check_task(config: RunConfig, method: Method, task: Task) -> None:
    """Refuse a task from which the method could learn nothing, or whose evaluation nobody could verify.

    Raises:
        DataError: references are missing, or the first training problem's own scores nothing.
        UsageError: evaluation is on, and the task verifies nothing.
    """
    first = task.train_problem(0)
    validate_problem(task, first)
    problems = task.train_problems() if isinstance(task, JsonlTask) else [first]
    bare = [problem.id for problem in problems if problem.reference is None]
    if isinstance(method, SFT) and bare:
        raise DataError(
            f"problem {bare[0]!r} has no reference that is an answer, and SFT learns from nothing else: add "
            "one to every row, or take a method that learns from rewards or critiques"
        )
    if method.needs_feedback and len(bare) == len(problems):
        raise DataError(
            f"no problem of task {task.name!r} has a reference, so feedback.source=program could criticise "
            "nothing: add references that are answers, or take the method grpo with turns=1"
        )
    if config.eval.problems:
        asked = task.eval_problems(1)[0]
        verdict = task.verify(asked, asked.reference or "")
        if verdict.reward is None and verdict.error is None:
            raise UsageError(
                f"task {task.name!r} verifies no answer, so there is no accuracy: set "
                "task.settings.verifier, or switch evaluation off with --set eval.problems=0"
            )


def check_lengths(parts: Parts) -> None:
    """Refuse a file with a prompt that leaves the model no room for an answer.

    Raises:
        DataError: naming the row, its length and the limit.
    """
    limit, task = parts.engine.max_length, parts.task
    if limit is None or not isinstance(task, JsonlTask):
        return
    only_given = isinstance(parts.method, SFT) and not parts.config.eval.problems
    for problem in task.problems():
        answer = 0 if only_given else parts.config.sampling.max_tokens
        if isinstance(parts.method, SFT) and problem.reference is not None:
            answer = max(answer, len(parts.renderer.answer(problem.reference)))
        length = len(parts.renderer.prompt(problem.messages))
        if length + answer > limit:
            raise DataError(
                f"problem {problem.id!r} has a prompt of {length} tokens, which with {answer} for the answer "
                f"exceeds the model's {limit}: lower sampling.max_tokens, shorten the row, or use a model "
                "with a longer context"
            )


def make_critic(config: FeedbackConfig) -> FeedbackSource:
    """The configured source, without controls."""
    return ProgramCritic(config.level)


def make_engine(config: ModelConfig, *, keep_reference: bool = False) -> LocalEngine:
    """An engine with the configured model."""
    lora = None
    if config.lora is not None:
        lora = LoraSettings(**config.lora.model_dump())
    return LocalEngine.from_pretrained(
        str(tiny_model()) if config.path == TINY else config.path,
        lora=lora,
        device=config.device,
        dtype=config.dtype,
        tokens_per_batch=config.tokens_per_batch,
        keep_reference=keep_reference,
    )


def tiny_model() -> Path:
    """Where the bundled model lies."""
    return Path(str(resources.files("didact") / "assets" / "tiny"))
