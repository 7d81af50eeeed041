"""Structured replies: one JSON object of a declared form, asked of a chat model.

A reply counts as a whole or not at all. One that does not fit the form is requested once more, together with
its validation errors. If the second reply does not fit either, the request has failed, with an error that
quotes the reply. Nothing is extracted from prose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from didact.llm.chat import ChatModel, ChatReply, ChatRequest
from didact.prompts import fill, load_prompt, shorten
from didact.types import Message

REPAIR_CHARS = 4_000
"""An invalid reply is cut to this many characters when it is shown to its author again."""
EXCERPT_CHARS = 500
"""Characters of an invalid reply that an error quotes."""
_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


class StrictReply(BaseModel):
    """Base class of reply forms: exact types, no unknown keys, finite numbers."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


R = TypeVar("R", bound=StrictReply)


class Parsed(NamedTuple, Generic[R]):
    """A reply and its content."""

    value: R | None
    """None if the request failed."""
    reply: ChatReply
    """The last reply, with the tokens and the cost of all of them."""
    error: str | None
    """Why there is no value; None if there is one."""


def json_schema(form: type[StrictReply]) -> dict[str, Any]:
    """The JSON schema of a form, in the subset that servers accept in strict mode.

    Strict mode requires every key. `model_json_schema` would add definitions, titles and ranges, which many
    servers reject; ranges are checked when a reply is parsed.
    """
    properties = {name: _property(field.annotation) for name, field in form.model_fields.items()}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _property(annotation: Any) -> dict[str, Any]:
    if get_origin(annotation) is list:
        return {"type": "array", "items": json_schema(*get_args(annotation))}
    if get_origin(annotation) is Literal:
        return {"type": "string", "enum": list(get_args(annotation))}
    return {"type": _JSON_TYPES[annotation]}


def request_json(
    model: ChatModel, conversations: Sequence[tuple[Message, ...]], form: type[R]
) -> list[Parsed[R]]:
    """One parsed reply per conversation, in order; an invalid reply is requested a second and last time.

    Args:
        model: The model to ask.
        conversations: Each ends with the request to the model.
        form: The form of the replies.

    Raises:
        UsageError: no request can succeed, for example because the server refuses the API key.
    """
    schema = json_schema(form)
    requests = [ChatRequest(messages, schema) for messages in conversations]
    replies = model.complete(requests) if requests else []
    invalid = {i: why for i, reply in enumerate(replies) if (why := validation_error(form, reply))}
    replies = request_again(replies, invalid, requests, model.complete)
    return [parse(model.name, form, reply) for reply in replies]


def validation_error(form: type[StrictReply], reply: ChatReply) -> str | None:
    """What makes a reply invalid; None if it is valid, or if there is no reply."""
    if reply.error is not None:
        return None
    try:
        form.model_validate_json(reply.text)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors()]
        return shorten("; ".join(found[:5]), 400)
    return None


def request_again(
    replies: Sequence[ChatReply],
    invalid: Mapping[int, str],
    requests: Sequence[ChatRequest],
    complete: Callable[[Sequence[ChatRequest]], list[ChatReply]],
) -> list[ChatReply]:
    """The replies, with the invalid ones requested a second and last time.

    Args:
        replies: One per request, in order.
        invalid: What is wrong with a reply, by its index.
        requests: The requests that were answered.
        complete: Answers requests, one reply each, in order. Not called if no reply is invalid.

    Raises:
        UsageError: no request can succeed, for example because the server refuses the API key.
    """
    if not invalid:
        return list(replies)
    again = complete([_repair(requests[i], replies[i].text, why) for i, why in invalid.items()])
    second = dict(zip(invalid, again, strict=True))
    return [_joined(reply, second[i]) if i in second else reply for i, reply in enumerate(replies)]


def parse(name: str, form: type[R], reply: ChatReply) -> Parsed[R]:
    """Parse the last reply of the model with this name."""
    if reply.error is not None:
        return Parsed(None, reply, reply.error)
    if problem := validation_error(form, reply):
        error = f"{name} gave no valid reply, twice: {problem}. Its reply was {excerpt(reply.text)}"
        return Parsed(None, reply, error)
    return Parsed(form.model_validate_json(reply.text), reply, None)


def excerpt(text: str) -> str:
    """The beginning of a reply, quoted, for an error message."""
    return repr(text) if len(text) <= EXCERPT_CHARS else repr(text[:EXCERPT_CHARS]) + "…"


def _repair(request: ChatRequest, text: str, problem: str) -> ChatRequest:
    """The conversation so far, with the invalid reply and a request for a valid one."""
    invalid = Message(role="assistant", content=shorten(text, REPAIR_CHARS))
    wish = Message(role="user", content=fill(load_prompt("repair_v1").text, problem=problem))
    return replace(request, messages=(*request.messages, invalid, wish))


def _joined(first: ChatReply, second: ChatReply) -> ChatReply:
    """The second reply, with the tokens and the cost of both."""
    error = second.error
    if error is not None:
        error = f"{error}. The reply before was not valid: {excerpt(first.text)}"
    tokens, cost = first.tokens + second.tokens, first.cost_usd + second.cost_usd
    return replace(second, tokens=tokens, cost_usd=cost, error=error)
