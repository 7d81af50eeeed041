"""What commands have in common on the terminal: tables, numbers, progress, log lines, the machine."""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from didact._version import __version__
from didact.evaluation.text_sanitizer import plain_name

if TYPE_CHECKING:
    from didact.config import RunConfig


def make_table(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[Any]], *, no_wrap: int = 1
) -> Table:
    """A table of plain text, without markup, with its first column on the left and the others on the right.

    Args:
        title: Above it.
        headings: Of the columns; all empty for a table without a header.
        no_wrap: Number of columns, from the left, that are never wrapped.
    """
    table = Table(
        title=escape(plain_name(title, 200)),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_header=any(headings),
    )
    for i, name in enumerate(headings):
        table.add_column(escape(name), justify="right" if i else "left", no_wrap=i < no_wrap)
    for cells in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in cells))
    return table


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] in per cent, without the sign; empty for None."""
    return "" if share is None else f"{100 * share:.{digits}f}"


def percent_interval(share: float, low: float | None, high: float | None) -> str:
    """A share with its interval in per cent, as "12.5 [8.0, 19.1]"."""
    return percent(share) if low is None else f"{percent(share)} [{percent(low)}, {percent(high)}]"


def points(mean: float, low: float, high: float) -> str:
    """A difference of shares with its interval in percentage points, as "+5 [-1, +11]"."""
    return f"{100 * mean:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]"


class Board(Progress):
    """Progress bars that are drawn in a with-statement if the console is a terminal."""

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        standard = (TextColumn("{task.description:18}"), BarColumn(), TaskProgressColumn())
        super().__init__(*standard, *columns, TextColumn("{task.fields[line]}"), console=console)

    def start(self) -> None:
        if self.console.is_terminal:
            super().start()


def say(console: Console, line: str) -> None:
    """Print a line, above the bars if there are any, without markup and colours."""
    console.print(line, highlight=False, markup=False)


class RunProgress(Board):
    """Progress of one run: a bar on a terminal, a line every five seconds elsewhere."""

    def __init__(self, config: RunConfig, console: Console) -> None:
        super().__init__(console, TimeRemainingColumn())
        self.config = config
        self._last = float("-inf")
        self._bar = self.add_task("training", total=1.0, line="")

    def report(self, record: dict[str, Any]) -> None:
        """Show one line of metrics.jsonl."""
        step = record["step"]
        if "eval" in record:
            say(self.console, f"step {step}: {evaluation_line(record['eval'])}")
            return
        line = step_line(record)
        done = self.config.progress(step, record["sampled_tokens"])
        if self.console.is_terminal:
            self.update(self._bar, completed=done, line=f"step {step}: {line}")
        elif time.monotonic() - self._last >= 5 or done == 1:
            self._last = time.monotonic()
            say(self.console, f"step {step} ({done:.0%}): {line}")

    def warn(self, record: dict[str, Any]) -> None:
        """Show a warning of the run."""
        say(self.console, f"didact: {record['warning']}")


def step_line(record: dict[str, Any]) -> str:
    """A training step in a few words."""
    names = {"correct_first": "first answers right", "correct_second": "after critique"}
    parts = [f"{name} {record[key]:.0%}" for key, name in names.items() if key in record]
    if "grad_norm" not in record:
        parts.append("no signal, no update")
    return ", ".join(parts)


def evaluation_line(values: dict[str, Any]) -> str:
    """An evaluation in a few words."""
    low, high = values["ci95"]
    line = f"accuracy {values['accuracy']:.1%} [{low:.1%}, {high:.1%}]"
    if "accuracy_after_feedback" in values:
        line += f", after feedback {values['accuracy_after_feedback']:.1%}"
    if "accuracy_after_own_critique" in values:
        line += f", after its own critique {values['accuracy_after_own_critique']:.1%}"
    line += f" on {values['n']} problems, mean reward {values['reward']:.3f}"
    if "score" in values:
        line += f"; mean score {values['score']:.3f}"
        if "score_after_feedback" in values:
            line += f", after feedback {values['score_after_feedback']:.3f}"
    return line


def usable_cores() -> int:
    """Cores that this process may run on; a container or taskset may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine_details(use: str) -> dict[str, str]:
    """The machine and the versions, for a report; `use` is the part of it that was used, as "2 cores"."""
    # From the packages' metadata: importing them would take seconds.
    others = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return {
        "machine": f"{platform.machine()}, {use}",
        "versions": f"didact {__version__}, {others}, python {platform.python_version()}",
    }


class _Stderr(logging.Handler):
    """Writes to the current sys.stderr, so that a progress bar may capture it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(f"didact: {plain_name(record.getMessage(), 500)}", file=sys.stderr, flush=True)
        except Exception:  # logging must end no run
            self.handleError(record)


def log_to_stderr() -> None:
    """Show the logger "didact" from INFO on, one sanitised line per record. Idempotent."""
    logger = logging.getLogger("didact")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        logger.addHandler(_Stderr())
    logger.setLevel(logging.INFO)
