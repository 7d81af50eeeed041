"""Several processes as one run, SPMD: every rank runs the same program on the same inputs.

A launcher (`accelerate launch`, torchrun) starts equal processes and sets RANK and WORLD_SIZE. Engines divide
their work among the ranks and gather the results (`engines/local/distributed.py`), so that all ranks hold the
same rollouts, rows and metrics. Whatever has an effect outside, or may differ between two executions, runs on
rank 0 alone and its result is broadcast: `on_main_process` decorates writing to the run directory, requests
to a model server and the execution of programs.

A failure on one rank raises the same error on all of them at the next collective. A process that dies raises
RankDiedError on the others: at once where its connection closes, after IDLE_TIMEOUT where it hangs.

Until `init_process_group` is called, and in a process that was started alone, the group has one rank and
every collective is the identity.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from didact.errors import CapabilityError, DidactError, UsageError

T = TypeVar("T")
P = ParamSpec("P")

IDLE_TIMEOUT = timedelta(minutes=30)
"""A rank that does not reach a collective for this long is taken for dead."""
MAIN_TIMEOUT = timedelta(days=365)
"""How long the other ranks wait for a function on rank 0: a judge may take hours."""


class RankDiedError(DidactError):
    """Another process of this run has ended, or does not answer."""


class ProcessGroup:
    """A group of one process.

    Attributes:
        rank: The index of this process; rank 0 is the main process.
        in_main_function: A function that runs on rank 0 alone is running here.
        poll_interrupt: Called at collectives; the error that it returns is raised on all ranks.
    """

    rank, world_size = 0, 1

    def __init__(self) -> None:
        self.in_main_function = False
        self.poll_interrupt: Callable[[], Exception | None] = lambda: None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def run_on_main(self, function: Callable[[], T]) -> T:
        """Call a function on rank 0 alone; its result is returned, or its error raised, on every rank."""
        return function()

    def gather_results(self, compute: Callable[[], T]) -> list[T]:
        """Call a function on every rank and return all results in the order of ranks.

        Raises:
            Exception: the error of the lowest rank that failed, on every rank.
        """
        return [compute()]

    def raise_if_any_failed(self, error: Exception | None) -> None:
        """Raise an error on every rank if there is one on any."""

        def fail() -> None:
            if error is not None:
                raise error

        self.gather_results(fail)


class TorchProcessGroup(ProcessGroup):
    """The processes of one launch, joined by torch.distributed: gloo on CPUs, NCCL between GPUs."""

    def __init__(self) -> None:
        super().__init__()
        import torch.distributed as dist

        self._dist = dist
        if not dist.is_initialized():
            dist.init_process_group(_backend(), timeout=IDLE_TIMEOUT)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._waiting = dist.new_group(backend="gloo", timeout=MAIN_TIMEOUT)

    def run_on_main(self, function: Callable[[], T]) -> T:
        if self.in_main_function:
            return function()
        self.raise_if_any_failed(None)  # no rank still reads a file that the function changes
        outcome: list[Any] = [None]
        error: Exception | None = None
        if self.is_main:
            self.in_main_function = True
            try:
                outcome[0] = (None, function())
            except Exception as failed:
                error = failed
                outcome[0] = (_picklable(failed), None)
            finally:
                self.in_main_function = False
        with peer_errors():
            self._dist.broadcast_object_list(outcome, 0, group=self._waiting)
        if error is not None:
            raise error
        failed_on_main, result = outcome[0]
        if failed_on_main is not None:
            raise failed_on_main
        return result  # type: ignore[no-any-return]

    def gather_results(self, compute: Callable[[], T]) -> list[T]:
        assert not self.in_main_function, "a function on the main process may not call a collective"
        result, error = None, None
        try:
            result = compute()
        except RankDiedError:
            raise
        except Exception as failed:
            error = failed
        error = error or self.poll_interrupt()
        gathered: list[Any] = [None] * self.world_size
        with peer_errors():
            self._dist.all_gather_object(gathered, (_picklable(error), result))
        for rank, (failed_there, _) in enumerate(gathered):
            if failed_there is not None:
                raise error if rank == self.rank and error is not None else failed_there
        return [found for _, found in gathered]


_SINGLE = ProcessGroup()
_current: ProcessGroup = _SINGLE


def process_group() -> ProcessGroup:
    """The group that this process has joined, or the group of this process alone."""
    return _current


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def init_process_group() -> ProcessGroup:
    """Join the processes that were launched with this one, once; waits until all are there.

    Raises:
        UsageError: there are more processes on this machine than GPUs.
        CapabilityError: the launcher was configured for DeepSpeed or Megatron-LM.
    """
    global _current
    if _current is _SINGLE and is_launched():
        _current = TorchProcessGroup()
    return _current


def destroy_process_group() -> None:
    """Leave the group, if this process has joined one."""
    global _current
    if _current is not _SINGLE:
        import torch.distributed as dist

        _current = _SINGLE
        dist.destroy_process_group()


def on_main_process(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: the function runs on rank 0 alone, and every rank gets its result or its error.

    Every rank has to call it. Results are pickled. Inside, the function may call others like it, from other
    threads too, but no collective and so no engine.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return process_group().run_on_main(partial(function, *args, **kwargs))

    return call


def local_rank() -> int:
    """The index of this process among those on its machine."""
    return int(os.environ.get("LOCAL_RANK") or 0)


def _backend() -> str:
    import torch

    for key, name in (("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")):
        if os.environ.get(f"ACCELERATE_USE_{key}", "false").lower() == "true":
            raise CapabilityError(
                f"the launcher is configured for {name}, and the local engine runs replicas (accelerate "
                "launch --multi_gpu) and FSDP2 (--use_fsdp --fsdp_version 2); for larger models see "
                "docs/scaling.md"
            )
    if not torch.cuda.is_available():
        return "gloo"
    if local_rank() >= torch.cuda.device_count():
        raise UsageError(
            f"process {local_rank()} of this machine has no GPU of its own ({torch.cuda.device_count()} "
            "available): launch as many processes as there are GPUs"
        )
    torch.cuda.set_device(local_rank())
    return "cpu:gloo,cuda:nccl"


def _picklable(error: Exception | None) -> Exception | None:
    """The error itself where it survives pickling, else a RuntimeError with its message."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = None
    if error is None or (type(copy) is type(error) and str(copy) == str(error)):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


@contextmanager
def peer_errors() -> Iterator[None]:
    """Raise RankDiedError for a connection that closed or timed out."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, DidactError):
            raise
        raise RankDiedError(
            "another process of this run has ended or does not answer; its own last lines have the reason. "
            "`didact train --resume` goes on from the newest checkpoint, also with another number of "
            f"processes ({str(error).splitlines()[0]})"
        ) from error
