"""Data files: JSON lines of `Example`, read, imported and validated, and never written over another file.

fb.jsonl            the examples
fb.rejected.jsonl   the rows that could not be used, each with its faults and its own text
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from didact.data.faults import Rejected, RowError, Skipped, row_error
from didact.data.importers import import_rows
from didact.data.record import parse_example
from didact.data.rows import read_rows, stem
from didact.errors import DataError, UsageError
from didact.jsonl import encode, open_atomically, write_atomically
from didact.types import Example

SHOWN = 20
"""Maximum number of faults that are printed; the file of rejected rows has all."""


def check_examples(path: Path) -> Iterator[Example | Rejected]:
    """Every row of a data file, in order, as an `Example` or with its faults.

    A repeated id is a fault. DataError if the file cannot be read, or has no rows.
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
                f"{path}, {outcome.messages()[0]}. Nothing was changed; see all faults with "
                f"`didact data validate {path}`; with --out it writes the good rows to a file of their own"
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
    """Write a new file atomically. Neither an error inside the block nor a block without rows creates it."""
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


@dataclass(frozen=True)
class ValidationReport:
    """The outcome of checking a file."""

    file: Path
    ok: int
    rejected: tuple[Rejected, ...]
    rejected_file: Path | None
    """The file of the rejected rows; None if there are none."""

    @property
    def rows(self) -> int:
        return self.ok + len(self.rejected)

    def render(self) -> str:
        """The counts, then the first faults, one a line."""
        counts = f"{self.rows:,} {'row' if self.rows == 1 else 'rows'}: {self.ok:,} ok"
        if self.rejected_file is None:
            return f"{counts}, 0 rejected"
        head = f"{counts}, {len(self.rejected):,} rejected → {self.rejected_file.name}"
        return "\n".join([head, *fault_lines(self.rejected)])


@dataclass(frozen=True)
class ImportReport:
    """The outcome of an import."""

    out: Path
    examples: int
    feedback: int
    text_free: int
    """Feedback without text, such as a thumbs-down."""
    without: int
    """Answers without feedback."""
    rejected: tuple[Rejected, ...]
    rejected_file: Path | None
    skipped: Mapping[str, int]
    """Counts of skipped rows by reason."""

    def render(self) -> str:
        """The counts, then the first faults, one a line."""
        lines = [
            f"answers: {self.examples:,} → {self.out}",
            f"  feedback: {self.feedback:,}, of which a score or label without text: {self.text_free:,}",
            f"  answers without feedback: {self.without:,}",
            *(f"  passed over: {n:,} ({why})" for why, n in sorted(self.skipped.items())),
        ]
        if self.rejected_file is not None:
            lines.append(f"rejected: {len(self.rejected):,} → {self.rejected_file}")
        return "\n".join([*lines, *fault_lines(self.rejected)])


def fault_lines(rejected: Sequence[Rejected]) -> list[str]:
    """The first faults as indented lines, and the number of further ones."""
    several = len({row.file for row in rejected}) > 1
    messages = [message for row in rejected for message in row.messages(name_file=several)]
    lines = [f"  {message}" for message in messages[:SHOWN]]
    more = len(messages) - SHOWN
    return [*lines, f"  … and {more:,} more"] if more > 0 else lines


def validate_file(path: Path, *, out: Path | None = None) -> ValidationReport:
    """Check every row of a data file, and write those that fail to FILE.rejected.jsonl, the others to `out`.

    UsageError if `out` exists, or the file for rejected rows holds something else.
    """
    aside = beside(path, "rejected")
    refuse_foreign(aside)
    ok, rejected = 0, list[Rejected]()
    with ExitStack() as stack:
        writer = None if out is None else stack.enter_context(create_jsonl(out))
        for outcome in check_examples(path):
            if isinstance(outcome, Rejected):
                rejected.append(outcome)
                continue
            ok += 1
            if writer is not None:
                writer.add(outcome)
    return ValidationReport(path, ok, tuple(rejected), write_rejected(aside, rejected))


def import_files(kind: str, files: Sequence[Path], out: Path, mapping: Mapping[str, str]) -> ImportReport:
    """Import the files of one export of a kind in `IMPORTERS`; `mapping` is as {"prompt": "question"}.

    Valid rows are written to the new file `out` even if others are rejected; those go to OUT.rejected.jsonl.
    DataError if nothing could be imported; then `out` is not created.
    """
    aside = beside(out, "rejected")
    refuse_foreign(aside)
    rejected, skipped = list[Rejected](), Counter[str]()
    feedback = text_free = without = 0
    with create_jsonl(out) as writer:
        for outcome in import_rows(kind, files, mapping):
            if isinstance(outcome, Rejected):
                rejected.append(outcome)
            elif isinstance(outcome, Skipped):
                skipped[outcome.reason] += 1
            else:
                writer.add(outcome)
                feedback += len(outcome.feedback)
                text_free += sum(f.ok and not f.text.strip() for f in outcome.feedback)
                without += not outcome.feedback
        written = write_rejected(aside, rejected)
        if not writer.rows:
            why = "there are no rows to import"
            if rejected:
                why = f"none of {len(rejected):,} rows could be imported → {written}"
            elif skipped:
                reasons = "; ".join(f"{n:,} rows: {reason}" for reason, n in skipped.items())
                why = f"no row is an answer ({reasons}); export the traces or spans too"
            raise DataError("\n".join([f"{', '.join(map(str, files))}: {why}", *fault_lines(rejected)]))
    return ImportReport(
        out, writer.rows, feedback, text_free, without, tuple(rejected), written, dict(skipped)
    )
