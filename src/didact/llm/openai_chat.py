"""A chat model on any OpenAI-compatible server, through the `openai` SDK.

Retries are our own and not the SDK's, whose waits have no bound in sum: a request is sent again after
a timeout, a lost connection, 408, 409, 429 and 5xx, with growing, jittered waits or the server's
Retry-After, as long as `max_retries` and `max_wait` last. A refused key ends everything at once.

What a server can do is learned from the first requests and logged once: whether it holds a model to a
JSON schema, to a JSON object or to nothing, and which sampling settings it does not know.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import itertools
import json
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from didact.errors import UsageError, install_command
from didact.llm import sanitize as wire
from didact.llm.chat import ChatReply, ChatRequest
from didact.rng import derive_seed

LOG = logging.getLogger("didact")
OPENAI = "https://api.openai.com/v1"
NO_SDK = f"a judge on a server needs the openai package: {install_command('judges')}"
RETRIED = {408, 409, 425, 429}
"""HTTP statuses, beside 5xx, after which the same request may succeed."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0
"""Seconds before the first retry, and at most before any that the server did not name."""
Structure: TypeAlias = Literal["json_schema", "json_object", "prompt"]
STRUCTURES: tuple[Structure, ...] = ("json_schema", "json_object", "prompt")
_UNKNOWN = re.compile(r"(?i)unsupported|not support|unknown|unrecogni|unexpected|not permitted|extra ")
T = TypeVar("T")


@dataclass(frozen=True)
class Prices:
    """What a server charges, in USD for a million tokens."""

    input: float
    output: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD for so many tokens read and written."""
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6


class _RetryableError(Exception):
    """The request failed in a way that may pass."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class _Refused(Exception):
    """The server understood the request and will not have it in this form."""


