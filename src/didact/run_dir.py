"""The run directory, through which training, evaluation and reports exchange data.

config.yaml       every setting of the run, defaults included
metrics.jsonl     one line a step and one an evaluation, bit-equal when the run is repeated
alarms.jsonl      alarms about the metrics, each kind at the step where it was first raised
timing.jsonl      seconds a step, kept apart because they are not reproducible
rollouts.jsonl    questions and answers, one rollout a line
feedback.jsonl    critiques, one a line, joined by rollout and turn
inspected.jsonl   log-probs of single tokens before and after updates, if `inspect` asks for it
evaluations.jsonl rollouts on the evaluation problems, with critiques
checkpoints/      step-000025/ …, each with a manifest of hashes
model/            the trained model or adapter, for plain transformers and peft
result.json       how the run ended
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from didact.distributed import on_main_process
from didact.errors import UsageError
from didact.feedback_store import FeedbackRecord, FeedbackStore
from didact.jsonl import append_jsonl, filter_jsonl, read_jsonl, write_atomically
from didact.types import Feedback, Record, Rollout

__all__ = ["RunDir", "append_jsonl", "read_jsonl", "write_atomically"]

README = resources.files("didact").joinpath("run_readme.md").read_text("utf-8")


class RunDir:
    """Reads and appends the files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.alarms = path / "alarms.jsonl"
        self.timing = path / "timing.jsonl"
        self.rollouts = path / "rollouts.jsonl"
        self.feedback = path / "feedback.jsonl"
        self.inspected = path / "inspected.jsonl"
        self.evaluations = path / "evaluations.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.result = path / "result.json"

    @classmethod
    @on_main_process
    def create(cls, path: Path, config_yaml: str, command: str) -> RunDir:
        """Make a new run directory.

        Raises:
            UsageError: the directory holds another run, or other files.
        """
        cls.refuse_existing(path)
        run = cls(path)
        path.mkdir(parents=True, exist_ok=True)
        # First, so that a process killed in between leaves a run that can be resumed.
        write_atomically(run.config, config_yaml)
        run.checkpoints.mkdir()
        (path / "README.md").write_text(README.format(command=command, name=path), encoding="utf-8")
        return run

    @staticmethod
    @on_main_process
    def refuse_existing(path: Path) -> None:
        """Raise UsageError if the path holds anything already."""
        if (path / "config.yaml").exists():
            raise UsageError(
                f"{path} already holds a run: go on with `didact train --resume {path}`, "
                "or name a new directory with --out"
            )
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(f"{path} is not an empty directory: name a new one with --out")

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """An existing run directory.

        Raises:
            UsageError: there is no run.
        """
        run = cls(path)
        if not run.config.exists():
            raise UsageError(f"{path} is not a run directory: it has no config.yaml")
        return run

    @on_main_process
    def add_metrics(self, values: dict[str, Any]) -> None:
        append_jsonl(self.metrics, [values])

    @on_main_process
    def add_alarm(self, values: dict[str, Any]) -> None:
        append_jsonl(self.alarms, [values])

    @on_main_process
    def add_timing(self, values: dict[str, Any]) -> None:
        append_jsonl(self.timing, [values])

    @on_main_process
    def add_rollouts(self, rollouts: Iterable[Rollout], step: int) -> None:
        """Append rollouts, and their feedback to a file of its own."""
        answers, critiques = [], []
        for rollout in rollouts:
            record = rollout.model_dump(mode="json", exclude={"feedback"})
            answers.append({"step": step, **record})
            critiques += [FeedbackRecord(rollout=rollout.id, feedback=f, step=step) for f in rollout.feedback]
        append_jsonl(self.rollouts, answers)
        FeedbackStore(self.feedback).append(critiques)

    @on_main_process
    def add_inspected(self, records: Iterable[Record]) -> None:
        append_jsonl(self.inspected, [record.model_dump(mode="json") for record in records])

    @on_main_process
    def add_evaluation(self, rollouts: Iterable[Rollout], step: int) -> None:
        """Append the answers of one evaluation."""
        records = [{"step": step, **r.model_dump(mode="json")} for r in rollouts]
        append_jsonl(self.evaluations, records)

    @on_main_process
    def read_evaluation(self, step: int) -> list[Rollout]:
        """The rollouts of the evaluation at a step, in the problems' order."""
        found = []
        for record in read_jsonl(self.evaluations):
            if record.pop("step") == step:
                found.append(Rollout.model_validate(record))
        return found

    def read_rollouts(self) -> Iterator[Rollout]:
        """All rollouts, in order, with all their feedback, including that added later."""
        critiques: dict[str, list[Feedback]] = defaultdict(list)
        for entry in FeedbackStore(self.feedback).read():
            critiques[entry.rollout].append(entry.feedback)
        for record in read_jsonl(self.rollouts):
            del record["step"]
            yield Rollout.model_validate({**record, "feedback": critiques[record["id"]]})

    @on_main_process
    def rewind(self, step: int) -> None:
        """Remove what the run wrote after the checkpoint of a step; feedback added from outside is kept.

        Safe while others append feedback.
        """
        for file in (self.metrics, self.alarms, self.timing, self.rollouts, self.inspected):
            filter_jsonl(file, lambda record: record["step"] <= step)
        # An evaluation's rollouts are written before its metrics line; without that, it is repeated.
        whole = {record["step"] for record in read_jsonl(self.metrics) if "eval" in record}
        filter_jsonl(self.evaluations, lambda record: record["step"] in whole)
        # Feedback from outside has no step: it is kept, and the rollouts it is about are sampled again.
        FeedbackStore(self.feedback).filter(lambda record: record.step is None or record.step <= step)
