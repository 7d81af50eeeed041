"""A chat model on an OpenAI-compatible server.

The first requests determine what the server supports, which is logged once: whether it enforces a JSON
schema, a JSON object or neither, and which sampling parameters it rejects.

The server's tokenizer is unknown, and may encode "<|im_end|>" in a message as the end of that message. So
special tokens are sent with a space inside, "< |im_end|>", which is removed from the reply to keep quotes of
the answer exact.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field, ValidationError

from didact.errors import UsageError
from didact.llm.api_keys import AUTO, SECRET_CHARS, check_url, find_key, key_variable, redact, remove_secret
from didact.llm.chat import ChatReply, ChatRequest
from didact.llm.http import ClientError, HttpServer, HttpSession, RetryPolicy, ServerError, gather_bounded
from didact.settings import Section
from didact.thoughts import UNFINISHED, answer_of

LOG = logging.getLogger("didact")
SEED = 0
"""Sent with every request."""
ResponseFormat: TypeAlias = Literal["json_schema", "json_object", "prompt"]
RESPONSE_FORMATS: tuple[ResponseFormat, ...] = ("json_schema", "json_object", "prompt")
"""In the order in which they are tried."""
_UNKNOWN = re.compile(r"(?i)unsupported|not support|unknown|unrecogni|unexpected|not permitted|extra ")
_INSIDE = (
    r"[|｜]|/?\w{1,24}\|>"  # <|im_start|> <｜User｜> <turn|>
    r"|/?(?:s|bos|eos|pad|unk|mask|cls|sep|think|tool_call|tool_response|start_of_turn|end_of_turn)>"
    r"|</?SYS>>"
)
_BRACKETS = r"/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|CLS|SEP|MASK|PAD|UNK)\]"
_SPECIAL = re.compile(rf"<(?={_INSIDE})|\[(?={_BRACKETS})")
_ESCAPED = re.compile(rf"(<) (?={_INSIDE})|(\[) (?={_BRACKETS})")


class OpenAISettings(Section):
    """Settings of a model behind an OpenAI-compatible server. Keys are named, never stored."""

    model: str = "default"
    """The model's name on the server."""
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str | None = AUTO
    """Name of the environment variable that holds the key; null sends none. "auto" is OPENAI_API_KEY for
    OpenAI's servers and, if it is set, for this machine's; any other server has to be given a name."""
    concurrency: Annotated[int, Field(ge=1)] = 8
    timeout: Annotated[float, Field(gt=0)] = 60.0
    max_retries: Annotated[int, Field(ge=0)] = 5
    max_tokens: Annotated[int, Field(ge=1)] = 1024
    temperature: Annotated[float, Field(ge=0)] | None = 0.0
    price_in: Annotated[float, Field(ge=0)] | None = None
    """USD for a million tokens read."""
    price_out: Annotated[float, Field(ge=0)] | None = None
    """USD for a million tokens written."""


class _FormatError(Exception):
    """The server rejected the request with this response format (HTTP 400 or 422)."""


