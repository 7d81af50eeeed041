"""The value head: one number a position, on top of the hidden state that the output layer reads.

It lies beside the model, not in it, so that the saved model is a plain transformers model; its tensors are
trained tensors like any other, so that checkpoints, hashes and snapshots hold it.

Shapes: N kept positions, hidden size H.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from didact.engines.base import ValueHeadSettings
from didact.engines.local.lm_head import masked_logits

PREFIX = "value_head."
"""Its tensors' names begin so."""


class ValueHead(torch.nn.Module):
    """V_N = h_NH · w_H + b, in float32. It starts at 0, so that at first nothing is taken from a return.

    Args:
        model: A transformers causal language model.
        settings: How it is trained.
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

    def at(self, model: Any, input_ids_BT: Tensor, targets_BT: Tensor, keep_BT: Tensor) -> Tensor:
        """V at the kept positions of right-padded rows, [N]; the targets do not matter."""
        _, hidden_NH = masked_logits(model, input_ids_BT, keep_BT)
        return self(hidden_NH)  # type: ignore[no-any-return]

    def tensors(self) -> dict[str, torch.nn.Parameter]:
        """Its tensors by the names that they have in a checkpoint."""
        return {PREFIX + name: p for name, p in self.named_parameters()}


def parameter_groups(trained: Mapping[str, torch.Tensor], head: ValueHead | None) -> list[dict[str, Any]]:
    """Trained tensors for an optimizer, each group with its `lr_scale`: the model's, then the head's."""
    of_head = {} if head is None else head.tensors()
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trained.items() if name not in of_head], "lr_scale": 1.0}
    ]
    if head is not None:
        groups.append({"params": list(of_head.values()), "lr_scale": head.settings.lr_scale})
    return groups
