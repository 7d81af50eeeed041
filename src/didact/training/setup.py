"""From settings to the things they name: task, critic, method, engine."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from didact.engines.base import Engine
from didact.engines.local import LocalEngine, LoraSettings
from didact.feedback.base import FeedbackSource
from didact.feedback.program import ProgramCritic
from didact.feedback.shuffled import ShuffledFeedback
from didact.methods import Method, make_method
from didact.rollouts.base import Context
from didact.rollouts.render import Renderer
from didact.tasks import make_task
from didact.tasks.base import Task, validate_task
from didact.training.config import FeedbackConfig, ModelConfig, RunConfig

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


def build(config: RunConfig) -> Parts:
    """Make everything that a config names, the cheap things first.

    Raises:
        UsageError, DataError: a name, file or row that cannot be used; nothing was written.
    """
    method = make_method(config.method, config.settings)
    task = make_task(config.task.name, config.task.settings, seed=config.seed)
    validate_task(task)
    critic = make_critic(config.feedback)
    feedback = ShuffledFeedback(critic, seed=config.seed) if config.feedback.shuffled else critic
    engine = make_engine(config.model, keep_reference=method.needs_reference)
    return Parts(config, task, critic, feedback, method, engine, Renderer(engine.tokenizer))


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
