"""Client of the process in which math-verify compares answers (`worker`).

One process serves all tasks of a Python process. It starts at the first comparison and ends with its parent.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from didact.errors import UsageError, install_command

START_SECONDS = 120.0
"""Time limit for importing math-verify and sympy."""
GRACE_SECONDS = 15.0
"""Extra time after a comparison's own limit before the process is killed."""
_KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV")


class Compared(NamedTuple):
    """The result of a comparison."""

    equal: bool = False
    why: str | None = None
    """The reason of a difference, if known."""
    error: str | None = None
    """Why the comparison failed; `equal` is then meaningless."""


class MathChecker:
    """Compares expressions with math-verify in a process of its own; `started` counts its processes.

    Args:
        cpu_seconds: CPU time of one comparison, whole seconds ≥ 1; an answer that needs more is wrong.
        wall_seconds: Wall-clock time of the same, > 0; reaching it is an error of the comparison, because it
            points to a stalled machine rather than to a wrong answer.
    """

    def __init__(self, *, cpu_seconds: int = 3, wall_seconds: float = 60.0) -> None:
        self.limits = {"cpu_s": cpu_seconds, "wall_s": wall_seconds, "memory_mb": 1024}
        self.started = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = -1
        self._lock = threading.Lock()
        atexit.register(self.close)

    def compare(self, gold: str, answer: str, *, loose: bool = False) -> Compared:
        """Compare an answer with the reference as mathematics.

        Args:
            gold: The reference, in LaTeX or as a plain number.
            loose: If the reference is a number, also accept an unevaluated expression.

        Raises:
            UsageError: math-verify is not installed.
        """
        line = json.dumps({"gold": gold, "answer": answer, "loose": loose, **self.limits}) + "\n"
        with self._lock:
            for _ in range(2):  # a process that was killed is started once more
                try:
                    return Compared(**self._ask(line.encode()))
                except OSError as error:
                    self._kill()
                    failed = f"the process of math-verify failed ({error})"
                except BaseException:
                    self._kill()  # or the next comparison would read this one's reply
                    raise
        return Compared(error=failed)

    def close(self) -> None:
        """End the process. A later comparison starts another."""
        with self._lock:
            self._kill()

    def _ask(self, line: bytes) -> dict[str, Any]:
        process = self._running()
        assert process.stdin is not None
        process.stdin.write(line)
        process.stdin.flush()
        return _receive(process, self.limits["wall_s"] + GRACE_SECONDS)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid():
            return self._process
        worker = Path(__file__).with_name("worker.py")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # it ignores Ctrl-C and ends when its input does
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
        )
        self._owner = os.getpid()
        self.started += 1
        hello = _receive(self._process, START_SECONDS)
        if "missing" in hello:
            self._kill()
            raise UsageError(
                f"the task 'math' needs math-verify ({hello['missing']}): {install_command('math')}"
            )
        return self._process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


shared_checker = cache(MathChecker)
"""Gives the checker that is shared by all tasks of this process."""


def _receive(process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], seconds)[0]:
        raise TimeoutError(f"no reply in {seconds:.0f} s")
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        raise OSError("it ended without a reply")
    reply: dict[str, Any] = json.loads(line)
    return reply
