"""Losses as server requests with exactly the same gradient.

A loss of `losses.py` that servers have is sent by its name there (`named_loss`). Any other function of target
log-probs is differentiated here, at the log-probs of a forward pass, and its gradient g = ∂L/∂log π is sent
as a loss with that gradient (`linear_loss`):

    sum                 cross_entropy with weights −g                     −Σ (−g) log π
    mean of row means   importance_sampling, advantages −g·T·N, ratio 1   −Σ_rows (1/N)(1/T) Σ ρ (−g·T·N)

The second form is for servers that divide a row's loss by the sum of its weights (here T ones, so the divisor
does not depend on g) and the total by the N rows of the step.

Shapes: B rows, T tokens of the longest row, K soft targets per token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from didact.engines.base import Loss, LossFn, StepOutput
from didact.engines.local.scoring import micro_batches
from didact.engines.local.training import loss_output
from didact.engines.tinker.wire import Datum, Floats
from didact.errors import CapabilityError, NonFiniteError
from didact.types import Row


class LossRequest(NamedTuple):
    """The arguments of a server's forward_backward."""

    data: list[Datum]
    loss: str
    settings: Mapping[str, float]


def differentiate(
    rows: Sequence[Row],
    logprobs: Sequence[Floats],
    fn: LossFn,
    settings: Mapping[str, float],
    *,
    sent: bool = False,
) -> tuple[StepOutput, list[Floats]]:
    """Value and metrics of a loss, and its gradient ∂L/∂log π for each row's targets, [T] or [T, K] each.

    Args:
        rows: At least one, each with a nonzero weight; where a weight is 0, the gradient is 0.
        logprobs: log π of their targets, [T] or [T, K] each.
        sent: The server has accumulated the gradient already, which the error then mentions.

    Raises:
        NonFiniteError: the loss or its gradient is NaN or Inf.
    """
    [batch] = micro_batches(rows, sum(map(len, rows)) * len(rows), torch.device("cpu"))
    keep_BT = batch.fields_BT["weights"] != 0
    keep = keep_BT if batch.targets_BT.ndim == 2 else keep_BT[:, :, None]
    at_BT = torch.zeros(batch.targets_BT.shape)
    for b, row in enumerate(batch.rows):
        at_BT[b, : len(rows[row])] = torch.from_numpy(np.asarray(logprobs[row], np.float32))
    at_BT = torch.where(keep, at_BT, 0.0).requires_grad_(True)
    output = loss_output(fn, at_BT, batch.fields_BT, settings)
    value = float(output.loss.detach())
    [gradient_BT] = torch.autograd.grad(output.loss, [at_BT], materialize_grads=True)
    if not (math.isfinite(value) and gradient_BT.isfinite().all()):
        where = "the server has accumulated it: load the last checkpoint" if sent else "nothing was sent"
        raise NonFiniteError(
            f"the loss is {value} on {len(rows)} rows, or its gradient is not finite; {where}. Look at the "
            "rows' weights, advantages and old_logprobs"
        )
    kept_BT = torch.where(keep, gradient_BT, 0.0).numpy()
    gradients = {row: kept_BT[b, : len(rows[row])] for b, row in enumerate(batch.rows)}
    return StepOutput(value, dict(output.metrics)), [gradients[i] for i in range(len(rows))]


def check_targets(rows: Sequence[Row], able: int, *, server: str) -> None:
    """Raise a CapabilityError for rows with more than `able` soft targets a token."""
    for row in rows:
        if row.target_ids.ndim == 2 and row.target_ids.shape[1] > able:
            raise CapabilityError(
                f"rows have {row.target_ids.shape[1]} soft targets a token, and {server} takes "
                f"{able or 'none'}: take a method with hard targets, or engine: local"
            )


def scoring_datum(row: Row) -> Datum:
    """A row for a forward pass that scores its targets."""
    return row_datum(row, weights=np.ones(row.target_ids.shape, np.float32))


def named_loss(rows: Sequence[Row], loss: Loss) -> LossRequest | None:
    """The loss by its name on servers; None if they have no equal formula.

    Servers' policy losses have no weights, so the weights multiply the advantages A. All but ppo are
    linear in A; its minimum commutes with positive factors only.
    """
    if loss.fn is not None or any("ref_logprobs" in row.fields for row in rows):
        return None
    if loss.name in ("cross_entropy", "policy_gradient"):
        # −Σ w A log π is cross-entropy with weights w A of either sign.
        return LossRequest([row_datum(row, weights=_weights(row, loss)) for row in rows], "cross_entropy", {})
    if loss.name not in ("importance_sampling", "ppo", "cispo"):
        return None
    if loss.name == "ppo" and any((row.fields["weights"] < 0).any() for row in rows):
        return None
    clip: dict[str, float] = {}
    if loss.name != "importance_sampling":
        clip = {
            "clip_low_threshold": 1 - loss.settings.get("clip_low", 0.2),
            "clip_high_threshold": 1 + loss.settings.get("clip_high", 0.2),
        }
    data = []
    for row in rows:
        weights = row.fields["weights"]
        old = np.where(weights != 0, row.fields["old_logprobs"], 0).astype(np.float32)
        data.append(row_datum(row, advantages=weights * row.fields["advantages"], logprobs=old))
    return LossRequest(data, loss.name, clip)


def linear_loss(
    rows: Sequence[Row], gradients: Sequence[Floats], logprobs: Sequence[Floats], rows_of_step: int | None
) -> LossRequest:
    """A loss with the given gradients at the given log-probs, [T] or [T, K] each.

    `rows_of_step` is N, for a server that averages; None for one that sums.
    """
    if rows_of_step is None:
        data = [row_datum(row, weights=-g) for row, g in zip(rows, gradients, strict=True)]
        return LossRequest(data, "cross_entropy", {})
    data = [
        row_datum(row, advantages=-g * np.float32(len(row) * rows_of_step), logprobs=at)
        for row, g, at in zip(rows, gradients, logprobs, strict=True)
    ]
    return LossRequest(data, "importance_sampling", {})


def _weights(row: Row, loss: Loss) -> Floats:
    weights = row.fields["weights"]
    if loss.name == "policy_gradient":
        return weights * row.fields["advantages"]
    if row.target_ids.ndim == 2:
        return weights[:, None] * row.fields["target_probs"]
    return weights


def row_datum(row: Row, **inputs: NDArray[Any]) -> Datum:
    """A row with inputs of a server's loss, in float32."""
    columns = {name: np.asarray(value, np.float32) for name, value in inputs.items()}
    return Datum(row.input_ids, {"target_tokens": np.asarray(row.target_ids, np.int64), **columns})