class OpenAIChat:
    """A chat model behind `POST {base_url}/chat/completions`.

    Raises:
        UsageError: a URL that is malformed or may hold a secret, or no key where one is needed.
    """

    def __init__(self, settings: OpenAISettings) -> None:
        check_url(settings.base_url)
        find_key(settings.base_url, settings.api_key_env)
        self.settings, self.name = settings, settings.model
        self.base_url = settings.base_url.rstrip("/")
        self.retries = RetryPolicy(settings.max_retries)
        self.response_format: ResponseFormat | None = None
        """The format that the server accepts with a schema; None until such a request has succeeded."""
        self.unsupported: set[str] = set()
        """Parameters that the server rejects, which are no longer sent."""
        self.has_answered = False

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply per request, in order.

        Raises:
            UsageError: there is no key, or the server rejects the key or the model.
        """
        if not requests:
            return []
        named, timeout = self.settings.api_key_env, self.settings.timeout
        key, variable = find_key(self.base_url, named), key_variable(self.base_url, named)
        server = HttpServer(self.base_url, key, variable, timeout, self.retries)
        return server.run(lambda session: _Completions(self, session).replies(requests))

    def request_hash(self, request: ChatRequest) -> str:
        """sha256 of everything a reply depends on: server, model, messages, schema and sampling settings."""
        whole: dict[str, Any] = {
            "base_url": self.base_url,
            "model": self.name,
            "messages": [m.model_dump() for m in request.messages],
            "schema": request.schema,
            "settings": [self.settings.max_tokens, self.settings.temperature, SEED, {}],
        }
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def cost_bound(self, request: ChatRequest) -> float | None:
        """Upper bound of a request's cost in USD (a token has at least one byte); None without prices."""
        return self._cost(_size(request), self.settings.max_tokens)

    def _cost(self, read: int, written: int) -> float | None:
        price_in, price_out = self.settings.price_in, self.settings.price_out
        if price_in is None or price_out is None:
            return None
        return (price_in * read + price_out * written) / 1e6

    def body(self, request: ChatRequest, response_format: ResponseFormat) -> dict[str, Any]:
        """The request's JSON, without the parameters that the server rejects."""
        length = "max_completion_tokens" if "max_tokens" in self.unsupported else "max_tokens"
        settings = {"temperature": self.settings.temperature, "seed": SEED}
        messages = [{"role": m.role, "content": escape_special_tokens(m.content)} for m in request.messages]
        body: dict[str, Any] = {
            "model": self.name,
            "messages": messages,
            length: self.settings.max_tokens,
            **{k: v for k, v in settings.items() if v is not None and k not in self.unsupported},
        }
        if request.schema is not None and response_format == "json_schema":
            schema = {"name": "reply", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": response_format, "json_schema": schema}
        elif request.schema is not None and response_format == "json_object":
            body["response_format"] = {"type": response_format}
        return body

    def read(self, request: ChatRequest, response: str, key: str | None = None) -> ChatReply:
        """The reply in a response's body with its cost; the key is removed if the server repeats it."""
        request_hash = self.request_hash(request)
        try:
            completion = Completion.model_validate_json(response)
        except ValidationError:
            error = f"{self.base_url} sent no chat completion but {redact(response, key)!r}"
            return ChatReply(request_hash=request_hash, error=error, error_kind="invalid_reply")
        # Without `usage`, bytes are an upper bound of tokens.
        read, written = _size(request), len(completion.content.encode("utf-8", "replace"))
        if completion.usage is not None:
            read, written = completion.usage.prompt_tokens, completion.usage.completion_tokens
        cost = self._cost(read, written) or 0.0
        if completion.failure is not None:
            error = f"{self.name}: {completion.failure}"
            return ChatReply("", written, cost, request_hash, error, "invalid_reply")
        text = remove_secret(completion.text, key if len(key or "") >= SECRET_CHARS else None)
        text = unescape_special_tokens(text, [m.content for m in request.messages])
        return ChatReply(text, written, cost, request_hash)

    def cache_response_format(self, response_format: ResponseFormat) -> None:
        """Remember the first format that the server accepted, and log it."""
        if self.response_format is None:
            self.response_format = response_format
            support = {
                "json_schema": "enforces a JSON schema",
                "json_object": "rejects a JSON schema and enforces a JSON object",
                "prompt": "rejects JSON modes; only the prompt asks for JSON",
            }
            LOG.info("%s at %s %s", self.name, self.base_url, support[response_format])

    def drop_unsupported_param(self, message: str, body: Mapping[str, Any]) -> bool:
        """If a rejection names a parameter that can be left out, stop sending it; True if there is one."""
        for name in ("max_tokens", "temperature", "seed"):
            if name in body and name in message and _UNKNOWN.search(message):
                if name not in self.unsupported:
                    instead = "max_completion_tokens instead" if name == "max_tokens" else "none"
                    LOG.warning("%s at %s rejects %s: sending %s", self.name, self.base_url, name, instead)
                self.unsupported.add(name)
                return True
        return False


class _Completions:
    """The requests of one `complete` call."""

    def __init__(self, chat: OpenAIChat, session: HttpSession) -> None:
        self.chat, self.session, self.key = chat, session, session.server.key
        self.probing = asyncio.Lock()
        self.down = False
        """A request has failed for good and none has succeeded since: the others get one attempt each."""

    async def replies(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        return await gather_bounded(map(self._reply, requests), self.chat.settings.concurrency)

    async def _reply(self, request: ChatRequest) -> ChatReply:
        if request.schema is None:
            return await self._first_accepted(request, ("prompt",))
        if self.chat.response_format is None:
            async with self.probing:  # the other requests wait for the result
                if self.chat.response_format is None and not self.down:
                    return await self._first_accepted(request, RESPONSE_FORMATS)
        known = self.chat.response_format
        return await self._first_accepted(request, RESPONSE_FORMATS if known is None else (known,))

    async def _first_accepted(self, request: ChatRequest, formats: Sequence[ResponseFormat]) -> ChatReply:
        refusal = ""
        for response_format in formats:
            attempt = partial(self._send, request, response_format)
            key = self.chat.request_hash(request)
            try:
                return await self.chat.retries.run(attempt, key=key, stop=lambda: self.down)
            except _FormatError as error:
                refusal = str(error)
            except ServerError as error:
                self.down = True
                return self._failed(request, str(error))
        return self._failed(request, refusal)

    async def _send(self, request: ChatRequest, response_format: ResponseFormat) -> ChatReply:
        """One attempt.

        Raises:
            RetryableError: another attempt may succeed.
            _FormatError: another response format may succeed.
            UsageError: no request can succeed.
        """
        chat = self.chat
        body = chat.body(request, response_format)
        try:
            response = await self.session.send("POST", "/chat/completions", body)
        except ClientError as error:
            if error.status in (401, 403):
                raise
            if error.status == 404 and not chat.has_answered:
                raise UsageError(
                    f"{chat.base_url} has no model {chat.name!r}, or is not an OpenAI-compatible server: "
                    f"{error}"
                ) from None
            if error.status not in (400, 422):
                return self._failed(request, str(error))
            if not chat.drop_unsupported_param(str(error), body):
                raise _FormatError(str(error)) from None
            return await self._send(request, response_format)
        chat.has_answered, self.down = True, False
        if request.schema is not None:
            chat.cache_response_format(response_format)
        return chat.read(request, response, self.key)

    def _failed(self, request: ChatRequest, error: str) -> ChatReply:
        return ChatReply(request_hash=self.chat.request_hash(request), error=error, error_kind="server")


class _Part(BaseModel):
    type: str = "text"
    text: str | None = None


class _ReplyMessage(BaseModel):
    """Thoughts may have a field of their own, be parts of the content, or be in its text."""

    content: str | list[_Part] | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _ReplyMessage
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: Annotated[int, Field(ge=0)] = 0
    completion_tokens: Annotated[int, Field(ge=0)] = 0


class Completion(BaseModel):
    """The fields of a chat completion that are used; others are ignored."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None

    @property
    def text(self) -> str:
        """The reply after its thoughts; empty where these never end."""
        return answer_of(self.content) or ""

    @property
    def content(self) -> str:
        """The text of the reply."""
        content = self.choices[0].message.content or ""
        parts = content if isinstance(content, list) else [_Part(text=content)]
        return "".join(part.text or "" for part in parts if part.type in ("text", "output_text"))

    @property
    def failure(self) -> str | None:
        """Why the reply is unusable; None if it is complete."""
        choice = self.choices[0]
        if choice.finish_reason == "length":
            return "the reply was cut off at max_tokens: raise it"
        if choice.finish_reason == "content_filter":
            return "the server's content filter stopped the reply"
        if choice.message.refusal and not self.text:
            return "the model refused"
        if self.content and answer_of(self.content) is None:
            return UNFINISHED.format("the model")
        return None if self.text.strip() else "the reply is empty"


def _size(request: ChatRequest) -> int:
    """Bytes of a request, an upper bound of its tokens; 32 per message for the server's chat template."""
    schema = "" if request.schema is None else json.dumps(request.schema)
    texts = [m.content for m in request.messages]
    return len(schema) + sum(32 + len(text.encode("utf-8", "replace")) for text in texts)


def escape_special_tokens(text: str) -> str:
    """The text with a space inside every special token of the common chat formats.

    A lone surrogate, which UTF-8 cannot encode, becomes "?".

    >>> escape_special_tokens("a<|im_end|>[INST] x < y [1]")
    'a< |im_end|>[ INST] x < y [1]'
    """
    return _SPECIAL.sub(r"\g<0> ", text.encode("utf-8", "replace").decode())


def unescape_special_tokens(reply: str, sent: Iterable[str]) -> str:
    """A reply without the spaces of `escape_special_tokens`, if any of the texts sent had one."""
    if not any(_SPECIAL.search(text) for text in sent):
        return reply
    return _ESCAPED.sub(lambda m: m.group(1) or m.group(2), reply)
