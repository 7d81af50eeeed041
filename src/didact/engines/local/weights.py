"""Sets of trainable tensors: copied, swapped, hashed, and written to and read from checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from didact.errors import CheckpointError

FORMAT = 2
WEIGHTS, OPTIMIZER, SNAPSHOTS = "weights", "optimizer", "snapshots"
"""The parts of a checkpoint, each in a safetensors file of this name."""
_META = "engine.json"

Tensors = dict[str, Tensor]


class Key(NamedTuple):
    """Names one tensor of a checkpoint."""

    part: str
    """WEIGHTS, OPTIMIZER or SNAPSHOTS."""
    kind: str
    """"" for a weight, else the kind of optimizer state or the snapshot's name; without a dot."""
    parameter: str


Checkpoint: TypeAlias = dict[Key, Tensor]


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


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint's files into an existing directory."""
    counts = {}
    for part in (WEIGHTS, OPTIMIZER, SNAPSHOTS):
        tensors = {
            key.parameter if part == WEIGHTS else f"{key.kind}.{key.parameter}": tensor
            for key, tensor in checkpoint.items()
            if key.part == part
        }
        save_file(tensors, path / f"{part}.safetensors")
        counts[part] = len(tensors)
    meta = {"format": FORMAT, **counts}
    (path / _META).write_text(json.dumps(meta, indent=2) + "\n")


def read(path: Path, parameters: Mapping[str, Tensor]) -> Checkpoint:
    """Read what `write` wrote, for these parameters.

    Raises:
        CheckpointError: a file is missing or torn, or the tensors are another model's.
    """
    checkpoint = _read(path)
    for part in (WEIGHTS, SNAPSHOTS):
        for tensors in part_of(checkpoint, part).values():
            _check_model(path / f"{part}.safetensors", tensors, parameters)
    return checkpoint


def part_of(checkpoint: Checkpoint, part: str) -> dict[str, Tensors]:
    """One part's tensors by kind, then by parameter."""
    found: dict[str, Tensors] = {}
    for key, tensor in checkpoint.items():
        if key.part == part:
            found.setdefault(key.kind, {})[key.parameter] = tensor
    return found


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


def _read(path: Path) -> Checkpoint:
    found: Checkpoint = {}
    counts = {}
    try:
        meta: Any = json.loads((path / _META).read_text())
        for part in (WEIGHTS, OPTIMIZER, SNAPSHOTS):
            tensors = load_file(path / f"{part}.safetensors")
            counts[part] = len(tensors)
            for name, tensor in tensors.items():
                kind, _, parameter = ("", "", name) if part == WEIGHTS else name.partition(".")
                found[Key(part, kind, parameter)] = tensor
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"cannot read the engine's checkpoint in {path}: {error}. It is torn or was not written by "
            "LocalEngine.save; take an earlier one"
        ) from error
    if meta != {"format": FORMAT, **counts}:
        raise CheckpointError(
            f"{path / _META} lists {meta}, but the files hold {counts} tensors of format {FORMAT}: the "
            "checkpoint is torn, or of another version of Didact"
        )
    return found
