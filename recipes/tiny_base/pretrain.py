"""Supervised training of a tiny model from random weights, on a stream of examples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from didact.rendering.renderer import Renderer
from didact.types import Message

Draw: TypeAlias = Callable[[int, int, int], Iterable[tuple[Sequence[Message], str]]]
"""(seed, start, stop) → examples `start` to `stop` of an endless stream: messages and the answer."""


@dataclass(frozen=True)
class Schedule:
    """Number of steps and learning rates."""

    steps: int = 900
    decay_steps: int = 1500
    """Length of the cosine schedule; `steps` cuts it off while the rate is still high. A base that trained
    on became so certain of ending an answer after four letters that nothing learned from critiques could
    lengthen it."""
    batch: int = 64
    micro_batches: int = 3
    """Sorted by length, for little padding."""
    lr: float = 4e-3
    """Peak rate of AdamW, for embeddings and norms."""
    matrix_lr: float = 0.02
    """Peak rate of Muon, for all other matrices."""
    warmup: int = 50
    clip: float = 1.0


def new_model(tokenizer: Any, seed: int, *, width: int = 96, layers: int = 4, heads: int = 4) -> Any:
    """A Qwen3-shaped model with random weights; QK-norm keeps so high a learning rate stable."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, head_dim=width // heads, intermediate_size=3 * width,
        max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.05,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    model.generation_config.update(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    return model


def train(
    model: Any, renderer: Renderer, draw: Draw, schedule: Schedule, seed: int, *,
    log: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Cross-entropy on the answers' tokens, mean over the tokens of a batch."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embed" in n]
    optimizers = [
        Muon(matrices, lr=schedule.matrix_lr),
        torch.optim.AdamW(others, lr=schedule.lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0),
    ]
    model.train()
    started, running = time.monotonic(), 0.0
    for step in range(schedule.steps):
        for optimizer, peak in zip(optimizers, (schedule.matrix_lr, schedule.lr), strict=True):
            optimizer.param_groups[0]["lr"] = peak * _pace(step, schedule)
        drawn = draw(seed, step * schedule.batch, (step + 1) * schedule.batch)
        loss = _accumulate(model, _encode(drawn, renderer), schedule.micro_batches)
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        running = loss if step == 0 else 0.98 * running + 0.02 * loss
        if (step + 1) % 100 == 0:
            log(f"step {step + 1}/{schedule.steps}  loss {running:.3f}  {time.monotonic() - started:.0f} s")
    model.eval()


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a matrix is orthogonalised (Jordan et al. 2024), in float32.

    It needs about half the steps of AdamW here. torch's own Muon iterates in bfloat16, which a CPU
    without bfloat16 units emulates slowly.
    """

    def __init__(self, matrices: Sequence[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        shapes: dict[tuple[int, int], list[Tensor]] = {}
        for matrix in group["params"]:
            shapes.setdefault(tuple(matrix.shape), []).append(matrix)
        for (rows, columns), matrices in shapes.items():
            updates = []
            for matrix in matrices:
                assert matrix.grad is not None
                velocity = self.state[matrix].setdefault("velocity", torch.zeros_like(matrix))
                velocity.lerp_(matrix.grad, 1 - group["momentum"])
                updates.append(torch.lerp(matrix.grad, velocity, group["momentum"]))
            scale = group["lr"] * max(1.0, rows / columns) ** 0.5
            for matrix, update in zip(matrices, _orthogonal(torch.stack(updates)), strict=True):
                matrix.add_(update, alpha=-scale)


def _orthogonal(grad_MRC: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, by a quintic Newton-Schulz iteration."""
    tall = grad_MRC.shape[1] > grad_MRC.shape[2]
    x: Tensor = grad_MRC.mT if tall else grad_MRC
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        xx = x @ x.mT
        x = 3.4445 * x + (-4.7750 * xx + 2.0315 * xx @ xx) @ x
    return x.mT if tall else x


def _pace(step: int, schedule: Schedule) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(1, schedule.decay_steps - schedule.warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def _encode(
    drawn: Iterable[tuple[Sequence[Message], str]], renderer: Renderer
) -> list[tuple[list[int], int]]:
    """(ids, length of the prompt) of each example, shortest first."""
    encoded = []
    for messages, answer in drawn:
        prompt = renderer.prompt(messages)
        encoded.append(([*prompt, *renderer.answer(answer)], len(prompt)))
    return sorted(encoded, key=lambda e: len(e[0]))


def _accumulate(model: Any, encoded: Sequence[tuple[list[int], int]], parts: int) -> float:
    """Add the gradients of a batch; returns its mean loss per answer token."""
    total = sum(len(ids) - prompt for ids, prompt in encoded)
    size, summed = math.ceil(len(encoded) / parts), 0.0
    for first in range(0, len(encoded), size):
        ids_BT, mask_BT = _pad(encoded[first : first + size], model.config.pad_token_id)
        # Padding stands to the right of everything that a causal model reads here: no mask is needed.
        hidden_BTD = model.model(input_ids=ids_BT[:, :-1]).last_hidden_state
        logits_NV = model.lm_head(hidden_BTD[mask_BT[:, 1:]])
        targets_N = ids_BT[:, 1:][mask_BT[:, 1:]]
        loss = torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="sum") / total
        loss.backward()  # type: ignore[no-untyped-call]
        summed += loss.item()
    return summed


def _pad(encoded: Sequence[tuple[list[int], int]], pad: int) -> tuple[Tensor, Tensor]:
    """ids_BT, right-padded, and a mask of the answers' tokens."""
    width = max(len(ids) for ids, _ in encoded)
    ids_BT = torch.full((len(encoded), width), pad)
    mask_BT = torch.zeros(len(encoded), width, dtype=torch.bool)
    for row, (ids, prompt) in enumerate(encoded):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        mask_BT[row, prompt : len(ids)] = True
    return ids_BT, mask_BT
