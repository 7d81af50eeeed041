"""Wrappers around a chat model: a cache on disk, and budgets.

    ChatCache(Budget(OpenAIChat(…), max_cost_usd=5, ledger=Ledger("cache/budget.json")), "cache/")

The cache stands outside, so that what it answers costs the budget nothing. The ledger keeps what was spent,
so that a run that is stopped and resumed cannot spend its budget twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from didact.errors import DataError, UsageError
from didact.jsonl import locked, read_all, write_atomically
from didact.llm.chat import ChatModel, ChatReply, ChatRequest
from didact.types import Message

LOG = logging.getLogger("didact")
AT_ONCE = 64
"""Requests handed on before what came back is written: so many replies a kill can cost."""
SPENT = "the budget is spent"
"""How the error of every reply begins that a budget refused: it will not pass, whoever waits."""
_REPLY = TypeAdapter(ChatReply)


class HashedChatModel(ChatModel, Protocol):
    """A chat model whose replies depend on nothing but the request, so that they can be kept."""

    def request_hash(self, request: ChatRequest) -> str:
        """sha256 of everything that a reply depends on, the model and its settings included."""
        ...


class PricedChatModel(HashedChatModel, Protocol):
    """A chat model that knows what a request can cost at most."""

    def cost_bound(self, request: ChatRequest) -> float | None:
        """USD that a request cannot exceed; None where no prices are known."""
        ...


class ChatCache:
    """Keeps replies on disk, one JSON file a request, named by the request's hash.

    A kept reply is given back exactly, its tokens and its cost as they were, and no request is sent.
    Failures are not kept. Requests of one batch that are equal are sent once. A file that is torn or
    changed is asked for anew. Several processes may share a folder.

    Args:
        model: Who is asked where nothing is kept.
        path: The folder; made when there is a reply to keep.

    Attributes:
        hits: Requests that were answered from the folder.

    Raises:
        UsageError: the folder cannot be made.
    """

    def __init__(self, model: HashedChatModel, path: str | Path) -> None:
        self.model = model
        self.name = model.name
        self.path = Path(path)
        self.hits = 0
        self._warned = False
        # Made with the first reply, so that a run that cannot begin leaves nothing behind.
        there = next(place for place in (self.path, *self.path.absolute().parents) if place.exists())
        if not there.is_dir():
            raise UsageError(f"the cache {self.path} cannot be made: {there} is no folder; name another")

    def request_hash(self, request: ChatRequest) -> str:
        """The wrapped model's hash."""
        return self.model.request_hash(request)

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply a request, in order, from the folder where it is there."""
        keys = [self.request_hash(request) for request in requests]
        known = {key: reply for key in dict.fromkeys(keys) if (reply := self._read(key)) is not None}
        self.hits += sum(key in known for key in keys)
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        todo = list(missing.items())
        for first in range(0, len(todo), AT_ONCE):
            part = todo[first : first + AT_ONCE]
            replies = self.model.complete([request for _, request in part])
            for (key, _), reply in zip(part, replies, strict=True):
                known[key] = reply
                if reply.error is None:
                    self._write(key, reply)
        return [known[key] for key in keys]

    def _file(self, key: str) -> Path:
        return self.path / key[:2] / f"{key}.json"

    def _read(self, key: str) -> ChatReply | None:
        file = self._file(key)
        try:
            kept = json.loads(file.read_bytes())
            if kept["key"] == key and kept["check"] == _check(kept["reply"]):
                return _REPLY.validate_python(kept["reply"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError):
            pass
        LOG.warning("the kept reply %s is damaged and asked for anew", file)
        return None

    def _write(self, key: str, reply: ChatReply) -> None:
        file, record = self._file(key), asdict(reply)
        content = json.dumps({"key": key, "reply": record, "check": _check(record)}, indent=1)
        temporary = ""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                opened.write(content + "\n")
                opened.flush()
                os.fsync(opened.fileno())
            os.replace(temporary, file)
        except OSError as error:
            # The reply itself is there: a full disk must not cost it.
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            if not self._warned:
                LOG.warning("replies cannot be kept in %s (%s): a replay will cost anew", self.path, error)
            self._warned = True


class Spending(BaseModel):
    """What was sent so far, and what it cost."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    requests: Annotated[int, Field(ge=0)] = 0
    spent_usd: Annotated[float, Field(ge=0)] = 0.0


class UsageTracker:
    """Keeps in a small file what was spent, for budgets that outlive a process.

    What a request can cost at most is written down before it is sent, and what it did cost afterwards. So a
    kill in between makes the budget smaller, never larger. Several processes may share a file.

    Args:
        file: A JSON file; made, with its folder, when the first request is sent.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def read(self) -> Spending:
        """The sums so far; zeros where nothing was sent.

        Raises:
            DataError: the file is damaged, so that nobody knows what is left.
        """
        try:
            return self._parse(self.file.read_bytes())
        except FileNotFoundError:
            return Spending()

    def add(self, requests: int, usd: float) -> Spending:
        """Add to the sums, either of which may be corrected by a negative number, and return them.

        Raises:
            DataError: as `read`.
            OSError: the file cannot be written; it holds what it held.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.file) as handle:
            before = self._parse(read_all(handle))
            # Corrections of rounded numbers may end a hair below zero.
            spent = max(0.0, before.spent_usd + usd)
            after = Spending(requests=max(0, before.requests + requests), spent_usd=spent)
            write_atomically(self.file, after.model_dump_json(indent=1) + "\n")
        return after

    def _parse(self, data: bytes) -> Spending:
        # Nothing is sent before the first sums stand here, so an empty file has lost none.
        try:
            return Spending.model_validate_json(data) if data.strip() else Spending()
        except ValidationError:
            raise DataError(
                f"{self.file} does not say what was spent, so nobody knows what is left of the budget: write "
                'it as {"requests": 10, "spent_usd": 0.5}, or remove it to begin at 0'
            ) from None


