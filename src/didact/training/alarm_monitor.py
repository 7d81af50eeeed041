"""Checks the metrics of a run for alarms; each kind is raised and written once.

An alarm changes nothing that is computed. The monitor's whole state is in `metrics.jsonl` and
`alarms.jsonl`, so that a resumed run raises what the uninterrupted one does, at the same steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from didact.config import read_yaml
from didact.controls import Control, parse_control
from didact.evaluation.alarms import Alarm, Metrics, alarms
from didact.run_dir import RunDir, read_jsonl


class AlarmMonitor:
    """Raises every kind of alarm once, at the first line of metrics that shows it.

    Args:
        run: The run, standing where it begins or goes on.
        control: What its method reads in place of critiques, if anything.
        warn: Called with {"warning": …} for every alarm.
    """

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
