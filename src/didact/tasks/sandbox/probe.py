"""Which sandbox works on this machine: each runs a program once that tries to break out."""

from __future__ import annotations

import json
import os
import socket
from functools import cache
from importlib import resources
from pathlib import Path

from didact.errors import UsageError
from didact.tasks.sandbox.serve import MIB, Limits
from didact.tasks.sandbox.session import BACKENDS, UNSAFE, SandboxError, Session, Stopped, shown_paths

_PROGRAM = resources.files("didact.tasks.sandbox").joinpath("probe_program.txt").read_text("utf-8")


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
