"""The command line in one process of several: the first runs the command, the others serve it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def distributed_entrypoint() -> Iterator[None]:
    """Run the block in the first process only; the others do what its engines ask for and end with its code.

    In a process that was started alone this does nothing, and imports nothing.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) < 2:
        yield
        return
    from didact.engines.local.crew import crew, serve
    from didact.engines.local.processes import join

    if join().rank:
        sys.exit(serve())
    code = 1
    try:
        yield
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    finally:
        crew().dismiss(code)
