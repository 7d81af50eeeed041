"""Sets of trainable tensors: copied, swapped in for a while, hashed, saved and loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from didact.errors import CheckpointError

FORMAT = 1
_WEIGHTS, _OPTIMIZER, _META = "weights.safetensors", "optimizer.safetensors", "engine.json"

Tensors = dict[str, Tensor]


def copy_of(parameters: Mapping[str, Tensor]) -> Tensors:
    """A detached copy of every tensor, on its own device."""
    return {name: p.detach().clone() for name, p in parameters.items()}


@contextmanager
def swapped_in(parameters: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the parameters hold other values inside the block. Pointers move; nothing is copied."""
    own = {name: p.data for name, p in parameters.items()}
    for name, p in parameters.items():
        p.data = other[name]
    try:
        yield
    finally:
        for name, p in parameters.items():
            p.data = own[name]


def sha256(parameters: Mapping[str, Tensor]) -> str:
    """A hash over the names and bytes of all tensors."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode())
        flat = parameters[name].detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(path: Path, parameters: Mapping[str, Tensor], optimizer: torch.optim.AdamW | None) -> None:
    """Write weights, optimizer moments and a table of contents into an existing directory."""
    save_file(copy_of(parameters), path / _WEIGHTS)
    moments: Tensors = {}
    if optimizer is not None:
        for name, p in parameters.items():
            for key, value in optimizer.state.get(p, {}).items():
                moments[f"{key}.{name}"] = value.detach().clone()
    save_file(moments, path / _OPTIMIZER)
    meta = {"format": FORMAT, "tensors": len(parameters), "moments": len(moments)}
    (path / _META).write_text(json.dumps(meta, indent=2) + "\n")


def load(path: Path, parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Read what `save` wrote into the parameters, in place.

    Returns:
        The optimizer's state by parameter name.

    Raises:
        CheckpointError: a file is missing or torn, or the tensors are another model's. Nothing has
            been changed then.
    """
    weights, moments = _read(path)
    if weights.keys() != parameters.keys():
        odd = sorted(weights.keys() ^ parameters.keys())
        raise CheckpointError(
            f"{path / _WEIGHTS} holds {len(weights)} tensors, the engine trains {len(parameters)}; the "
            f"first that only one of them has is {odd[0]!r}: make the engine from the same model and with "
            "the same LoRA settings as the run that saved"
        )
    for name, p in parameters.items():
        if weights[name].shape != p.shape:
            raise CheckpointError(
                f"{name!r} in {path / _WEIGHTS} has shape {tuple(weights[name].shape)}, in the engine "
                f"{tuple(p.shape)}: make the engine from the same model and with the same LoRA settings"
            )
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(weights[name])
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in moments.items():
        kind, _, name = key.partition(".")
        state.setdefault(name, {})[kind] = value
    return state


def _read(path: Path) -> tuple[Tensors, Tensors]:
    try:
        meta: Any = json.loads((path / _META).read_text())
        weights, moments = load_file(path / _WEIGHTS), load_file(path / _OPTIMIZER)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"cannot read the engine's checkpoint in {path}: {error}. It is torn or was not written by "
            "LocalEngine.save; take an earlier one"
        ) from error
    if meta.get("format") != FORMAT or (meta["tensors"], meta["moments"]) != (len(weights), len(moments)):
        raise CheckpointError(
            f"{path / _META} says {meta}, but there are {len(weights)} tensors and {len(moments)} moments "
            f"of format {FORMAT}: the checkpoint is torn, or of another version of Didact"
        )
    return weights, moments
