"""The command line of each sandbox backend, and the part of the file system that it shows."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from didact.tasks.sandbox.limits import MIB, Limits

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
_HERE = str(Path(__file__).resolve().parent)
_INSIDE = "/didact"
"""Where bubblewrap mounts this folder; the namespaces backend imports it before it changes the root."""
_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_NOBODY = 65534


@dataclass(frozen=True)
class Command:
    """A process to start.

    Attributes:
        words: The command line.
        user: The user and group id of the process; None for the current ones.
    """

    words: tuple[str, ...]
    user: int | None = None


@cache
def interpreter(python: str | None = None) -> str:
    """The real path of an interpreter, behind virtual environments; by default of the current one."""
    base: str = getattr(sys, "_base_executable", None) or sys.executable
    return str(Path(python or base).resolve())


@cache
def shown_paths(python: str | None = None) -> tuple[tuple[str, str], ...]:
    """(source, destination) of all paths that the interpreter has to read.

    Args:
        python: Another interpreter, of a system installation: /usr/bin/python3.
    """
    wanted = [*_SYSTEM_LIBRARIES]
    if python is None:
        libraries = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
        wanted += [os.path.dirname(path) for path in libraries]  # with libpython and its dependencies
    shown: dict[str, str] = {}
    for path in sorted(set(wanted), key=len):
        covered = any(path.startswith(known.rstrip("/") + "/") for known in shown)
        if not covered and os.path.exists(path) and path != "/":
            shown[path] = os.path.realpath(path)
    devices = [(path, path) for path in _DEVICES if os.path.exists(path)]
    return (*((source, path) for path, source in shown.items()), *devices)


def command(name: str, limits: Limits, channel: int, info: int, python: str | None = None) -> Command:
    """The command line of a backend.

    Args:
        name: "bubblewrap", "namespaces" or "unsafe".
        limits: The resource limits.
        channel: The inherited descriptor for requests and answers.
        info: The inherited descriptor to which the id of process 1 is written.
        python: Another interpreter than the current one.

    Raises:
        OSError: the backend's program is not installed.
    """
    run = (interpreter(python), "-s", "-S", "-P", "-c", _BOOT)
    arguments = (name, str(os.getpid()), str(channel), str(info), *limits.words())
    if name == "namespaces":
        return Command((*run, _HERE, *arguments, *(p for pair in shown_paths(python) for p in pair)))
    if name == UNSAFE:
        return Command((*run, _HERE, *arguments))
    found = shutil.which("bwrap")
    if found is None:
        raise FileNotFoundError("bwrap is not installed")
    wall = (*_bubblewrap_words(found, limits, info), *_bubblewrap_view(python, limits))
    # Root starts it as user nobody: the kernel enforces no limit of processes for root.
    user = _NOBODY if os.geteuid() == 0 else None
    return Command((*wall, "--", *run, _INSIDE, *arguments), user)


def _bubblewrap_words(found: str, limits: Limits, info: int) -> list[str]:
    namespaces = [f"--unshare-{kind}" for kind in ("user", "ipc", "pid", "net", "uts", "cgroup-try")]
    life = ["--die-with-parent", "--new-session", "--as-pid-1", "--info-fd", str(info)]
    return [found, *namespaces, *life, "--cap-drop", "ALL", "--hostname", "sandbox"]


def _bubblewrap_view(python: str | None, limits: Limits) -> list[str]:
    words = list[str]()
    for source, target in shown_paths(python):
        words += ["--dev-bind" if target.startswith("/dev/") else "--ro-bind", source, target]
    program = interpreter(python)
    if not any(program.startswith(target + "/") for _, target in shown_paths(python)):
        words += ["--ro-bind", program, program]
    words += ["--ro-bind", _HERE, _INSIDE, "--size", str(limits.disk_mb * MIB), "--perms", "1777"]
    return [*words, "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
