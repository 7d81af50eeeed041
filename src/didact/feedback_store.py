"""`feedback.jsonl`: the critiques of a run's answers, one a line, append-only.

    {"step": 3, "rollout": "3/spell/0/1", "turn": 0, "text": "…", "source": "program", …}

`step` is set on lines written by the run itself, which therefore trained on them, and absent on critiques
that people or judges added later. Any number of processes may append and read at once. A changed critique
is appended as a new version; `latest` selects the version that counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from didact.errors import DataError
from didact.jsonl import Line, append_to, encode, line_error, locked, parse_lines, read_all, replace_lines
from didact.types import Feedback, Record

UNKNOWN_AUTHOR = "unknown"
"""The author of unsigned feedback. Two pieces by it may be by two people."""


class FeedbackRecord(Record):
    """Feedback with the answer it is about: one line of the store.

    >>> from didact.types import Provenance
    >>> f = Feedback(text="Too short.", source="human", saw_reference=False,
    ...              provenance=Provenance(author="ann"))
    >>> record = FeedbackRecord(rollout="3/spell/0/1", feedback=f)
    >>> FeedbackRecord.from_json(record.to_json()) == record, list(record.to_json())[:3]
    (True, ['rollout', 'turn', 'text'])
    """

    rollout: str
    feedback: Feedback
    step: int | None = None
    """The step of the run that wrote it; None for feedback added later."""

    def to_json(self) -> dict[str, Any]:
        """The JSON object of its line."""
        step = {} if self.step is None else {"step": self.step}
        return {**step, "rollout": self.rollout, **self.feedback.model_dump(mode="json")}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> FeedbackRecord:
        """The inverse of `to_json`; pydantic's ValidationError if it is none."""
        rest = dict(record)
        head = {key: rest.pop(key) for key in ("step", "rollout") if key in rest}
        return cls.model_validate({**head, "feedback": rest})


class MergeResult(NamedTuple):
    """Counts of merged critiques."""

    added: int
    """First critiques of their author on that answer."""
    changed: int
    """New versions; the old ones are kept."""
    known: int
    """Exact repeats, not written again."""


class FeedbackStore:
    """Reads and appends one `feedback.jsonl`, which the first append creates."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, records: Iterable[FeedbackRecord]) -> None:
        """Append records in one synced write: they survive a crash after it returns."""
        data = encode(record.to_json() for record in records)
        if data:
            with locked(self.path) as handle:
                append_to(handle, data)
                os.fsync(handle.fileno())

    def merge(self, records: Sequence[FeedbackRecord]) -> MergeResult:
        """Append the records that differ from their author's latest version on the same answer.

        Reading and appending are one transaction: two processes that bring the same critique write it once.
        """
        if not records:
            return MergeResult(0, 0, 0)
        with locked(self.path) as handle:
            new, result = new_records([r for _, r in self._parse(read_all(handle))], records)
            if new:
                append_to(handle, encode(record.to_json() for record in new))
                os.fsync(handle.fileno())
        return result

    def read(self) -> list[FeedbackRecord]:
        """All records, oldest first; DataError names a line that is none. A torn last line is skipped."""
        if not self.path.exists():
            return []
        with locked(self.path, write=False) as handle:
            data = read_all(handle)
        return [record for _, record in self._parse(data)]

    def filter(self, keep: Callable[[FeedbackRecord], bool]) -> list[FeedbackRecord]:
        """Rewrite the file atomically with the records for which `keep` is true; returns the removed ones."""
        if not self.path.exists():
            return []
        with locked(self.path) as handle:
            data = read_all(handle)
            records = self._parse(data)
            removed = [record for _, record in records if not keep(record)]
            replace_lines(self.path, data, [line.raw for line, record in records if keep(record)])
        return removed

    def _parse(self, data: bytes) -> list[tuple[Line, FeedbackRecord]]:
        found = []
        for line in parse_lines(data, self.path):
            try:
                found.append((line, FeedbackRecord.from_json(line.record)))
            except ValidationError as error:
                raise invalid_line(self.path, line, error, "a critique") from None
        return found


def is_by(feedback: Feedback, author: str) -> bool:
    """Is it human feedback by this author, shuffled or not?"""
    return feedback.source == "human" and feedback.provenance.author == author


def same_content(one: Feedback, other: Feedback) -> bool:
    """Are two pieces equal up to turn, provenance and what their author saw?"""
    return _content(one) == _content(other)


def latest(feedback: Iterable[Feedback], *, verdicts: bool = False) -> tuple[Feedback, ...]:
    """The version that counts of each author and aspect (`Feedback.name`), in order of first appearance.

    It is the last one, except that a failure never replaces a critique, nor, without `verdicts`, a score or
    label alone one with text. All feedback by `UNKNOWN_AUTHOR` counts.
    """

    def rank(f: Feedback) -> int:
        return 0 if not f.ok else 1 if verdicts or not f.text.strip() else 2

    found: dict[tuple[Any, ...], Feedback] = {}
    for number, f in enumerate(feedback):
        author = f.provenance.label
        key = (f.source, author, f.name, number if author == UNKNOWN_AUTHOR else None)
        if key not in found or rank(f) >= rank(found[key]):
            found[key] = f
    return tuple(found.values())


def new_records(
    existing: Iterable[FeedbackRecord], records: Sequence[FeedbackRecord]
) -> tuple[list[FeedbackRecord], MergeResult]:
    """The records whose content differs from the latest existing version, and the counts."""
    last = {_version_key(record): record.feedback for record in existing}
    new: list[FeedbackRecord] = []
    added = 0
    for record in records:
        key = _version_key(record)
        before = last.get(key)
        if before is None or not same_content(before, record.feedback):
            added += before is None
            last[key] = record.feedback
            new.append(record)
    return new, MergeResult(added, len(new) - added, len(records) - len(new))


def invalid_line(file: Path, line: Line, error: ValidationError, what: str) -> DataError:
    """The error for a line that is JSON but not a valid record."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part != "feedback")
    return line_error(file, line.number, f"{f', key {key!r}' if key else ''}: not {what}: {first['msg']}")


def _version_key(record: FeedbackRecord) -> tuple[Any, ...]:
    """Equal for versions of one critique."""
    feedback = record.feedback
    author = feedback.provenance.label
    # Other words by an unknown author may be another person's, so they are no new version.
    content = repr(_content(feedback)) if author == UNKNOWN_AUTHOR else None
    return record.rollout, feedback.turn, feedback.source, author, feedback.name, content


def _content(feedback: Feedback) -> dict[str, Any]:
    return feedback.model_dump(exclude={"provenance", "leaks", "turn", "saw_reference"})
