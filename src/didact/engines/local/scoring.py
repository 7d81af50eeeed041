"""Scores at each target of rows: log-probs, the likeliest tokens, and the KL divergence from the reference.

Shapes: B rows, T tokens, K soft targets a token, N kept tokens of all rows, V vocabulary; n a part of N;
H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from didact.engines.local.batching import MicroBatch
from didact.types import Row

Score: TypeAlias = Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, ...]]
"""(model, input_ids_BT, targets_BT, keep_BT) → tensors of [N] or [N, K], in the order of the true entries of
keep_BT. Rows are padded on the right; targets are [B, T] or [B, T, K]."""
Arrays: TypeAlias = tuple[NDArray[Any], ...]
"""One row's scores, each [T] or [T, K]."""
KL_PART = 256
"""Positions whose log-probs over the vocabulary are compared at a time."""


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


def target_kl(
    reference: Callable[[], AbstractContextManager[Any]],
    model: Any,
    input_ids_BT: Tensor,
    targets_BT: Tensor,
    keep_BT: Tensor,
) -> tuple[Tensor, ...]:
    """Σ_v π(v) (log π(v) − log π_ref(v)) in nats at the kept positions, [N].

    Args:
        reference: A function that returns a context in which the model has the reference's weights.
        model, input_ids_BT, targets_BT, keep_BT: See Score; the targets do not matter.
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
        score: What to compute.
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
