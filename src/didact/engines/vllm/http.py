"""Calls to a server, each with a time limit; only what has no effect is ever sent twice.

The standard library's client is enough: a call takes seconds, so that a connection for each costs nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from didact.errors import TrainingGuard, UsageError
from didact.rng import derive_seed

LOG = logging.getLogger("didact")
T = TypeVar("T")
RETRIED = {408, 409, 425, 429}
"""HTTP statuses, beside 5xx, after which the same request may succeed."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0
"""Seconds before the first retry, and at most before any."""
REPLY_LIMIT = 1 << 28
"""Bytes of a reply; a longer one is refused."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ServerError(TrainingGuard):
    """A server did not do its part. What was trained is unharmed, and a run that stops for it is saved."""


class ClientError(UsageError):
    """The server understood a request and will not have it."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0 where it is not known any more."""


class RetryableError(Exception):
    """It failed in a way that may pass."""


class Server:
    """A vLLM server's address and how it is spoken to. Threads may share it.

    Args:
        base_url: As "http://127.0.0.1:8000"; a trailing "/v1" is taken off.
        api_key_env: Name of the environment variable that holds the server's `--api-key`. It is sent if it
            is set, over https or to this machine only.
        timeout: Seconds for one try of a request, from connecting to the last byte, > 0.
        max_retries: At most so many further tries of a request that has no effect, ≥ 0.
        wait: Waits so many seconds between tries; replaced in tests.

    Raises:
        UsageError: a setting out of range, or a URL that is none or holds a password.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key_env: str = "VLLM_API_KEY",
        timeout: float = 600.0,
        max_retries: int = 4,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        if timeout <= 0 or max_retries < 0:
            raise UsageError(
                f"timeout must be above 0 and max_retries at least 0, not {timeout} and {max_retries}"
            )
        self._parts = _parts(base_url)
        self.base_url = f"{self._parts.scheme}://{self._parts.netloc}{self._parts.path}"
        self.api_key_env, self.timeout, self.max_retries = api_key_env, timeout, max_retries
        self._given_up = threading.Event()
        self._wait = wait or self._given_up.wait
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def get(self, path: str) -> Any:
        """A path's JSON; asked again if that may help."""
        return self.ask("GET", path, None, read_json)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None, read: Callable[[str], T]) -> T:
        """What `read` makes of the reply to a request without effect. Both may raise `RetryableError`.

        Raises:
            Refusal: the server will not have it.
            ServerError: no try succeeded.
        """
        for tries in range(1, self.max_retries + 2):
            try:
                return read(self._once(method, path, body))
            except RetryableError as trouble:
                if tries > self.max_retries or self._given_up.is_set():
                    times = "1 try" if tries == 1 else f"{tries} tries"
                    raise ServerError(f"{trouble}; gave up after {times}") from None
            jitter = derive_seed(tries, "retry", path) / 2**63
            self._wait(min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (tries - 1)) * (0.5 + 0.5 * jitter))
        raise AssertionError("unreachable")  # pragma: no cover

    def order(self, path: str, body: Mapping[str, Any] | None = None) -> str:
        """The reply to a POST that has an effect. It is sent once: nobody knows how far a lost one came.

        Raises:
            Refusal: the server will not have it.
            ServerError: it failed, or its reply was lost.
        """
        try:
            return self._once("POST", path, body)
        except RetryableError as trouble:
            raise ServerError(str(trouble)) from None

    def give_up(self) -> None:
        """Close what is open, so that every thread that waits for the server stops soon."""
        self._given_up.set()
        with self._lock:
            for opened in self._open:
                _shut(opened)

    def take_up(self) -> None:
        """Undo `give_up`."""
        self._given_up.clear()

    def _once(self, method: str, path: str, body: Mapping[str, Any] | None) -> str:
        where = f"{self.base_url}{path}"
        started = time.monotonic()
        try:
            status, text = self._exchange(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() - started >= self.timeout:
                raise RetryableError(f"{where} sent no reply within {self.timeout:g} s") from None
            raise RetryableError(f"{where} failed ({type(error).__name__}: {error})") from None
        if status in RETRIED or status >= 500:
            raise RetryableError(f"{where} answered HTTP {status}: {_excerpt(text)}")
        if status in (401, 403):
            cure = f"set {self.api_key_env} to the server's --api-key"
            raise ClientError(f"{where} refuses the key (HTTP {status}): {cure}", status)
        if status != 200:
            raise ClientError(f"{where} answered HTTP {status}: {_excerpt(text)}", status)
        return text

    def _exchange(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, str]:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self.timeout)
        connection.connect()
        opened: socket.socket = connection.sock
        with self._lock:
            self._open.add(opened)
        # The socket's own limit is one for each read, and a server may send a byte now and then for ever.
        timer = threading.Timer(self.timeout, _shut, [opened])
        timer.daemon = True
        timer.start()
        try:
            if self._given_up.is_set():
                raise ConnectionAbortedError("given up")
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, self._parts.path + path, body=data, headers=self._headers())
            response = connection.getresponse()
            content = response.read(REPLY_LIMIT + 1)
            if len(content) > REPLY_LIMIT:
                raise http.client.HTTPException(f"a reply of more than {REPLY_LIMIT} bytes")
            if response.length:  # `read` with a limit does not say that the body was cut
                raise http.client.IncompleteRead(content, response.length)
            return response.status, content.decode("utf-8", "replace")
        finally:
            timer.cancel()
            with self._lock:
                self._open.discard(opened)
            connection.close()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Connection": "close"}
        key = os.environ.get(self.api_key_env)
        if key and (self._parts.scheme == "https" or self._parts.hostname in LOOPBACK):
            headers["Authorization"] = f"Bearer {key}"
        return headers


def read_json(text: str) -> Any:
    """A reply as JSON.

    Raises:
        Again: it is none, as the page of a proxy.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RetryableError(f"the reply is no JSON: {_excerpt(text)}") from None


def _parts(base_url: str) -> SplitResult:
    parts = urlsplit(base_url.strip().rstrip("/").removesuffix("/v1"))
    try:
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or parts.query or parts.fragment:
        raise UsageError(f"{base_url!r} is no server's URL: write it as http://127.0.0.1:8000")
    if parts.username is not None or parts.password is not None:
        raise UsageError("the server's URL holds a user name: put its key into an environment variable")
    return parts


def _shut(opened: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        opened.shutdown(socket.SHUT_RDWR)


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 300 else text[:300] + "…")
