"""A language model that is asked for text: what judges, teachers and self-critics have in common.

A chat model may be a server or an engine in this process; who asks need not know. Text goes in and
text comes out: a reply is data, and a failure is a reply with an error, never an exception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from didact.distributed import on_main_process
from didact.types import ErrorKind, Message


@dataclass(frozen=True)
class ChatRequest:
    """One conversation that waits for the assistant's next words.

    Attributes:
        messages: The conversation; the last message is the user's.
        schema: A JSON schema that the reply must follow; None for free text.
    """

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ChatReply:
    """What came back.

    Attributes:
        text: The reply; empty where it failed, unless a model keeps what was cut off.
        tokens: Tokens that the model generated.
        cost_usd: What producing it cost, also where a cache answered.
        request_hash: sha256 of the whole request, the model's name and its settings included.
        error: Why there is no reply; None when there is one.
        error_kind: The kind of `error`; None without one, or for another kind.
    """

    text: str = ""
    tokens: int = 0
    cost_usd: float = 0.0
    request_hash: str | None = None
    error: str | None = None
    error_kind: ErrorKind | None = None


class ChatModel(Protocol):
    """Answers conversations, in batches; concurrent inside where that helps."""

    name: str
    """Named in the provenance of what it wrote."""

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply a request, in order.

        Raises:
            UsageError: no request can ever succeed, as with a key that the server refuses.
        """
        ...


class MainProcessChat:
    """Sends requests from rank 0 alone; every rank gets the replies. See `didact.distributed`.

    Args:
        model: A chat model outside of this process.
    """

    def __init__(self, model: ChatModel) -> None:
        self.model = model
        self.name = model.name

    @on_main_process
    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply a request, in order."""
        return self.model.complete(requests)
