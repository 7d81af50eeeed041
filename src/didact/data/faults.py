"""Rows of a data file and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from didact.errors import DataError, did_you_mean

M = TypeVar("M", bound=BaseModel)


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


def columns_near(column: str, row: Mapping[str, Any]) -> str:
    """The columns of a row and, if there is one, that with nearly this name."""
    return did_you_mean(column, map(str, row)).replace("Valid:", "Columns:")


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
    if isinstance(value, str):
        cut = value if len(value) <= limit else value[: limit - 1] + "…"
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
        text = f"'{text}'"
    else:
        text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= limit + 2 else text[: limit - 1] + "…"


def expected(column: str, what: str, value: object, cure: str) -> Fault:
    """The fault of a value of the wrong type."""
    return Fault(column, f"expected {what}, got {_described(value)}; {cure}")


def _described(value: object) -> str:
    return "null" if value is None else f"{kind_of(value)} {shown(value)}"


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

    def text(self, row: Mapping[str, Any], key: str, *, required: str = "") -> str | None:
        """A text or None; `required` tells what to write, if a text that is not blank is required."""
        value = row.get(key)
        if value is None:
            if required:
                self.fail(key, f"is {'null' if key in row else 'missing'}; write {required}")
            return None
        if not isinstance(value, str):
            self.expected(key, "text", value, "write it as a JSON string")
        elif required and not value.strip():
            self.fail(key, f"is empty; write {required}, or remove the row")
        else:
            return value
        return None

    def model(self, kind: type[M], value: Mapping[str, Any], where: str) -> M | None:
        """A strictly validated record, or None with its errors as faults, whose paths begin with `where`."""
        try:
            return kind.model_validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            for found in error.errors(include_url=False):
                parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"])
                path = "".join(parts).removeprefix(".")
                if found["type"] == "missing":
                    message = "is missing; add it"
                elif found["type"] == "extra_forbidden":
                    known = kind.model_fields if len(found["loc"]) == 1 else ()
                    message = f"unknown key: {did_you_mean(path, known)}" if known else "unknown key"
                elif found["type"] == "value_error":
                    message = str(found["ctx"]["error"])
                else:
                    what = found["msg"].replace("Input should be", "expected")
                    message = f"{what}, got {_described(found['input'])}"
                self.fail(f"{where}{path}".rstrip(".") or None, message)
            return None
