"""The value head, and gradients of losses of target log-probs, accumulated over micro-batches.

Shapes: B rows, T tokens, K soft targets a token, N kept tokens of all rows, V vocabulary, H hidden size.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from didact.engines.base import Loss, LossFn, StepOutput, ValueHeadSettings
from didact.engines.local.scoring import MicroBatch, entropy_of, logprobs_of, masked_logits
from didact.errors import NonFiniteError, UsageError, did_you_mean
from didact.losses import BUILTIN, LossOutput, with_entropy

Gradients: TypeAlias = Sequence[Tensor | None]
"""One for each trained tensor; None is 0."""
PREFIX = "value_head."
"""Prefix of the names of a value head's tensors."""


class ValueHead(torch.nn.Module):
    """V_N = h_NH · w_H + b, in float32, of the hidden states that the LM head reads; w and b start at 0.

    It is a module beside the model, so that the saved model is a plain transformers model. Its tensors are
    trained tensors like any other, so checkpoints, hashes and snapshots include it.
    """

    def __init__(self, model: Any, settings: ValueHeadSettings) -> None:
        super().__init__()
        size: int = model.get_output_embeddings().weight.shape[1]
        self.settings = settings
        self.weight = torch.nn.Parameter(torch.zeros(size))
        self.bias = torch.nn.Parameter(torch.zeros(()))

    def forward(self, hidden_NH: Tensor) -> Tensor:
        """V of hidden states, [N]."""
        if not self.settings.shares_model:
            hidden_NH = hidden_NH.detach()
        with torch.autocast(hidden_NH.device.type, enabled=False):
            values_N: Tensor = hidden_NH.float() @ self.weight + self.bias
        return values_N

    def score(
        self, model: Any, input_ids_BT: Tensor, targets_BT: Tensor, keep_BT: Tensor
    ) -> tuple[Tensor, ...]:
        """V at the kept positions of right-padded rows, [N]; the targets do not matter."""
        _, hidden_NH = masked_logits(model, input_ids_BT, keep_BT)
        return (self(hidden_NH),)

    def tensors(self) -> dict[str, torch.nn.Parameter]:
        """Its tensors by their names in a checkpoint."""
        return {PREFIX + name: p for name, p in self.named_parameters()}


def resolve_loss(loss: Loss, fields: Iterable[str]) -> LossFn:
    """The function of a loss, checked against the rows' fields and the settings.

    Raises:
        UsageError: an unknown name, or a missing or surplus field or setting.
    """
    fn: LossFn | None = loss.fn or BUILTIN.get(loss.name)
    if fn is None:
        raise UsageError(
            f"unknown loss {loss.name!r}: {did_you_mean(loss.name, BUILTIN)}; or give a function as `fn`"
        )
    keywords = {f"{name}_BT": None for name in fields} | dict(loss.settings)
    if takes_values(fn):
        keywords["values_BT"] = None
    try:
        inspect.signature(fn).bind(None, **keywords)
    except TypeError as error:
        raise UsageError(
            f"loss {loss.name!r} cannot be called with these rows and settings: {error}. Rows carry "
            f"the fields {sorted(fields)}, settings are {sorted(loss.settings)}; add what is missing "
            "to the rows (a field x arrives as x_BT) or leave out what the loss does not take"
        ) from error
    return fn


def takes_values(fn: LossFn) -> bool:
    """Whether a loss reads the value head."""
    return "values_BT" in inspect.signature(fn).parameters


def loss_output(
    fn: LossFn, logprobs_BT: Tensor, fields_BT: Mapping[str, Tensor], settings: Mapping[str, float]
) -> LossOutput:
    """Call a loss: a field x is its keyword x_BT.

    Raises:
        UsageError: it returns something other than a LossOutput.
    """
    output = fn(logprobs_BT, **{f"{name}_BT": field for name, field in fields_BT.items()}, **settings)
    if not isinstance(output, LossOutput):
        raise UsageError(
            f"the loss function returned a {type(output).__name__}: "
            "return didact.losses.LossOutput(loss, metrics)"
        )
    return output


