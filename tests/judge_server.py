"""A real OpenAI-compatible server on 127.0.0.1 that answers by a function and fails on request.

    with JudgeServer(lambda messages: verdict("Wrong.", 2)) as server:
        open_chat("judge", base_url=server.url)

Faults come from a `script`, one entry a request in order of arrival (None is no fault), and then at random
with `fault_rate`. A random fault is drawn by hashing (seed, the request's body, how often it has come), so
neither threads nor order change which request meets which fault.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from didact.llm.http import RetryPolicy
from didact.llm.openai_chat import OpenAIChat, OpenAISettings
from didact.rng import generator
from didact.settings import validate_settings
from tests.loopback import Handler, Loopback

Answer = Callable[[list[dict[str, str]]], str]

TRANSIENT = ("429", "500", "503", "reset", "cut_body")
"""The same request may succeed the next time."""
UNUSABLE = (
    "prose", "fenced", "truncated", "extra_key", "score_text", "nan", "huge", "empty", "half_surrogate",
    "number",
)  # fmt: skip
"""A reply in good form whose text is no verdict."""
FAULTS = (*TRANSIENT, *UNUSABLE, "hang", "401", "403", "404", "400", "length", "filter", "html", "quota")
"""Everything that a script may name, beside "reject:FIELD", a 400 that names a request's field."""


def verdict(critique: str, score: float, label: str = "wrong", spans: Sequence[dict[str, str]] = ()) -> str:
    """A judge's reply in the form that is asked for."""
    return json.dumps({"critique": critique, "score": score, "label": label, "spans": list(spans)})


def spoilt(fault: str, text: str) -> str:
    """A reply's text as a fault changes it."""
    return {
        "prose": "The answer is wrong. I give it 3 out of 10.",
        "fenced": f"```json\n{text}\n```",
        "truncated": text[: len(text) // 2],
        "extra_key": text[:-1] + ', "confidence": 1}',
        "score_text": '{"critique": "Wrong.", "score": "9/10", "label": "wrong", "spans": []}',
        "nan": '{"critique": "Wrong.", "score": NaN, "label": "wrong", "spans": []}',
        "huge": '{"critique": "Wrong.", "score": 1e309, "label": "wrong", "spans": []}',
        "empty": " \n",
        "half_surrogate": r'{"critique": "\ud800", "score": 1, "label": "wrong", "spans": []}',
        "number": "9" * 5000,
    }[fault]


def open_chat(model: str, *, sleep: Any = None, max_wait: float = 120.0, **settings: Any) -> OpenAIChat:
    """A chat model with these settings, whose waits between attempts may take no time."""
    chosen = validate_settings(OpenAISettings, {"model": model, **settings}, "a server")
    chat = OpenAIChat(chosen)
    if sleep is not None:
        chat.retries = RetryPolicy(chosen.max_retries, max_wait, sleep)
    return chat


class JudgeServer(Loopback):
    """Serves /v1/chat/completions in threads.

    Args:
        answer: Messages → the reply's text.
        script: Faults of the first requests, in order of arrival; None is no fault.
        fault_rate: Share of the later requests that fail, in [0, 1].
        faults: What a random fault may be; `hang` only if you can wait for the client's timeout.
        seed: Which requests fail.
        structures: The response formats that the server takes; any other is a 400.
        key: The key that requests must show; None takes any.
        retry_after: What a 429 says, in seconds.
        usage: Does a reply tell its tokens?
        port: Where it listens; 0 takes a free one.

    Attributes:
        bodies: The requests' bodies, in order of arrival.
        headers: Their headers.
        faulted: How often each fault came.
    """

    def __init__(
        self,
        answer: Answer = lambda messages: verdict("Wrong.", 2),
        *,
        script: Sequence[str | None] = (),
        fault_rate: float = 0.0,
        faults: Sequence[str] = (*TRANSIENT, *UNUSABLE),
        seed: int = 0,
        structures: Sequence[str] = ("json_schema", "json_object"),
        key: str | None = None,
        retry_after: str = "0",
        usage: bool = True,
        port: int = 0,
    ) -> None:
        super().__init__(_Handler, port)
        self.answer, self.script = answer, list(script)
        self.fault_rate, self.faults, self.seed = fault_rate, tuple(faults), seed
        self.structures, self.key, self.retry_after, self.usage = tuple(structures), key, retry_after, usage
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.faulted: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"{self.origin}/v1"

    def receive(self, body: dict[str, Any], headers: dict[str, str]) -> str | None:
        """Note a request and draw its fault."""
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            key = json.dumps(body, sort_keys=True)
            self._seen[key] += 1
            fault = self.script.pop(0) if self.script else self._random(key)
            if fault:
                self.faulted[fault] += 1
            return fault

    def _random(self, key: str) -> str | None:
        rng = generator(self.seed, "fault", key, self._seen[key])
        if rng.random() >= self.fault_rate:
            return None
        return self.faults[int(rng.integers(len(self.faults)))]

    def count(self, change: int) -> None:
        with self._lock:
            self.in_flight += change
            self.most_in_flight = max(self.most_in_flight, self.in_flight)


class _Handler(Handler):
    owner: JudgeServer

    def do_POST(self) -> None:
        self.owner.count(+1)
        try:
            self._serve()
        finally:
            self.owner.count(-1)

    def _serve(self) -> None:
        judge = self.owner
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        fault = judge.receive(body, self.lower_headers())
        if self.path != "/v1/chat/completions":
            return self._error(404, "no such path")
        if judge.key is not None and self.headers["authorization"] != f"Bearer {judge.key}":
            return self._error(401, f"wrong key {self.headers['authorization']}")
        asked = body.get("response_format", {}).get("type")
        if asked is not None and asked not in judge.structures:
            return self._error(400, f"response_format {asked} is not supported")
        if fault in ("hang", "reset", "cut_body", "html"):
            return self._broken(fault)
        if fault is not None and fault.startswith("reject:"):
            name = fault.removeprefix("reject:")
            return (
                self._error(400, f"Unsupported parameter: '{name}'")
                if name in body
                else self._reply(body, None)
            )
        if fault in ("429", "quota"):
            return self._error(429, "insufficient_quota" if fault == "quota" else "slow down")
        if fault is not None and fault.isdigit():
            return self._error(int(fault), f"scripted; you sent {self.headers['authorization']}")
        return self._reply(body, fault)

    def _reply(self, body: dict[str, Any], fault: str | None) -> None:
        text = self.owner.answer(body["messages"])
        finish = {"length": "length", "filter": "content_filter"}.get(fault or "", "stop")
        if fault in UNUSABLE:
            text = spoilt(fault, text)
        message = {"role": "assistant", "content": text}
        reply: dict[str, Any] = {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        }  # fmt: skip
        if self.owner.usage:
            read = sum(len(m["content"].split()) for m in body["messages"])
            written = len(text.split())
            reply["usage"] = {
                "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written,
            }  # fmt: skip
        self.send(200, json.dumps(reply).encode())

    def _error(self, status: int, message: str) -> None:
        error = {"error": {"message": message, "type": "scripted", "param": None, "code": None}}
        again = {"Retry-After": self.owner.retry_after} if status == 429 else {}
        self.send(status, json.dumps(error).encode(), **again)

    def _broken(self, fault: str) -> None:
        if fault == "hang":
            self.owner.closing.wait(60)
        elif fault == "html":
            return self.send(200, b"<html>502 Bad Gateway</html>", "text/html")
        elif fault == "cut_body":
            self.wfile.write(
                b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{"ch'
            )
            self.wfile.flush()
        self.hang_up()
        return None