class Budget:
    """Stops asking before a number of requests or a sum in USD is exceeded.

    What is beyond the budget gets a failed reply that says so, and no request is sent. A request is let
    through only if the most it can cost still fits, so the sum is never exceeded. Tries of one request
    count once.

    Args:
        model: Who is asked.
        max_requests: At most so many requests; None for no limit.
        max_cost_usd: At most so much in sum; None for no limit.
        requests: Requests that were sent before.
        spent_usd: What they cost.
        ledger: Where the sums are kept, as for a run that is stopped and resumed. What stands there already
            is added to the two above.
        at_once: Where there is a limit, at most so many requests are handed on before what they did cost
            is known: a kill makes the budget smaller by at most what so many can cost.

    Attributes:
        requests: Requests that were sent, those before included.
        spent_usd: What they cost; of requests that were cut off by a kill, the most that they can have.

    Raises:
        UsageError: a negative limit, or a limit in USD on a model without prices.
        DataError: the ledger is damaged.
    """

    def __init__(
        self,
        model: PricedChatModel,
        *,
        max_requests: int | None = None,
        max_cost_usd: float | None = None,
        requests: int = 0,
        spent_usd: float = 0.0,
        ledger: UsageTracker | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        for name, limit in {"max_requests": max_requests, "max_cost_usd": max_cost_usd}.items():
            if limit is not None and not limit >= 0:
                raise UsageError(f"{name} must be at least 0, not {limit}")
        probe = ChatRequest((Message(role="user", content=""),))
        if max_cost_usd is not None and model.cost_bound(probe) is None:
            raise UsageError(
                f"a budget in USD needs to know what {model.name} costs: give its prices for a million "
                "tokens read and written, or limit the number of requests"
            )
        self.model = model
        self.name = model.name
        self.max_requests, self.max_cost_usd = max_requests, max_cost_usd
        self.ledger, self.at_once = ledger, at_once
        self._answered = self._warned = False
        kept = Spending() if ledger is None else ledger.read()
        self.requests, self.spent_usd = requests + kept.requests, spent_usd + kept.spent_usd

    @property
    def limited(self) -> bool:
        """Is there a limit at all?"""
        return self.max_requests is not None or self.max_cost_usd is not None

    def request_hash(self, request: ChatRequest) -> str:
        """The wrapped model's hash: a budget changes no reply."""
        return self.model.request_hash(request)

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply a request, in order; those beyond the budget fail unsent."""
        replies: list[ChatReply] = []
        while len(replies) < len(requests):
            part = self._affordable(requests[len(replies) :])
            if not part:
                rest = requests[len(replies) :]
                replies += [ChatReply(error=self._over(r), request_hash=self.request_hash(r)) for r in rest]
                break
            replies += self._charged(part)
        return replies

    def _charged(self, part: Sequence[ChatRequest]) -> list[ChatReply]:
        """Replies to requests that are paid for before they are sent: an error may have cost all the same."""
        most = sum(self.model.cost_bound(request) or 0.0 for request in part)
        self._note(len(part), most, needed=self.limited)
        self.requests += len(part)
        try:
            done = self.model.complete(part)
        except UsageError:
            # A server that refuses the key or the model from the start on charges for nothing.
            if not self._answered:
                self._note(-len(part), -most, needed=False)
            raise
        cost = sum(reply.cost_usd for reply in done)
        self.spent_usd += cost
        self._answered = self._answered or any(reply.error is None for reply in done)
        self._note(0, cost - most, needed=False)
        return done

    def _note(self, requests: int, usd: float, *, needed: bool) -> None:
        """Add to the ledger. Where that fails and is not needed, it says too much, or limits nothing."""
        if self.ledger is None:
            return
        try:
            self.ledger.add(requests, usd)
        except OSError as error:
            if needed:
                raise
            if not self._warned:
                LOG.warning("what was spent cannot be written to %s (%s)", self.ledger.file, error)
            self._warned = True

    def _affordable(self, requests: Sequence[ChatRequest]) -> list[ChatRequest]:
        """The longest beginning that can be sent at once and cannot exceed the budget."""
        count = len(requests)
        if self.limited:
            count = min(count, self.at_once)
        if self.max_requests is not None:
            count = min(count, self.max_requests - self.requests)
        part: list[ChatRequest] = []
        left = None if self.max_cost_usd is None else self.max_cost_usd - self.spent_usd
        for request in requests[: max(0, count)]:
            if left is not None:
                left -= self.model.cost_bound(request) or 0.0
                if left < 0:
                    break
            part.append(request)
        return part

    def _over(self, request: ChatRequest) -> str:
        if self.max_requests is not None and self.requests >= self.max_requests:
            return f"{SPENT}: max_requests = {self.max_requests}. Nothing was sent; raise max_requests"
        bound = self.model.cost_bound(request) or 0.0
        return (
            f"{SPENT}: of max_cost = {self.max_cost_usd} USD, {self.spent_usd:.6f} are used, and this "
            f"request may cost {bound:.6f}. Nothing was sent; raise max_cost"
        )


def _check(reply: Any) -> str:
    """Tells a changed reply from the one that was written."""
    return hashlib.sha256(json.dumps(reply, sort_keys=True).encode()).hexdigest()
