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

from didact.engines.base import POLICY, REFERENCE, Weights
from didact.engines.local import weights as weight_sets
from didact.engines.local.value_head import ValueHead, parameter_groups
from didact.engines.local.weights import Tensors, copy_of
from didact.errors import UsageError


class Snapshots:
    """The copies that one engine holds.

    Args:
        trained: The engine's trained tensors by name.
        keep_reference: Copy them as REFERENCE now.

    Attributes:
        named: The named snapshots.
    """

    def __init__(self, trained: Mapping[str, Tensor], *, keep_reference: bool) -> None:
        self._trained = trained
        self._unnamed: dict[str, Tensors] = {}
        self._numbers = itertools.count()
        self.named: dict[str, Tensors] = {}
        if keep_reference:
            self._unnamed[REFERENCE.name] = copy_of(trained)

    def find(self, weights: Weights) -> Tensors | None:
        """The tensors of a copy; None where there is none of this name."""
        return self._unnamed.get(weights.name) or self.named.get(weights.name)

    def take(self, name: str | None) -> Weights:
        """Copy the trained weights; see `Engine.snapshot`."""
        if name is not None:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in (POLICY.name, REFERENCE.name):
                raise UsageError(
                    f"snapshot name {name!r}: use letters, digits, - and _, and neither {POLICY.name} nor "
                    f"{REFERENCE.name}"
                )
            self.named[name] = copy_of(self._trained)
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
        del self.named[name]

    def _get(self, name: str) -> Tensors:
        if name not in self.named:
            raise UsageError(
                f"no snapshot is named {name!r} (there are {sorted(self.named)}): make it with "
                f"engine.snapshot({name!r})"
            )
        return self.named[name]


class TrainState:
    """The trained tensors of an engine with their optimizer and snapshots.

    Args:
        trained: The tensors by name.
        head: The value head among them, which has a learning rate of its own.
        keep_reference: Copy the weights as REFERENCE now.
    """

    def __init__(
        self, trained: Mapping[str, Tensor], head: ValueHead | None, *, keep_reference: bool
    ) -> None:
        self._trained, self._head = trained, head
        self._optimizer: torch.optim.AdamW | None = None
        self.snapshots = Snapshots(trained, keep_reference=keep_reference)

    def adamw(self) -> torch.optim.AdamW:
        """The optimizer, made at the first call."""
        if self._optimizer is None:
            groups = parameter_groups(self._trained, self._head)
            device = next(iter(self._trained.values())).device
            self._optimizer = torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda"))
        return self._optimizer

    def clear_gradient(self) -> None:
        """Set every gradient to None."""
        for p in self._trained.values():
            p.grad = None

    def collect(self, *, keep: bool = True) -> weight_sets.Checkpoint:
        """Everything that a checkpoint holds; see `weights.collect`."""
        return weight_sets.collect(self._trained, self._optimizer, self.snapshots.named, keep=keep)

    def restore(self, checkpoint: weight_sets.Checkpoint) -> None:
        """Set weights, optimizer and named snapshots to those of a checkpoint, and clear the gradient."""
        weight_sets.put(weight_sets.part_of(checkpoint, weight_sets.WEIGHTS)[""], self._trained)
        self.clear_gradient()
        self._optimizer = None
        for kind, tensors in weight_sets.part_of(checkpoint, weight_sets.OPTIMIZER).items():
            for name, value in tensors.items():
                p = self._trained[name]
                self.adamw().state[p][kind] = value.to(p.device)
        snapshots = weight_sets.part_of(checkpoint, weight_sets.SNAPSHOTS)
        self.snapshots.named = {
            name: {n: t.to(self._trained[n].device) for n, t in tensors.items()}
            for name, tensors in snapshots.items()
        }
