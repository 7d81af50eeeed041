"""The value head: a linear map from the hidden state that the LM head reads to a scalar.

It is a module beside the model, so that the saved model is a plain transformers model. Its tensors are
trained tensors like any other, so checkpoints, hashes and snapshots include it.

Shapes: N kept positions, hidden size H.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from didact.engines.base import ValueHeadSettings
from didact.engines.local.scoring import masked_logits

PREFIX = "value_head."
"""Prefix of its tensors' names."""


class ValueHead(torch.nn.Module):
    """V_N = h_NH · w_H + b, in float32; w and b start at 0.

    Args:
        model: A transformers causal language model.
        settings: Its learning rate, and whether its loss trains the model.
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
