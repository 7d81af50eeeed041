"""Tables that people fill in, as CSV for a spreadsheet or as JSON lines.

A spreadsheet takes some cells for something other than text: "=1+1" is run, "007" becomes 7, "1/2" the
second of January, "true" TRUE. On writing, such a cell gets an apostrophe in front; on reading, exactly
that one is taken away again, so that every text comes back as it was.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from didact.errors import DataError, UsageError, did_you_mean
from didact.jsonl import encode, write_atomically

TYPED = ("critique", "score", "label", "spans", "annotator")
"""Columns that people fill in."""
COLUMNS = ("rollout", "turn", "question", "answer", "reference", *TYPED, "answer_sha256", "error")
"""All that a table may have."""

_FORMULA = r"[=+\-@\t\r\n＝＋－＠].*"
# A whole number of up to 15 digits stays as it is; any other number or date does not.
_NUMBER = r"(?!(?:0|[1-9]\d{0,14})\Z)\d[\d\s.,:;/%eE+\-]*"
_TAKEN_FOR_ELSE = re.compile(rf"(?s:{_FORMULA})|{_NUMBER}\Z|(?i:true|false)\Z")


class Row(NamedTuple):
    """One row of a table."""

    number: int
    """As a spreadsheet or an editor counts: the first line is 1, in CSV that of the headings."""
    cells: dict[str, Any]
    """By column; texts in CSV, any JSON value else. What is empty or null is not there."""
    protected: bool
    """May its answer have been shown behind an apostrophe?"""


def protect(text: str) -> str:
    """A cell that no spreadsheet takes for a formula, a number or a date.

    >>> protect("=1+1"), protect("007"), protect("42"), protect("It's 7.")
    ("'=1+1", "'007", '42', "It's 7.")
    """
    return f"'{text}" if _TAKEN_FOR_ELSE.match(text.lstrip("'")) else text


def restore(cell: str) -> str:
    """What was protected, as it was.

    >>> restore("'=1+1"), restore("'tis")
    ('=1+1', "'tis")
    """
    return cell[1:] if cell.startswith("'") and _TAKEN_FOR_ELSE.match(cell.lstrip("'")) else cell


def check_table_name(file: Path) -> None:
    """Refuse a name that is neither CSV nor JSON lines.

    Raises:
        UsageError: saying what to write.
    """
    if file.suffix.lower() not in (".csv", ".jsonl"):
        raise UsageError(f"{file}: a table is written as .csv or .jsonl, so give it one of these endings")


def write_table(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole table; the file's ending says which kind.

    A CSV has a byte order mark, without which spreadsheets take UTF-8 for something else.
    """
    write_atomically(file, table_bytes(file, columns, rows))


def table_bytes(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A table as it would stand in the file."""
    check_table_name(file)
    if file.suffix.lower() == ".jsonl":
        return encode({name: row.get(name, "") for name in columns} for row in rows)
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([protect(_cell(row.get(name, ""))) for name in columns] for row in rows)
    return text.getvalue().encode("utf-8-sig", "replace")


def read_table(file: Path) -> list[Row]:
    """All rows of a table.

    Raises:
        DataError: the file cannot be read, or has columns that nobody knows.
        UsageError: it is neither .csv nor .jsonl.
    """
    check_table_name(file)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}. Check the path.") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line} is not UTF-8: save it as “CSV UTF-8”. Nothing was imported."
        ) from None
    return _csv_rows(file, text) if file.suffix.lower() == ".csv" else _json_rows(file, text)


def _csv_rows(file: Path, text: str) -> list[Row]:
    lines = list(enumerate(_csv_cells(file, text), start=1))
    filled = [(number, cells) for number, cells in lines if any(cells)]
    if not filled:
        raise DataError(f"{file} is empty: export answers to criticise again. Nothing was imported.")
    columns = [name.strip() for name in filled[0][1]]
    _check_columns(file, filter(None, columns))
    if twice := [name for name in columns if name and columns.count(name) > 1]:
        raise DataError(f"{file}: column {twice[0]!r} is there twice: remove one. Nothing was imported.")
    # What people typed was never protected, except in a file of rejected rows, which has the errors.
    plain = () if "error" in columns else TYPED
    rows = []
    for number, cells in filled[1:]:
        if any(cells[len(columns) :]):
            raise DataError(
                f"{file}, row {number} has {len(cells)} cells, but there are {len(columns)} columns: put "
                "cells with commas into quotes, or save it from a spreadsheet. Nothing was imported."
            )
        named = dict(zip(columns, cells, strict=False))
        whole = {k: v if k in plain else restore(v) for k, v in named.items() if k and v}
        rows.append(Row(number, whole, protected=True))
    return rows


def _csv_cells(file: Path, text: str) -> list[list[str]]:
    heading = text.lstrip("\r\n").split("\n", 1)[0]
    # Where a comma divides decimals, spreadsheets divide cells by semicolons.
    delimiter = max(",;\t", key=heading.count)
    before = csv.field_size_limit(max(len(text), 1))
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{file} is not a whole CSV file: {error}. Save it again as “CSV UTF-8”. Nothing was imported."
        ) from None
    finally:
        csv.field_size_limit(before)


def _json_rows(file: Path, text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number} is not JSON: {error}. Nothing was imported.") from None
        if not isinstance(record, dict):
            raise DataError(f"{file}, line {number} must be a JSON object. Nothing was imported.")
        _check_columns(file, record)
        whole = {key: value for key, value in record.items() if value not in ("", None)}
        rows.append(Row(number, whole, protected=False))
    return rows


def _check_columns(file: Path, columns: Iterable[str]) -> None:
    names = list(columns)
    for name in names:
        if name not in COLUMNS:
            raise DataError(
                f"{file}: unknown column {name!r}: {did_you_mean(name, COLUMNS)}. Nothing was imported."
            )
    for name in ("rollout", "turn"):
        if name not in names:
            raise DataError(
                f"{file}: there is no column {name!r}, which says what a critique is about: export answers "
                "again. Nothing was imported."
            )


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
