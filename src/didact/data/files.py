"""Data files on disk: JSON lines of `Example`, written atomically, never over another file.

fb.jsonl            the examples
fb.rejected.jsonl   the rows that could not be used, each with its faults and its own text
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from didact.data.faults import Rejected, RowError, row_error
from didact.data.record import parse_example
from didact.data.rows import read_rows, stem
from didact.errors import DataError, UsageError
from didact.jsonl import encode, open_atomically, write_atomically
from didact.types import Example


def check_examples(path: Path) -> Iterator[Example | Rejected]:
    """Every row of a data file, in order, as an `Example` or with its faults.

    Both forms of `didact.data.record` are read. A repeated id is a fault.

    Raises:
        DataError: the file cannot be read, or has no rows.
    """
    first_of: dict[str, int] = {}
    empty = True
    for row in read_rows(path, "json"):
        empty = False
        if isinstance(row, Rejected):
            yield row
            continue
        try:
            example = parse_example(row.value, fallback_id=f"{stem(path)}/{row.row}")
            if example.id in first_of:
                message = f"{example.id!r} is already the id of row {first_of[example.id]}; make ids unique"
                raise row_error("id", message)
        except RowError as error:
            yield row.rejected(error)
        else:
            first_of[example.id] = row.row
            yield example
    if empty:
        raise DataError(f"{path} has no rows: write one JSON object a line")


def read_examples(path: Path) -> Iterator[Example]:
    """Every example of a data file; DataError if a row cannot be used."""
    for outcome in check_examples(path):
        if isinstance(outcome, Rejected):
            raise DataError(
                f"{path}, {outcome.messages()[0]}. See all faults with `didact data validate {path}`; "
                "with --out it writes the good rows to a file of their own"
            )
        yield outcome


def beside(path: Path, part: str, folder: Path | None = None) -> Path:
    """The file for a part of a data file, in the same folder by default.

    >>> beside(Path("x/fb.jsonl"), "rejected").as_posix()
    'x/fb.rejected.jsonl'
    """
    return (folder or path.parent) / f"{stem(path)}.{part}.jsonl"


def refuse_existing(*paths: Path) -> None:
    """Raise UsageError if one of the files exists, or its folder does not."""
    for path in paths:
        if path.exists():
            raise UsageError(
                f"{path} exists already, and nothing is written over it: remove it, or name another"
            )
        if not path.parent.is_dir():
            raise UsageError(f"{path.parent} is not a directory: make it first")


class JsonlWriter:
    """Writes JSON lines to an open file and counts them."""

    def __init__(self, file: BinaryIO) -> None:
        self.rows = 0
        self._file = file

    def add(self, record: Example | dict[str, Any]) -> None:
        """Write one line."""
        value = record.model_dump(mode="json") if isinstance(record, Example) else record
        self._file.write(encode([value]))
        self.rows += 1


@contextmanager
def create_jsonl(path: Path) -> Iterator[JsonlWriter]:
    """Write a new file atomically. Neither an error inside the block nor a block without rows creates it.

    Raises:
        UsageError: the file exists, or its folder does not.
    """
    refuse_existing(path)
    with open_atomically(path) as file:
        writer = JsonlWriter(file)
        yield writer
        refuse_existing(path)  # it may have been created meanwhile
    if not writer.rows:
        path.unlink()


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> Path | None:
    """Write rejected rows, replacing those of an earlier run, and return the file; None without any."""
    data = encode(row.as_json() for row in rejected)
    if not data:
        path.unlink(missing_ok=True)
        return None
    write_atomically(path, data)
    return path


def refuse_foreign(path: Path) -> None:
    """Raise UsageError if the file exists and does not hold rejected rows."""
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            ours = set(json.loads(file.readline())) == {"file", "row", "faults", "raw"}
    except (ValueError, TypeError, OSError):
        ours = False
    if not ours:
        raise UsageError(f"{path} exists and holds no rejected rows: remove or rename it")
