"""How trained weights reach a vLLM server: an adapter as files, or all weights over NCCL.

Adapter files give each version of the adapter a name of its own, by which samples are asked for: a server
that has not got it cannot answer. It must see the directory, be started with `--enable-lora` and a
`--max-lora-rank` of at least the adapter's, and with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1.

All weights go through vLLM's weight-transfer endpoints, which VLLM_SERVER_DEV_MODE=1 and
`--weight-transfer-config '{"backend": "nccl"}'` switch on; the trainer needs no vLLM. In this order:

    once        GET  /get_world_size
                POST /init_weight_transfer_engine       while the trainer joins as rank 0
    each time   POST /pause?mode=abort&clear_cache=true
                POST /start_weight_update
                POST /update_weights                    while the trainer broadcasts
                POST /finish_weight_update              with the label that samples then carry
                GET  /weight_info                       must be that label
                POST /resume

None of these is sent twice. Where one fails the server stays paused, because its weights may be half loaded.
Source: docs/training/weight_transfer/nccl.md of vLLM 0.33.0, "Trainer Without vLLM over HTTP".
"""

from __future__ import annotations

import base64
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from didact.engines.base import Engine
from didact.engines.vllm.completion import StaleWeightsError
from didact.engines.vllm.http import ClientError, RetryableError, Server, ServerError, read_json
from didact.errors import CapabilityError, UsageError

LOG = logging.getLogger("didact")
T = TypeVar("T")
JOIN_SECONDS = 60.0
"""How long a broadcast may outlast the server's word that it has everything."""


class Transfer(Protocol):
    """A way for weights to go."""

    labels_tokens: bool
    """Does the server say of each token which label its weights had?"""

    def check(self, trainer: Engine) -> None:
        """Refuse an engine whose weights cannot go this way.

        Raises:
            CapabilityError: with the way that can.
        """
        ...

    def publish(self, server: Server, trainer: Engine, label: str, base_model: str) -> str:
        """Give the server the trained weights as they are now, under a label; returns the model to ask for.

        Raises:
            ServerError: it did not take them; nothing may be sampled until a later call succeeds.
        """
        ...


class LoraFiles:
    """The adapter as files that the server reads: for a LoRA trained on one node, or on a shared disk.

    Args:
        directory: Where to write; the server must see it under the same path. Adapters that are no longer
            served are removed; the run's last one stays, there and on the server.
    """

    labels_tokens = False

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()
        self._served: str | None = None

    def check(self, trainer: Engine) -> None:
        """Refuse an engine that trains all weights."""
        if trainer.capabilities.full_finetune:
            raise CapabilityError(
                "the engine trains all weights, which are no adapter: set lora, or send the weights over "
                "NCCL (transfer: nccl)"
            )

    def publish(self, server: Server, trainer: Engine, label: str, base_model: str) -> str:
        """Write the adapter, have it loaded under its label, and drop the one before."""
        target = self.directory / label
        try:
            target.mkdir(parents=True)
            trainer.save_pretrained(target)
        except OSError as error:
            raise UsageError(f"the adapter cannot be written into {target}: {error}") from error
        try:
            self._load(server, label, target)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        before, self._served = self._served, label
        if before is not None:
            self._drop(server, before)
        return label

    def _load(self, server: Server, label: str, target: Path) -> None:
        """Loading is safe to repeat: a label always means the same files."""
        body = {"lora_name": label, "lora_path": str(target)}
        cure = (
            "Start the server with --enable-lora, a --max-lora-rank of the adapter's rank and "
            f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and let it see {self.directory}"
        )
        try:
            server.ask("POST", "/v1/load_lora_adapter", body, lambda text: text)
        except ServerError as error:  # vLLM answers 500 to an adapter that it cannot hold
            raise ServerError(f"{error}. {cure}") from error
        except ClientError as refusal:
            # Where a first try's reply was lost, the second is told that the name is taken.
            if refusal.status != 400 or label not in served_models(server):
                raise UsageError(f"{refusal}. {cure}") from refusal

    def _drop(self, server: Server, label: str) -> None:
        try:
            server.ask("POST", "/v1/unload_lora_adapter", {"lora_name": label}, lambda text: text)
        except (ClientError, ServerError) as error:
            LOG.warning("the server keeps an adapter that is no longer asked for: %s", error)
        shutil.rmtree(self.directory / label, ignore_errors=True)


