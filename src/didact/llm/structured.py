"""Structured replies: one JSON object of a declared form, asked of a chat model.

A reply counts as a whole or not at all. One that does not fit the form is requested once more, together with
its validation errors. If the second reply does not fit either, the request has failed, with an error that
quotes the reply. Nothing is extracted from prose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from didact.llm.chat import ChatModel, ChatReply, ChatRequest, ask
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
    error: str | None = None
    """Why there is no value."""
    repaired: bool = False
    """The reply was requested a second time."""


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
    model: ChatModel,
    conversations: Sequence[tuple[Message, ...]],
    form: type[R],
    review: Callable[[int, R], tuple[str | None, int]] = lambda i, value: (None, 0),
) -> list[Parsed[R]]:
    """One parsed reply per conversation, in order; an invalid reply is requested a second and last time.

    Args:
        conversations: Each ends with the request to the model.
        review: (index, value) → what is wrong with the content of a valid reply, so that it is requested
            again, and its quality. Of two valid replies the better one counts, the second if they are equal.

    Raises:
        UsageError: no request can succeed, for example because the server refuses the API key.
    """
    schema = json_schema(form)
    requests = [ChatRequest(messages, schema) for messages in conversations]
    parsed = [_parse(form, reply) for reply in ask(model, requests)]
    faults = {i: why for i, one in enumerate(parsed) if (why := _fault(i, one, review))}
    repairs = [_repair(requests[i], parsed[i].reply.text, why) for i, why in faults.items()]
    for i, reply in zip(faults, ask(model, repairs), strict=True):
        first, second = parsed[i], _parse(form, _joined(parsed[i].reply, reply))
        if second.value is None and second.reply.error is None:
            quoted = excerpt(second.reply.text)
            error = f"{model.name} gave no valid reply, twice: {second.error}. Its reply was {quoted}"
            second = second._replace(error=error)
        worse = second.value is None or (
            first.value is not None and review(i, second.value)[1] < review(i, first.value)[1]
        )
        if first.value is not None and worse:
            paid = replace(first.reply, tokens=second.reply.tokens, cost_usd=second.reply.cost_usd)
            second = first._replace(reply=paid)
        parsed[i] = second._replace(repaired=True)
    return parsed


def _parse(form: type[R], reply: ChatReply) -> Parsed[R]:
    if reply.error is not None:
        return Parsed(None, reply, reply.error)
    try:
        return Parsed(form.model_validate_json(reply.text), reply)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors()]
        return Parsed(None, reply, shorten("; ".join(found[:5]), 400))


def _fault(i: int, parsed: Parsed[R], review: Callable[[int, R], tuple[str | None, int]]) -> str | None:
    """Why a reply is requested again; None if it is good, or if there is no reply."""
    if parsed.value is not None:
        return review(i, parsed.value)[0]
    return parsed.error if parsed.reply.error is None else None


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
