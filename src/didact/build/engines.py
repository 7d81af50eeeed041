"""Settings of engines, each with the engine that it builds; `didact.registry.ENGINES` names them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from didact.config import ModelConfig, Positive
from didact.distributed import is_launched
from didact.engines.base import Engine, ValueHeadSettings
from didact.engines.local import LocalEngine, LoraSettings, select_engine_class
from didact.engines.local.agreement import require_agreement
from didact.errors import UsageError
from didact.settings import Section

if TYPE_CHECKING:
    from didact.engines.tinker import TinkerEngine

TINY = "tiny"
"""The bundled model's name."""


@dataclass(frozen=True)
class EngineContext:
    """What an engine is built for."""

    model: ModelConfig
    seed: int = 0
    needs_reference: bool = False
    """The method scores under the starting weights."""
    value_head: ValueHeadSettings | None = None
    """How the method trains a value head; None where it has none."""
    max_grad_norm: float = 1.0
    """The norm to which the run clips gradients."""
    for_training: bool = True
    """Weights will be trained, so that a server has to prove its gradients."""


class EngineSettings(Section):
    """Settings of an engine."""

    def build(self, at: EngineContext) -> Engine:
        """The engine.

        Raises:
            UsageError: no server answers, or the engine cannot do what the method needs.
            TrainingGuard: a server's gradients are not what the losses say.
        """
        raise NotImplementedError


class LocalSettings(EngineSettings):
    """In this process; `model` has the settings."""

    def build(self, at: EngineContext) -> Engine:
        return make_engine(at.model, keep_reference=at.needs_reference, value_head=at.value_head)


class ServerSettings(EngineSettings):
    """What every server has."""

    base_url: str | None = None
    """Its address; null for the environment's TINKER_BASE_URL, or vLLM's port on this machine."""
    base_model: str | None = None
    """The model's name there; null for model.path (tinker), or the only one that is served (vllm)."""
    api_key_env: str | None = None
    """Environment variable with the server's key; null for TINKER_API_KEY or VLLM_API_KEY."""
    timeout: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds that one request may take."""


class TinkerSettings(ServerSettings):
    """A server that speaks the Tinker protocol. See docs/scaling.md."""

    rank: Positive = 32
    """Of the adapter, unless model.lora has one; a server trains adapters only."""
    probe: bool = True
    """Prove the server's gradients on connecting."""
    pipelined: bool = False
    """Send a step before its gradients are answered: only for servers that keep the order of requests."""

    def build(self, at: EngineContext) -> Engine:
        from didact.engines.tinker.server_behavior import no_value_head

        if at.value_head is not None:
            raise no_value_head()
        engine = self.connect(at, probed=self.probe and at.for_training)
        if at.for_training:
            engine.check_clipping(at.max_grad_norm)
        return engine

    def connect(self, at: EngineContext, *, probed: bool) -> TinkerEngine:
        """The engine; with `probed`, once its gradients are proven.

        Raises:
            UsageError: neither the settings nor the environment have the server's address, or it does not
                answer there.
        """
        from didact.engines.tinker import connect
        from didact.engines.tinker.wire import TinkerService

        base_url = self.base_url or os.environ.get("TINKER_BASE_URL")
        if not base_url:
            raise UsageError(
                "engine: tinker needs the server's address: set engine.settings.base_url, as "
                "http://127.0.0.1:8000, or the environment's TINKER_BASE_URL"
            )
        model = model_folder(at.model.path)
        service = TinkerService(
            base_url,
            self.base_model or model,
            api_key=os.environ.get(self.api_key_env or "TINKER_API_KEY"),
            timeout=self.timeout,
            pipelined=self.pipelined,
        )
        rank = self.rank if at.model.lora is None else at.model.lora.rank
        return connect(service, model, rank=rank, seed=at.seed, probed=probed)


class VLLMSettings(ServerSettings):
    """A vLLM server as sampler; the weights are trained here. See docs/scaling.md."""

    shared_dir: str | None = None
    """For an adapter: a directory that the server sees under the same path."""

    def build(self, at: EngineContext) -> Engine:
        from didact.engines.vllm import VLLMEngine, vllm_server

        if self.shared_dir is None:
            raise UsageError(
                "engine: vllm sends the adapter as files: set engine.settings.shared_dir to a directory that "
                "the server sees under the same path, as /dev/shm/didact"
            )
        return make_engine(
            at.model,
            keep_reference=at.needs_reference,
            value_head=at.value_head,
            kind=VLLMEngine,
            server=vllm_server(self.base_url, api_key_env=self.api_key_env, timeout=self.timeout),
            shared_dir=self.shared_dir,
            served_model=self.base_model,
        )


def build_engine(made: Any, at: EngineContext) -> Engine:
    """The engine that settings describe; an object that is an engine already is returned as it is."""
    if is_launched() and isinstance(made, ServerSettings):
        raise UsageError("an engine on a server is driven by one process: start the run without a launcher")
    engine: Engine = made.build(at) if hasattr(made, "build") else made
    if engine is made and isinstance(made, LocalEngine) and type(made) is select_engine_class():
        require_agreement(made)
    return engine


def make_engine(
    config: ModelConfig,
    *,
    keep_reference: bool = False,
    value_head: ValueHeadSettings | None = None,
    kind: type[LocalEngine] | None = None,
    **settings: Any,
) -> LocalEngine:
    """A local engine with the configured model, and with a value head that is trained as `value_head` has it.

    In a process that was launched as one of several it spans all of them. `kind` is another class, which
    takes the `settings`; otherwise the engine is checked to sample what it scores.

    Raises:
        CapabilityError: it does not.
    """
    engine = (kind or select_engine_class()).from_pretrained(
        model_folder(config.path),
        lora=None if config.lora is None else LoraSettings(**config.lora.model_dump()),
        device=config.device,
        dtype=config.dtype,
        tokens_per_batch=config.tokens_per_batch,
        keep_reference=keep_reference,
        value_head=value_head,
        **settings,
    )
    if kind is None:
        require_agreement(engine)
    return engine


def model_folder(path: str) -> str:
    """The folder or hub id of a configured path; "tiny" is the bundled model's folder."""
    return str(tiny_model()) if path == TINY else path


def tiny_model() -> Path:
    """The folder of the bundled model."""
    return Path(str(resources.files("didact") / "assets" / "tiny"))
