"""Rows of task files: JSON lines, a JSON array, CSV or Parquet, read by `didact.data`, with checked
columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from didact.data.faults import Fault, RowError, shown
from didact.data.record import parse_messages
from didact.data.rows import parquet_rows, require_rows, stem
from didact.errors import DataError, did_you_mean
from didact.types import Message


class SourceLocation(NamedTuple):
    """A row of a file or dataset."""

    source: str
    """The file's path, or the dataset's id and split."""
    row: int
    """From 1; of a JSON lines file the line, of a CSV file the row of a spreadsheet."""

    def __str__(self) -> str:
        return f"{self.source}, row {self.row}"

    def fail(self, fault: str | Fault, cause: Exception | None = None) -> NoReturn:
        """Raise a DataError that names the row."""
        raise DataError(f"{self}: {fault}. Nothing was written.") from cause


class FileRow(NamedTuple):
    """One row and where it comes from."""

    location: SourceLocation
    values: Mapping[str, Any]
    default_id: str
    """Its id where no column has one."""

    def fail(self, column: str, message: str) -> NoReturn:
        """Raise a DataError that names the row and the column."""
        self.location.fail(Fault(column, message))

    def text(self, column: str, *, default: str | None = None) -> str:
        """A text that is not blank, or `default` where the column is missing."""
        value = self.values.get(column)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or (default is None and not value.strip()):
            self.fail(column, f"must be a text that is not blank, not {shown(value)}")
        return value

    def texts(self, column: str) -> list[str]:
        """A list of texts; empty where the column is missing."""
        value = self.values.get(column, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fail(column, f"must be a list of texts, not {shown(value)}")
        return value

    def text_or_number(self, column: str) -> str:
        """A text or number as text, not blank."""
        value = self.values.get(column)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            self.fail(column, f"must be a text or a number, not {shown(value)}")
        if not str(value).strip():
            self.fail(column, "is empty; fill it in or remove the row")
        return str(value)

    def messages(self, column: str) -> tuple[Message, ...]:
        """A text, or chat messages of which the last is the user's."""
        try:
            return parse_messages(self.values[column], column)
        except RowError as error:
            self.location.fail(error.faults[0])

    def identity(self, *columns: str) -> str:
        """The id in the first of these columns that has one, else `default_id`."""
        for column in columns:
            value = self.values.get(column)
            if isinstance(value, bool) or not isinstance(value, str | int | None) or value == "":
                self.fail(column, f"must be a text or an integer, not {shown(value)}")
            if value is not None:
                return str(value)
        return self.default_id

    def missing(self, column: str, cure: str) -> NoReturn:
        """Raise a DataError for a column that is not there, naming one with nearly its name."""
        what = "is null" if column in self.values else f"is missing: {did_you_mean(column, self.values)}"
        self.fail(column, f"{what}; {cure}")


def read_file(path: Path) -> Iterator[FileRow]:
    """Every row of a file: Parquet or CSV (.csv, .tsv) by the ending of its name, else JSON.

    Raises:
        DataError: the file or a row cannot be read.
        UsageError: a Parquet file, and pyarrow is not installed.
    """
    name = stem(path)
    for row in parquet_rows(path) if path.suffix.lower() == ".parquet" else require_rows(path):
        yield FileRow(SourceLocation(str(path), row.row), row.value, f"{name}/{row.row}")
