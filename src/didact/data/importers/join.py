"""Joins answers with feedback from other rows or files of an export."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from didact.data.faults import RawRow, Rejected, RowError, row_error
from didact.data.importers.base import Outcome, unpacked
from didact.types import Example, Feedback

Make: TypeAlias = Callable[[tuple[Feedback, ...]], Example]
"""Builds an example from its feedback, or raises RowError."""


@dataclass
class PendingExample:
    """A row that may become an example."""

    row: RawRow
    make: Make
    keep: bool
    """Keep it without feedback."""
    feedback: list[Feedback] = field(default_factory=list)
    feedback_rows: list[RawRow] = field(default_factory=list)
    """Other rows whose feedback it holds; they are rejected with it."""


def nested_rows(row: RawRow, value: Any, **ids: Any) -> list[RawRow]:
    """The objects of a list inside a row, or of its JSON text; `ids` are for keys that they do not have."""
    items = unpacked(value)
    return [
        RawRow(row.file, row.row, {**ids, **item})
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict)
    ]


class Join:
    """Collects answers by their ids, attaches feedback, and builds the examples.

    Args:
        what: The kind of an answer's row, for messages.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._pending: list[PendingExample] = []
        self._by_id: dict[str, PendingExample] = {}
        self._outcomes: list[Outcome] = []

    def readable(self, rows: Iterable[RawRow | Rejected]) -> Iterator[RawRow]:
        """The rows that could be read; the others become outcomes."""
        for row in rows:
            if isinstance(row, Rejected):
                self._outcomes.append(row)
            else:
                yield row

    def skip(self, row: RawRow, reason: str) -> None:
        """Skip a row."""
        self._outcomes.append(row.skipped(reason))

    def add_answer(self, row: RawRow, make: Make, *ids: str, keep: bool) -> None:
        """Add an answer with the ids that feedback refers to; a repeated id is rejected."""
        taken = next((i for i in ids if i in self._by_id), None)
        if taken is not None:
            first = self._by_id[taken].row
            message = f"{taken!r} is already the id of row {first.row} of {first.file.name}; remove one"
            self._outcomes.append(row.rejected(row_error("id", message)))
            return
        answer = PendingExample(row, make, keep)
        self._pending.append(answer)
        self._by_id.update(dict.fromkeys(ids, answer))

    def add_feedback(
        self, row: RawRow, parse: Callable[[dict[str, Any]], Feedback | list[Feedback]], *ids: str | None
    ) -> None:
        """Parse a row's feedback and attach it to the answer of the first known id, or reject the row."""
        answer = next((self._by_id[i] for i in ids if i is not None and i in self._by_id), None)
        try:
            found = parse(row.value)
            if answer is None:
                known = next((i for i in ids if i), "without an id").rpartition(":")[2]
                message = f"no {self._what} {known!r} is in these files; name the file that has it too"
                raise row_error(None, message)
        except RowError as error:
            self._outcomes.append(row.rejected(error))
            return
        for feedback in [found] if isinstance(found, Feedback) else found:
            if feedback in answer.feedback:
                fault = row_error(None, "says what another row says of the same answer; remove one")
                self._outcomes.append(row.rejected(fault))
            else:
                answer.feedback.append(feedback)
                answer.feedback_rows.append(row)

    def outcomes(self) -> Iterator[Outcome]:
        """All outcomes, answers in the order of their rows."""
        yield from self._outcomes
        for answer in self._pending:
            if not answer.keep and not answer.feedback:
                yield answer.row.skipped("part of a trace, without feedback of its own")
                continue
            try:
                yield answer.make(tuple(answer.feedback))
            except RowError as error:
                yield answer.row.rejected(error)
                message = (
                    f"its answer, row {answer.row.row} of {answer.row.file.name}, cannot be used: {error}"
                )
                lost = [row for row in answer.feedback_rows if row is not answer.row]
                yield from (row.rejected(row_error(None, message)) for row in lost)
