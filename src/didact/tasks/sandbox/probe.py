"""Which sandbox works on this machine: each runs a program once that tries to break out."""

from __future__ import annotations

import json
import os
import socket
from functools import cache
from pathlib import Path

from didact.errors import UsageError
from didact.tasks.sandbox.serve import MIB, Limits
from didact.tasks.sandbox.session import BACKENDS, UNSAFE, SandboxError, Session, Stopped, shown_paths

_PROGRAM = """
import os, sys, _socket

def complaints(home, ancestors, port, processes, disk):
    found = []
    def say(wrong, text):
        if wrong:
            found.append(text)
    def works(action):
        try:
            action()
        except OSError:
            return False
        return True
    names = set(os.listdir(home)) if os.path.isdir(home) else set()
    say(names - set(ancestors), "the home directory is visible")
    say(set(os.environ) - {"HOME", "TMPDIR", "LANG", "LC_CTYPE"}, "the environment is not scrubbed")
    def connect(kind, address):
        _socket.socket(_socket.AF_INET, kind).connect(address)
    say(works(lambda: connect(_socket.SOCK_STREAM, ("127.0.0.1", port))), "the host's network is visible")
    say(works(lambda: connect(_socket.SOCK_DGRAM, ("192.0.2.1", 9))), "there is a way to a network")
    say(os.getuid() == 0, "it runs as root")
    say(os.getpid() > 2 or os.path.exists("/proc/self"), "the host's processes are visible")
    for path in ("/x", "/usr/x", "/dev/x", sys.prefix + "/lib/x"):
        say(works(lambda: os.close(os.open(path, os.O_CREAT | os.O_WRONLY))), path + " can be written")
    room = os.statvfs("/tmp")
    say(room.f_blocks * room.f_frsize > disk, "the disk limit does not hold")
    say(works(lambda: os.execv("/bin/true", ["true"])), "other programs can be run")
    import ctypes
    say(ctypes.CDLL(None).unshare(0x10000000) == 0, "new namespaces can be made")
    children, bounded = [], False
    for _ in range(processes + 2):
        try:
            child = os.fork()
        except OSError:
            bounded = True
            break
        if child == 0:
            while True:
                os.read(stay, 1)
        children.append(child)
    say(not bounded, "the limit of processes does not hold")
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    return found

import os
stay, _held = os.pipe()
"""


def choose_backend(wanted: str = "auto", *, unsafe_local_exec: bool = False) -> str:
    """The name of a backend that passes the probe.

    Args:
        wanted: "auto" for the first that passes, or one of `BACKENDS`.
        unsafe_local_exec: With "auto", return "unsafe" if none passes.

    Raises:
        UsageError: none passes, with the reason of each, and the cure.
    """
    if wanted not in ("auto", *BACKENDS):
        raise UsageError(f"sandbox must be auto, {' or '.join(BACKENDS)}, not {wanted!r}")
    reasons = []
    for name in BACKENDS if wanted == "auto" else (wanted,):
        wrong = what_is_wrong(name)
        if wrong is None:
            return name
        reasons.append(f"{name}: {wrong}")
    if unsafe_local_exec and wanted == "auto":
        return UNSAFE
    raise UsageError(
        f"no sandbox holds on this machine, so no model-written program is run ({'; '.join(reasons)}). "
        "Install bubblewrap, or allow unprivileged user namespaces (in a container: run it with "
        "--security-opt seccomp=unconfined; on Ubuntu: sysctl "
        "kernel.apparmor_restrict_unprivileged_userns=0). Or set unsafe_local_exec=true to run what the "
        "model writes as yourself, with no protection"
    )


@cache
def what_is_wrong(name: str) -> str | None:
    """Run the probe in one of `BACKENDS`, once a process: None if it passes, else what is wrong."""
    limits = Limits(cpu_s=5, processes=4, disk_mb=4)
    home = str(Path.home().resolve())
    paths = [target for _, target in shown_paths()]
    ancestors = [os.path.relpath(path, home).split("/")[0] for path in paths if path.startswith(home + "/")]
    try:
        with socket.socket() as listener, Session(name, limits) as session:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            arguments = (home, ancestors, listener.getsockname()[1], limits.processes, limits.disk_mb * MIB)
            answer = json.loads(session.run(_PROGRAM))
            if "value" in answer:
                answer = json.loads(session.evaluate(f"complaints(*{arguments!r})"))
    except (SandboxError, Stopped) as error:
        return str(error)
    if answer == {"value": ["l"]}:
        return None
    return "; ".join(answer["value"][1:]) if "value" in answer else f"the probe raised {answer['raised']}"
