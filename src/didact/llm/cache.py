"""Replies of a chat model, cached on disk. The cache wraps a budget, so that a cached reply costs nothing."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from didact.errors import UsageError
from didact.jsonl import write_atomically
from didact.llm.chat import ChatModel, ChatReply, ChatRequest

LOG = logging.getLogger("didact")
BATCH_SIZE = 64
"""Requests passed on before their replies are written: a kill loses at most this many replies."""
_REPLY = TypeAdapter(ChatReply)


class HashedChatModel(ChatModel, Protocol):
    """A chat model whose reply depends on the request alone and can therefore be cached."""

    def request_hash(self, request: ChatRequest) -> str:
        """sha256 of everything a reply depends on, including the model and its settings."""
        ...


class ChatCache:
    """Stores each successful reply in a JSON file named by the request's hash.

    A cached reply is returned unchanged, including its tokens and cost. Equal requests of one batch are sent
    once. A damaged file is ignored and replaced. Several processes may share a folder.

    Raises:
        UsageError: the folder cannot be created.
    """

    def __init__(self, model: HashedChatModel, path: str | Path) -> None:
        self.model, self.name, self.path = model, model.name, Path(path)
        self._warned = False
        # Created with the first reply, so that a run that fails to start leaves nothing behind.
        existing = next(place for place in (self.path, *self.path.absolute().parents) if place.exists())
        if not existing.is_dir():
            raise UsageError(f"the cache {self.path} cannot be made: {existing} is no folder; name another")

    def request_hash(self, request: ChatRequest) -> str:
        """The wrapped model's hash."""
        return self.model.request_hash(request)

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply per request, in order."""
        keys = [self.request_hash(request) for request in requests]
        known = {key: reply for key in dict.fromkeys(keys) if (reply := self._read(key)) is not None}
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        todo = list(missing.items())
        for first in range(0, len(todo), BATCH_SIZE):
            batch = todo[first : first + BATCH_SIZE]
            replies = self.model.complete([request for _, request in batch])
            for (key, _), reply in zip(batch, replies, strict=True):
                known[key] = reply
                if reply.error is None:
                    self._write(key, reply)
        return [known[key] for key in keys]

    def _file(self, key: str) -> Path:
        return self.path / key[:2] / f"{key}.json"

    def _read(self, key: str) -> ChatReply | None:
        file = self._file(key)
        try:
            entry = json.loads(file.read_bytes())
            if entry["key"] == key and entry["check"] == _checksum(entry["reply"]):
                return _REPLY.validate_python(entry["reply"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError):
            pass
        LOG.warning("the cached reply %s is damaged and requested again", file)
        return None

    def _write(self, key: str, reply: ChatReply) -> None:
        file, record = self._file(key), asdict(reply)
        entry = json.dumps({"key": key, "reply": record, "check": _checksum(record)}, indent=1)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, entry + "\n")
        except OSError as error:
            # A full disk must not lose the reply itself.
            if not self._warned:
                LOG.warning("replies cannot be cached in %s (%s): a replay will cost again", self.path, error)
            self._warned = True


def _checksum(reply: Any) -> str:
    return hashlib.sha256(json.dumps(reply, sort_keys=True).encode()).hexdigest()
