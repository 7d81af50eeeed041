"""The command line: one file per command, whose heavy imports are inside of its functions.

Exit codes: 0 ok, 1 a bug, 2 usage, 3 data, 4 training guard, 75 interrupted but resumable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

import typer

from didact.cli.compare import compare
from didact.cli.critique import critique
from didact.cli.data import data_app
from didact.cli.demo import demo
from didact.cli.descend import descend
from didact.cli.doctor import doctor
from didact.cli.eval import eval_
from didact.cli.inspect import inspect
from didact.cli.recipes import recipes
from didact.cli.reward_model import reward_model
from didact.cli.sweep import sweep
from didact.cli.terminal import log_to_stderr
from didact.cli.train import train
from didact.distributed import RankDiedError, destroy_process_group, init_process_group, is_launched
from didact.errors import DidactError, Interrupted

app = typer.Typer(
    name="didact",
    help="Train language models from natural-language feedback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(train)
app.command()(descend)
app.command("eval")(eval_)
app.command()(compare)
app.command()(inspect)
app.command()(sweep)
app.add_typer(critique, name="critique")
app.add_typer(data_app, name="data")
app.add_typer(reward_model, name="reward-model")
app.add_typer(recipes, name="recipes")
app.command()(doctor)


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


@distributed_entrypoint()
def main() -> None:
    """Run the command line; Didact's errors become one line on stderr and an exit code."""
    log_to_stderr()
    # No progress bars or hub notices of third parties between our own lines.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except DidactError as error:
        print(f"didact: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        cure = ": make room, then go on with `didact train --resume RUN`" if full else ""
        print(f"didact: {error}{cure}", file=sys.stderr)
        sys.exit(Interrupted.exit_code if full else 1)


if __name__ == "__main__":
    main()
