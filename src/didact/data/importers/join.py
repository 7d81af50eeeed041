"""Answers and what was said about them, when the two stand in different rows or files of an export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from didact.data.faults import RawRow, RowError, row_error
from didact.data.importers.base import Outcome, unpacked
from didact.types import Example, Feedback


@dataclass
class Answer:
    """A row that may become an example."""

    row: RawRow
    make: Callable[[tuple[Feedback, ...]], Example]
    """Builds it, or raises RowError."""
    wanted: bool
    """Does it become an example also without feedback?"""
    feedback: list[Feedback] = field(default_factory=list)
    feedback_rows: list[RawRow] = field(default_factory=list)
    """Other rows whose feedback it holds, and which are lost with it if it cannot be made."""


def inside(row: RawRow, held: Any, **ids: Any) -> list[RawRow]:
    """The objects of a list that a row holds, as rows of their own; what is no object has nothing to read.

    Args:
        row: Whose place in the file they have.
        held: The list, or a text that holds one as JSON.
        ids: What each says as well, where it does not say so itself.
    """
    items = unpacked(held)
    if not isinstance(items, list):
        return []
    return [RawRow(row.file, row.row, {**ids, **item}) for item in items if isinstance(item, dict)]


class Join:
    """Collects answers by the ids that feedback calls them by, then feedback, then makes examples."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._answers: list[Answer] = []
        self._of: dict[str, Answer] = {}
        self._outcomes: list[Outcome] = []

    def outcome(self, outcome: Outcome) -> None:
        """Add an outcome that needs no joining."""
        self._outcomes.append(outcome)

    def answer(self, answer: Answer, *ids: str) -> None:
        """Add an answer; an id that another answer has already is refused."""
        taken = next((i for i in ids if i in self._of), None)
        if taken is not None:
            first = self._of[taken].row
            message = f"{taken!r} is already the id of row {first.row} of {first.file.name}; remove one"
            self.outcome(answer.row.rejected(row_error("id", message)))
            return
        self._answers.append(answer)
        self._of.update(dict.fromkeys(ids, answer))

    def find(self, *ids: str | None) -> Answer | None:
        """The answer of the first id that is known."""
        return next((self._of[i] for i in ids if i is not None and i in self._of), None)

    def attach(self, row: RawRow, feedback: Feedback, *ids: str | None) -> None:
        """Give feedback from a row of its own to the answer of the first id that is known."""
        answer = self.find(*ids)
        if answer is None:
            known = next((i for i in ids if i), "without an id").rpartition(":")[2]
            message = f"no {self._what} {known!r} is in these files; name the file that has it too"
            self.outcome(row.rejected(row_error(None, message)))
            return
        if feedback in answer.feedback:
            self.outcome(
                row.rejected(row_error(None, "says what another row says of the same answer; remove one"))
            )
            return
        answer.feedback.append(feedback)
        answer.feedback_rows.append(row)

    def hear(
        self, row: RawRow, read: Callable[[dict[str, Any]], Feedback | list[Feedback]], *ids: str | None
    ) -> None:
        """Read feedback from a row of its own, and attach each; a row that cannot be read is rejected."""
        try:
            told = read(row.value)
        except RowError as error:
            self.outcome(row.rejected(error))
            return
        for feedback in [told] if isinstance(told, Feedback) else told:
            self.attach(row, feedback, *ids)

    def outcomes(self) -> Iterator[Outcome]:
        """All of them, answers in the order of their rows."""
        yield from self._outcomes
        for answer in self._answers:
            if not answer.wanted and not answer.feedback:
                yield answer.row.skipped("part of a trace, without feedback of its own")
                continue
            try:
                yield answer.make(tuple(answer.feedback))
            except RowError as error:
                yield answer.row.rejected(error)
                where = f"row {answer.row.row} of {answer.row.file.name}"
                for row in answer.feedback_rows:
                    if row is not answer.row:
                        yield row.rejected(row_error(None, f"its answer, {where}, cannot be used: {error}"))
