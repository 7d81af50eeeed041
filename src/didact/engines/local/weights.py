"""Sets of trainable tensors: copied, swapped in for a while, hashed, saved and loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
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


def is_sliced(tensor: Tensor) -> bool:
    """Is it a DTensor, of which this process holds a slice? torch.distributed.tensor is slow to import."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all slices of it put together, for which every process has to ask."""
    full: Tensor = tensor.full_tensor() if is_sliced(tensor) else tensor  # type: ignore[attr-defined]
    return full


def copy_of(parameters: Mapping[str, Tensor]) -> Tensors:
    """A detached copy of every tensor, on its own device."""
    return {name: p.detach().clone() for name, p in parameters.items()}


@contextmanager
def swapped_in(parameters: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the parameters hold other values inside the block.

    Pointers move and nothing is copied, but for slices, which FSDP gathers from where they lie.
    """
    sliced = {name: p for name, p in parameters.items() if is_sliced(p)}
    kept = copy_of(sliced)
    own = {name: p.data for name, p in parameters.items() if name not in sliced}
    put(other, sliced)
    for name in own:
        parameters[name].data = other[name]
    try:
        yield
    finally:
        put(kept, sliced)
        for name, values in own.items():
            parameters[name].data = values


def sha256(parameters: Mapping[str, Tensor]) -> str:
    """A hash over the names and bytes of all tensors. Sliced ones are put together by all processes."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode())
        flat = whole(parameters[name].detach()).cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(path: Path | None, parameters: Mapping[str, Tensor], optimizer: torch.optim.AdamW | None) -> None:
    """Write weights, optimizer moments and a table of contents into an existing directory.

    Args:
        path: None to help putting sliced tensors together, for another process that writes them.
        parameters: The weights.
        optimizer: Whose moments; None where no step has been taken.
    """
    named: list[tuple[str, Tensor]] = []
    for name, p in parameters.items():
        state = {} if optimizer is None else optimizer.state.get(p, {})
        named += [(f"{key}.{name}", value) for key, value in state.items()]
    weights, moments = _put_together(parameters.items(), path), _put_together(named, path)
    if path is None:
        return
    save_file(weights, path / _WEIGHTS)
    save_file(moments, path / _OPTIMIZER)
    meta = {"format": FORMAT, "tensors": len(parameters), "moments": len(moments)}
    (path / _META).write_text(json.dumps(meta, indent=2) + "\n")


def _put_together(named: Iterable[tuple[str, Tensor]], path: Path | None) -> Tensors:
    """Copies to write; of sliced tensors in the CPU's memory, for a whole model may not fit a GPU."""
    kept: Tensors = {}
    for name, tensor in named:
        full = whole(tensor.detach())
        if path is not None:
            kept[name] = full.cpu() if is_sliced(tensor) else full.clone()
    return kept


def read(path: Path, parameters: Mapping[str, Tensor]) -> tuple[Tensors, dict[str, Tensors]]:
    """Read what `save` wrote, for these parameters.

    Returns:
        The weights, and the optimizer's state by parameter name.

    Raises:
        CheckpointError: a file is missing or torn, or the tensors are another model's.
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
    state: dict[str, Tensors] = {}
    for key, value in moments.items():
        kind, _, name = key.partition(".")
        state.setdefault(name, {})[kind] = value
    return weights, state


def put(weights: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Write values into parameters, in place."""
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(weights[name])


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
