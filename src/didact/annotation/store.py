"""What was said about a run's answers: `feedback.jsonl`, one critique a line, only ever appended to.

    {"step": 3, "rollout": "3/spell/0/1", "turn": 0, "text": "…", "source": "program", …}

`step` is there on lines that the run itself wrote, and says that the run learned from them. What people
and judges add later has none. Any number of processes may append and read at once. Nobody's words are
replaced: whoever changes their mind appends a newer version, and `latest` says which one counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from didact.data.feedback_parser import UNKNOWN
from didact.errors import DataError
from didact.jsonl import Line, append_to, content, encode, locked, parse_lines, replace_lines
from didact.types import Feedback, Record

SHUFFLED = "shuffled:"
"""Before an author's name on a critique that was dealt to another answer; the words are still theirs."""


class FeedbackRecord(Record):
    """A feedback and the answer that it is about: a line of the store.

    >>> from didact.types import Provenance
    >>> f = Feedback(text="Too short.", source="human", saw_reference=False,
    ...              provenance=Provenance(author="ann"))
    >>> said = Said(rollout="3/spell/0/1", feedback=f)
    >>> Said.from_line(said.line()) == said, list(said.line())[:3]
    (True, ['rollout', 'turn', 'text'])
    """

    rollout: str
    feedback: Feedback
    step: int | None = None
    """The step of the run that wrote it; None for what was added from outside."""

    def line(self) -> dict[str, Any]:
        """As it stands in the file."""
        step = {} if self.step is None else {"step": self.step}
        return {**step, "rollout": self.rollout, **self.feedback.model_dump(mode="json")}

    @classmethod
    def from_line(cls, record: Mapping[str, Any]) -> FeedbackRecord:
        """Back from the file.

        Raises:
            ValidationError: a key that is unknown or missing, or a value of another type.
        """
        rest = dict(record)
        head = {key: rest.pop(key) for key in ("step", "rollout") if key in rest}
        return cls.model_validate({**head, "feedback": rest})


class MergeResult(NamedTuple):
    """What became of critiques that were handed in."""

    added: int
    """The first of their author on that answer."""
    changed: int
    """Newer versions; the older ones are still there."""
    known: int
    """Already there, word for word, so they were not written again."""


class FeedbackStore:
    """Reads and appends one `feedback.jsonl`.

    Args:
        path: The file; it is made by the first append.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, said: Iterable[FeedbackRecord]) -> None:
        """Append critiques in one synced write: after it returns they survive a crash."""
        data = encode(entry.line() for entry in said)
        if data:
            with locked(self.path) as handle:
                append_to(handle, data)
                os.fsync(handle.fileno())

    def merge(self, said: Sequence[FeedbackRecord]) -> MergeResult:
        """Append those critiques that do not repeat the latest words of their author on that answer.

        Reading and appending is one transaction: of two processes that bring the same words, one
        writes them.
        """
        if not said:
            return MergeResult(0, 0, 0)
        with locked(self.path) as handle:
            there = [entry for _, entry in self._parse(content(handle))]
            new, merged = news(there, said)
            if new:
                append_to(handle, encode(entry.line() for entry in new))
                os.fsync(handle.fileno())
        return merged

    def read(self) -> list[FeedbackRecord]:
        """Everything that was said, oldest first; a torn last line is passed over.

        Raises:
            DataError: naming a line that is not a critique.
        """
        if not self.path.exists():
            return []
        with locked(self.path, write=False) as handle:
            data = content(handle)
        return [entry for _, entry in self._parse(data)]

    def keep(self, wanted: Callable[[FeedbackRecord], bool]) -> list[FeedbackRecord]:
        """Rewrite the file without the unwanted lines, in one piece.

        Returns:
            What was removed.
        """
        if not self.path.exists():
            return []
        with locked(self.path) as handle:
            data = content(handle)
            entries = self._parse(data)
            removed = [entry for _, entry in entries if not wanted(entry)]
            replace_lines(self.path, data, [line.raw for line, entry in entries if wanted(entry)])
        return removed

    def forget(self, author: str) -> int:
        """Remove a person's words, also where they were dealt to other answers.

        Returns:
            How many lines are gone.
        """
        return len(self.keep(lambda entry: not is_by(entry.feedback, author)))

    def _parse(self, data: bytes) -> list[tuple[Line, FeedbackRecord]]:
        found = []
        for line in parse_lines(data, self.path):
            try:
                found.append((line, FeedbackRecord.from_line(line.record)))
            except ValidationError as error:
                raise unusable(self.path, line, error, "a critique") from None
        return found


def is_by(feedback: Feedback, author: str) -> bool:
    """Did this person say it?"""
    said_by = feedback.provenance.author
    return feedback.source == "human" and said_by.removeprefix(SHUFFLED) == author.removeprefix(SHUFFLED)


def same_words(one: Feedback, other: Feedback) -> bool:
    """Do both say the same? When, about which turn and at what cost does not matter."""
    return _words(one) == _words(other)


def latest(feedback: Iterable[Feedback], *, verdicts: bool = False) -> tuple[Feedback, ...]:
    """The version of each author that counts, in the order in which they first spoke.

    That is an author's last on each thing that they judge (`Feedback.name`), but a failure never takes
    the place of what was said, nor a score or label alone that of words. Where nobody is named, every
    piece counts: they may be by several people.

    Args:
        feedback: What was said about one answer, oldest first.
        verdicts: Scores and labels are what matters, so that the last one counts without words too.
    """
    found: dict[tuple[Any, ...], Feedback] = {}
    for number, said in enumerate(feedback):
        author = said.provenance.author
        key = (said.source, author, said.name, number if author == UNKNOWN else None)
        if key not in found or _weight(said, verdicts) >= _weight(found[key], verdicts):
            found[key] = said
    return tuple(found.values())


def _weight(said: Feedback, verdicts: bool) -> int:
    """What a version can take the place of: words of anything, a verdict alone of another or a failure."""
    return 0 if not said.ok else 1 if verdicts or not said.text.strip() else 2


def news(
    there: Iterable[FeedbackRecord], said: Iterable[FeedbackRecord]
) -> tuple[list[FeedbackRecord], MergeResult]:
    """Which critiques say something new, compared with those that are there already."""
    last = {_item(entry): entry.feedback for entry in there}
    new: list[FeedbackRecord] = []
    added = changed = known = 0
    for entry in said:
        before = last.get(_item(entry))
        if before is not None and same_words(before, entry.feedback):
            known += 1
            continue
        added, changed = added + (before is None), changed + (before is not None)
        last[_item(entry)] = entry.feedback
        new.append(entry)
    return new, MergeResult(added, changed, known)


def unusable(file: Path, line: Line, error: ValidationError, what: str) -> DataError:
    """The error for a line that is JSON, but no record."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part != "feedback")
    place = f"{file}, line {line.number}" + (f", key {key!r}" if key else "")
    return DataError(f"{place}: not {what}: {first['msg']}. Mend or remove that line; nothing was changed.")


def _item(entry: FeedbackRecord) -> tuple[Any, ...]:
    """Whose word on which answer, and on what about it, it is."""
    feedback = entry.feedback
    author = feedback.provenance.author
    # Where nobody is named, other words are no newer version: they may be another's.
    words = repr(_words(feedback)) if author == UNKNOWN else None
    return entry.rollout, feedback.turn, feedback.source, author, feedback.name, words


def _words(feedback: Feedback) -> dict[str, Any]:
    return feedback.model_dump(exclude={"provenance", "leaks", "turn", "saw_reference"})