def accumulate_gradient(
    model: Any,
    batches: Iterable[MicroBatch],
    fn: LossFn,
    loss: Loss,
    autocast: Any,
    head: ValueHead | None = None,
    *,
    lockstep: bool = False,
) -> StepOutput:
    """Add the gradient of the summed loss to `.grad`, micro-batch by micro-batch.

    Args:
        batches: Rows with at least one token of nonzero weight.
        fn: The function of `loss`. Where a row's weight is 0, its log-probs are 0 and carry no gradient.
        autocast: A function that returns the context to run the model's forward in.
        head: Gives `fn` its values_BT; needed where it takes them.
        lockstep: Run all batches before raising: each is a collective with other ranks.

    Raises:
        NonFiniteError: a loss is NaN or Inf. `.grad` may hold part of the gradient by then.
    """
    total, metrics, values = 0.0, Counter[str](), takes_values(fn)
    failed: NonFiniteError | None = None
    for batch in batches:
        keep_BT = batch.fields_BT["weights"] != 0
        with autocast():
            logits_NV, hidden_N = masked_logits(model, batch.input_ids_BT, keep_BT)
            kept_N = logprobs_of(logits_NV, batch.targets_BT[keep_BT])
        logprobs_BT = kept_N.new_zeros(batch.targets_BT.shape)
        logprobs_BT[keep_BT] = kept_N
        fields = batch.fields_BT
        if values:
            assert head is not None, "the engine refuses such a loss without a value head"
            values_BT = torch.zeros_like(fields["weights"])
            values_BT[keep_BT] = head(hidden_N)
            fields = {**fields, "values": values_BT}
        output = loss_output(fn, logprobs_BT, fields, loss.settings)
        if loss.entropy_coef:
            weights_N = fields["weights"][keep_BT]
            output = with_entropy(output, entropy_of(logits_NV), weights_N, loss.entropy_coef)
        if not batch.rows:  # a padding batch
            torch.autograd.backward(output.loss * 0)
            continue
        value = float(output.loss.detach())
        if not math.isfinite(value):
            failed = failed or NonFiniteError(
                f"the loss is {value} on a batch of rows {sorted(batch.rows)[:8]}…: nothing was added to "
                "the gradient. Look at the rows' weights, advantages and old_logprobs"
            )
            if not lockstep:
                break
        torch.autograd.backward(output.loss)
        total += value
        metrics.update(output.metrics)
    if failed:
        raise failed
    return StepOutput(total, dict(metrics))


def dot_product(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The sum of the dot products of pairs of tensors."""
    dots = torch.stack([torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in pairs])
    return math.fsum(dots.tolist())


def compared_gradients(
    added: Gradients,
    before: Gradients,
    norm: Callable[[list[Tensor]], Tensor] = get_total_norm,
    dot: Callable[[list[tuple[Tensor, Tensor]]], float] = dot_product,
) -> dict[str, float]:
    """The norm of a gradient, and its cosine with the one that it will be added to.

    Changes neither, and allocates a few numbers for each tensor.

    Args:
        norm, dot: Of gradients and of pairs of them; sharded ones need others.

    Returns:
        `grad_norm`, and `cosine` in [−1, 1] where neither is 0; nothing where there is no gradient.
    """
    grads = [g for g in added if g is not None]
    if not grads:
        return {}
    stats = {"grad_norm": float(norm(grads))}
    pairs = [(a, b) for a, b in zip(added, before, strict=True) if a is not None and b is not None]
    if pairs:
        product = stats["grad_norm"] * float(norm([b for b in before if b is not None]))
        if 0 < product < math.inf:
            stats["cosine"] = max(-1.0, min(1.0, dot(pairs) / product))
    return stats
