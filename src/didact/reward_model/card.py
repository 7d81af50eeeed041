"""How a reward model was trained to be asked: a small file beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from didact.errors import DataError, UsageError
from didact.jsonl import write_atomically
from didact.reward_model.formats import FORMATS
from didact.types import Record

CARD = "reward_model.json"
"""The file's name."""


class Card(Record):
    """What a prompt of a reward model depends on, beside its tokenizer.

    >>> Card(format="lines_v1", max_tokens=64).reasoning
    True
    """

    format: str
    """A name in `FORMATS`."""
    reasoning: bool = True
    """A critique comes before the passages."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """The longest reply that it was trained to write."""
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
