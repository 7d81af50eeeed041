"""A limit on the requests sent to a model server, or on their cost, kept across restarts of a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from didact.errors import DataError, UsageError
from didact.jsonl import locked, read_all, write_atomically
from didact.llm.cache import BATCH_SIZE
from didact.llm.chat import ChatReply, ChatRequest
from didact.llm.openai_chat import OpenAIChat
from didact.settings import Section

LOG = logging.getLogger("didact")


class Usage(Section):
    """Requests sent so far and their cost in USD."""

    requests: Annotated[int, Field(ge=0)] = 0
    spent_usd: Annotated[float, Field(ge=0)] = 0.0


class UsageTracker:
    """Cumulative usage in a JSON file, which several processes may share.

    A request is recorded at its upper bound before it is sent and corrected afterwards, so that a killed
    process can only overestimate the usage. File and folder are created with the first request.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def read(self) -> Usage:
        """The usage so far; a DataError if the file is damaged."""
        try:
            return self._parse(self.file.read_bytes())
        except FileNotFoundError:
            return Usage()

    def add(self, requests: int, usd: float) -> Usage:
        """Add to the usage (negative values correct an earlier estimate) and return the sum.

        Raises:
            DataError: the file is damaged.
            OSError: the file cannot be written; its content is unchanged.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.file) as handle:
            before = self._parse(read_all(handle))
            # Clamped: rounding can take a corrected sum slightly below zero.
            after = Usage(
                requests=max(0, before.requests + requests), spent_usd=max(0.0, before.spent_usd + usd)
            )
            write_atomically(self.file, after.model_dump_json(indent=1) + "\n")
        return after

    def _parse(self, data: bytes) -> Usage:
        # `locked` creates an empty file before the first record is written.
        try:
            return Usage.model_validate_json(data) if data.strip() else Usage()
        except ValidationError:
            raise DataError(
                f"{self.file} is damaged, so the remaining budget is unknown: write it as "
                '{"requests": 10, "spent_usd": 0.5}, or remove it to start at 0'
            ) from None


class Budget:
    """A chat model that sends no request beyond a limit; such requests get a reply of kind "budget".

    A request is sent only if its upper bound still fits, so the limit is never exceeded. Retries of one
    request count once.

    Args:
        max_requests: Largest number of requests; None for no limit.
        max_cost_usd: Largest total cost, for a model with prices; None for no limit.
        tracker: Stores the usage across restarts; what it holds already counts.
        batch_size: Requests sent before their real cost is recorded. A kill loses at most the difference
            between the bounds and the costs of this many requests.

    Raises:
        DataError: the tracker's file is damaged.
    """

    def __init__(
        self,
        model: OpenAIChat,
        *,
        max_requests: int | None = None,
        max_cost_usd: float | None = None,
        tracker: UsageTracker | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.model, self.name = model, model.name
        self.max_requests, self.max_cost_usd = max_requests, max_cost_usd
        self.tracker, self.batch_size = tracker, batch_size
        self._answered = self._warned = False
        usage = Usage() if tracker is None else tracker.read()
        self.requests, self.spent_usd = usage.requests, usage.spent_usd
        """Of requests interrupted by a kill, the upper bound of the cost."""
        self._limited = max_requests is not None or max_cost_usd is not None

    def request_hash(self, request: ChatRequest) -> str:
        """The wrapped model's hash: a budget does not change a reply."""
        return self.model.request_hash(request)

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply per request, in order; requests beyond the limit fail without being sent."""
        replies: list[ChatReply] = []
        while len(replies) < len(requests):
            batch = self._affordable(requests[len(replies) :])
            if not batch:
                replies += [self._refused(request) for request in requests[len(replies) :]]
                break
            replies += self._send(batch)
        return replies

    def _send(self, batch: Sequence[ChatRequest]) -> list[ChatReply]:
        """Record the upper bound, send, then correct it: even a request that fails may be charged."""
        bound = sum(self.model.cost_bound(request) or 0.0 for request in batch)
        self._record(len(batch), bound, required=self._limited)
        self.requests += len(batch)
        try:
            replies = self.model.complete(batch)
        except UsageError:
            # A server that rejects the key or the model on the first request charges nothing.
            if not self._answered:
                self._record(-len(batch), -bound, required=False)
            raise
        cost = sum(reply.cost_usd for reply in replies)
        self.spent_usd += cost
        self._answered = self._answered or any(reply.error is None for reply in replies)
        self._record(0, cost - bound, required=False)
        return replies

    def _record(self, requests: int, usd: float, *, required: bool) -> None:
        """Add to the tracker. Without `required` a failed write is logged: it can only overestimate."""
        if self.tracker is None:
            return
        try:
            self.tracker.add(requests, usd)
        except OSError as error:
            if required:
                raise
            if not self._warned:
                LOG.warning("the usage cannot be written to %s (%s)", self.tracker.file, error)
            self._warned = True

    def _affordable(self, requests: Sequence[ChatRequest]) -> list[ChatRequest]:
        """The longest prefix that can be sent as one batch within the limits."""
        count = len(requests)
        if self._limited:
            count = min(count, self.batch_size)
        if self.max_requests is not None:
            count = min(count, self.max_requests - self.requests)
        batch: list[ChatRequest] = []
        left = None if self.max_cost_usd is None else self.max_cost_usd - self.spent_usd
        for request in requests[: max(0, count)]:
            if left is not None:
                left -= self.model.cost_bound(request) or 0.0
                if left < 0:
                    break
            batch.append(request)
        return batch

    def _refused(self, request: ChatRequest) -> ChatReply:
        if self.max_requests is not None and self.requests >= self.max_requests:
            limit = f"max_requests = {self.max_requests}. Nothing was sent; raise max_requests"
        else:
            bound = self.model.cost_bound(request) or 0.0
            limit = (
                f"of max_cost = {self.max_cost_usd} USD, {self.spent_usd:.6f} are used, and this request may "
                f"cost {bound:.6f}. Nothing was sent; raise max_cost"
            )
        return ChatReply(
            request_hash=self.request_hash(request),
            error=f"the budget is spent: {limit}",
            error_kind="budget",
        )
