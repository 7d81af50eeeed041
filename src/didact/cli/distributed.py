"""The command line as one process of several: every rank runs the command, rank 0 alone prints."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from didact.distributed import RankDiedError, destroy_process_group, init_process_group, is_launched


@contextlib.contextmanager
def distributed_entrypoint() -> Iterator[None]:
    """Join the processes that were launched with this one, run the block on all, and end together.

    Output of ranks above 0 is discarded, except for the traceback of an error that Didact does not raise on
    purpose and for a RankDiedError. In a process that was started alone this does nothing.
    """
    if not is_launched():
        yield
        return
    group = init_process_group()
    code: int | None = None
    try:
        with contextlib.ExitStack() as silenced:
            if not group.is_main:
                nowhere = silenced.enter_context(open(os.devnull, "w"))
                silenced.enter_context(contextlib.redirect_stdout(nowhere))
                silenced.enter_context(contextlib.redirect_stderr(nowhere))
            yield
        code = 0
    except SystemExit as end:
        cause = end.__context__
        if not isinstance(cause, RankDiedError) and isinstance(end.code, int | None):
            code = end.code or 0
        elif not group.is_main:
            print(f"didact: process {group.rank}: {cause}", file=sys.stderr)
        raise
    finally:
        # The launcher ends all processes as soon as one has failed, so that none may leave before the others
        # have written and printed. After a crash or a second signal they are not in step any more.
        if code is not None and code < 128:
            with contextlib.suppress(RankDiedError):
                group.raise_if_any_failed(None)
            destroy_process_group()
