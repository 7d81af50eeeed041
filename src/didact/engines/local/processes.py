"""Several processes that work as one: messages between the first and the others, and sums over all.

A launcher (`accelerate launch`, torchrun) starts equal processes and tells each its place in its environment.
Messages and agreements travel by gloo through the CPU; tensors on a GPU are summed by NCCL. Both belong to
one group, whose collectives give up after TIMEOUT.

What travels is JSON and safetensors: no pickle, so a message can hold data and nothing that runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.numpy import load, save
from torch import Tensor

from didact.errors import CapabilityError, DidactError, UsageError

if TYPE_CHECKING:
    from didact.engines.local.distributed import DistributedEngine
    from didact.engines.local.engine import LocalEngine

TIMEOUT = timedelta(minutes=30)
"""A process that is there but does not answer for so long is taken for lost."""
PATIENCE = timedelta(days=365)
"""How long a process waits for its next task: a judge or a person may take their time."""
BUCKET = 8 * 2**20
"""Numbers that are summed over processes at a time."""


class ProcessLost(DidactError):
    """A process of this run has ended, or no longer answers."""


class PeerFailed(DidactError):
    """Another process failed and says why; this one has undone its part."""


class Message(NamedTuple):
    """What one process tells another."""

    header: dict[str, Any]
    """As JSON holds it."""
    arrays: Mapping[str, NDArray[Any]] = {}


def launched() -> bool:
    """Was this process started as one of several?"""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def engine_class() -> type[LocalEngine] | type[DistributedEngine]:
    """What makes an engine here: on this process alone, or on all that were launched together."""
    if launched():
        from didact.engines.local.distributed import DistributedEngine

        return DistributedEngine
    from didact.engines.local.engine import LocalEngine

    return LocalEngine


class Processes:
    """All processes of a run, as this one sees them; made by `join`.

    Attributes:
        rank: This process's place; 0 leads.
        size: How many there are.
        agreements: How often they have met to agree.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.agreements = 0

    def send(self, to: int, message: Message) -> None:
        """Hand a message over; returns once the other process has taken it."""
        header, body = json.dumps(message.header).encode(), save(dict(message.arrays))
        sizes = torch.tensor([len(header), len(body)])
        with _losses_named():
            dist.send(sizes, to)
            dist.send(torch.frombuffer(bytearray(header + body), dtype=torch.uint8), to)

    def receive(self, source: int, patience: timedelta = TIMEOUT) -> Message:
        """Wait for a message.

        Raises:
            ProcessLost: the other process has ended, or said nothing for so long.
        """
        sizes = torch.zeros(2, dtype=torch.long)
        with _losses_named():
            _wait(dist.irecv(sizes, source), patience)
            header, body = sizes.tolist()
            content = torch.empty(header + body, dtype=torch.uint8)
            _wait(dist.irecv(content, source), TIMEOUT)
        raw = content.numpy().tobytes()
        return Message(json.loads(raw[:header]), load(raw[header:]))

    def agree(self, error: Exception | None) -> None:
        """Go on together, or stop together: every process has to come here.

        Args:
            error: Why this process cannot go on.

        Raises:
            Exception: `error` itself.
            PeerFailed: another process cannot go on.
        """
        self.agreements += 1
        failed = self.highest(int(error is not None))
        if error is not None:
            raise error
        if failed:
            raise PeerFailed("another process of this run failed: its own message says why")

    def highest(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return int(self.highest_of([number])[0])

    def highest_of(self, numbers: Iterable[int]) -> list[int]:
        """The largest at each place of the processes' equally long lists."""
        everywhere = torch.tensor([*numbers], dtype=torch.long)
        with _losses_named():
            dist.all_reduce(everywhere, dist.ReduceOp.MAX)
        return everywhere.tolist()

    def add_up(self, tensors: list[Tensor]) -> None:
        """Replace tensors of one dtype and device by their sums over all processes, the same on each."""
        for bucket in _buckets(tensors):
            flat = torch.cat([t.reshape(-1) for t in bucket])
            with _losses_named():
                dist.all_reduce(flat)
            for t, part in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
                t.copy_(part.view_as(t))

    def spread(self, tensor: Tensor) -> Tensor:
        """The first process's values, in place on every process."""
        with _losses_named():
            dist.broadcast(tensor, 0)
        return tensor


@cache
def join() -> Processes:
    """Meet the other processes that were launched with this one; waits until all are there.

    Raises:
        UsageError: there are more processes on this machine than GPUs.
        CapabilityError: the launcher was told to use something that nobody here speaks.
    """
    for key, name in (("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")):
        if os.environ.get(f"ACCELERATE_USE_{key}", "false").lower() == "true":
            raise CapabilityError(
                f"the launcher asks for {name}, and the local engine knows replicas (accelerate launch "
                "--multi_gpu) and FSDP2 (--use_fsdp --fsdp_version 2); for larger models see docs/scaling.md"
            )
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        own_device = local_rank()
        if own_device >= torch.cuda.device_count():
            raise UsageError(
                f"process {own_device} of this machine has no GPU of its own ({torch.cuda.device_count()} "
                "there): launch as many processes as there are GPUs"
            )
        torch.cuda.set_device(own_device)
    if not dist.is_initialized():
        dist.init_process_group(backend, timeout=TIMEOUT)
    return Processes()


def local_rank() -> int:
    """This process's place among those on its machine."""
    return int(os.environ.get("LOCAL_RANK") or 0)


def _wait(work: Any, patience: timedelta) -> None:
    work.wait(patience)


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors in groups of about BUCKET numbers."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(t.numel() for t in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


@contextmanager
def _losses_named() -> Iterator[None]:
    """Say what a broken connection means; torch says only which socket closed."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, DidactError):
            raise
        raise ProcessLost(
            "another process of this run has ended or does not answer: its own last lines say why. "
            "`didact train --resume` goes on from the newest checkpoint, also with another number of "
            f"processes ({str(error).splitlines()[0]})"
        ) from error
