"""Engines by name: where a run's model is trained and sampled."""

from __future__ import annotations

import dataclasses
import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from didact.config import ModelConfig, RunConfig
from didact.engines.base import Engine, ValueHeadSettings
from didact.engines.local import LocalEngine, LoraSettings, engine_class
from didact.engines.tinker import Address
from didact.errors import UsageError
from didact.methods import Method

if TYPE_CHECKING:
    from didact.engines.local.distributed import DistributedEngine

TINY = "tiny"
"""The bundled model's name."""


def make_policy(config: RunConfig, method: Method, *, for_training: bool = True) -> Engine:
    """The engine that a run trains on, as `config.engine` says.

    Args:
        config: The settings.
        method: Says whether a reference and a critic are needed.
        for_training: Have a server prove its gradients, and refuse one that cannot clip as configured.

    Raises:
        UsageError: no server answers, or it cannot do what the method needs.
        TrainingGuard: a server's gradients are not what the losses say.
    """
    chosen = config.engine
    if chosen.name != "tinker":
        from didact.engines import vllm

        here = make_engine(config.model, keep_reference=method.needs_reference, critic=method.critic)
        return here if chosen.name == "local" else vllm.connect(here, **chosen.of_vllm())
    from didact.engines.tinker import connect

    model = model_folder(config.model.path)
    at = tinker_address(config, model)
    at = dataclasses.replace(at, probed=at.probed and for_training)
    engine = connect(at, model, critic=method.critic)
    if for_training:
        engine.check_clipping(config.optim.max_grad_norm)
    return engine


def tinker_address(config: RunConfig, model: str) -> Address:
    """Where `config.engine` says that the server is, for a model that is `model` here.

    Raises:
        UsageError: neither the config nor the environment says where.
    """
    chosen = config.engine
    base_url = chosen.base_url or os.environ.get("TINKER_BASE_URL")
    if not base_url:
        raise UsageError(
            "engine: tinker needs to know where the server is: set engine.base_url, as "
            "http://127.0.0.1:8000, or the environment's TINKER_BASE_URL"
        )
    return Address(
        base_url=base_url,
        base_model=chosen.base_model or model,
        api_key=os.environ.get(chosen.api_key_env or "TINKER_API_KEY"),
        timeout=chosen.timeout,
        rank=chosen.rank if config.model.lora is None else config.model.lora.rank,
        seed=config.seed,
        probed=chosen.probe,
        pipelined=chosen.pipelined,
    )


def make_engine(
    config: ModelConfig, *, keep_reference: bool = False, critic: ValueHeadSettings | None = None
) -> LocalEngine | DistributedEngine:
    """An engine with the configured model, and with a value head where `critic` says how it is trained.

    In a process that was launched as one of several it is on all of them.
    """
    lora = None
    if config.lora is not None:
        lora = LoraSettings(**config.lora.model_dump())
    return engine_class().from_pretrained(
        model_folder(config.path),
        lora=lora,
        device=config.device,
        dtype=config.dtype,
        tokens_per_batch=config.tokens_per_batch,
        keep_reference=keep_reference,
        critic=critic,
    )


def model_folder(path: str) -> str:
    """What a configured path names: the bundled model's folder, or the folder or hub id itself."""
    return str(tiny_model()) if path == TINY else path


def tiny_model() -> Path:
    """Where the bundled model lies."""
    return Path(str(resources.files("didact") / "assets" / "tiny"))
