"""The run directory: the only meeting point of training, evaluation and the web page.

config.yaml       every setting of the run, defaults spelt out
metrics.jsonl     one line a step, and one an evaluation; the same bits when the run is repeated
timing.jsonl      seconds a step, kept apart because they never repeat
rollouts.jsonl    what was asked and answered, one rollout a line
feedback.jsonl    what was said about it, one critique a line, joined by rollout and turn
evaluations.jsonl answers to the evaluation problems, critiques included
checkpoints/      step-000025/ …, each with a manifest of hashes
model/            the trained model or adapter, for plain transformers and peft
result.json       how the run ended
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from didact.errors import DataError, UsageError
from didact.types import Feedback, Rollout

README = """\
# A Didact run

    {command}

`config.yaml` holds every setting, `metrics.jsonl` one line a step, `rollouts.jsonl` the answers and
`feedback.jsonl` the critiques of them. `model/` loads with plain transformers (or peft).

    didact eval {name}             accuracy with and without feedback
    didact compare {name} OTHER    side by side
    didact train --resume {name}   go on after an interruption
"""


class RunDir:
    """Reads and appends the files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.timing = path / "timing.jsonl"
        self.rollouts = path / "rollouts.jsonl"
        self.feedback = path / "feedback.jsonl"
        self.evaluations = path / "evaluations.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.result = path / "result.json"

    @classmethod
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

    def add_metrics(self, values: dict[str, Any]) -> None:
        append_jsonl(self.metrics, [values])

    def add_timing(self, values: dict[str, Any]) -> None:
        append_jsonl(self.timing, [values])

    def add_rollouts(self, rollouts: Iterable[Rollout], step: int) -> None:
        """Append rollouts and, in their own file, the feedback on them."""
        answers, critiques = [], []
        for rollout in rollouts:
            record = rollout.model_dump(mode="json", exclude={"feedback"})
            answers.append({"step": step, **record})
            critiques += [
                {"step": step, "rollout": rollout.id, **f.model_dump(mode="json")} for f in rollout.feedback
            ]
        append_jsonl(self.rollouts, answers)
        append_jsonl(self.feedback, critiques)

    def add_evaluation(self, rollouts: Iterable[Rollout], step: int) -> None:
        """Append the answers of one evaluation."""
        records = [{"step": step, **r.model_dump(mode="json")} for r in rollouts]
        append_jsonl(self.evaluations, records)

    def read_evaluation(self, step: int) -> list[Rollout]:
        """The answers of the evaluation at a step, in the problems' order."""
        found = []
        for record in read_jsonl(self.evaluations):
            if record.pop("step") == step:
                found.append(Rollout.model_validate(record))
        return found

    def read_rollouts(self) -> Iterator[Rollout]:
        """All rollouts, in order, with all feedback on them, also what was added later."""
        critiques: dict[str, list[Feedback]] = defaultdict(list)
        for record in read_jsonl(self.feedback):
            del record["step"]
            critiques[record.pop("rollout")].append(Feedback.model_validate(record))
        for record in read_jsonl(self.rollouts):
            del record["step"]
            yield Rollout.model_validate({**record, "feedback": critiques[record["id"]]})

    def rewind(self, step: int) -> None:
        """Forget what was written after a checkpoint of this step, except people's words."""
        for file in (self.metrics, self.timing, self.rollouts):
            _keep_lines(file, lambda record: record["step"] <= step)
        # An evaluation's answers come before its metrics line; without that, it will be done again.
        whole = {record["step"] for record in read_jsonl(self.metrics) if "eval" in record}
        _keep_lines(self.evaluations, lambda record: record["step"] in whole)
        _keep_lines(self.feedback, lambda record: record["step"] <= step or record["source"] == "human")


def append_jsonl(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append records, one a line, in a single write.

    A torn last line that a killed process left is cut off first: it would otherwise swallow the next
    record, or stay as a broken line in the middle.
    """
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if text:
        with file.open("ab+") as handle:
            handle.truncate(_whole_length(handle))
            handle.write(text.encode())


def read_jsonl(file: Path) -> Iterator[dict[str, Any]]:
    """Records of a JSONL file; a torn last line is passed over.

    Raises:
        DataError: a line before the last is not JSON.
    """
    if not file.exists():
        return
    lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise DataError(f"{file}, line {number} is not JSON: {error}") from None


def write_atomically(file: Path, text: str) -> None:
    """Write beside, sync, then rename: a reader sees the old text or the new, never half."""
    aside = file.with_name(f".{file.name}.tmp")
    with aside.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    aside.replace(file)


def _whole_length(handle: BinaryIO) -> int:
    """Bytes up to the end of the last whole line."""
    length = handle.seek(0, os.SEEK_END)
    if length == 0:
        return 0
    handle.seek(length - 1)
    if handle.read(1) == b"\n":
        return length
    handle.seek(0)
    return handle.read().rfind(b"\n") + 1


def _keep_lines(file: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    if file.exists():
        kept = [record for record in read_jsonl(file) if keep(record)]
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in kept]
        write_atomically(file, "".join(lines))