class Communicator(Protocol):
    """The trainer's end of an NCCL group: rank 0."""

    def open(self, world_size: int) -> bytes:
        """Begin a group of so many ranks; returns its ncclUniqueId, of 128 bytes."""
        ...

    def connect(self) -> None:
        """Join the group, and take part in the workers' warm-up: an all-reduce of one float32 zero."""
        ...

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Send the tensors in order, one broadcast each; returns when all are through."""
        ...

    def close(self) -> None:
        """Leave the group, also in the middle of a broadcast."""
        ...


class Broadcast:
    """All weights over NCCL, from the trainer's GPU to those of the server.

    Args:
        communicator: The trainer's end; `nccl.Nccl` on GPUs.
        dtype: What the weights travel as; the server's own saves it a cast.
    """

    labels_tokens = True

    def __init__(self, communicator: Communicator, *, dtype: torch.dtype = torch.bfloat16) -> None:
        self.communicator, self.dtype = communicator, dtype
        self._joined = self._broken = False

    def check(self, trainer: Engine) -> None:
        """Refuse an adapter, and an engine whose tensors are not here."""
        if not trainer.capabilities.full_finetune:
            raise CapabilityError(
                "the engine trains an adapter, which is a file of its own: take transfer: lora"
            )
        if not hasattr(trainer, "model"):
            raise CapabilityError(
                f"{type(trainer).__name__} does not show its weights: the broadcast needs a LocalEngine"
            )

    def publish(self, server: Server, trainer: Engine, label: str, base_model: str) -> str:
        """Send all weights; see the top of this file for the order of the calls."""
        if self._broken:
            raise ServerError(
                "an earlier transfer broke off, so that the server's weights may be half loaded and its NCCL "
                "group is gone: restart the server and resume from the last checkpoint"
            )
        self._broken = True
        if not self._joined:
            self._join(server)
        server.order("/pause?mode=abort&clear_cache=true")
        server.order("/start_weight_update", {})
        named = list(_named_weights(trainer))
        info = {
            "names": [name for name, _ in named],
            "dtype_names": [str(self.dtype).removeprefix("torch.")] * len(named),
            "shapes": [list(tensor.shape) for _, tensor in named],
        }
        tensors = (tensor.detach().to(self.dtype).contiguous() for _, tensor in named)
        self._alongside(
            lambda: self.communicator.broadcast(tensors),
            lambda: server.order("/update_weights", {"update_info": info}),
        )
        server.order("/finish_weight_update", {"weight_version": label})
        found = server.get("/weight_info")
        if not isinstance(found, dict) or found.get("weight_version") != label:
            raise StaleWeightsError(
                f"the server says that its weights are {str(found)[:200]}, not {label!r}, after taking them"
            )
        server.order("/resume")
        self._broken = False
        return base_model

    def _join(self, server: Server) -> None:
        size = server.get("/get_world_size")
        workers = size.get("world_size") if isinstance(size, dict) else None
        if type(workers) is not int or workers < 1:
            raise ServerError(f"the server's /get_world_size says {str(size)[:200]}")
        unique_id = self.communicator.open(1 + workers)
        info = {
            "nccl_unique_id_b64": base64.b64encode(unique_id).decode(),
            "rank_offset": 1,
            "world_size": 1 + workers,
            "packed": False,
        }
        self._alongside(
            self.communicator.connect,
            lambda: server.order("/init_weight_transfer_engine", {"init_info": info}),
        )
        self._joined = True

    def _alongside(self, collective: Callable[[], None], call: Callable[[], T]) -> T:
        """Both at once, because each waits for the other; a call that fails does not wait.

        Raises:
            ServerError: either failed; the group is closed then.
        """
        failures: list[BaseException] = []

        def run() -> None:
            try:
                collective()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run, name="didact-nccl", daemon=True)
        thread.start()
        try:
            reply = call()
            thread.join(JOIN_SECONDS)
            if thread.is_alive():
                raise ServerError(f"the NCCL group did not finish within {JOIN_SECONDS:g} s of the server")
            if failures:
                raise ServerError(f"the NCCL group broke: {failures[0]}") from failures[0]
        except BaseException:
            self.communicator.close()
            raise
        return reply


def served_models(server: Server) -> dict[str, Any]:
    """The models that a server lists, by name."""

    def read(text: str) -> dict[str, Any]:
        listed = read_json(text)
        data = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(data, list):
            raise RetryableError(f"/v1/models lists nothing: {text[:200]!r}")
        return {str(m["id"]): m for m in data if isinstance(m, dict) and "id" in m}

    return server.ask("GET", "/v1/models", None, read)


def _named_weights(trainer: Any) -> Iterator[tuple[str, Tensor]]:
    """Names as in the checkpoint; a tied output layer is the embedding, and is not sent twice."""
    named: Iterator[tuple[str, Tensor]] = trainer.model.named_parameters()
    return named
