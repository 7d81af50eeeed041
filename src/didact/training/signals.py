"""Ctrl-C and SIGTERM: save, then leave with exit code 75, resumable.

While a step only samples and asks critics, nothing that must be saved changes, so the signal ends it
at once. During the update it waits for the end of the step. A second signal ends the process.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from didact.distributed import process_group
from didact.errors import Interrupted

SAME_SIGNAL_SECONDS = 1.0
"""A second signal sooner than this is taken for the first one."""


class SignalRecorder:
    """Records SIGINT and SIGTERM by name in `received`, in a with-statement, and the process goes on."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received.append(signal.Signals(number).name)


class StopSignal(SignalRecorder):
    """Turns SIGINT and SIGTERM into Interrupted at a moment when the run can be saved."""

    def __init__(self) -> None:
        super().__init__()
        self.requested: str | None = None
        self._interruptible = False
        self._since = 0.0

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block that a signal may end anywhere; with several processes, at its collectives.

        A third party's `except:` may swallow the Interrupted that the handler raises, or turn it into another
        error, so it is raised again at the end.
        """
        self.check()
        self._interruptible, group = True, process_group()
        group.poll_interrupt = self._error
        try:
            yield
        except Exception:
            if group.world_size == 1:
                self.check()
            raise
        finally:
            self._interruptible = False
            group.poll_interrupt = lambda: None
        self.check()

    def check(self) -> None:
        """Raise Interrupted, on every rank, if a signal has come to one."""
        process_group().raise_if_any_failed(self._error())

    def _error(self) -> Interrupted | None:
        return Interrupted(f"stopped by {self.requested}") if self.requested else None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested:
            # One Ctrl-C may reach a process twice: from the terminal, and from a parent that passes it on.
            if now - self._since < SAME_SIGNAL_SECONDS:
                return
            raise SystemExit(128 + number)
        self.requested, self._since = signal.Signals(number).name, now
        error, group = self._error(), process_group()
        # Between collectives a rank that raised alone would leave the others waiting.
        if error is not None and self._interruptible and (group.world_size == 1 or group.in_main_function):
            raise error
