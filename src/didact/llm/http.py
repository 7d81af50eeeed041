"""HTTP requests to model servers: one client and one retry policy.

A request is retried after a timeout, a lost connection, HTTP 408, 409, 425, 429 and 5xx, with exponential
backoff and jitter, or after the server's Retry-After. Every request that Didact sends is safe to repeat.
"""

from __future__ import annotations

import asyncio
import email.utils
import itertools
import json
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from didact.errors import TrainingGuard, UsageError
from didact.llm.api_keys import describe_variable, is_loopback, redact
from didact.rng import derive_seed

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
RETRIED_STATUSES = {408, 409, 425, 429}
"""HTTP statuses, besides 5xx, after which the same request may succeed."""
FIRST_DELAY, LONGEST_DELAY = 0.5, 20.0
"""Seconds before the first retry, and the longest delay that the server did not ask for."""


class ServerError(TrainingGuard):
    """A server failed, or its reply is unusable. The run was saved and can be resumed."""


class ClientError(UsageError):
    """The server rejected a request with this HTTP status, 4xx."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class RetryableError(Exception):
    """A request failed in a way that may be temporary."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the server asks to wait."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is retried, and after what delays."""

    max_retries: int = 5
    max_wait: float = 120.0
    """Total delay of one request in seconds."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def run(
        self, attempt: Callable[[], Awaitable[T]], *, key: str, stop: Callable[[], bool] = lambda: False
    ) -> T:
        """The result of the first attempt that succeeds.

        Args:
            attempt: Sends the request; raises `RetryableError` if another attempt may help.
            key: Seeds the jitter, so that requests that fail together are not repeated together.
            stop: True once further attempts are pointless.

        Raises:
            ServerError: no attempt succeeded.
        """
        waited = 0.0
        for tries in itertools.count(1):
            try:
                return await attempt()
            except RetryableError as error:
                delay = self.delay(tries, key, error.retry_after)
                too_long = waited + delay > self.max_wait
                if too_long or tries > self.max_retries or stop():
                    beyond = f", as a wait of {delay:.0f} s would exceed max_wait" if too_long else ""
                    times = "1 try" if tries == 1 else f"{tries} tries"
                    raise ServerError(f"{error}; gave up after {times}{beyond}") from None
            waited += delay
            await self.sleep(delay)
        raise AssertionError("unreachable")  # pragma: no cover

    def delay(self, tries: int, key: str, retry_after: float | None = None) -> float:
        """Seconds before the next attempt: the server's Retry-After, or FIRST_DELAY · 2^(tries − 1)."""
        jitter = derive_seed(tries, "retry", key) / 2**63
        if retry_after is not None:
            return retry_after + jitter * min(1.0, FIRST_DELAY * tries)
        return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(tries - 1, 20)) * (0.5 + 0.5 * jitter)


@dataclass(frozen=True)
class HttpServer:
    """A model server."""

    base_url: str
    """Prefix of every request's path."""
    key: str | None = None
    """Sent as a bearer token."""
    key_variable: str | None = None
    """Environment variable of the key, named in errors."""
    timeout: float = 60.0
    """Seconds for one attempt, from connecting to the last byte."""
    retries: RetryPolicy = RetryPolicy()

    def __repr__(self) -> str:
        return f"HttpServer({self.base_url!r})"  # without the key

    def run(self, work: Callable[[HttpSession], Coroutine[Any, Any, T]]) -> T:
        """Run `work` with open connections, in a thread if an event loop is running, as in a notebook."""
        if not _in_event_loop():
            return asyncio.run(self._run(work))
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, self._run(work)).result()

    async def _run(self, work: Callable[[HttpSession], Coroutine[Any, Any, T]]) -> T:
        import httpx2

        async with httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else None,
            timeout=None,  # `send` bounds the whole exchange
            limits=httpx2.Limits(max_connections=None),
            # A proxy of the environment cannot reach servers on this machine.
            trust_env=not is_loopback(self.base_url),
            # Loading certificates takes longer than a request that needs none.
            verify=not self.base_url.startswith("http:"),
        ) as client:
            return await work(HttpSession(self, client))


class HttpSession:
    """Open connections to a server."""

    def __init__(self, server: HttpServer, client: httpx2.AsyncClient) -> None:
        self.server, self._client = server, client

    async def request(self, method: str, path: str, body: Any = None, *, parse: Callable[[str], T]) -> T:
        """A parsed reply, with retries. `parse` may raise `RetryableError`.

        Raises:
            ClientError: the server rejected the request.
            ServerError: no attempt succeeded.
        """

        async def attempt() -> T:
            return parse(await self.send(method, path, body))

        return await self.server.retries.run(attempt, key=path)

    async def send(self, method: str, path: str, body: Any = None) -> str:
        """The body of the reply to one attempt.

        Raises:
            RetryableError: another attempt may succeed.
            ClientError: the server rejected the request.
        """
        import httpx2

        server = self.server
        # json.dumps escapes lone surrogates, which UTF-8 cannot encode.
        content = None if body is None else json.dumps(body).encode()
        headers = None if body is None else {"Content-Type": "application/json"}
        try:
            # httpx2 limits each read only, and a server may send one byte now and then.
            async with asyncio.timeout(server.timeout):
                response = await self._client.request(
                    method, server.base_url + path, content=content, headers=headers
                )
        except (TimeoutError, httpx2.TimeoutException):
            raise RetryableError(f"{server.base_url} sent no reply within {server.timeout:g} s") from None
        except httpx2.RequestError as error:
            raise RetryableError(f"{server.base_url} cannot be reached ({type(error).__name__})") from None
        self._check(path, response)
        return response.text

    def _check(self, path: str, response: httpx2.Response) -> None:
        server, status = self.server, response.status_code
        if response.is_success:
            return
        if status in (401, 403):
            variable = describe_variable(server.key_variable) if server.key_variable else "api_key_env"
            key = f"the key in {variable}" if server.key else "a request without a key"
            raise ClientError(
                f"{server.base_url} refuses {key} (HTTP {status}): set {variable} to a valid one", status
            )
        message = f"{server.base_url}{path}: HTTP {status}: {redact(response.text, server.key)}"
        retried = status in RETRIED_STATUSES or status >= 500
        if retried and "insufficient_quota" not in response.text:
            raise RetryableError(message, retry_after(response.headers))
        raise ClientError(message, status)


async def gather_bounded(work: Iterable[Coroutine[Any, Any, T]], limit: int) -> list[T]:
    """The results in order, at most `limit` at a time; the first error cancels the others."""
    gate = asyncio.Semaphore(limit)

    async def gated(one: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await one

    pending = list(work)
    tasks = [asyncio.ensure_future(gated(one)) for one in pending]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in pending:
            one.close()  # those that never started


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def parse_json(text: str) -> Any:
    """A reply as JSON; a `RetryableError` if it is none, as the error page of a proxy."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RetryableError(f"the reply is not JSON: {text[:200]!r}") from None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, ≥ 0, of a Retry-After header (seconds or a date); None if there is none to use."""
    milliseconds = headers.get("retry-after-ms")
    value = headers.get("retry-after") if milliseconds is None else milliseconds
    if value is None:
        return None
    try:
        seconds = float(value) / (1.0 if milliseconds is None else 1000.0)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if not math.isnan(seconds) else None