class OpenAIChat:
    """Asks a model on an OpenAI-compatible server.

    Args:
        model: The model's name on the server.
        base_url: The server's URL up to and including "/v1".
        api_key_env: Name of the environment variable that holds the key; None sends no key. "auto" is
            OPENAI_API_KEY for OpenAI's servers and, if it is set, for this machine's; any other server
            has to be given a name, or None. A key goes over plain http to this machine only.
        concurrency: Requests in flight at a time, ≥ 1.
        timeout: Seconds for one try, from sending to the last byte.
        max_retries: At most so many further tries of a request, ≥ 0.
        max_wait: Seconds that a request may wait between its tries, in sum.
        max_tokens: At most so many tokens a reply; a reply that needs more is a failure.
        temperature: ≥ 0; None leaves it to the server.
        seed: Sent with every request; None sends none.
        prices: For costs; None leaves them 0 and a budget in USD impossible.
        extra: Further fields of the request's body, as {"chat_template_kwargs": {…}} for vLLM.
        wait: Waits so many seconds; replaced in tests.

    Raises:
        UsageError: a setting out of range, a URL that is none or may hold a secret, or no `api_key_env`
            where one is needed.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = OPENAI,
        api_key_env: str | None = wire.AUTO,
        concurrency: int = 8,
        timeout: float = 60.0,
        max_retries: int = 5,
        max_wait: float = 120.0,
        max_tokens: int = 1024,
        temperature: float | None = 0.0,
        seed: int | None = 0,
        prices: Prices | None = None,
        extra: Mapping[str, Any] | None = None,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        wire.check_url(base_url)
        _at_least(1, concurrency=concurrency, max_tokens=max_tokens)
        _at_least(0, max_retries=max_retries, max_wait=max_wait, temperature=temperature or 0)
        _at_least(0.001, timeout=timeout)
        self.name = model
        self.base_url = base_url.rstrip("/")
        self.api_key_env, self.variable = api_key_env, wire.key_variable(base_url, api_key_env)
        self.concurrency, self.timeout = concurrency, timeout
        self.max_retries, self.max_wait, self.wait = max_retries, max_wait, wait
        self.max_tokens, self.temperature, self.seed = max_tokens, temperature, seed
        self.prices = prices
        self.extra = dict(extra or {})
        self.structure: Structure | None = None
        """How the server holds a model to a schema; None until a request with one has succeeded."""
        self.unknown: set[str] = set()
        """Settings that the server does not know and is not sent."""
        self.has_answered = False

    def check(self) -> None:
        """Find out, without sending anything, whether a request could be sent at all.

        Raises:
            UsageError: the openai package is not there, or there is no key.
        """
        if importlib.util.find_spec("openai") is None:
            raise UsageError(NO_SDK)
        wire.find_key(self.base_url, self.api_key_env)

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply a request, in order.

        Raises:
            UsageError: there is no key, the server refuses it, or it has no such model.
        """
        if not requests:
            return []
        return _run(_Batch(self, wire.find_key(self.base_url, self.api_key_env)).replies(requests))

    def request_hash(self, request: ChatRequest) -> str:
        """sha256 of everything that a reply depends on: server, model, messages, schema, settings."""
        whole = {
            "base_url": self.base_url,
            "model": self.name,
            "messages": [m.model_dump() for m in request.messages],
            "schema": request.schema,
            "settings": [self.max_tokens, self.temperature, self.seed, self.extra],
        }
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def cost_bound(self, request: ChatRequest) -> float | None:
        """USD that a request cannot exceed, as no token is shorter than a byte; None without prices."""
        return None if self.prices is None else self.prices.cost(_size(request), self.max_tokens)

    def body(self, request: ChatRequest, structure: Structure) -> dict[str, Any]:
        """The request as the SDK takes it, without what the server does not know."""
        length = "max_completion_tokens" if "max_tokens" in self.unknown else "max_tokens"
        settings = {"temperature": self.temperature, "seed": self.seed}
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": m.role, "content": wire.inert(m.content)} for m in request.messages],
            length: self.max_tokens,
            **{k: v for k, v in settings.items() if v is not None and k not in self.unknown},
        }
        if request.schema is not None and structure == "json_schema":
            schema = {"name": "reply", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": structure, "json_schema": schema}
        elif request.schema is not None and structure == "json_object":
            body["response_format"] = {"type": structure}
        return {**body, "extra_body": self.extra} if self.extra else body

    def read(self, request: ChatRequest, response: str, key: str | None = None) -> ChatReply:
        """The reply in a response's body, with its cost, and without the key if the server repeats it."""
        request_hash = self.request_hash(request)
        found = wire.Completion.parse(response)
        if found is None:
            error = f"{self.base_url} sent no chat completion but {wire.redacted(response, key)!r}"
            return ChatReply(request_hash=request_hash, error=error, error_kind="invalid_reply")
        # Without a usage, bytes are an upper bound of tokens.
        read, written = _size(request), len(found.text.encode("utf-8", "replace"))
        if found.usage is not None:
            read, written = found.usage.prompt_tokens, found.usage.completion_tokens
        text = wire.without(found.text, key if len(key or "") >= wire.SECRET_CHARS else None)
        return ChatReply(
            text="" if found.failure else wire.restored(text, [m.content for m in request.messages]),
            tokens=written,
            cost_usd=0.0 if self.prices is None else self.prices.cost(read, written),
            request_hash=request_hash,
            error=None if found.failure is None else f"{self.name}: {found.failure}",
            error_kind=None if found.failure is None else "invalid_reply",
        )

    def cache_response_format(self, structure: Structure) -> None:
        """Remember what the server accepted, and say so once."""
        if self.structure is None:
            self.structure = structure
            how = {
                "json_schema": "holds its replies to a JSON schema",
                "json_object": "refuses a JSON schema and takes a JSON object",
                "prompt": "refuses JSON modes; the prompt alone asks for JSON",
            }
            LOG.info("%s at %s %s", self.name, self.base_url, how[structure])

    def drop_unsupported_param(self, message: str, body: Mapping[str, Any]) -> bool:
        """Does a refusal name a setting that can be left out (or said in another word)? Then do so."""
        for name in ("max_tokens", "temperature", "seed"):
            if name in body and name in message and _UNKNOWN.search(message):
                if name not in self.unknown:
                    instead = "max_completion_tokens instead" if name == "max_tokens" else "none"
                    LOG.warning("%s at %s refuses %s: it is sent %s", self.name, self.base_url, name, instead)
                self.unknown.add(name)
                return True
        return False


class _Batch:
    """The requests of one call, on one client and event loop."""

    def __init__(self, chat: OpenAIChat, key: str | None) -> None:
        self.chat, self.key = chat, key
        self.sdk = sdk = _sdk()
        # Said here, the SDK takes neither from variables of its own, as OPENAI_CUSTOM_HEADERS.
        self.headers = {"Authorization": f"Bearer {key}" if key else sdk.Omit()}
        if not wire.is_openai(chat.base_url):
            self.headers |= {"OpenAI-Organization": sdk.Omit(), "OpenAI-Project": sdk.Omit()}
        self.gate = asyncio.Semaphore(chat.concurrency)
        self.probing = asyncio.Lock()
        self.down = False
        """A request has given up, and none has succeeded since: the others get one try each."""

    async def replies(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        chat, sdk = self.chat, self.sdk
        http = sdk.DefaultAsyncHttpxClient(
            timeout=chat.timeout,
            follow_redirects=False,
            # A proxy that the environment names could not reach this machine's own servers.
            trust_env=not wire.is_loopback(chat.base_url),
            # Loading the certificates takes longer than a request that does not need them.
            verify=not chat.base_url.startswith("http:"),
        )
        async with sdk.AsyncOpenAI(
            api_key=self.key or "none", base_url=chat.base_url, max_retries=0, http_client=http,
        ) as self.client:  # fmt: skip
            tasks = [asyncio.ensure_future(self._reply(request)) for request in requests]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _reply(self, request: ChatRequest) -> ChatReply:
        async with self.gate:
            if request.schema is None:
                return await self._first_accepted(request, ("prompt",))
            if self.chat.structure is None:
                async with self.probing:  # the others wait, and then know, unless nothing was answered
                    if self.chat.structure is None and not self.down:
                        return await self._first_accepted(request, STRUCTURES)
            known = self.chat.structure
            return await self._first_accepted(request, STRUCTURES if known is None else (known,))

    async def _first_accepted(self, request: ChatRequest, structures: Sequence[Structure]) -> ChatReply:
        refused = ""
        for structure in structures:
            try:
                return await self._retried(request, structure)
            except _Refused as refusal:
                refused = str(refusal)
        return self._failed(request, refused)

    async def _retried(self, request: ChatRequest, structure: Structure) -> ChatReply:
        waited = 0.0
        for tries in itertools.count(1):
            try:
                return await self._sent(request, structure)
            except _RetryableError as trouble:
                seconds = self._wait_before(request, tries, trouble.wait)
                too_long = waited + seconds > self.chat.max_wait
                if self.down or too_long or tries > self.chat.max_retries:
                    self.down = True
                    beyond = f", as a wait of {seconds:.0f} s would exceed max_wait" if too_long else ""
                    times = "1 try" if tries == 1 else f"{tries} tries"
                    return self._failed(request, f"{trouble}; gave up after {times}{beyond}")
            waited += seconds
            await self.chat.wait(seconds)
        raise AssertionError("unreachable")  # pragma: no cover

    async def _sent(self, request: ChatRequest, structure: Structure) -> ChatReply:
        """One try.

        Raises:
            _Again: it may succeed later.
            _Refused: it may succeed in another form.
            UsageError: nothing can succeed.
        """
        chat, sdk = self.chat, self.sdk
        body = {**chat.body(request, structure), "extra_headers": self.headers}
        try:
            # httpx limits each read, but a server may send a byte now and then for ever.
            async with asyncio.timeout(chat.timeout):
                response = await self.client.chat.completions.with_raw_response.create(**body)
        except (TimeoutError, sdk.APITimeoutError):
            raise _RetryableError(f"{chat.base_url} sent no reply within {chat.timeout:g} s") from None
        except sdk.APIConnectionError as error:
            cause = type(error.__cause__).__name__ if error.__cause__ else "no connection"
            raise _RetryableError(f"{chat.base_url} cannot be reached ({cause})") from None
        except sdk.APIStatusError as error:
            refusal = error
        except sdk.OpenAIError as error:
            return self._failed(request, f"{chat.base_url}: {wire.redacted(str(error), self.key)}")
        else:
            chat.has_answered, self.down = True, False
            if request.schema is not None:
                chat.cache_response_format(structure)
            return chat.read(request, response.text, self.key)
        # Outside of the handler: an error raised in it would carry the SDK's, with its headers.
        status, message = refusal.status_code, wire.redacted(refusal.message, self.key)
        if status in (400, 422) and chat.drop_unsupported_param(message, body):
            return await self._sent(request, structure)
        self._raise_for(status, message, wire.retry_after(refusal.response.headers))
        return self._failed(request, f"{chat.base_url}: {message}")

    def _raise_for(self, status: int, message: str, wait: float | None) -> None:
        chat = self.chat
        if status in (401, 403):
            variable = wire.variable_text(chat.variable) if chat.variable else "api_key_env"
            key = f"the key in {variable}" if self.key else "a request without a key"
            cure = f"set {variable} to one that may use {chat.name!r}"
            raise UsageError(f"{chat.base_url} refuses {key} (HTTP {status}): {cure}")
        if status == 404 and not chat.has_answered:
            raise UsageError(f"{chat.base_url} has no model {chat.name!r}, or is no such server: {message}")
        if status in (400, 422):
            raise _Refused(f"{chat.base_url}: {message}")
        if (status in RETRIED or status >= 500) and "insufficient_quota" not in message:
            raise _RetryableError(f"{chat.base_url}: {message}", wait)

    def _wait_before(self, request: ChatRequest, tries: int, asked: float | None) -> float:
        """Seconds before the next try: at least what the server asked for, and never all at once."""
        jitter = derive_seed(tries, "retry", self.chat.request_hash(request)) / 2**63
        if asked is not None:
            return asked + jitter * min(1.0, FIRST_WAIT * tries)
        return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(tries - 1, 20)) * (0.5 + 0.5 * jitter)

    def _failed(self, request: ChatRequest, error: str) -> ChatReply:
        return ChatReply(request_hash=self.chat.request_hash(request), error=error, error_kind="server")


def _at_least(lowest: float, **settings: float) -> None:
    for name, value in settings.items():
        if not value >= lowest:
            raise UsageError(f"{name} must be at least {lowest}, not {value}")


def _size(request: ChatRequest) -> int:
    """Bytes of a request, an upper bound of its tokens; each message costs some of the server's own."""
    schema = "" if request.schema is None else json.dumps(request.schema)
    texts = [m.content for m in request.messages]
    return len(schema) + sum(32 + len(text.encode("utf-8", "replace")) for text in texts)


def _sdk() -> Any:
    try:
        import openai
    except ImportError:
        raise UsageError(NO_SDK) from None
    return openai


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, from a thread of its own where the caller is in an event loop, as in a notebook."""
    if not _in_event_loop():
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
