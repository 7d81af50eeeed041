"""FSDP2: each process holds a shard of every tensor, and gathers a layer while it computes with it.

accelerate selects the modules to wrap (its flags apply, as --fsdp_auto_wrap_policy). Beside that:

* gradients are summed, not averaged;
* gathered tensors are freed before the shards change, since FSDP keeps the root's between forwards;
* sampling gathers the whole model once: processes sample different numbers of tokens, and a gather layer by
  layer is a collective at every token.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from didact.errors import CapabilityError


def sharding_settings() -> Any:
    """accelerate's FSDP settings from the environment that its launcher sets; None without FSDP.

    Raises:
        CapabilityError: an unsupported kind of FSDP.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    from accelerate import FullyShardedDataParallelPlugin  # type: ignore[import-untyped]

    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise CapabilityError("the local engine shards with FSDP2 only: launch with --fsdp_version 2")
    policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy=policy, cpu_ram_efficient_loading=False
    )
    for flag, on in (
        ("--fsdp_offload_params", isinstance(plugin.cpu_offload, CPUOffloadPolicy)),
        ("--fsdp_activation_checkpointing", plugin.activation_checkpointing),
    ):
        if on:
            raise CapabilityError(f"the local engine does not do {flag}: launch without it")
    return plugin


def shard(model: Any, settings: Any, device: torch.device) -> None:
    """Shard a model that is equal on all processes, in place."""
    from accelerate.utils import fsdp2_prepare_model  # type: ignore[import-untyped]

    mesh = init_device_mesh(device.type, (dist.get_world_size(),), mesh_dim_names=("shard",))
    # The attributes of an Accelerator that the function reads. A real one has FSDP on accelerators only; this
    # way the same code runs on a CPU, where it is tested.
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=settings),
        torch_device_mesh=mesh,
        parallelism_config=SimpleNamespace(fsdp_dim_names=("shard",)),
        device=device,
        mixed_precision="no",
        is_main_process=dist.get_rank() == 0,
    )
    fsdp2_prepare_model(accelerator, model)
    for unit in _units(model):
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    model.set_reshard_after_forward(settings.reshard_after_forward)


def reshard(model: Any) -> None:
    """Free gathered tensors, before the shards change; no collective."""
    for unit in _units(model):
        unit.reshard()


@contextmanager
def unsharded(model: Any, settings: Any) -> Iterator[None]:
    """Gather the whole model on every process, so that calls of it are no collectives."""
    model.set_reshard_after_forward(False)
    for unit in _units(model):
        unit.unshard()
    try:
        yield
    finally:
        reshard(model)
        model.set_reshard_after_forward(settings.reshard_after_forward)


def shard_like(like: Tensor, tensor: Tensor) -> Tensor:
    """This process's shard of a whole tensor where `like` is sharded, else the tensor."""
    if not isinstance(like, DTensor) or like.shape != tensor.shape:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def local_shard(tensor: Tensor) -> Tensor:
    """The part of a tensor on this process, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _units(model: Any) -> Iterator[Any]:
    return (module for module in model.modules() if isinstance(module, FSDPModule))
