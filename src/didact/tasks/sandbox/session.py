"""Runs one program in a sandbox: starts the backend, sends requests over a channel, enforces the limits and
ends all processes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from enum import StrEnum
from functools import cache
from itertools import chain

from didact.tasks.sandbox.serve import MIB, READY, Limits

BACKENDS = ("bubblewrap", "namespaces")
"""In the order of preference."""
UNSAFE = "unsafe"
"""No sandbox: a plain process with limits, for trusted programs only."""

# Stubs keep `import didact.tasks.sandbox.…` from importing the parents, which are slow and not visible.
_BOOT = (
    "import sys\n"
    "for name in ('didact','didact.tasks','didact.tasks.sandbox'):\n"
    " m=sys.modules[name]=type(sys)(name); m.__path__=[]\n"
    "m.__path__=[sys.argv[1]]\n"
    "from didact.tasks.sandbox.namespace_init import main\n"
    "main(sys.argv[2:])\n"
)
_HERE = os.path.dirname(os.path.realpath(__file__))
_INSIDE = "/didact"
"""Where bubblewrap mounts this folder; the namespaces backend imports it before it changes the root."""
_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_NOBODY = 65534
START_S = 20.0
"""Time limit for starting a sandbox, on a busy machine."""
_KEPT_OUTPUT = 2000


def interpreter() -> str:
    """The real path of the current interpreter, behind virtual environments."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@cache
def shown_paths() -> tuple[tuple[str, str], ...]:
    """(source, destination) of all paths that the interpreter has to read."""
    libraries = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    # The parents hold libpython and its dependencies.
    wanted = {*_SYSTEM_LIBRARIES, *map(os.path.dirname, libraries)}
    shown: dict[str, str] = {}
    for path in sorted(wanted, key=len):
        covered = any(path.startswith(known.rstrip("/") + "/") for known in shown)
        if not covered and os.path.exists(path) and path != "/":
            shown[path] = os.path.realpath(path)
    devices = [(path, path) for path in _DEVICES if os.path.exists(path)]
    return (*((source, path) for path, source in shown.items()), *devices)


def command(name: str, limits: Limits, channel: int, info: int) -> tuple[list[str], int | None]:
    """The command line of a backend, and its user and group id, None for the current ones.

    Args:
        name: One of `BACKENDS`, or `UNSAFE`.
        limits: Those that the process sets itself, all but the wall time.
        channel: The inherited descriptor for requests and answers.
        info: The inherited descriptor to which the id of process 1 is written.

    Raises:
        OSError: the backend's program is not installed.
    """
    run = [interpreter(), "-s", "-S", "-P", "-c", _BOOT]
    arguments = [name, *map(str, (os.getpid(), channel, info, *limits[:-1]))]
    if name == "namespaces":
        return [*run, _HERE, *arguments, *chain(*shown_paths())], None
    if name == UNSAFE:
        return [*run, _HERE, *arguments], None
    # Root starts it as user nobody: the kernel enforces no limit of processes for root.
    user = _NOBODY if os.geteuid() == 0 else None
    return [*_bubblewrap(limits, info), *run, _INSIDE, *arguments], user


def _bubblewrap(limits: Limits, info: int) -> list[str]:
    found = shutil.which("bwrap")
    if found is None:
        raise FileNotFoundError("bwrap is not installed")
    words = [found, *(f"--unshare-{kind}" for kind in ("user", "ipc", "pid", "net", "uts", "cgroup-try"))]
    words += ["--die-with-parent", "--new-session", "--as-pid-1", "--info-fd", str(info)]
    words += ["--cap-drop", "ALL", "--hostname", "sandbox"]
    for source, target in shown_paths():
        words += ["--dev-bind" if target.startswith("/dev/") else "--ro-bind", source, target]
    program = interpreter()
    if not any(program.startswith(target + "/") for _, target in shown_paths()):
        words += ["--ro-bind", program, program]
    words += ["--ro-bind", _HERE, _INSIDE, "--size", str(limits.disk_mb * MIB), "--perms", "1777"]
    return [*words, "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp", "--"]


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
        self._opened = contextlib.ExitStack()

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
        with self._opened:  # closed at the end, whatever fails
            process: subprocess.Popen[bytes] | None = getattr(self, "_process", None)
            if process is not None:
                self._kill(process)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
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
        self._first = None
        del self._process

    def _start(self) -> None:
        self._channel, far = socket.socketpair()
        self._output, output = socket.socketpair()
        self._info, info = os.pipe()
        self._opened.callback(os.close, self._info)
        for end in (self._channel, self._output):
            end.setblocking(False)
            self._opened.enter_context(end)
        try:
            cwd = "/"
            if self.backend == UNSAFE:
                cwd = self._opened.enter_context(
                    tempfile.TemporaryDirectory(prefix="didact-", ignore_cleanup_errors=True)
                )
            words, user = command(self.backend, self.limits, far.fileno(), info)
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL, stdout=output.fileno(), stderr=output.fileno(),
                cwd=cwd, env=_environment(),
                pass_fds=(far.fileno(), info), start_new_session=True,
                user=user, group=user, extra_groups=None if user is None else (),
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise SandboxError(f"the {self.backend} sandbox cannot be started: {error}") from error
        finally:
            far.close()
            output.close()
            os.close(info)

    def _open_first_process(self) -> None:
        """Open a pidfd of process 1 while it certainly lives, because it has received no program yet."""
        if self.backend == UNSAFE:
            return
        try:
            self._first = os.pidfd_open(json.loads(os.read(self._info, 1000))["child-pid"])
            self._opened.callback(os.close, self._first)
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
