"""Importers of `didact data import`, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from didact.data.importers.base import LOG_TARGETS, TARGETS, Importer, Outcome
from didact.data.importers.datasets import by_row, helpsteer3_examples, slf5k_examples, ultrafeedback_examples
from didact.data.importers.langfuse import import_langfuse
from didact.data.importers.mlflow import import_mlflow
from didact.data.importers.phoenix import import_phoenix
from didact.data.importers.table import import_table
from didact.data.importers.weave import import_weave
from didact.data.rows import Form, read_rows
from didact.errors import UsageError, did_you_mean

IMPORTERS: dict[str, tuple[Importer, Form, tuple[str, ...]]] = {
    "csv": (partial(import_table, cells=True), "csv", TARGETS),
    "jsonl": (partial(import_table, cells=False), "json", TARGETS),
    "helpsteer3": (by_row(helpsteer3_examples), "auto", ()),
    "slf5k": (by_row(slf5k_examples), "auto", ()),
    "ultrafeedback": (by_row(ultrafeedback_examples), "auto", ()),
    "langfuse": (import_langfuse, "auto", LOG_TARGETS),
    "phoenix": (import_phoenix, "auto", LOG_TARGETS),
    "mlflow": (import_mlflow, "auto", LOG_TARGETS),
    "weave": (import_weave, "auto", LOG_TARGETS),
}
"""The importer, the form of its files, and the targets of `--map`."""

__all__ = ["IMPORTERS", "import_rows", "parse_map"]


def import_rows(kind: str, files: Sequence[Path], mapping: Mapping[str, str]) -> Iterator[Outcome]:
    """Examples, rejected and skipped rows of all files of one export; `mapping` has columns by target."""
    if kind not in IMPORTERS:
        raise UsageError(f"unknown kind {kind!r}: {did_you_mean(kind, IMPORTERS)}")
    importer, form, targets = IMPORTERS[kind]
    for target in mapping:
        if not targets:
            raise UsageError(f"{kind} has fixed columns and takes no --map; `csv` and `jsonl` do")
        if target not in targets:
            raise UsageError(f"--map: unknown target {target!r}: {did_you_mean(target, targets)}")
    yield from importer((row for file in files for row in read_rows(file, form)), mapping)


def parse_map(text: str | None) -> dict[str, str]:
    """Parse `--map`.

    >>> parse_map("prompt=question,completion=answer")
    {'prompt': 'question', 'completion': 'answer'}
    """
    made: dict[str, str] = {}
    for part in (text or "").split(",") if text else []:
        target, equals, column = (piece.strip() for piece in part.partition("="))
        if not (equals and target and column):
            raise UsageError(f"--map: {part!r} is not TARGET=COLUMN, as in prompt=question,completion=answer")
        if target in made:
            raise UsageError(f"--map names {target!r} twice")
        made[target] = column
    return made
