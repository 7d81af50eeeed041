"""Progress of runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
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


class Board:
    """Progress bars that are drawn in a with-statement if the console is a terminal."""

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        self.console = console
        standard = (TextColumn("{task.description:18}"), BarColumn(), TaskProgressColumn())
        self.bars = Progress(*standard, *columns, TextColumn("{task.fields[line]}"), console=console)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def print(self, line: str) -> None:
        """Print a line above the bars, without markup."""
        self.console.print(line, highlight=False, markup=False)


class RunProgress(Board):
    """Progress of one run.

    Args:
        config: The run's settings.
        console: Where to print.
        every: Seconds between lines without a terminal.
    """

    def __init__(self, config: RunConfig, console: Console, *, every: float = 5.0) -> None:
        super().__init__(console, TimeRemainingColumn())
        self.config, self.every = config, every
        self._last = float("-inf")
        self._bar = self.bars.add_task("training", total=1.0, line="")

    def report(self, record: dict[str, Any]) -> None:
        """Show one line of metrics.jsonl."""
        step = record["step"]
        if "eval" in record:
            self.print(f"step {step}: {evaluation_line(record['eval'])}")
            return
        line = step_line(record)
        done = self.config.progress(step, record["sampled_tokens"])
        if self.console.is_terminal:
            self.bars.update(self._bar, completed=done, line=f"step {step}: {line}")
        elif time.monotonic() - self._last >= self.every or done == 1:
            self._last = time.monotonic()
            self.print(f"step {step} ({done:.0%}): {line}")

    def warn(self, record: dict[str, Any]) -> None:
        """Show a warning of the run."""
        self.print(f"didact: {record['warning']}")


def step_line(record: dict[str, Any]) -> str:
    """A training step in a few words."""
    parts = []
    if "correct_first" in record:
        parts.append(f"first answers right {record['correct_first']:.0%}")
    if "correct_second" in record:
        parts.append(f"after critique {record['correct_second']:.0%}")
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
    line += f" on {values['n']} problems"
    if "score" in values:
        line += f"; mean score {values['score']:.3f}"
        if "score_after_feedback" in values:
            line += f", after feedback {values['score_after_feedback']:.3f}"
    return line
