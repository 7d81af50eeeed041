"""What commands have in common on the terminal: tables, numbers, log lines, the machine."""

from __future__ import annotations

import logging
import os
import platform
import sys
from importlib.metadata import version
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from didact._version import __version__
from didact.evaluation.text_sanitizer import plain_name


def make_table(title: str, *columns: str, no_wrap: int = 1) -> Table:
    """A table with its first column on the left and the others on the right.

    Args:
        title: Above it.
        *columns: Their headings; all empty for a table without a header.
        no_wrap: Number of columns, from the left, that are never wrapped.
    """
    table = Table(
        title=escape(plain_name(title, 200)),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_header=any(columns),
    )
    for i, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if i else "left", no_wrap=i < no_wrap)
    return table


def add_row(table: Table, *cells: Any) -> None:
    """Add a row of plain text, without markup; None is an empty cell."""
    table.add_row(*("" if cell is None else escape(str(cell)) for cell in cells))


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] in per cent, without the sign; empty for None."""
    return "" if share is None else f"{100 * share:.{digits}f}"


def percent_interval(share: float, low: float | None, high: float | None) -> str:
    """A share with its interval in per cent, as "12.5 [8.0, 19.1]"."""
    return percent(share) if low is None else f"{percent(share)} [{percent(low)}, {percent(high)}]"


def points(mean: float, low: float, high: float) -> str:
    """A difference of shares with its interval in percentage points, as "+5 [-1, +11]"."""
    return f"{100 * mean:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]"


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
