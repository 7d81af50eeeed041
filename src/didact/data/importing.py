"""`didact data import` and `didact data validate`: good rows as JSON lines of `Example`, the others aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from didact.data.faults import Rejected, Skipped
from didact.data.files import (
    beside,
    check_examples,
    create_jsonl,
    refuse_foreign,
    write_rejected,
)
from didact.data.importers import import_rows
from didact.errors import DataError

SHOWN = 20
"""Maximum number of faults that are printed; the file of rejected rows has all."""


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
    """Check every row of a data file, and write those that fail to FILE.rejected.jsonl.

    Args:
        path: JSON lines in either form of `didact.data.record`.
        out: The new file for the good rows, as examples.

    Raises:
        DataError: the file cannot be read, or has no rows.
        UsageError: `out` exists, or the file for rejected rows holds something else.
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
    """Import an export. Valid rows are written even if others are rejected.

    Args:
        kind: A name in `didact.data.importers.IMPORTERS`.
        files: The files of one export; logs may have answers in one and feedback in another.
        out: The new file; rejected rows go to OUT.rejected.jsonl.
        mapping: Columns by target, as {"prompt": "question"}.

    Raises:
        UsageError: an unknown kind or target, or `out` exists.
        DataError: a file cannot be read, or nothing could be imported; `out` is not created.
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
