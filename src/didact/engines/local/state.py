"""What training changes: weights, gradient, optimizer state and copies of the weights, and their checkpoints.

Named snapshots are part of a checkpoint. They hold a frozen teacher, or a moving average of the weights.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from didact.engines.base import POLICY, REFERENCE, AdamParams, Weights
from didact.engines.local.training import ValueHead
from didact.errors import CheckpointError, UsageError

FORMAT = 2
PARTS = WEIGHTS, OPTIMIZER, SNAPSHOTS = "weights", "optimizer", "snapshots"
"""The parts of a checkpoint, each in a safetensors file of this name."""
_META = "engine.json"
Tensors: TypeAlias = dict[str, Tensor]
Checkpoint: TypeAlias = dict[str, Tensors]
"""The tensors of each part by the parameter's name; in optimizer and snapshots the kind of state, or the
snapshot's name, and a dot come before it."""


class TrainState:
    """The part of an engine that holds its trained tensors, with their optimizer and snapshots.

    Args:
        head: The value head among them, which has a learning rate of its own.
        keep_reference: Copy the weights as REFERENCE now.
    """

    def __init__(
        self, trained: Mapping[str, Tensor], head: ValueHead | None, *, keep_reference: bool
    ) -> None:
        self._trained, self._head = trained, head
        self._optimizer: torch.optim.AdamW | None = None
        self._unnamed: dict[str, Tensors] = {}
        self._numbers = itertools.count()
        self._snapshots: dict[str, Tensors] = {}
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

    def _step(self, params: AdamParams) -> None:
        """Take one AdamW step, and clear the gradient."""
        optimizer = self._adamw()
        for group in optimizer.param_groups:
            group["lr"] = params.lr * group["lr_scale"]
            group["betas"] = params.beta1, params.beta2
            group["eps"], group["weight_decay"] = params.eps, params.weight_decay
        optimizer.step()
        self._clear_gradient()

    def _clear_gradient(self) -> None:
        """Set every gradient to None."""
        for p in self._trained.values():
            p.grad = None

    def _find(self, weights: Weights) -> Tensors | None:
        """The tensors of a copy; None where there is none of this name."""
        return self._unnamed.get(weights.name) or self._snapshots.get(weights.name)

    def snapshot(self, name: str | None = None) -> Weights:
        if name is not None:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in (POLICY.name, REFERENCE.name):
                raise UsageError(
                    f"snapshot name {name!r}: use letters, digits, - and _, and neither {POLICY.name} nor "
                    f"{REFERENCE.name}"
                )
            self._snapshots[name] = copy_of(self._trained)
            return Weights(name)
        handle = Weights(f"#{next(self._numbers)}")
        self._unnamed[handle.name] = copy_of(self._trained)
        weakref.finalize(handle, self._unnamed.pop, handle.name, None)
        return handle

    def update_snapshot(self, name: str, decay: float) -> None:
        if not 0 <= decay <= 1:
            raise UsageError(f"decay must lie in [0, 1], not {decay}")
        with torch.no_grad():
            for parameter, s in self._get(name).items():
                s.mul_(decay).add_(self._trained[parameter].detach(), alpha=1 - decay)

    def drop_snapshot(self, name: str) -> None:
        self._get(name)
        del self._snapshots[name]

    @property
    def snapshot_names(self) -> set[str]:
        return set(self._snapshots)

    def weights_hash(self) -> str:
        """sha256 over the trained tensors: equal before and after means that nothing was learned."""
        return sha256(self._trained)

    def _get(self, name: str) -> Tensors:
        if name not in self._snapshots:
            raise UsageError(
                f"no snapshot is named {name!r} (there are {sorted(self._snapshots)}): make it with "
                f"engine.snapshot({name!r})"
            )
        return self._snapshots[name]

    def _collect(self, *, keep: bool = True) -> Checkpoint:
        """Copies of everything that a checkpoint holds, sharded tensors whole and on the CPU.

        Args:
            keep: False to take part in gathering sharded tensors only; the result is empty.
        """
        optimizer: Tensors = {}
        for name, p in self._trained.items():
            state = {} if self._optimizer is None else self._optimizer.state.get(p, {})
            optimizer |= {f"{kind}.{name}": value for kind, value in state.items()}
        snapshots = {
            f"{snapshot}.{name}": tensor
            for snapshot, tensors in self._snapshots.items()
            for name, tensor in tensors.items()
        }
        found: Checkpoint = {part: {} for part in PARTS}
        for part, named in zip(PARTS, (self._trained, optimizer, snapshots), strict=True):
            for name, tensor in named.items():
                full = full_tensor(tensor.detach())
                if keep:
                    found[part][name] = full.cpu() if is_sharded(tensor) else full.clone()
        return found

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Set weights, optimizer and named snapshots to those of a checkpoint, and clear the gradient."""
        put(checkpoint[WEIGHTS], self._trained)
        self._clear_gradient()
        self._optimizer = None
        for kind, tensors in by_kind(checkpoint[OPTIMIZER]).items():
            for name, value in tensors.items():
                p = self._trained[name]
                self._adamw().state[p][kind] = value.to(p.device)
        self._snapshots = {
            name: {n: t.to(self._trained[n].device) for n, t in tensors.items()}
            for name, tensors in by_kind(checkpoint[SNAPSHOTS]).items()
        }


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, tested without importing torch.distributed.tensor, which is slow."""
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor itself, or the whole of a sharded one, which is a collective."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return full


