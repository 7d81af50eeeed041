"""The interface of chat models: a model server, or an engine in this process.

A failed request is a reply with an error, not an exception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from didact.distributed import on_main_process
from didact.types import ErrorKind, Message


@dataclass(frozen=True)
class ChatRequest:
    """A conversation to continue.

    Attributes:
        messages: The conversation; the last message is the user's.
        schema: A JSON schema that the reply must follow; None for free text.
    """

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ChatReply:
    """The reply to a request.

    Attributes:
        text: The reply; empty if the request failed, unless the model returns a truncated reply.
        tokens: Tokens that the model generated.
        cost_usd: Cost of generating the reply, also if it comes from a cache.
        request_hash: sha256 of the request, including the model's name and settings.
        error: Why the request failed; None if it succeeded.
        error_kind: The kind of `error`; None for a success, or a failure of another kind.
    """

    text: str = ""
    tokens: int = 0
    cost_usd: float = 0.0
    request_hash: str | None = None
    error: str | None = None
    error_kind: ErrorKind | None = None


class ChatModel(Protocol):
    """Continues conversations, in batches."""

    name: str
    """Recorded in the provenance of feedback."""

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply per request, in order.

        Raises:
            UsageError: no request can succeed, as with a key that the server rejects.
        """
        ...


class MainProcessChat:
    """A chat model outside this process, asked by rank 0 alone; every rank gets the replies."""

    def __init__(self, model: ChatModel) -> None:
        self.model, self.name = model, model.name

    @on_main_process
    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        return self.model.complete(requests)
