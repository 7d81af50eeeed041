"""A reward model: the card beside its weights, the prompts that follow from it, and the source of feedback.

An unreadable reply is an ok feedback without spans, which means a neutral δ with the KL kept, so that the
answer stays in the mean. It is counted, and so is an answer that is too long for a prompt.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError, field_validator

from didact.errors import DataError, UsageError
from didact.feedback.model_critic import reply_provenance
from didact.feedback_source import FeedbackRequest, in_completion
from didact.jsonl import write_atomically
from didact.llm.chat import ChatModel, ChatReply, ChatRequest, ask
from didact.llm.structured import EXCERPT_CHARS
from didact.prompts import conversation_text, shorten
from didact.reward_model.formats import FORMATS, Format, Reading, make_format
from didact.spans import locate
from didact.types import Feedback, Message, Problem, Record, Span

LOG = logging.getLogger("didact")
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


class Marked(NamedTuple):
    """A reward model's reply to one answer."""

    reading: Reading | None
    """None if the reply is unreadable or there is none."""
    spans: tuple[Span, ...] = ()
    """The quotes that have a place in the answer."""
    unplaced: int = 0
    """The number of quotes without one."""
    reply: ChatReply = ChatReply()

    @property
    def failed(self) -> str | None:
        """Why there is no reply, as from a server that is down; None if there is one, even a cut-off one."""
        return None if self.reply.text or self.reply.tokens else self.reply.error


class RewardModel:
    """Criticises answers with a model that was trained for it.

    The model keeps the text of a reply that was cut off, beside the error; the prompter builds the prompts of
    its training. `seen` counts answers `asked`, replies `unparsed` and `repaired`, answers `too_long` for a
    prompt, `quotes`, and quotes `unplaced`.
    """

    def __init__(self, model: ChatModel, prompter: Prompter) -> None:
        self.model = model
        self.prompter = prompter
        self.seen: Counter[str] = Counter()

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback per request, in order; it has failed only if there was no reply at all."""
        marked = self.mark([(request.problem, request.turn.answer) for request in requests])
        return [self._feedback(request, found) for request, found in zip(requests, marked, strict=True)]

    def mark(self, asked: Sequence[tuple[Problem, str]]) -> list[Marked]:
        """The model's reply to each (problem, answer), in order."""
        before = Counter(self.seen)
        prompts = [self.prompter.messages(problem, answer) for problem, answer in asked]
        requests = [ChatRequest(messages) for messages in prompts if messages is not None]
        replies = iter(ask(self.model, requests))
        found = [
            Marked(None) if messages is None else self._read(next(replies), answer)
            for messages, (_, answer) in zip(prompts, asked, strict=True)
        ]
        self.seen["asked"] += len(asked)
        self.seen["too_long"] += prompts.count(None)
        lost = {n: self.seen[n] - before[n] for n in ("unparsed", "too_long")}
        if any(lost.values()):
            LOG.info(
                "%s: of %d answers, %d have an unreadable reply and %d are too long for a prompt; "
                "they get no marks",
                self.model.name, len(asked), lost["unparsed"], lost["too_long"],
            )  # fmt: skip
        return found

    def _read(self, reply: ChatReply, answer: str) -> Marked:
        if Marked(None, reply=reply).failed:
            return Marked(None, reply=reply)
        card = self.prompter.card
        format_ = self.prompter.format
        reading = format_.read(reply.text, reasoning=card.reasoning, cut=reply.error is not None)
        if reading is None:
            self.seen["unparsed"] += 1
            return Marked(None, reply=reply)
        aligned = locate(reading.quotes, answer, format_.policy)
        self.seen["repaired"] += reading.repaired
        self.seen["quotes"] += len(aligned.matches)
        self.seen["unplaced"] += len(aligned.unaligned)
        return Marked(reading, aligned.spans, len(aligned.unaligned), reply)

    def _feedback(self, request: FeedbackRequest, found: Marked) -> Feedback:
        reply, card = found.reply, self.prompter.card
        author = f"{self.model.name}:{card.format}{'' if card.reasoning else ':spans_only'}"
        reading, failed = found.reading, found.failed
        unread = shorten(reply.text.strip(), EXCERPT_CHARS)
        feedback = Feedback(
            turn=request.index,
            text="" if failed else unread if reading is None else reading.critique,
            source="judge",
            score=None if reading is None else reading.score,
            label=None if reading is None else reading.label,
            spans=found.spans,
            status="failed" if failed else "ok",
            error=failed,
            error_kind=reply.error_kind if failed else None,
            saw_reference=False,
            provenance=reply_provenance(author, reply),
        )
        return in_completion(feedback, request)
