"""`didact data validate`: checks every row of a data file and reports all faults."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from didact.data.faults import Rejected
from didact.data.files import (
    beside,
    check_examples,
    create_jsonl,
    refuse_existing,
    refuse_foreign,
    write_rejected,
)

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


def fault_lines(rejected: tuple[Rejected, ...]) -> list[str]:
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
        out: Write the good rows here, as examples.

    Raises:
        DataError: the file cannot be read, or has no rows.
        UsageError: `out` exists, or the file for rejected rows holds something else.
    """
    aside = beside(path, "rejected")
    refuse_foreign(aside)
    if out is not None:
        refuse_existing(out)
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
