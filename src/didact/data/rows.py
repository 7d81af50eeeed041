"""Rows of JSON lines, a JSON array or CSV, gzipped or not, of Parquet files and Hugging Face datasets.

A row that cannot be read is yielded as `Rejected` and reading goes on: one bad row costs one row. Rows are
numbered as an editor or a spreadsheet numbers them: JSON lines and CSV records from 1, a CSV header being
row 1; items of a JSON array from 1.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import json
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, cast

from pydantic_core import to_jsonable_python

from didact.data.faults import Fault, RawRow, Rejected, kind_of, shown
from didact.errors import DataError, UsageError

Form: TypeAlias = Literal["auto", "json", "csv"]

WRAPPERS = ("data", "traces", "calls", "items", "results")
"""Keys under which a file of one JSON object holds its rows, as in REST responses."""
DELIMITERS = ",;\t"
SUFFIXES = (".gz", ".jsonl", ".json", ".csv", ".tsv", ".parquet")


def read_rows(path: Path, form: Form = "auto") -> Iterator[RawRow | Rejected]:
    """Every row of a file in UTF-8, with or without a byte-order mark, in order.

    `form` is "json" for JSON lines or a JSON array, "csv" for CSV (comma, semicolon or tab), or "auto" to
    choose by the file name. DataError if it cannot be opened, is UTF-16, or has an unusable CSV header.
    """
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            magic = raw.read(4)
            raw.seek(0)
            stream: BinaryIO = raw
            if magic[:2] == b"\x1f\x8b":
                stream = cast("BinaryIO", stack.enter_context(gzip.open(raw)))
            if magic[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise DataError(f"{path} is UTF-16; save it as UTF-8")
            suffixes = {suffix.lower() for suffix in path.suffixes}
            if form == "csv" or (form == "auto" and suffixes & {".csv", ".tsv"}):
                yield from _csv_rows(path, stream)
            else:
                yield from _json_rows(path, stream)
    except (OSError, EOFError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} cannot be read: {why}. Check the path.") from error


def require_rows(path: Path, form: Form = "auto") -> Iterator[RawRow]:
    """Every row of a file; DataError with file, row and cure if one cannot be read."""
    for row in read_rows(path, form):
        if isinstance(row, Rejected):
            raise DataError(f"{path}, {row.messages()[0]}")
        yield row


def stem(path: Path) -> str:
    """A file's name without the endings of data files.

    >>> stem(Path("x/fb.train.jsonl.gz"))
    'fb.train'
    """
    name = path.name
    while name.lower().endswith(SUFFIXES):
        name = name[: name.rindex(".")]
    return name or path.name


def json_fault(value: object) -> Fault | None:
    """Why a parsed value cannot be written again as JSON in UTF-8; None if it can."""
    waiting: list[tuple[str, object]] = [("", value)]
    while waiting:
        path, item = waiting.pop()
        if isinstance(item, str):
            if not item.isascii() and any("\ud800" <= c <= "\udfff" for c in item):
                return Fault(path or None, "holds half of a surrogate pair; write the character itself")
        elif isinstance(item, float):
            if not math.isfinite(item):
                return Fault(path or None, f"{item!r} is not a finite number; write one, or null")
        elif isinstance(item, dict):
            for key, inner in item.items():
                waiting += [(path, key), (f"{path}.{key}" if path else str(key), inner)]
        elif isinstance(item, list):
            waiting += [(f"{path}[{i}]", inner) for i, inner in enumerate(item)]
    return None


def _json_rows(path: Path, stream: BinaryIO) -> Iterator[RawRow | Rejected]:
    lines = _numbered(stream)
    first = next(lines, None)
    if first is None:
        return
    number, line, last = first
    value = _parse(line)
    if line.lstrip().startswith(b"[") or (value is None and not last):
        # An array, or an object over several lines; or a broken first line of JSON lines.
        held = [first, *lines]
        whole = _parse(b"".join(text for _, text, _ in held))
        if whole is not None:
            yield from _items(path, whole)
        else:
            yield from (_json_row(path, *item) for item in held)
    elif value is not None and last:
        yield from _items(path, value, number)
    else:
        yield from (_json_row(path, *item) for item in chain([first], lines))


def _numbered(stream: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """(line number, line, is it the last) of every line that is not blank."""
    held: tuple[int, bytes] | None = None
    # Iterating over bytes splits at \n alone: a U+2028 inside a JSON string ends no line.
    for number, line in enumerate(stream, start=1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if text.strip():
            if held is not None:
                yield *held, False
            held = number, text
    if held is not None:
        yield *held, True


def _parse(line: bytes) -> Any:
    """The parsed value, or None if it does not parse."""
    try:
        return json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def _items(path: Path, value: Any, number: int = 1) -> Iterator[RawRow | Rejected]:
    """Rows of a file that holds one JSON value."""
    if isinstance(value, dict):
        wrapped = next((value[key] for key in WRAPPERS if isinstance(value.get(key), list)), None)
        if wrapped is None:
            yield _checked(path, number, value)
            return
        value = wrapped
    items = value if isinstance(value, list) else [value]
    yield from (_checked(path, i, item) for i, item in enumerate(items, start=1))


def _json_row(path: Path, number: int, line: bytes, last: bool) -> RawRow | Rejected:
    """The row of one line; a fault with place and cure if it is not UTF-8 or not JSON."""
    try:
        value = json.loads(line.decode("utf-8").rstrip("\r\n"))
    except UnicodeDecodeError as error:
        byte = f"0x{line[error.start]:02x}"
        message = f"byte {error.start + 1} is not UTF-8 ({byte}); save the file as UTF-8"
    except json.JSONDecodeError as error:
        text = line.decode("utf-8").rstrip()
        cure = "write one complete JSON object a line"
        if last and (error.pos >= len(text) - 1 or error.msg.startswith("Unterminated")):
            cure = "the last line is cut off: write the file anew, or remove that line"
        elif number == 1 and text.startswith("["):
            cure = "a JSON array must be complete: close it, or write one object a line"
        message = f"invalid JSON at character {error.colno} ({error.msg}); {cure}"
    except (ValueError, RecursionError) as error:
        message = f"JSON that cannot be used ({error}); simplify this row"
    else:
        return _checked(path, number, value)
    raw = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
    return Rejected(path.name, number, (Fault(None, message),), raw)


def _checked(path: Path, number: int, value: Any) -> RawRow | Rejected:
    fault = json_fault(value)
    if not isinstance(value, dict):
        what = f"expected a JSON object, got {kind_of(value)} {shown(value)}; write one object a line"
        fault = Fault(None, what)
    if fault is None:
        return RawRow(path, number, value)
    return Rejected(path.name, number, (fault,), json.dumps(value))


def _csv_rows(path: Path, stream: BinaryIO) -> Iterator[RawRow | Rejected]:
    csv.field_size_limit(sys.maxsize)  # the default of 128 KiB is less than a long answer
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        first = text.readline()
        if not first.strip():
            raise DataError(f"{path} has no header: name the columns in the first line")
        record: list[str] = []  # the lines of the current record

        def lines() -> Iterator[str]:
            for line in chain([first], text):
                record.append(line)
                yield line

        reader = csv.reader(lines(), strict=True, delimiter=max(DELIMITERS, key=first.count))
        header = _header(path, reader)
        number = 1
        while True:
            record.clear()
            number += 1
            fault: Fault | None = None
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                cells, fault = [], _quoting_fault(error)
            if cells:
                fault = _cells_fault(header, cells)
            if fault is not None:
                undecoded = "".join(record).encode("utf-8", "surrogateescape")
                raw = undecoded.decode("utf-8", "backslashreplace").rstrip("\r\n")
                yield Rejected(path.name, number, (fault,), raw)
            elif cells:
                yield RawRow(path, number, dict(zip(header, cells, strict=True)))


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        names = [name.strip() for name in next(reader)]
    except csv.Error as error:
        raise DataError(f"{path}, row 1: the header is broken ({error}); check its quotes") from error
    for i, name in enumerate(names):
        if name in names[:i]:
            what = f"two columns are called {name!r}" if name else "two columns have no name"
            raise DataError(f"{path}, row 1: {what}; give each column a name of its own")
    return names


def _cells_fault(header: list[str], cells: list[str]) -> Fault | None:
    for i, cell in enumerate(cells):
        byte = next((c for c in cell if "\udc80" <= c <= "\udcff"), None) if not cell.isascii() else None
        if byte is not None:
            column = header[i] if i < len(header) else None
            code = f"0x{ord(byte) - 0xDC00:02x}"
            return Fault(column, f"a byte is not UTF-8 ({code}); save the file as UTF-8")
    if len(cells) == len(header):
        return None
    return Fault(
        None,
        f"expected {len(header)} cells as in the header, got {len(cells)}; "
        "quote cells that hold the delimiter or a line end, or complete the row",
    )


def _quoting_fault(error: csv.Error) -> Fault:
    cure = 'write a quote inside a quoted cell twice, as ""'
    if "unexpected end" in str(error):
        cure = "a quote is opened here and never closed, so the rest of the file is one cell; close it"
    return Fault(None, f"broken quoting ({error}); {cure}")


def parquet_rows(path: Path) -> Iterator[RawRow]:
    """Every row of a Parquet file, numbered from 1; UsageError if pyarrow is not installed."""
    parquet = _import("pyarrow.parquet", f"{path} is a Parquet file")
    try:
        with parquet.ParquetFile(path) as file:
            values = (row for batch in file.iter_batches() for row in batch.to_pylist())
            for number, row in enumerate(values, start=1):
                yield RawRow(path, number, _plain(row))
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these two kinds
        raise DataError(f"{path} cannot be read as Parquet: {error}. Check the file.") from error


def hub_rows(
    dataset: str, *, split: str, subset: str | None = None
) -> tuple[list[dict[str, Any]], tuple[Path, ...]]:
    """All rows of a Hugging Face dataset, as "openai/gsm8k", and the local files that hold them.

    It is downloaded where it is not cached. `split` may be a slice, as "train[:1000]"; `subset` is the
    configuration, where there are several. UsageError if the package `datasets` is not installed.
    """
    library = _import("datasets", f"{dataset!r} is no file, and read as the id of a Hugging Face dataset")
    try:
        loaded = library.load_dataset(dataset, name=subset, split=split)
        rows = [_plain(row) for row in loaded]
    except Exception as error:  # dozens of kinds: of the hub, the network, the file formats
        raise DataError(
            f"dataset {dataset!r}, subset {subset!r}, split {split!r} cannot be loaded: "
            f"{type(error).__name__}: {error}. Check the three names and the network, or give a file."
        ) from error
    return rows, tuple(Path(file["filename"]) for file in loaded.cache_files)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """JSON values. In nested records a column that other rows use has a null, which is left out."""

    def without_nulls(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_nulls(item) for key, item in value.items() if item is not None}
        return [without_nulls(item) for item in value] if isinstance(value, list) else value

    plain = to_jsonable_python(row, bytes_mode="base64", inf_nan_mode="strings", fallback=repr)
    return {key: without_nulls(value) for key, value in plain.items()}


def _import(module: str, why: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{why}, which needs {module.partition('.')[0]}: pip install 'didact-rl[datasets]'"
        ) from error
