"""Whether a chat template ends.

A template is a program of the model's author: loops in loops, a string that doubles or a power of powers keep
a process busy inside jinja or C, where no signal handler runs. So an unknown template is rendered first in a
forked process that the system ends at a limit.
"""

from __future__ import annotations

import gc
import os
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

CPU_SECONDS = 10
"""Rendering the probes of any template in use takes a hundredth of one."""
BYTES = 2**31
"""Memory beyond that of the process."""
WALL_SECONDS = 60
"""For a child that waits for something else: it decides nothing."""
_TOO_MUCH_MEMORY = 3


def ends(work: Callable[[], object]) -> bool:
    """Whether a call ends within the limits, tried in a forked process: its result or error is lost.

    True where processes cannot be forked.
    """
    if not hasattr(os, "fork"):
        return True
    with warnings.catch_warnings():
        # The child does nothing but this work, which takes no lock of another thread.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _work_and_exit(work)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code not in (-signal.SIGXCPU, -signal.SIGKILL, _TOO_MUCH_MEMORY)


def _work_and_exit(work: Callable[[], object]) -> None:
    import resource  # not on Windows

    def limit(kind: int, most: int) -> None:
        with suppress(OSError, ValueError):  # a lower limit holds already
            resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))

    code = 0
    try:
        gc.disable()  # nothing of the parent's is freed here
        for number in (signal.SIGXCPU, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(WALL_SECONDS)
        limit(resource.RLIMIT_CORE, 0)
        limit(resource.RLIMIT_CPU, CPU_SECONDS)
        with suppress(OSError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit(resource.RLIMIT_AS, pages * resource.getpagesize() + BYTES)
        work()
    except MemoryError:
        code = _TOO_MUCH_MEMORY
    except BaseException:
        pass
    finally:
        os._exit(code)
