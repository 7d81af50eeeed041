"""The machine that commands run on: how many cores there are to use, and what a report says of it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from didact._version import __version__


def usable_cores() -> int:
    """Cores that this process may run on, which a container or taskset may have made fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine_details(use: str) -> dict[str, str]:
    """The machine and the versions that matter; `use` says how much of it was used, as "2 cores"."""
    # From the packages' metadata: importing them would take seconds.
    others = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return {
        "machine": f"{platform.machine()}, {use}",
        "versions": f"didact {__version__}, {others}, python {platform.python_version()}",
    }
