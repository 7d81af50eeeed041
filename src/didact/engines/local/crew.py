"""Who does what: process 0 hands out tasks and gathers answers, the others serve. See distributed.py."""

from __future__ import annotations

import atexit
import itertools
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from didact import errors
from didact.engines.local.part import Part
from didact.engines.local.processes import PATIENCE, Message, PeerFailed, ProcessLost, join
from didact.engines.local.shares import TASKS, make_part
from didact.errors import DidactError

SAME_SIGNAL_SECONDS = 1.0
"""A second signal sooner than this is taken for the first one."""


class Crew:
    """The processes as process 0 leads them; one for all engines of the run, see `crew`."""

    def __init__(self) -> None:
        self.processes = join()
        self.parts: dict[int, Part] = {}
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._in_step, self._dismissed = True, False
        atexit.register(self.dismiss, 0)

    def new_number(self) -> int:
        """For an engine that is about to be made."""
        return next(self._numbers)

    def call(self, messages: Sequence[Message]) -> list[Message]:
        """Let every process do its message's task, this one too, and return their answers.

        Raises:
            Exception: what one of them raised, this one first.
            ProcessLost: one of them has ended, now or in an earlier call.
        """
        with self._lock, signals_held():
            if self._dismissed or not self._in_step:
                raise ProcessLost("the other processes have ended, or an error left them out of step")
            self._in_step = False  # until all have answered
            for rank in range(1, self.processes.size):
                self.processes.send(rank, messages[rank])
            own = attempt(self.parts, messages[0])
            answers = [self.processes.receive(rank) for rank in range(1, self.processes.size)]
            self._in_step = True
        found = [own if isinstance(own, Exception) else None]
        found += [_as_raised(rank, answer.header) for rank, answer in enumerate(answers, start=1)]
        raised = [error for error in found if error is not None]
        for error in sorted(raised, key=lambda e: isinstance(e, PeerFailed)):  # reasons before consequences
            raise error
        assert isinstance(own, Message)
        return [own, *answers]

    def dismiss(self, code: int) -> None:
        """Let the other processes end with an exit code; out of step they end when this one does."""
        if self._dismissed or not self._in_step:
            return
        self._dismissed = True
        for rank in range(1, self.processes.size):
            try:
                self.processes.send(rank, Message({"task": "end", "code": code}))
            except ProcessLost:
                continue  # it has ended already


@cache
def crew() -> Crew:
    """The processes that this one leads."""
    return Crew()


def serve() -> int:
    """Do what process 0 asks for until it ends the run; for every other process.

    Returns:
        The code that this process shall exit with.
    """
    processes = join()
    for number in (signal.SIGINT, signal.SIGTERM):  # process 0 decides when the run ends
        signal.signal(number, signal.SIG_IGN)
    parts: dict[int, Part] = {}
    try:
        while True:
            message = processes.receive(0, PATIENCE)
            if message.header["task"] == "end":
                return int(message.header["code"])
            answer = attempt(parts, message)
            if isinstance(answer, Exception):
                answer = Message({"error": type(answer).__name__, "message": str(answer)})
            processes.send(0, answer)
    except ProcessLost as error:
        print(f"didact: process {processes.rank}: {error}", file=sys.stderr)
        return error.exit_code


def attempt(parts: dict[int, Part], message: Message) -> Message | Exception:
    """Do one task.

    Args:
        parts: This process's part of each engine, by the engine's number.
        message: The task.

    Returns:
        What it gives, or why it failed with all undone.

    Raises:
        Exception: it failed where others may wait for this process, so that the run is over.
    """
    header = message.header
    part = parts.get(header["engine"])
    try:
        if part is None:
            parts[header["engine"]] = make_part(header)
            return Message({})
        for name in header["dropped"]:
            part.handles.pop(name, None)
        return TASKS[header["task"]](part, message)
    except ProcessLost:
        raise
    except DidactError as error:
        return error
    except Exception as error:
        if part is None or part.must_keep_step:
            raise
        return error


def _as_raised(rank: int, header: Mapping[str, Any]) -> Exception | None:
    """What another process raised, if it did."""
    kind = header.get("error")
    if kind is None:
        return None
    if kind == PeerFailed.__name__:
        return PeerFailed(header["message"])
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, DidactError):
        return known(f"process {rank}: {header['message']}")
    return RuntimeError(f"process {rank} failed with {kind}: {header['message']}")


@contextmanager
def signals_held() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait for the end of the block, where the processes are in step again.

    A second signal ends the process at once, and with it the others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, float]] = []

    def note(number: int, frame: object) -> None:
        came.append((number, time.monotonic()))
        if came[-1][1] - came[0][1] > SAME_SIGNAL_SECONDS:
            raise SystemExit(128 + number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0][0])
