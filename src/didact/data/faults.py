"""Rows of a data file and what is wrong with them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from didact.errors import DataError


class Fault(NamedTuple):
    """One thing that is wrong with a row."""

    column: str | None
    """The column, or a path such as "feedback[0].score"; None for the whole row."""
    message: str
    """What was expected, what was found, and the cure."""

    def __str__(self) -> str:
        return self.message if self.column is None else f"column {self.column!r}: {self.message}"


class RowError(DataError):
    """A row that cannot be used, with all its faults."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def row_error(column: str | None, message: str) -> RowError:
    """A `RowError` with one fault."""
    return RowError(Fault(column, message))


@dataclass(frozen=True)
class Rejected:
    """A row that was not used, with its original text."""

    file: str
    row: int
    faults: tuple[Fault, ...]
    raw: str
    """The row's text: a JSON line, or the row as JSON."""

    def messages(self, *, name_file: bool = False) -> list[str]:
        """One sentence a fault, each naming the row."""
        where = f"{self.file}, row {self.row}" if name_file else f"row {self.row}"
        return [f"{where}{', ' if fault.column else ': '}{fault}" for fault in self.faults]

    def __str__(self) -> str:
        return "\n".join(self.messages())

    def as_json(self) -> dict[str, Any]:
        """A line of the file of rejected rows."""
        faults = [{"column": fault.column, "message": fault.message} for fault in self.faults]
        return {"file": self.file, "row": self.row, "faults": faults, "raw": self.raw}


@dataclass(frozen=True)
class Skipped:
    """A row that holds neither an answer nor feedback, such as a tool call inside a trace."""

    file: str
    row: int
    reason: str


@dataclass(frozen=True)
class RawRow:
    """A row that parsed to an object and can be written as JSON; nothing else was checked."""

    file: Path
    row: int
    """Counted from 1; a CSV header is row 1."""
    value: dict[str, Any]

    def rejected(self, error: RowError) -> Rejected:
        return Rejected(self.file.name, self.row, error.faults, json.dumps(self.value, ensure_ascii=False))

    def skipped(self, reason: str) -> Skipped:
        return Skipped(self.file.name, self.row, reason)


def kind_of(value: object) -> str:
    """The kind of a JSON value, for messages."""
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float):
        return "a number"
    return "null" if value is None else "a list" if isinstance(value, list) else "an object"


def shown(value: object, limit: int = 60) -> str:
    """A value as JSON on one line of at most `limit` characters, control characters escaped."""
    text = json.dumps(value, ensure_ascii=True) if not isinstance(value, str) else _quoted(value, limit)
    return text if len(text) <= limit + 2 else text[: limit - 1] + "…"


def expected(column: str, what: str, value: object, cure: str) -> Fault:
    """The fault of a value of the wrong type."""
    got = kind_of(value) if value is None else f"{kind_of(value)} {shown(value)}"
    return Fault(column, f"expected {what}, got {got}; {cure}")


def _quoted(text: str, limit: int) -> str:
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return f"'{printable}'"


class Checker:
    """Reads typed values out of a row and collects the faults."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fail(self, column: str | None, message: str) -> None:
        """Add a fault."""
        self.faults.append(Fault(column, message))

    def expected(self, column: str, what: str, value: object, cure: str) -> None:
        """Add the fault of a value of the wrong type."""
        self.faults.append(expected(column, what, value, cure))

    def text(self, row: Mapping[str, Any], key: str, where: str = "", *, required: str = "") -> str | None:
        """A text or None.

        Args:
            row: The row, or an object in it.
            key: The key of the value.
            where: The path of the object, with its dot.
            required: What to write, if a text that is not blank is required.
        """
        column = f"{where}{key}"
        value = row.get(key)
        if value is None:
            if required:
                self.fail(column, f"is {'null' if key in row else 'missing'}; write {required}")
            return None
        if not isinstance(value, str):
            self.expected(column, "text", value, "write it as a JSON string")
        elif required and not value.strip():
            self.fail(column, f"is empty; write {required}, or remove the row")
        else:
            return value
        return None

    def number(self, row: Mapping[str, Any], key: str, where: str = "") -> float | None:
        """A finite number or None."""
        column = f"{where}{key}"
        value = row.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            quoted = isinstance(value, str) and _to_float(value) is not None
            cure = "remove its quotes" if quoted else "write a number, or move it to 'label'"
            self.expected(column, "a number", value, cure)
            return None
        number = _to_float(value)
        if number is None:
            self.fail(column, f"{shown(value, 20)} is out of range; write a finite number, or null")
        return number


def _to_float(value: str | float) -> float | None:
    """The finite float of a value, or None."""
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
