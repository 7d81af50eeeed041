"""What the output layer reads and gives at the positions that count.

Shapes: B rows, T tokens, N kept positions of all rows, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


def masked_logits(model: Any, input_ids_BT: Tensor, keep_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and last hidden states at the kept positions: [N, V] in float32, and [N, H].

    Only kept positions go through the output layer, which for a real vocabulary is most of the
    memory.
    """
    with _output_layer_at(model, keep_BT) as entered:
        logits_NV: Tensor = model(input_ids=input_ids_BT, use_cache=False).logits.float()
    return logits_NV, entered[-1]


@contextmanager
def _output_layer_at(model: Any, keep_BT: Tensor) -> Iterator[list[Tensor]]:
    """Let only the kept positions into the output layer, so that logits are [N, V]; yields what went in.

    A hook, because it leaves whatever a model does to its logits (caps, scales) in place and because
    `logits_to_keep` takes such a mask only from transformers 5.21 on.
    """
    entered: list[Tensor] = []

    def select(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entered.append(inputs[0][keep_BT])
        return (entered[-1],)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield entered
    finally:
        hook.remove()
