"""What every feedback source's settings are, and what a source may be built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from didact.config import Section
from didact.engines.base import Engine
from didact.errors import UsageError, did_you_mean
from didact.feedback_source import FeedbackSource
from didact.rendering.renderer import Renderer
from didact.tasks.base import Task

S = TypeVar("S", bound=BaseModel)

UNSHOWN = ("api_key_env", "base_url")
"""Settings that a key may be put into by mistake: an error does not repeat them."""


@dataclass(frozen=True)
class BuildContext:
    """What a source may be built from.

    Attributes:
        load: Makes an engine and its renderer from a model's name or path; None is the policy's own.
        policy: The engine in training and its renderer; None where nothing is trained.
        task: The task whose answers are criticised.
        seed: The run's seed.
        home: A folder for what a source keeps, as a judge's replies; made when needed.
        didactic: The source is a teacher in a dialogue; see `Method.didactic`.
        judge: Gives the judge of the rewards as a source of critiques; None where nobody scores.
    """

    load: Callable[[str | None], tuple[Engine, Renderer]]
    policy: tuple[Engine, Renderer] | None
    task: Task | None
    seed: int
    home: Path | None
    didactic: bool = False
    judge: Callable[[], FeedbackSource | None] = lambda: None


class Source(Section):
    """Settings of a source."""

    @property
    def needs_reference(self) -> bool:
        """Can it say nothing about a problem without a reference?"""
        return False

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that its words come from; a run does not go on when they have changed."""
        return ()

    def build(self, at: BuildContext) -> FeedbackSource:
        """The source itself."""
        raise NotImplementedError


def checked_settings(kind: type[S], of: str, settings: Mapping[str, Any]) -> S:
    """Settings of one kind, checked; `of` says in a message whose they are.

    Raises:
        UsageError: an unknown setting (with the nearest valid one), or a value out of range.
    """
    for key in settings:
        if key not in kind.model_fields:
            raise UsageError(f"{of} has no setting {key!r}: {did_you_mean(key, kind.model_fields)}")
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        given = "" if first["type"] == "missing" or key in UNSHOWN else f" = {first['input']!r}"
        raise UsageError(f"{of}: {key}{given}: {first['msg']}") from None
