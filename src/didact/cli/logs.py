"""What the library logs, shown on stderr: what was learned of a server, replies that could not be kept."""

from __future__ import annotations

import logging
import sys

from didact.evaluation.text_sanitizer import plain_name


class _Stderr(logging.Handler):
    """Writes to whatever stderr is at the time, so that a progress bar may catch it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # Names of models and files are others' text, and a log line is one line.
            print(f"didact: {plain_name(record.getMessage(), 500)}", file=sys.stderr, flush=True)
        except Exception:  # logging must end no run
            self.handleError(record)


def log_to_stderr() -> None:
    """Show what the logger "didact" says, from INFO on, one line a record. A second call changes nothing."""
    logger = logging.getLogger("didact")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        logger.addHandler(_Stderr())
    logger.setLevel(logging.INFO)
