"""Runs one program in a sandbox: sends requests over a channel, enforces the limits, ends all processes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from enum import StrEnum

from didact.tasks.sandbox.backends import UNSAFE, command
from didact.tasks.sandbox.serve import READY, Limits

START_S = 20.0
"""Time limit for starting a sandbox, on a busy machine."""
_KEPT_OUTPUT = 2000


class SandboxError(Exception):
    """The sandbox could not be started, so the program was not judged."""


class Stop(StrEnum):
    """Why a program ended before its answer."""

    TIME = "time"
    """The wall-clock limit."""
    CPU = "cpu"
    """The limit of CPU time, or another reason for which the kernel killed it."""
    OUTPUT = "output"
    """It printed more than the limit."""
    ANSWER = "answer"
    """The line on the channel is longer than a value may be."""
    EXIT = "exit"
    """Its process ended: `os._exit`, a crash, a closed channel."""


class Stopped(Exception):
    """The program ended without an answer, for a reason and a detail as "exit code 0" or "signal 11"."""

    def __init__(self, why: Stop, detail: str) -> None:
        super().__init__(f"{why}: {detail}")
        self.why, self.detail = why, detail


class Session:
    """A context manager that starts a sandbox without a program, and ends all its processes.

    >>> with Session("unsafe", Limits()) as session:
    ...     (session.run("def f(x): return x + 1"), session.evaluate("f(1)"))
    ('{"value":null}', '{"value":2}')

    Args:
        backend: "bubblewrap", "namespaces", or "unsafe" for none.
        limits: The resource limits. The wall time starts when the sandbox is ready.

    Raises:
        SandboxError: on entering, if the sandbox cannot be started.
    """

    def __init__(self, backend: str, limits: Limits) -> None:
        self.backend, self.limits = backend, limits
        self.printed = b""
        """The end of the printed output."""
        self._pending, self._printed_bytes = b"", 0
        self._deadline = time.monotonic() + START_S
        self._first: int | None = None  # pidfd of process 1
        self._folder: str | None = None

    def __enter__(self) -> Session:
        try:
            self._start()
            with contextlib.suppress(Stopped):
                if self._read_line() == READY.decode().strip():
                    self._open_first_process()
                    self._deadline = time.monotonic() + self.limits.wall_s
                    return self
            self._drain()
            reason = self.printed.decode(errors="replace").strip() or "no reason was given"
            raise SandboxError(f"the {self.backend} sandbox did not start: {reason}")
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exception: object) -> None:
        self.close()

    def run(self, text: str) -> str:
        """Execute a part of the program's module. The JSON line of `serve` may be forged by the program.

        Raises:
            Stopped: the program ended without an answer.
        """
        return self._ask("!" + text)

    def evaluate(self, expression: str) -> str:
        """Evaluate an expression in the program's module; see `run`."""
        return self._ask("?" + expression)

    def close(self) -> None:
        """Kill every process of the sandbox and wait for their end."""
        process: subprocess.Popen[bytes] | None = getattr(self, "_process", None)
        if process is None:
            return
        if self._first is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            # The supervisor ends once the kernel has ended all of process 1's namespace.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        if self.backend == UNSAFE:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        if process.poll() is None:
            process.kill()
            process.wait()
        for end in (self._channel, self._output):
            end.close()
        if self._first is not None:
            os.close(self._first)
            self._first = None
        os.close(self._info)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        del self._process

    def _start(self) -> None:
        self._channel, far = socket.socketpair()
        self._output, output = socket.socketpair()
        self._info, info = os.pipe()
        try:
            cwd = "/"
            if self.backend == UNSAFE:
                cwd = self._folder = tempfile.mkdtemp(prefix="didact-")
            words, user = command(self.backend, self.limits, far.fileno(), info)
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL, stdout=output.fileno(), stderr=output.fileno(),
                cwd=cwd, env=_environment(),
                pass_fds=(far.fileno(), info), start_new_session=True,
                user=user, group=user, extra_groups=None if user is None else (),
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            for end in (self._channel, self._output):
                end.close()
            os.close(self._info)
            raise SandboxError(f"the {self.backend} sandbox cannot be started: {error}") from error
        finally:
            far.close()
            output.close()
            os.close(info)
        self._channel.setblocking(False)
        self._output.setblocking(False)

    def _open_first_process(self) -> None:
        """Open a pidfd of process 1 while it certainly lives, because it has received no program yet."""
        if self.backend == UNSAFE:
            return
        try:
            self._first = os.pidfd_open(json.loads(os.read(self._info, 1000))["child-pid"])
        except (OSError, ValueError, KeyError) as error:
            raise SandboxError(f"the {self.backend} sandbox has no process 1: {error}") from error

    def _ask(self, request: str) -> str:
        body = request.encode(errors="replace")
        data = b"%d\n%s" % (len(body), body)
        while data:
            self._wait(select.POLLOUT)
            try:
                data = data[self._channel.send(data) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._ended() from None
        return self._read_line()

    def _read_line(self) -> str:
        # An answer is ASCII JSON: at most six characters for one character of a text.
        longest = 6 * self.limits.output_kb * 1024 + 1024
        while b"\n" not in self._pending:
            if len(self._pending) > longest:
                raise Stopped(Stop.ANSWER, f"more than {self.limits.output_kb} KiB")
            self._wait(select.POLLIN)
            try:
                part = self._channel.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                part = b""
            if not part:
                raise self._ended()
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode("ascii", errors="replace")

    def _wait(self, event: int) -> None:
        """Wait for the channel, while the printed output is read and counted."""
        poll = select.poll()
        poll.register(self._channel, event)
        poll.register(self._output, select.POLLIN)
        while True:
            left = self._deadline - time.monotonic()
            ready = dict(poll.poll(max(left, 0) * 1000))
            if self._output.fileno() in ready and not self._drain():
                poll.unregister(self._output)
            if self._printed_bytes > self.limits.output_kb * 1024:
                raise Stopped(Stop.OUTPUT, f"more than {self.limits.output_kb} KiB")
            if self._channel.fileno() in ready:
                return
            if left <= 0:
                raise Stopped(Stop.TIME, f"{self.limits.wall_s:g} s")

    def _drain(self) -> bool:
        """Read the printed output; False at its end."""
        with contextlib.suppress(BlockingIOError):
            part = self._output.recv(1 << 16)
            self._printed_bytes += len(part)
            self.printed = (self.printed + part)[-_KEPT_OUTPUT:]
            return bool(part)
        return True

    def _ended(self) -> Stopped:
        """The reason of a closed channel."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return Stopped(Stop.EXIT, "it closed its channel")
        number = -code if code < 0 else code - 128 if code > 128 else 0
        if number in (signal.SIGKILL, signal.SIGXCPU):
            return Stopped(Stop.CPU, f"{self.limits.cpu_s} s")
        return Stopped(Stop.EXIT, f"signal {number}" if number else f"exit code {code}")


def _environment() -> dict[str, str]:
    """The environment of the interpreter; the program's own is smaller."""
    scrubbed = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return scrubbed | {"LD_LIBRARY_PATH": libraries} if libraries else scrubbed
