"""Rows → padded micro-batches.

Rows are padded on the right: under a causal mask no token attends to padding behind it, so the model needs no
attention mask and uses its fastest attention kernel.

Shapes: B rows, T tokens of the longest row, K soft targets a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from didact.errors import UsageError
from didact.types import Row


class MicroBatch(NamedTuple):
    """Rows of one forward pass, padded with 0."""

    rows: list[int]
    """Index of each row in the caller's sequence; empty in a padding batch."""
    input_ids_BT: Tensor
    targets_BT: Tensor
    """[B, T], or [B, T, K] for soft targets."""
    fields_BT: dict[str, Tensor]
    """[B, T] or [B, T, K] float32 each."""


Batches: TypeAlias = Iterable[MicroBatch]


def micro_batches(rows: Sequence[Row], tokens_per_batch: int, device: torch.device) -> Iterator[MicroBatch]:
    """Rows of similar length together, at most `tokens_per_batch` padded tokens or one row."""
    group: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        if group and (len(group) + 1) * len(rows[i]) > tokens_per_batch:
            yield _pad(rows, group, device)
            group = []
        group.append(i)
    if group:
        yield _pad(rows, group, device)


def padding_batch(like: Row, device: torch.device) -> MicroBatch:
    """A batch of one token with weight 0, for a process that takes part in a collective pass without rows.

    It has the fields and the number of targets a token of the row `like`.
    """

    def zeros(column: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.zeros(1, 1, *column.shape[1:], dtype=dtype, device=device)

    return MicroBatch(
        rows=[],
        input_ids_BT=zeros(like.input_ids, torch.long),
        targets_BT=zeros(like.target_ids, torch.long),
        fields_BT={name: zeros(column, torch.float32) for name, column in like.fields.items()},
    )


def check_rows(rows: Sequence[Row], *, max_length: int | None, vocabulary: int) -> None:
    """Raise a UsageError for a row that does not fit the model or the other rows of its call."""
    for i, row in enumerate(rows):
        if len(row) == 0:
            raise UsageError(f"row {i} has no tokens")
        if max_length is not None and len(row) > max_length:
            raise UsageError(
                f"row {i} has {len(row)} tokens but the model takes {max_length}: shorten the prompt, "
                "sample with a smaller max_tokens, or use a model with a longer context"
            )
        if row.fields.keys() != rows[0].fields.keys():
            raise UsageError(
                f"row {i} has the fields {sorted(row.fields)}, row 0 {sorted(rows[0].fields)}: rows of "
                "one call need the same fields; train the two kinds in two forward_backward calls"
            )
        if row.target_ids.shape[1:] != rows[0].target_ids.shape[1:]:
            raise UsageError(
                f"row {i} has targets of shape {row.target_ids.shape}, row 0 "
                f"{rows[0].target_ids.shape}: rows of one call need equally many targets a token; "
                "train the two kinds in two forward_backward calls"
            )
        top = max(int(row.input_ids.max()), int(row.target_ids.max()))
        low = min(int(row.input_ids.min()), int(row.target_ids.min()))
        if low < 0 or top >= vocabulary:
            raise UsageError(
                f"row {i} holds the token id {low if low < 0 else top}, but the model's vocabulary is 0 to "
                f"{vocabulary - 1}: was it made with another model's tokenizer?"
            )


def _pad(rows: Sequence[Row], group: list[int], device: torch.device) -> MicroBatch:
    length = max(len(rows[i]) for i in group)

    def padded(columns: list[np.ndarray]) -> Tensor:
        out = np.zeros((len(group), length, *columns[0].shape[1:]), columns[0].dtype)
        for b, column in enumerate(columns):
            out[b, : len(column)] = column
        return torch.from_numpy(out).to(device)

    return MicroBatch(
        rows=group,
        input_ids_BT=padded([rows[i].input_ids for i in group]),
        targets_BT=padded([rows[i].target_ids for i in group]),
        fields_BT={
            name: padded([np.asarray(rows[i].fields[name], np.float32) for i in group])
            for name in rows[group[0]].fields
        },
    )
