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

from didact.engines.base import Loss, StepOutput
from didact.engines.local.batching import micro_batches
from didact.engines.local.training import resolve_loss, takes_values
from didact.engines.tinker.protocol import Datum, Floats
from didact.errors import CapabilityError, NonFiniteError, UsageError
from didact.losses import LossOutput
from didact.types import Row


class LossRequest(NamedTuple):
    """The arguments of a server's forward_backward."""

    data: list[Datum]
    loss: str
    settings: Mapping[str, float]


class LossGradient(NamedTuple):
    """A loss and its gradient at given log-probs."""

    output: StepOutput
    gradients: list[Floats]
    """∂L/∂log π of each row's targets, [T] or [T, K]."""


def differentiate(
    rows: Sequence[Row], logprobs: Sequence[Floats], loss: Loss, *, sent: bool = False
) -> LossGradient:
    """Value, metrics and gradient of a loss; the gradient is 0 where a row's weight is 0.

    Args:
        rows: At least one, each with a nonzero weight.
        logprobs: log π of their targets, [T] or [T, K] each.
        loss: The loss.
        sent: The server has accumulated the gradient already, which the error then mentions.

    Raises:
        UsageError: the loss does not accept these rows.
        NonFiniteError: the loss or its gradient is NaN or Inf.
    """
    fn = resolve_loss(loss, rows[0].fields)
    if takes_values(fn):
        raise no_value_head()
    [batch] = micro_batches(rows, sum(map(len, rows)) * len(rows), torch.device("cpu"))
    keep_BT = batch.fields_BT["weights"] != 0
    at_BT = torch.zeros(batch.targets_BT.shape)
    for b, row in enumerate(batch.rows):
        at_BT[b, : len(rows[row])] = torch.from_numpy(np.asarray(logprobs[row], np.float32))
    at_BT = torch.where(keep_BT.reshape(*keep_BT.shape, *[1] * (at_BT.ndim - 2)), at_BT, 0.0)
    at_BT.requires_grad_(True)
    fields = {f"{name}_BT": value for name, value in batch.fields_BT.items()}
    output = fn(at_BT, **fields, **loss.settings)
    if not isinstance(output, LossOutput):
        raise UsageError(
            f"the loss function returned a {type(output).__name__}: "
            "return didact.losses.LossOutput(loss, metrics)"
        )
    value = float(output.loss.detach())
    [gradient_BT] = torch.autograd.grad(output.loss, [at_BT], allow_unused=True)
    gradient = np.zeros(at_BT.shape, np.float32) if gradient_BT is None else gradient_BT.numpy()
    if not (math.isfinite(value) and np.isfinite(gradient).all()):
        where = "the server has accumulated it: load the last checkpoint" if sent else "nothing was sent"
        raise NonFiniteError(
            f"the loss is {value} on {len(rows)} rows, or its gradient is not finite; {where}. Look at the "
            "rows' weights, advantages and old_logprobs"
        )
    kept = np.where(keep_BT.numpy().reshape(*keep_BT.shape, *[1] * (gradient.ndim - 2)), gradient, 0)
    ordered: list[Floats] = [np.zeros(0, np.float32)] * len(rows)
    for b, row in enumerate(batch.rows):
        ordered[row] = kept[b, : len(rows[row])].astype(np.float32)
    return LossGradient(StepOutput(value, dict(output.metrics)), ordered)


def scoring_datum(row: Row) -> Datum:
    """A row for a forward pass that scores its targets."""
    return _datum(row, weights=np.ones(row.target_ids.shape, np.float32))


def named_loss(rows: Sequence[Row], loss: Loss) -> LossRequest | None:
    """The loss by its name on servers; None if they have no equal formula.

    Servers' policy losses have no weights, so the weights multiply the advantages A. All but ppo are
    linear in A; its minimum commutes with positive factors only.
    """
    if loss.fn is not None or any("ref_logprobs" in row.fields for row in rows):
        return None
    if loss.name in ("cross_entropy", "policy_gradient"):
        # −Σ w A log π is cross-entropy with weights w A of either sign.
        return LossRequest([_datum(row, weights=_weights(row, loss)) for row in rows], "cross_entropy", {})
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
        data.append(_datum(row, advantages=weights * row.fields["advantages"], logprobs=old))
    return LossRequest(data, loss.name, clip)


def linear_loss(
    rows: Sequence[Row], gradients: Sequence[Floats], logprobs: Sequence[Floats], *, rows_of_step: int | None
) -> LossRequest:
    """A loss with the given gradient at the given log-probs.

    Args:
        rows: The rows.
        gradients: ∂L/∂log π, [T] or [T, K] each.
        logprobs: log π of the targets from the server's forward pass.
        rows_of_step: N, for a server that averages; None for one that sums.
    """
    if rows_of_step is None:
        data = [_datum(row, weights=-g) for row, g in zip(rows, gradients, strict=True)]
        return LossRequest(data, "cross_entropy", {})
    data = [
        _datum(row, advantages=-g * np.float32(len(row) * rows_of_step), logprobs=at)
        for row, g, at in zip(rows, gradients, logprobs, strict=True)
    ]
    return LossRequest(data, "importance_sampling", {})


def no_value_head() -> CapabilityError:
    """The error for methods that need a value head."""
    return CapabilityError(
        "engine: tinker has no value head, which credit `gae` and method `ppo` need: take "
        "settings.credit=critic_free, whose baseline is the mean of a group, or engine: local"
    )


def _weights(row: Row, loss: Loss) -> Floats:
    weights = row.fields["weights"]
    if loss.name == "policy_gradient":
        return weights * row.fields["advantages"]
    if row.target_ids.ndim == 2:
        return weights[:, None] * row.fields["target_probs"]
    return weights


def _datum(row: Row, **inputs: NDArray[Any]) -> Datum:
    columns = {name: np.asarray(value, np.float32) for name, value in inputs.items()}
    return Datum(row.input_ids, {"target_tokens": np.asarray(row.target_ids, np.int64), **columns})
