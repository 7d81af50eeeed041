"""How a reward model is prompted: a small file beside its weights, and the prompts that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from didact.errors import DataError, UsageError
from didact.jsonl import write_atomically
from didact.prompts import conversation_text
from didact.reward_model.formats import FORMATS, Format, make_format
from didact.types import Message, Problem, Record

CARD = "reward_model.json"
"""The file's name."""


class Card(Record):
    """Everything that a reward model's prompts depend on, except its tokenizer.

    >>> Card(format="lines_v1", max_tokens=64).reasoning
    True
    """

    format: str
    """A name in `FORMATS`."""
    reasoning: bool = True
    """A critique comes before the passages."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """The longest reply in training."""
    prompt_tokens: int | None = None
    """The longest prompt; a longer one shows less of the problem. None for no limit."""
    chat_template: dict[str, Any] = Field(default_factory=dict)
    """Settings of the model's chat template."""

    @field_validator("format")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in FORMATS:
            raise ValueError(f"this version of Didact knows no format {name!r}: {', '.join(FORMATS)}")
        return name

    def write(self, folder: Path) -> None:
        """Write it into a model's folder."""
        write_atomically(folder / CARD, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card of a model's folder.

        Raises:
            UsageError: there is none.
            DataError: it is damaged.
        """
        try:
            return cls.model_validate_json((folder / CARD).read_bytes())
        except FileNotFoundError:
            raise UsageError(
                f"{folder} is no reward model: it has no {CARD}; train one with `didact reward-model train`"
            ) from None
        except ValidationError as error:
            raise DataError(f"{folder / CARD} cannot be used: {error.errors()[0]['msg']}") from None


def find_model(path: str | Path) -> Path:
    """The folder of a reward model: the path itself, or `model/` in a run directory.

    Raises:
        UsageError: neither holds one.
    """
    path = Path(path)
    if not (path / CARD).exists() and (path / "model" / CARD).exists():
        return path / "model"
    Card.read(path)
    return path


@dataclass(frozen=True)
class Prompter:
    """Builds the prompts of training, evaluation and RL, which fit the model because the problem is cut.

    A prompt depends only on the card, the tokenizer, the problem and the answer. The answer is never cut.

    """

    card: Card
    length: Callable[[Sequence[Message]], int]
    """The number of tokens of a rendered conversation."""

    @property
    def format(self) -> Format:
        return make_format(self.card.format)

    def messages(self, problem: Problem, answer: str) -> tuple[Message, ...] | None:
        """The prompt about an answer, with as much of the problem as fits (see `prompts.shorten`); None if
        the answer alone is too long."""
        limit = self.card.prompt_tokens
        whole = self._prompt(problem, answer, None)
        if limit is None or self.length(whole) <= limit:
            return whole
        fits: tuple[Message, ...] | None = None
        low, high = 0, len(conversation_text(problem)) - 1
        while low <= high:  # binary search for the most characters
            middle = (low + high) // 2
            prompt = self._prompt(problem, answer, middle)
            if self.length(prompt) <= limit:
                fits, low = prompt, middle + 1
            else:
                high = middle - 1
        return fits

    def _prompt(self, problem: Problem, answer: str, context: int | None) -> tuple[Message, ...]:
        return self.format.messages(problem, answer, reasoning=self.card.reasoning, context=context)
