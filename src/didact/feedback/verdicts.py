"""Verdicts in JSON, of a judge (`judge`) or of any other form.

A reply is a whole verdict or none. What does not fit the form is asked for once more, with what was
wrong, and is then missing, with an error that keeps the reply. Nothing is guessed out of prose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from didact.feedback.model_critic import shown
from didact.llm.chat import ChatModel, ChatReply, ChatRequest
from didact.prompts import fill, load_prompt, shorten
from didact.types import Message

REPAIR_CHARS = 4_000
"""So much of an unusable verdict is shown to its author again."""


class StrictVerdict(BaseModel):
    """A form of verdicts: exact types, no unknown keys, finite numbers."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


V = TypeVar("V", bound=StrictVerdict)


class Asked(NamedTuple, Generic[V]):
    """What came of one question."""

    verdict: V | None
    """None where it failed."""
    reply: ChatReply
    """The last reply, at the price of all."""
    error: str | None
    """Why there is no verdict; None when there is one."""


def ask(model: ChatModel, prompts: Sequence[str], form: type[V], schema: Mapping[str, Any]) -> list[Asked[V]]:
    """One verdict a prompt, in order; an unusable reply is asked for a second and last time.

    Args:
        model: Who is asked.
        prompts: One user message each.
        form: What a reply must be.
        schema: The same as a JSON schema, for servers that can hold a model to it.

    Raises:
        UsageError: no request can ever succeed, as with a key that the server refuses.
    """
    requests = [ChatRequest((Message(role="user", content=prompt),), schema) for prompt in prompts]
    replies = model.complete(requests) if requests else []
    replies = ask_again(replies, unusable(replies, form), requests, model.complete)
    found = [read_verdict(model.name, form, reply) for reply in replies]
    return [
        Asked(None, reply, it) if isinstance(it, str) else Asked(it, reply, None)
        for it, reply in zip(found, replies, strict=True)
    ]


def unusable(replies: Sequence[ChatReply], form: type[StrictVerdict]) -> dict[int, str]:
    """What is wrong, by place, with the replies that came and are no verdict."""
    return {i: why for i, r in enumerate(replies) if r.error is None and (why := _problem(form, r.text))}


def ask_again(
    replies: Sequence[ChatReply],
    wrong: Mapping[int, str],
    asked: Sequence[ChatRequest],
    complete: Callable[[Sequence[ChatRequest]], list[ChatReply]],
) -> list[ChatReply]:
    """The replies, those that are `wrong` asked for a second and last time.

    Args:
        replies: One a request, in order.
        wrong: What is wrong, by place; see `unusable`.
        asked: The requests that they answer.
        complete: Answers requests, one reply each, in order. It is not called where nothing is wrong.

    Raises:
        UsageError: no request can ever succeed, as with a key that the server refuses.
    """
    if not wrong:
        return list(replies)
    again = complete([_repair(asked[i], replies[i].text, why) for i, why in wrong.items()])
    second = dict(zip(wrong, again, strict=True))
    return [_joined(reply, second[i]) if i in second else reply for i, reply in enumerate(replies)]


def read_verdict(name: str, form: type[V], reply: ChatReply) -> V | str:
    """The verdict in a last reply by the model of this name, or why there is none."""
    if reply.error is not None:
        return reply.error
    if problem := _problem(form, reply.text):
        return f"{name} gave no verdict, twice: {problem}. Its reply was {shown(reply.text)}"
    return form.model_validate_json(reply.text)


def _problem(form: type[StrictVerdict], text: str) -> str | None:
    """What is wrong with a reply as a verdict; None if nothing is."""
    try:
        form.model_validate_json(text)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" if e["loc"] else e["msg"] for e in error.errors()
        ]
        return shorten("; ".join(found[:5]), 400)
    return None


def _repair(asked: ChatRequest, text: str, problem: str) -> ChatRequest:
    """The conversation so far, with the unusable reply and a request for a usable one."""
    said = Message(role="assistant", content=shorten(text, REPAIR_CHARS))
    wish = Message(role="user", content=fill(load_prompt("repair_v1").text, problem=problem))
    return replace(asked, messages=(*asked.messages, said, wish))


def _joined(first: ChatReply, second: ChatReply) -> ChatReply:
    """The second reply, at the price of both."""
    error = second.error
    if error is not None:
        error = f"{error}. The reply before was no verdict: {shown(first.text)}"
    tokens, cost = first.tokens + second.tokens, first.cost_usd + second.cost_usd
    return replace(second, tokens=tokens, cost_usd=cost, error=error)
