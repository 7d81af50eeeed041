"""The base of feedback sources' settings, and what a source is built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from didact.engines.base import Engine
from didact.feedback_source import FeedbackSource
from didact.rendering.renderer import Renderer
from didact.settings import Section
from didact.tasks.base import BaseTask


@dataclass(frozen=True)
class BuildContext:
    """What a source is built from.

    Attributes:
        load: Makes an engine and its renderer from a model's name or path; None is the policy's own.
        policy: The engine in training and its renderer; None where nothing is trained.
        task: The task whose answers are criticised.
        seed: The run's seed.
        home: A folder for a source's files, as a judge's replies; made when needed.
        in_dialogue: The source is a teacher in a dialogue; see `Method.uses_dialogue_teacher`.
        judge: Returns the judge of the rewards as a feedback source; None without a judge.
    """

    load: Callable[[str | None], tuple[Engine, Renderer]]
    policy: tuple[Engine, Renderer] | None
    task: BaseTask | None
    seed: int
    home: Path | None
    in_dialogue: bool = False
    judge: Callable[[], FeedbackSource | None] = lambda: None


class Source(Section):
    """Settings of a source."""

    @property
    def needs_reference(self) -> bool:
        """Whether it cannot criticise a problem without a reference."""
        return False

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that its critiques depend on; a run is not resumed when they have changed."""
        return ()

    def build(self, at: BuildContext) -> FeedbackSource:
        """The source."""
        raise NotImplementedError
