"""Annotation tables, as CSV for a spreadsheet or as JSON lines.

A spreadsheet converts some cells: "=1+1" is run, "007" becomes 7, "1/2" the second of January, "true" TRUE.
On writing, such a cell gets an apostrophe in front; on reading, exactly that apostrophe is removed, so that
every text survives the round trip.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from didact.data.faults import RawRow
from didact.data.rows import require_rows
from didact.errors import DataError, UsageError, did_you_mean
from didact.jsonl import encode, write_atomically

TYPED = ("critique", "score", "label", "spans", "annotator")
"""Columns that annotators fill in."""
COLUMNS = ("rollout", "turn", "question", "answer", "reference", *TYPED, "answer_sha256", "error")
"""All columns of a table."""

_FORMULA = r"[=+\-@\t\r\n＝＋－＠].*"
# An integer of up to 15 digits stays as it is; any other number or date does not.
_NUMBER = r"(?!(?:0|[1-9]\d{0,14})\Z)\d[\d\s.,:;/%eE+\-]*"
_CONVERTED = re.compile(rf"(?s:{_FORMULA})|{_NUMBER}\Z|(?i:true|false)\Z")


def escape_csv_formula(text: str) -> str:
    """A cell that no spreadsheet converts to a formula, a number or a date.

    >>> [escape_csv_formula(text) for text in ("=1+1", "007", "42", "It's 7.")]
    ["'=1+1", "'007", '42', "It's 7."]
    """
    return f"'{text}" if _CONVERTED.match(text.lstrip("'")) else text


def unescape_csv_formula(cell: str) -> str:
    """The inverse of `escape_csv_formula`.

    >>> unescape_csv_formula("'=1+1"), unescape_csv_formula("'tis")
    ('=1+1', "'tis")
    """
    return cell[1:] if cell.startswith("'") and _CONVERTED.match(cell.lstrip("'")) else cell


def is_csv(file: Path) -> bool:
    """Is a table CSV, and not JSON lines? UsageError if it is named as neither."""
    if file.suffix.lower() not in (".csv", ".jsonl"):
        raise UsageError(f"{file}: a table is written as .csv or .jsonl, so give it one of these endings")
    return file.suffix.lower() == ".csv"


def write_table(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole table, as CSV or JSON lines by its name."""
    write_atomically(file, table_bytes(file, columns, rows))


def table_bytes(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A table's content; CSV has a byte-order mark, without which spreadsheets misread UTF-8."""
    if not is_csv(file):
        return encode({name: row.get(name, "") for name in columns} for row in rows)
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([escape_csv_formula(_cell(row.get(name, ""))) for name in columns] for row in rows)
    return text.getvalue().encode("utf-8-sig", "replace")


def read_table(file: Path) -> list[RawRow]:
    """All rows of a table, without empty cells; DataError for unknown or missing columns."""
    csv_table = is_csv(file)
    try:
        rows = list(require_rows(file, "csv" if csv_table else "json"))
        for name in dict.fromkeys(name for row in rows for name in row.value):
            if name and name not in COLUMNS:
                raise DataError(f"{file}: unknown column {name!r}: {did_you_mean(name, COLUMNS)}")
        for name in ("rollout", "turn"):
            if any(name not in row.value for row in rows):
                raise DataError(
                    f"{file}: there is no column {name!r}, which names the answer: export answers again"
                )
    except DataError as error:
        raise DataError(f"{error}. Nothing was imported.") from None
    found = []
    for row in rows:
        cells = row.value
        if csv_table:
            # Annotators' own cells are escaped only in a file of rejected rows, which has an error column.
            own = () if "error" in cells else TYPED
            cells = {k: v if k in own else unescape_csv_formula(v) for k, v in cells.items()}
        found.append(RawRow(file, row.row, {k: v for k, v in cells.items() if v not in ("", None)}))
    return found


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
