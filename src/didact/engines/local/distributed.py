"""DistributedEngine: a LocalEngine on every rank of a launch, each computing its share (SPMD).

Every rank makes the same calls with the same arguments. `sample`, the scores and `forward_backward` divide
prompts or rows among the ranks by length, compute, and gather, so that every rank returns the whole result:
that of one process, up to rounding. Each prompt keeps its random stream, so samples do not depend on the
division. A digest of the arguments travels along and ranks that disagree end the run.

Weights are held in one of two ways, chosen by the launcher:

* replicas (as DDP): every rank holds all weights, and gradients are summed once for each `forward_backward`.
  torch's DistributedDataParallel is not used: it averages, and needs as many backward passes on every rank.
* shards (FSDP2, `sharding.py`): every forward or backward pass is a collective, so all ranks run equally many
  micro-batches; ranks with fewer add padding batches.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from didact.distributed import init_process_group, local_rank, peer_errors
from didact.engines.base import AdamParams, Loss, LossFn, Sample, SamplingParams, StepOutput, Weights
from didact.engines.local.engine import LocalEngine
from didact.engines.local.loading import without_peft_warnings
from didact.engines.local.sampling import Streams
from didact.engines.local.scoring import Arrays, Batches, Score, padding_batch, score_rows
from didact.engines.local.sharding import (
    local_shard,
    reshard,
    shard,
    shard_like,
    sharding_settings,
    unsharded,
)
from didact.engines.local.state import PARTS, WEIGHTS, Checkpoint, full_tensor, is_sharded, read, write
from didact.engines.local.training import accumulate_gradient
from didact.errors import DidactError, TrainingGuard, UsageError
from didact.types import Ids, Row

T = TypeVar("T")


class DistributedEngine(LocalEngine):
    """An engine on all processes of a launch; see the module. `tokens_per_batch` is for each process."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.group = init_process_group()
        self.sharding = sharding_settings()
        super().__init__(*args, **settings)
        if self.uses_fsdp and self._on_merged and self._adapter is not None:
            raise UsageError(
                "FSDP cannot save an adapter that is trained on an adapter: merge the first one into a "
                "folder, with LocalEngine.from_pretrained(ADAPTER).save_pretrained(FOLDER), and train on that"
            )

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, *, device: str = "auto", **settings: Any) -> Self:
        """As `LocalEngine.from_pretrained`; every rank reads the model and takes its own GPU."""
        init_process_group()
        sharding_settings()  # lets transformers read the weights on every rank
        return super().from_pretrained(path_or_id, device=own_device(device), **settings)

    @property
    def uses_fsdp(self) -> bool:
        """Whether weights are sharded, so that every pass of the model is a collective."""
        return self.sharding is not None

    @staticmethod
    def _load(path_or_id: str, *, dtype: torch.dtype, attention: str | None) -> tuple[Any, Any]:
        loaded: list[tuple[Any, Any]] = []

        def load() -> None:
            loaded.append(LocalEngine._load(path_or_id, dtype=dtype, attention=attention))

        init_process_group().gather_results(load)
        return loaded[0]

    def _place(self) -> None:
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            tensor.data.copy_(_broadcast(tensor.data.to(self.device)))
        if self.sharding is None:
            super()._place()
        else:
            shard(self.model, self.sharding, self.device)

    @contextmanager
    def _using(self, weights: Weights) -> Iterator[None]:
        self._reshard()
        with super()._using(weights):
            try:
                yield
            finally:
                self._reshard()

    def _reshard(self) -> None:
        if self.uses_fsdp:
            reshard(self.model)

    def save(self, path: Path) -> None:
        """As `LocalEngine.save`: rank 0 writes whole tensors, to be loaded by any number of processes."""
        tensors = self._collect(keep=self.group.is_main)
        self.group.run_on_main(lambda: write(Path(path), tensors))

    def _read(self, path: Path) -> Checkpoint:
        """Rank 0 reads and broadcasts."""
        on_main: Checkpoint = {}

        def read_on_main() -> list[tuple[str, str, torch.Size, torch.dtype]]:
            on_main.update(read(path, self._trained))
            return [(p, name, t.shape, t.dtype) for p, named in on_main.items() for name, t in named.items()]

        layout = self.group.run_on_main(read_on_main)
        self._reshard()
        found: Checkpoint = {part: {} for part in PARTS}
        for part, name, shape, dtype in layout:
            whole = on_main[part][name] if on_main else torch.empty(shape, dtype=dtype)
            parameter = name if part == WEIGHTS else name.partition(".")[2]
            found[part][name] = shard_like(self._trained[parameter], _broadcast(whole.to(self.device)))
        return found

    def save_pretrained(self, path: Path) -> None:
        """As `LocalEngine.save_pretrained`; rank 0 writes."""
        if not self.uses_fsdp:
            self.group.run_on_main(lambda: LocalEngine.save_pretrained(self, path))
            return
        holder = self.model if self._adapter is None else self._adapter
        full: dict[int, Tensor] = {}  # by identity, so that tied tensors stay one
        state = {}
        for name, tensor in holder.state_dict(keep_vars=True).items():
            if id(tensor) not in full:
                whole = full_tensor(tensor.detach())
                full[id(tensor)] = whole.cpu() if self.group.is_main else whole
            state[name] = full[id(tensor)]

        def write() -> None:
            with without_peft_warnings():
                holder.save_pretrained(path, state_dict=state)
            self.tokenizer.save_pretrained(path)

        self.group.run_on_main(write)

    def _sample(
        self, prompts: Sequence[Ids], n: int, params: SamplingParams, drawn: Streams, weights: Weights
    ) -> list[list[Sample]]:
        if not prompts:
            return []

        def own(which: Sequence[int]) -> list[list[Sample]]:
            return LocalEngine._sample(
                self, [prompts[i] for i in which], n, params, [drawn[i] for i in which], weights
            )

        return self._divided([np.asarray(prompt, np.int64) for prompt in prompts], own)

    @contextmanager
    def _sampling(self, weights: Weights) -> Iterator[None]:
        whole = unsharded(self.model, self.sharding) if self.uses_fsdp else nullcontext()
        with super()._sampling(weights), whole:
            yield

    def _without_gradient(self) -> AbstractContextManager[Any]:
        # Tensors that FSDP gathers in inference mode could not take part in a gradient later.
        return torch.no_grad() if self.uses_fsdp else super()._without_gradient()

    def _score_rows(self, rows: Sequence[Row], score: Score, weighted: bool) -> list[Arrays]:
        if not rows:
            return []

        def own(which: Sequence[int]) -> list[Arrays]:
            mine = [rows[i] for i in which]
            batches = self._batches(mine, like=rows[0])
            return score_rows(self.model, mine, batches, score, weighted=weighted)

        return self._divided([row.input_ids for row in rows], own)

    def _divided(self, ids: Sequence[NDArray[Any]], compute: Callable[[Sequence[int]], list[T]]) -> list[T]:
        """Results for all items; `compute` gives those of this rank's share, which balances the lengths."""
        shares = shard_balanced([len(item) for item in ids], self.group.world_size)
        results = self._gather(ids, lambda: compute(shares[self.group.rank]))
        return unshard(shares, results)

    def _gather(self, ids: Sequence[NDArray[Any]], compute: Callable[[], T]) -> list[T]:
        """Results of all ranks, once it is certain that they hold the same items.

        Under FSDP an unexpected error leaves the other ranks inside a collective, so it ends this process.
        """
        digest = 0
        for item in ids:
            digest = zlib.crc32(item.tobytes(), digest)
        error: Exception | None = None
        results: list[T] = []
        try:
            results.append(compute())
        except Exception as failed:
            if self.uses_fsdp and not isinstance(failed, DidactError):
                raise
            error = failed

        def outcome() -> tuple[int, T]:
            if error is not None:
                raise error
            return digest, results[0]

        gathered = self.group.gather_results(outcome)
        if len({found for found, _ in gathered}) > 1:
            raise TrainingGuard(
                "the processes of this run have prepared different batches, so that something outside of it "
                "answered them differently: go on from the newest checkpoint"
            )
        return [result for _, result in gathered]

    def _batches(self, rows: Sequence[Row], like: Row | None = None) -> Batches:
        batches = list(super()._batches(rows))
        if not self.uses_fsdp:
            return batches
        missing = max(self.group.gather_results(lambda: len(batches))) - len(batches)
        if not missing:
            return batches
        assert like is not None
        return [*batches, *[padding_batch(like, self.device)] * missing]

    def _accumulate(self, rows: Sequence[Row], fn: LossFn, loss: Loss) -> StepOutput:
        if not rows:
            return StepOutput(0.0, {})
        shares = shard_balanced([len(row) for row in rows], self.group.world_size)
        mine = [rows[i] for i in shares[self.group.rank]]

        def own() -> StepOutput:
            batches = self._batches(mine, like=rows[0])
            try:
                return accumulate_gradient(
                    self.model, batches, fn, loss, self._autocast, self._head, lockstep=self.uses_fsdp
                )
            finally:
                self._reshard()

        outputs = self._gather([row.input_ids for row in rows], own)
        self._all_reduce_grads()
        metrics = Counter[str]()
        for output in outputs:
            metrics.update(output.metrics)
        return StepOutput(sum(output.loss for output in outputs), dict(metrics))

    def _all_reduce_grads(self) -> None:
        """Sum what FSDP has not summed; a tensor without a gradient on any rank keeps none."""
        trained = [p for p in self._trained.values() if not is_sharded(p)]
        present = self.group.gather_results(lambda: [p.grad is not None for p in trained])
        for p, anywhere in zip(trained, map(any, zip(*present, strict=True)), strict=True):
            if anywhere:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                _all_reduce(p.grad)

    def optim_step(self, params: AdamParams) -> StepOutput:
        """As `LocalEngine.optim_step`; every rank takes the same step on what it holds.

        Raises:
            TrainingGuard: also where replicas have different gradients.
        """
        self._reshard()
        outputs = self.group.gather_results(lambda: LocalEngine.optim_step(self, params))
        if any(output != outputs[0] for output in outputs):
            raise TrainingGuard(
                f"the processes stepped on different gradients ({[o.metrics for o in outputs]}): their "
                "weights have drifted apart. Go on from the newest checkpoint, with equal devices for all"
            )
        return outputs[0]

    def _norm(self, gradients: Iterable[Tensor]) -> Tensor:  # type: ignore[override]
        if not self.uses_fsdp:
            return LocalEngine._norm(gradients)
        return self._products([(g, g) for g in gradients]).sum().sqrt()

    def _clip(self, trained: Iterable[Tensor], limit: float, norm: Tensor) -> None:  # type: ignore[override]
        if not self.uses_fsdp:
            LocalEngine._clip(trained, limit, norm)
            return
        scale = float((limit / (norm + 1e-6)).clamp(max=1.0))
        for p in trained:
            if p.grad is not None:
                local_shard(p.grad).mul_(scale)

    def _dot(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
        return float(self._products(pairs).sum()) if self.uses_fsdp else LocalEngine._dot(pairs)

    def _products(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The dot product of each pair of whole tensors, in float64."""
        products = torch.zeros(len(pairs), dtype=torch.float64, device=self.device)
        for i, (a, b) in enumerate(pairs):
            if is_sharded(a) or self.group.is_main:  # a tensor that is not sharded counts once
                products[i] = torch.dot(local_shard(a).reshape(-1), local_shard(b).reshape(-1))
        return _all_reduce(products)


def shard_balanced(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """Indices for each rank, so that all have about equally many items and equally much to compute.

    >>> shard_balanced([5, 1, 4, 2, 3], 2)
    [[0, 1, 3], [2, 4]]
    """
    largest_first = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    there_and_back = [*range(ranks), *reversed(range(ranks))]
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for turn, i in enumerate(largest_first):
        shares[there_and_back[turn % len(there_and_back)]].append(i)
    return [sorted(share) for share in shares]


def unshard(shares: Sequence[Sequence[int]], results: Sequence[Sequence[T]]) -> list[T]:
    """Results of all ranks in the items' order."""
    found = {
        i: result
        for share, own in zip(shares, results, strict=True)
        for i, result in zip(share, own, strict=True)
    }
    return [found[i] for i in range(len(found))]


def own_device(name: str) -> str:
    """The device of this process: the GPU of its local rank, or the CPU.

    Raises:
        UsageError: one device for all processes, or one that gloo and NCCL do not support.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UsageError(
            f"model.device = {name!r} for several processes, which need one each: use auto, cuda or cpu"
        )
    return f"cuda:{local_rank()}" if name == "cuda" else name


def _broadcast(tensor: Tensor) -> Tensor:
    """Overwrite a tensor with that of rank 0."""
    with peer_errors():
        dist.broadcast(tensor, 0)
    return tensor


def _all_reduce(tensor: Tensor) -> Tensor:
    """Overwrite a tensor with its sum over the ranks."""
    with peer_errors():
        dist.all_reduce(tensor)
    return tensor