def copy_of(parameters: Mapping[str, Tensor]) -> Tensors:
    """A detached copy of every tensor, on its own device."""
    return {name: p.detach().clone() for name, p in parameters.items()}


@contextmanager
def swapped_in(parameters: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the parameters other values inside the block.

    Pointers move and nothing is copied, except for sharded tensors, whose storage FSDP gathers from.
    """
    sharded = {name: p for name, p in parameters.items() if is_sharded(p)}
    kept = copy_of(sharded)
    own = {name: p.data for name, p in parameters.items() if name not in sharded}
    put(other, sharded)
    for name in own:
        parameters[name].data = other[name]
    try:
        yield
    finally:
        put(kept, sharded)
        for name, values in own.items():
            parameters[name].data = values


def put(values: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Write values into parameters, in place."""
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(values[name])


def sha256(parameters: Mapping[str, Tensor]) -> str:
    """A hash over the names and bytes of all tensors; a collective where they are sharded."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode())
        flat = full_tensor(parameters[name].detach()).cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def by_kind(tensors: Tensors) -> dict[str, Tensors]:
    """The optimizer's or the snapshots' tensors by the part of their names before the first dot."""
    found: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        kind, _, parameter = name.partition(".")
        found.setdefault(kind, {})[parameter] = tensor
    return found


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint's files into an existing directory."""
    for part, tensors in checkpoint.items():
        save_file(tensors, path / f"{part}.safetensors")
    (path / _META).write_text(json.dumps(_meta(checkpoint), indent=2) + "\n")


def read(path: Path, parameters: Mapping[str, Tensor]) -> Checkpoint:
    """Read what `write` wrote, for these parameters.

    Raises:
        CheckpointError: a file is missing or torn, or the tensors are another model's.
    """
    try:
        meta: Any = json.loads((path / _META).read_text())
        found = {part: load_file(path / f"{part}.safetensors") for part in PARTS}
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"cannot read the engine's checkpoint in {path}: {error}. It is torn or was not written by "
            "LocalEngine.save; take an earlier one"
        ) from error
    if meta != _meta(found):
        raise CheckpointError(
            f"{path / _META} lists {meta}, but the files hold {_meta(found)}: the checkpoint is torn, or of "
            "another version of Didact"
        )
    _check_model(path / f"{WEIGHTS}.safetensors", found[WEIGHTS], parameters)
    for snapshot in by_kind(found[SNAPSHOTS]).values():
        _check_model(path / f"{SNAPSHOTS}.safetensors", snapshot, parameters)
    return found


def _meta(checkpoint: Checkpoint) -> dict[str, int]:
    return {"format": FORMAT, **{part: len(tensors) for part, tensors in checkpoint.items()}}


def _check_model(file: Path, tensors: Tensors, parameters: Mapping[str, Tensor]) -> None:
    if tensors.keys() != parameters.keys():
        odd = sorted(tensors.keys() ^ parameters.keys())
        raise CheckpointError(
            f"{file} holds {len(tensors)} tensors, the engine trains {len(parameters)}; the first that only "
            f"one of them has is {odd[0]!r}: make the engine from the same model and with the same LoRA "
            "settings as the run that saved"
        )
    for name, p in parameters.items():
        if tensors[name].shape != p.shape:
            raise CheckpointError(
                f"{name!r} in {file} has shape {tuple(tensors[name].shape)}, in the engine "
                f"{tuple(p.shape)}: make the engine from the same model and with the same LoRA settings"
            )
