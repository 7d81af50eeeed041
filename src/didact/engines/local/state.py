"""What training changes: weights, gradient, optimizer state and copies of the weights.

Named snapshots are part of a checkpoint. They hold a frozen teacher, or a moving average of the weights.
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Mapping

import torch
from torch import Tensor

from didact.engines.base import POLICY, REFERENCE, AdamParams, Weights
from didact.engines.local.value_head import ValueHead
from didact.engines.local.weights import (
    OPTIMIZER,
    SNAPSHOTS,
    WEIGHTS,
    Checkpoint,
    Key,
    Tensors,
    copy_of,
    full_tensor,
    is_sharded,
    part_of,
    put,
)
from didact.errors import UsageError


class TrainState:
    """The trained tensors of an engine with their optimizer and snapshots.

    Args:
        trained: The tensors by name.
        head: The value head among them, which has a learning rate of its own.
        keep_reference: Copy the weights as REFERENCE now.

    Attributes:
        snapshots: The named snapshots.
    """

    def __init__(
        self, trained: Mapping[str, Tensor], head: ValueHead | None, *, keep_reference: bool
    ) -> None:
        self._trained, self._head = trained, head
        self._optimizer: torch.optim.AdamW | None = None
        self._unnamed: dict[str, Tensors] = {}
        self._numbers = itertools.count()
        self.snapshots: dict[str, Tensors] = {}
        if keep_reference:
            self._unnamed[REFERENCE.name] = copy_of(trained)

    def _adamw(self) -> torch.optim.AdamW:
        """The optimizer, made at the first call; the value head's tensors are a group of their own."""
        if self._optimizer is None:
            of_head = {} if self._head is None else self._head.tensors()
            of_model = [p for name, p in self._trained.items() if name not in of_head]
            groups = [{"params": of_model, "lr_scale": 1.0}]
            if self._head is not None:
                groups.append({"params": list(of_head.values()), "lr_scale": self._head.settings.lr_scale})
            device = next(iter(self._trained.values())).device
            self._optimizer = torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda"))
        return self._optimizer

    def step(self, params: AdamParams) -> None:
        """Take one AdamW step, and clear the gradient."""
        optimizer = self._adamw()
        for group in optimizer.param_groups:
            group["lr"] = params.lr * group["lr_scale"]
            group["betas"] = params.beta1, params.beta2
            group["eps"], group["weight_decay"] = params.eps, params.weight_decay
        optimizer.step()
        self.clear_gradient()

    def clear_gradient(self) -> None:
        """Set every gradient to None."""
        for p in self._trained.values():
            p.grad = None

    def find(self, weights: Weights) -> Tensors | None:
        """The tensors of a copy; None where there is none of this name."""
        return self._unnamed.get(weights.name) or self.snapshots.get(weights.name)

    def take(self, name: str | None) -> Weights:
        """Copy the trained weights; see `Engine.snapshot`."""
        if name is not None:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in (POLICY.name, REFERENCE.name):
                raise UsageError(
                    f"snapshot name {name!r}: use letters, digits, - and _, and neither {POLICY.name} nor "
                    f"{REFERENCE.name}"
                )
            self.snapshots[name] = copy_of(self._trained)
            return Weights(name)
        handle = Weights(f"#{next(self._numbers)}")
        self._unnamed[handle.name] = copy_of(self._trained)
        weakref.finalize(handle, self._unnamed.pop, handle.name, None)
        return handle

    def update(self, name: str, decay: float) -> None:
        """s ← decay · s + (1 − decay) · w; see `Engine.update_snapshot`."""
        if not 0 <= decay <= 1:
            raise UsageError(f"decay must lie in [0, 1], not {decay}")
        with torch.no_grad():
            for parameter, s in self._get(name).items():
                s.mul_(decay).add_(self._trained[parameter].detach(), alpha=1 - decay)

    def drop(self, name: str) -> None:
        """Delete a named snapshot."""
        self._get(name)
        del self.snapshots[name]

    def _get(self, name: str) -> Tensors:
        if name not in self.snapshots:
            raise UsageError(
                f"no snapshot is named {name!r} (there are {sorted(self.snapshots)}): make it with "
                f"engine.snapshot({name!r})"
            )
        return self.snapshots[name]

    def collect(self, *, keep: bool = True) -> Checkpoint:
        """Copies of everything that a checkpoint holds, sharded tensors whole and on the CPU.

        Args:
            keep: False to take part in gathering sharded tensors only; the result is empty.
        """
        named = {Key(WEIGHTS, "", name): p for name, p in self._trained.items()}
        for name, p in self._trained.items():
            state = {} if self._optimizer is None else self._optimizer.state.get(p, {})
            named |= {Key(OPTIMIZER, kind, name): value for kind, value in state.items()}
        for snapshot, tensors in self.snapshots.items():
            named |= {Key(SNAPSHOTS, snapshot, name): tensor for name, tensor in tensors.items()}
        found: Checkpoint = {}
        for key, tensor in named.items():
            full = full_tensor(tensor.detach())
            if keep:
                found[key] = full.cpu() if is_sharded(tensor) else full.clone()
        return found

    def restore(self, checkpoint: Checkpoint) -> None:
        """Set weights, optimizer and named snapshots to those of a checkpoint, and clear the gradient."""
        put(part_of(checkpoint, WEIGHTS)[""], self._trained)
        self.clear_gradient()
        self._optimizer = None
        for kind, tensors in part_of(checkpoint, OPTIMIZER).items():
            for name, value in tensors.items():
                p = self._trained[name]
                self._adamw().state[p][kind] = value.to(p.device)
        self.snapshots = {
            name: {n: t.to(self._trained[n].device) for n, t in tensors.items()}
            for name, tensors in part_of(checkpoint, SNAPSHOTS).items()
        }
