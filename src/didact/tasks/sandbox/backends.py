"""The command line of each sandbox backend, and the part of the file system that it shows."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from functools import cache
from itertools import chain

from didact.tasks.sandbox.serve import MIB, Limits

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
        name: "bubblewrap", "namespaces" or "unsafe".
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
