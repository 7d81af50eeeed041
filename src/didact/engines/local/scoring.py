"""Rows in padded micro-batches, and scores at their targets: log-probs, the likeliest tokens, KL divergence.

Rows are padded on the right: under a causal mask no token attends to padding behind it, so the model needs no
attention mask and uses its fastest attention kernel.

Shapes: B rows, T tokens of the longest row, K soft targets a token, N kept tokens of all rows, V vocabulary;
n a part of N; H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from didact.errors import UsageError
from didact.types import Row

Score: TypeAlias = Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, ...]]
"""(model, input_ids_BT, targets_BT, keep_BT) → tensors of [N] or [N, K], in the order of the true entries of
keep_BT. Rows are padded on the right; targets are [B, T] or [B, T, K]."""
Arrays: TypeAlias = tuple[NDArray[Any], ...]
"""One row's scores, each [T] or [T, K]."""
KL_PART = 256
"""Positions whose log-probs over the vocabulary are compared at a time."""


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


def masked_logits(model: Any, input_ids_BT: Tensor, keep_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and last hidden states at the kept positions: [N, V] in float32, and [N, H].

    Only kept positions go through the LM head, whose output is most of the memory for a large vocabulary.
    By a hook, because a model may cap or scale its logits afterwards, and `logits_to_keep` takes a mask only
    from transformers 5.21 on.
    """
    entered: list[Tensor] = []

    def select(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entered.append(inputs[0][keep_BT])
        return (entered[-1],)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        logits_NV: Tensor = model(input_ids=input_ids_BT, use_cache=False).logits.float()
    finally:
        hook.remove()
    return logits_NV, entered[-1]


def target_logprobs(
    model: Any, input_ids_BT: Tensor, targets_BT: Tensor, keep_BT: Tensor
) -> tuple[Tensor, ...]:
    """log π(target) in nats at the kept positions, [N] or [N, K] in float32."""
    logits_NV, _ = masked_logits(model, input_ids_BT, keep_BT)
    return (logprobs_of(logits_NV, targets_BT[keep_BT]),)


def top_logprobs(
    k: int, model: Any, input_ids_BT: Tensor, targets_BT: Tensor, keep_BT: Tensor
) -> tuple[Tensor, ...]:
    """Ids and log-probs [N, k] of the k likeliest tokens at the kept positions, the likeliest first."""
    logits_NV, _ = masked_logits(model, input_ids_BT, keep_BT)
    logprobs_Nk, ids_Nk = logits_NV.log_softmax(-1).topk(k, dim=-1)
    return ids_Nk, logprobs_Nk


def logprobs_of(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """log π of targets, [N] or [N, K]."""
    if targets_N.ndim == 1:
        nll_N = torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
        return -nll_N
    logprobs_NV: Tensor = logits_NV.log_softmax(-1)
    return logprobs_NV.gather(-1, targets_N)


def entropy_of(logits_NV: Tensor) -> Tensor:
    """H = −Σ_v π(v) log π(v) in nats, [N]; its gradient keeps no log-probs."""

    def part(logits_nV: Tensor) -> Tensor:
        # Finite, so that a token of probability 0 adds 0.
        logprobs_nV = logits_nV.clamp(min=torch.finfo(logits_nV.dtype).min).log_softmax(-1)
        return -(logprobs_nV.exp() * logprobs_nV).sum(-1)

    parts = torch.split(logits_NV, KL_PART)
    return torch.cat([checkpoint(part, logits_nV, use_reentrant=False) for logits_nV in parts])


def target_kl(
    reference: Callable[[], AbstractContextManager[Any]],
    model: Any,
    input_ids_BT: Tensor,
    targets_BT: Tensor,
    keep_BT: Tensor,
) -> tuple[Tensor, ...]:
    """Σ_v π(v) (log π(v) − log π_ref(v)) in nats at the kept positions, [N]; the targets do not matter.

    `reference` returns a context in which the model has the reference's weights.
    """
    logits_NV, _ = masked_logits(model, input_ids_BT, keep_BT)
    with reference():
        other_NV, _ = masked_logits(model, input_ids_BT, keep_BT)
    found = []
    # In parts, because the log-probs of both would be as large as the logits once more.
    for own_nV, other_nV in zip(torch.split(logits_NV, KL_PART), torch.split(other_NV, KL_PART), strict=True):
        logprobs_nV = torch.log_softmax(own_nV, -1)
        found.append((logprobs_nV.exp() * (logprobs_nV - other_nV.log_softmax(-1))).sum(-1))
    return (torch.cat(found) if found else logits_NV.new_zeros(0),)


def score_rows(
    model: Any, rows: Sequence[Row], batches: Iterable[MicroBatch], score: Score, *, weighted: bool
) -> list[Arrays]:
    """The scores of each row's targets, in the rows' order.

    Args:
        batches: Micro-batches of them; each row in one, and padding batches of none.
        weighted: Leave out targets of weight 0, whose scores are 0.
    """
    found: list[Arrays] = [()] * len(rows)
    for batch in batches:
        device = batch.input_ids_BT.device
        end_B1 = torch.tensor([len(rows[i]) for i in batch.rows] or [0], device=device)[:, None]
        keep_BT = torch.arange(batch.input_ids_BT.shape[1], device=device) < end_B1
        if weighted:
            keep_BT &= batch.fields_BT["weights"] != 0
        columns = []
        for kept_N in score(model, batch.input_ids_BT, batch.targets_BT, keep_BT):
            column_BT = kept_N.new_zeros((*keep_BT.shape, *kept_N.shape[1:]))
            column_BT[keep_BT] = kept_N
            columns.append(column_BT.cpu().numpy())
        for b, i in enumerate(batch.rows):
            found[i] = tuple(column_BT[b, : len(rows[i])].copy() for column_BT in columns)
    return found
