"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from didact.config import RunConfig


class RunProgress:
    """Shows the lines of metrics.jsonl as they come; `report` is what `train` calls.

    Args:
        config: The run's settings, which say when it ends.
        console: Where to write.
        every: Without a terminal, seconds between lines.
    """

    def __init__(self, config: RunConfig, console: Console, *, every: float = 5.0) -> None:
        self.config = config
        self.console = console
        self.every = every
        self._last = float("-inf")
        self._bar: Progress | None = None

    def __enter__(self) -> RunProgress:
        if self.console.is_terminal:
            self._bar = progress_bars(self.console, TimeRemainingColumn())
            self._bar.start()
            self._task = self._bar.add_task("training", total=1.0, line="")
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
        line, step = step_line(record), record["step"]
        done = self.config.progress(step, record["sampled_tokens"])
        if self._bar is not None:
            self._bar.update(self._task, completed=done, line=f"step {step}: {line}")
        elif time.monotonic() - self._last >= self.every or done == 1:
            self._last = time.monotonic()
            self.console.print(f"step {step} ({done:.0%}): {line}", highlight=False)


class Board:
    """Bars that are drawn inside a with-statement, where the console is a terminal."""

    def __init__(self, console: Console) -> None:
        self.console, self.bars = console, progress_bars(console)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()


def progress_bars(console: Console, *more: ProgressColumn) -> Progress:
    """Bars of a share of work done, with a line of words beside each."""
    columns = (TextColumn("{task.description:18}"), BarColumn(), TaskProgressColumn(), *more)
    return Progress(*columns, TextColumn("{task.fields[line]}"), console=console)


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
    if "accuracy_after_own_critique" in values:
        line += f", after its own critique {values['accuracy_after_own_critique']:.1%}"
    line += f" on {values['n']} problems"
    if "score" in values:
        line += f"; mean score {values['score']:.3f}"
        if "score_after_feedback" in values:
            line += f", after feedback {values['score_after_feedback']:.3f}"
    return line
