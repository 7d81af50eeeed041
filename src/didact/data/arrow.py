"""Rows of Parquet files and of Hugging Face datasets, as plain JSON values.

Both need the package `datasets` (which brings `pyarrow`): `pip install 'didact-rl[datasets]'`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from didact.data.faults import RawRow
from didact.errors import DataError, UsageError


def parquet_rows(path: Path) -> Iterator[RawRow]:
    """Every row of a Parquet file, numbered from 1.

    Raises:
        UsageError: pyarrow is not installed.
        DataError: the file cannot be read.
    """
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
    """All rows of a Hugging Face dataset, downloaded where it is not cached.

    Args:
        dataset: Its id, as "openai/gsm8k".
        split: As "train", or a slice as "train[:1000]".
        subset: The configuration, where the dataset has several.

    Returns:
        The rows, and the local files that hold them.

    Raises:
        UsageError: the package `datasets` is not installed.
        DataError: there is no such dataset, subset or split, or it cannot be downloaded.
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
