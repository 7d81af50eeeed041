"""From a trainer and an address to an engine that samples on a vLLM server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from didact.engines.vllm.engine import VLLMEngine
from didact.engines.vllm.http import Server
from didact.engines.vllm.nccl import Nccl
from didact.engines.vllm.transfer import Broadcast, LoraFiles, Transfer
from didact.errors import UsageError

if TYPE_CHECKING:
    from didact.engines.local import LocalEngine
    from didact.engines.local.distributed import DistributedEngine

LOOPBACK = "http://127.0.0.1:8000"
"""Where vLLM listens unless it is told otherwise."""
KEY = "VLLM_API_KEY"


def connect(
    trainer: LocalEngine | DistributedEngine,
    *,
    base_url: str | None = None,
    model: str | None = None,
    api_key_env: str | None = None,
    timeout: float = 600.0,
    shared_dir: str | Path | None = None,
) -> VLLMEngine:
    """An engine that trains here and samples there. An adapter goes as files, all weights go over NCCL.

    Args:
        trainer: Where the weights live.
        base_url: The server's address; None for `LOOPBACK`.
        model: The served model's name; None takes the only one.
        api_key_env: Name of the environment variable with the server's key; None for `KEY`.
        timeout: Seconds that one request may take.
        shared_dir: For an adapter's files; the server must see it under the same path.

    Raises:
        UsageError: an adapter and no directory for it, or the server does not serve the model.
        ServerError: nothing answers.
        CapabilityError: all weights are trained, and there is no GPU here to send them from.
    """
    transfer: Transfer
    if trainer.capabilities.full_finetune:
        transfer = Broadcast(Nccl(str(trainer.device)))
    elif shared_dir is None:
        raise UsageError(
            "engine: vllm sends an adapter as files: set engine.settings.shared_dir to a directory that the "
            "server sees under the same path, as /dev/shm/didact"
        )
    else:
        transfer = LoraFiles(shared_dir)
    server = Server(base_url or LOOPBACK, api_key_env=api_key_env or KEY, timeout=timeout)
    engine = VLLMEngine(trainer, server, transfer, model=model)
    engine.connect()
    return engine
