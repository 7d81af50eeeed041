"""`didact data import`: converts an export to JSON lines of `Example`, with a file of rejected rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from didact.data.faults import Rejected, Skipped
from didact.data.files import beside, create_jsonl, refuse_existing, refuse_foreign, write_rejected
from didact.data.importers import import_rows
from didact.data.validate import fault_lines
from didact.errors import DataError


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


def import_files(kind: str, files: Sequence[Path], out: Path, mapping: Mapping[str, str]) -> ImportReport:
    """Import an export. Valid rows are written even if others are rejected.

    Args:
        kind: A name in `didact.data.importers.IMPORTERS`.
        files: The files of one export.
        out: The new file; rejected rows go to OUT.rejected.jsonl.
        mapping: The parsed `--map`.

    Raises:
        UsageError: an unknown kind or target, or `out` exists.
        DataError: a file cannot be read, or nothing could be imported; `out` is not created.
    """
    aside = beside(out, "rejected")
    refuse_existing(out)
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
            raise DataError(_nothing(files, rejected, skipped, written))
    return ImportReport(
        out, writer.rows, feedback, text_free, without, tuple(rejected), written, dict(skipped)
    )


def _nothing(
    files: Sequence[Path], rejected: list[Rejected], skipped: Counter[str], written: Path | None
) -> str:
    names = ", ".join(map(str, files))
    if not rejected and not skipped:
        return f"{names}: there are no rows to import"
    if not rejected:
        reasons = "; ".join(f"{n:,} rows: {why}" for why, n in skipped.items())
        return f"{names}: no row is an answer ({reasons}); export the traces or spans too"
    lines = "\n".join(fault_lines(tuple(rejected)))
    return f"{names}: none of {len(rejected):,} rows could be imported → {written}\n{lines}"
