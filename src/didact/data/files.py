"""Data files on disk: JSON lines of `Example`, written whole or not at all, never over another file.

fb.jsonl            the examples
fb.rejected.jsonl   the rows that could not be used, each with its faults and its own text
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from didact.data.faults import Rejected, RowError, row_error
from didact.data.record import parse_example
from didact.data.rows import read_rows
from didact.errors import DataError, UsageError
from didact.types import Example

SUFFIXES = (".gz", ".jsonl", ".json", ".csv", ".tsv")


def check_examples(path: Path) -> Iterator[Example | Rejected]:
    """Every row of a data file, in order, as an `Example` or with what is wrong with it.

    Both forms of `didact.data.record` are read. An id that a former row has is a fault.

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
    """Every example of a data file.

    Raises:
        DataError: a row cannot be used; the message names it and `didact data validate`.
    """
    for outcome in check_examples(path):
        if isinstance(outcome, Rejected):
            raise DataError(
                f"{path}, {outcome.messages()[0]}. See all faults with `didact data validate {path}`; "
                "with --out it writes the good rows to a file of their own"
            )
        yield outcome


def stem(path: Path) -> str:
    """A file's name without the endings of data files.

    >>> stem(Path("x/fb.train.jsonl.gz"))
    'fb.train'
    """
    name = path.name
    while name.lower().endswith(SUFFIXES):
        name = name[: name.rindex(".")]
    return name or path.name


def beside(path: Path, what: str, folder: Path | None = None) -> Path:
    """The file beside another for a part of it.

    >>> beside(Path("x/fb.jsonl"), "rejected").as_posix()
    'x/fb.rejected.jsonl'
    """
    return (folder or path.parent) / f"{stem(path)}.{what}.jsonl"


def refuse_existing(*paths: Path) -> None:
    """Raise UsageError if one of the files is there, or its folder is not."""
    for path in paths:
        if path.exists():
            raise UsageError(
                f"{path} exists already, and nothing is written over it: remove it, or name another"
            )
        if not path.parent.is_dir():
            raise UsageError(f"{path.parent} is not a directory: make it first")


class JsonlWriter:
    """Writes JSON lines beside, and gives the file its name when all of it is on disk.

    A context manager: an exception inside it leaves nothing behind, and a file without rows is not made.

    Args:
        path: The file to make.
        replace: Take the place of a file that is there; otherwise that is a `UsageError`.
    """

    def __init__(self, path: Path, *, replace: bool = False) -> None:
        self.path = path
        self.rows = 0
        self._replace = replace
        self._aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> JsonlWriter:
        if not self._replace:
            refuse_existing(self.path)
        self._file = self._aside.open("wb")
        return self

    def add(self, record: Example | dict[str, Any]) -> None:
        """Write one line."""
        value = record.model_dump(mode="json") if isinstance(record, Example) else record
        self._file.write(json_line(value))
        self.rows += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if kind is None and self.rows:
                if not self._replace:
                    refuse_existing(self.path)  # it may have come to be meanwhile
                self._aside.replace(self.path)
        finally:
            self._file.close()
            self._aside.unlink(missing_ok=True)


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> Path | None:
    """Write rejected rows to a file, in place of those of a former run; without any, remove that.

    Returns:
        The file, or None where nothing was rejected.

    Raises:
        UsageError: a file of another kind has that name.
    """
    refuse_foreign(path)
    rows = list(rejected)
    if not rows:
        path.unlink(missing_ok=True)
        return None
    with JsonlWriter(path, replace=True) as out:
        for row in rows:
            out.add(row.as_json())
    return path


def refuse_foreign(path: Path) -> None:
    """Raise UsageError if a file is there that holds no rejected rows: it is not ours to replace."""
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            ours = set(json.loads(file.readline())) == {"file", "row", "faults", "raw"}
    except (ValueError, TypeError, OSError):
        ours = False
    if not ours:
        raise UsageError(f"{path} exists and holds no rejected rows: remove or rename it")


def json_line(value: dict[str, Any]) -> bytes:
    """One line of JSON in UTF-8; half a surrogate pair, which UTF-8 cannot hold, stays escaped."""
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value).encode() + b"\n"
