"""What watches a run: alarms about its metrics, and a stop where its feedback source fails too often.

An alarm changes nothing that is computed. Each kind is raised and written once; the monitor's whole state is
in `metrics.jsonl` and `alarms.jsonl`, so that a resumed run raises what the uninterrupted one does, at the
same steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from didact.config import read_yaml
from didact.controls import Control, parse_control
from didact.errors import BudgetExceeded, Interrupted
from didact.evaluation.alarms import Alarm, Metrics, alarms
from didact.feedback_source import FAILURE_WINDOW
from didact.run_dir import RunDir, read_jsonl
from didact.types import Rollout


class AlarmMonitor:
    """Raises every kind of alarm once, at the first line of metrics that shows it."""

    def __init__(self, run: RunDir, control: Control | None, warn: Callable[[dict[str, Any]], None]) -> None:
        self.run = run
        self.warn = warn
        self.flat = _repeats(control)
        self.raised = {(line["name"], line["key"]) for line in read_jsonl(run.alarms)}
        self.metrics = Metrics()
        step = None
        for record in read_jsonl(run.metrics):
            self.metrics.add(record)
            step = record["step"]
        if step is not None:
            # A process that was killed right after a line of metrics may not have looked at it.
            self._look(step)

    def add(self, record: dict[str, Any]) -> None:
        """Look at the metrics with one more line."""
        self.metrics.add(record)
        self._look(record["step"])

    def end(self, step: int) -> None:
        """Look at them once more, now that they are whole."""
        self._look(step, ended=True)

    def _look(self, step: int, *, ended: bool = False) -> None:
        for alarm in alarms(self.metrics, ended=ended, flat_by_design=self.flat):
            if (alarm.name, alarm.key) in self.raised:
                continue
            self.raised.add((alarm.name, alarm.key))
            self.run.add_alarm({"step": step, "name": alarm.name, "key": alarm.key, "message": alarm.message})
            self.warn({"warning": f"{alarm.name} at step {step}: {alarm.message}"})


def run_alarms(run: RunDir, step: int) -> list[Alarm]:
    """The alarms of a run up to a step, in order; those still active have their latest message.

    A run that did not watch itself is looked at now.
    """
    control = parse_control(read_yaml(run.config).get("feedback", {}).get("control"))
    records = [record for record in read_jsonl(run.metrics) if record["step"] <= step]
    last = {(a.name, a.key): a for a in alarms(records, flat_by_design=_repeats(control))}
    found = []
    for line in read_jsonl(run.alarms):
        if line["step"] <= step:
            now = last.pop((line["name"], line["key"]), None)
            found.append(Alarm(**line, stands=False) if now is None else now._replace(step=line["step"]))
    return [*found, *last.values()]


def _repeats(control: Control | None) -> bool:
    return control is not None and control.repeats_by_design


class FeedbackFailureGuard:
    """Counts failed critiques over the last `FAILURE_WINDOW` ones.

    The count is not checkpointed: a resumed run starts with an empty window. Only critiques of judges count,
    whose failures may be temporary; those dropped as leaks, or not dealt by a control, do not. `limit` is the
    largest failed share of the window, in (0, 1]; 1 never stops.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.recent: deque[bool] = deque(maxlen=FAILURE_WINDOW)
        self.last_error: str | None = None
        self.budget_error: str | None = None

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Count the critiques of one step."""
        for rollout in rollouts:
            for feedback in rollout.feedback:
                if feedback.source != "judge" or feedback.error_kind == "not_dealt":
                    continue
                failed = not feedback.ok and feedback.error_kind != "leak"
                self.recent.append(failed)
                if failed and feedback.error:
                    self.last_error = feedback.error
                if feedback.error_kind == "budget":
                    self.budget_error = feedback.error

    def check(self) -> None:
        """Stop if the budget is spent or too many critiques failed; an unfilled window counts as successes.

        Raises:
            BudgetExceeded: resuming does not help until the limit is raised.
            Interrupted: too many critiques failed.
        """
        if self.budget_error is not None:
            raise BudgetExceeded(self.budget_error)
        failed = sum(self.recent)
        if failed > self.limit * FAILURE_WINDOW:
            raise Interrupted(
                f"{failed} of the last {len(self.recent)} critiques failed, more than feedback.max_failed = "
                f"{self.limit:g} of {FAILURE_WINDOW} allows (the last one: {self.last_error}); stopped"
            )
