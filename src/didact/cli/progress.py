"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class RunProgress:
    """Shows the lines of metrics.jsonl as they come; `report` is what `train` calls.

    Args:
        steps: The run's steps, for the bar.
        console: Where to write.
        every: Without a terminal, seconds between lines.
    """

    def __init__(self, steps: int, console: Console, *, every: float = 5.0) -> None:
        self.steps = steps
        self.console = console
        self.every = every
        self._last = float("-inf")
        self._bar: Progress | None = None

    def __enter__(self) -> RunProgress:
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            )  # fmt: skip
            self._bar = Progress(*columns, console=self.console)
            self._bar.start()
            self._task = self._bar.add_task("training", total=self.steps)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def report(self, record: dict[str, Any]) -> None:
        """Show one line of metrics.jsonl."""
        if "eval" in record:
            self.console.print(f"step {record['step']}: {evaluation_line(record['eval'])}", highlight=False)
            return
        line = step_line(record)
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], description=line)
        elif time.monotonic() - self._last >= self.every or record["step"] == self.steps:
            self._last = time.monotonic()
            self.console.print(f"step {record['step']}/{self.steps}: {line}", highlight=False)


def step_line(record: dict[str, Any]) -> str:
    """One training step in a few words."""
    parts = []
    if "correct_first" in record:
        parts.append(f"first answers right {record['correct_first']:.0%}")
    if "correct_second" in record:
        parts.append(f"after critique {record['correct_second']:.0%}")
    if "grad_norm" not in record:
        parts.append("no signal, no update")
    return ", ".join(parts)


def evaluation_line(values: dict[str, Any]) -> str:
    """One evaluation in a few words."""
    low, high = values["ci95"]
    line = f"accuracy {values['accuracy']:.1%} [{low:.1%}, {high:.1%}]"
    if "accuracy_after_feedback" in values:
        line += f", after feedback {values['accuracy_after_feedback']:.1%}"
    return f"{line} on {values['n']} problems"
