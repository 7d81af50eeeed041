"""Part: the LocalEngine of one process among several. `distributed.py` calls all of them alike.

Two ways of holding the weights, which the launcher chooses:

* replicas (as DDP): every process holds all, computes the gradient of its own rows and sums it with the
  others' once for each `forward_backward`. torch's DistributedDataParallel is not used: it averages, and it
  wants equally many backward passes of every process.
* slices (FSDP2, `sharding.py`): a forward or backward pass is the work of all processes together, so they
  go through equally many micro-batches; whoever has fewer takes idle ones at the end.

Either way the result is the sum over all rows, whatever their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from didact.engines.base import AdamParams, Loss, LossFn, StepOutput, Weights
from didact.engines.local import weights as weight_sets
from didact.engines.local.batching import Batches, padding_batch
from didact.engines.local.engine import LocalEngine
from didact.engines.local.processes import join, local_rank
from didact.engines.local.sharding import (
    forget_gathered,
    gathered,
    local,
    shard,
    sharding_settings,
    sliced_as,
)
from didact.engines.local.training import Gradients, accumulate_gradient, comparison
from didact.engines.local.weights import is_sliced
from didact.errors import NonFiniteError, UsageError
from didact.types import Row

Layout = Sequence[Sequence[Any]]
"""(parameter, kind, shape, dtype's name) of each tensor of an optimizer's state, in JSON's types."""


class Part(LocalEngine):
    """One process's share of an engine. Every call has to be made by all processes, with their own rows.

    Attributes:
        idle: A row like the ones in work, for idle batches; set before rows are scored or trained.
        handles: Snapshots that the first process still uses, by name.
        found: A checkpoint's contents, in the process that has read it and until they are taken up.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.processes = join()
        self.sharding = sharding_settings()
        self.idle: Row | None = None
        self.handles: dict[str, Weights] = {}
        self.found: tuple[weight_sets.Tensors, dict[str, weight_sets.Tensors]] | None = None
        super().__init__(*args, **settings)

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, *, device: str = "auto", **settings: Any) -> Part:
        """Load a model on every process; see `LocalEngine.from_pretrained`.

        Raises:
            UsageError, DataError: as there, on the process that found it.
            PeerFailed: another process could not load it.
        """
        processes = join()
        agreements = processes.agreements
        try:
            sharding_settings()  # tells transformers to read the weights on every process
            part = super().from_pretrained(path_or_id, device=own_device(device), **settings)
        except Exception as error:
            if processes.agreements == agreements:  # the others wait at the one in `_place`
                processes.agree(error)
            raise
        assert isinstance(part, Part)
        return part

    @property
    def must_keep_step(self) -> bool:
        """Is every pass of the model the work of all processes?"""
        return self.sharding is not None

    @property
    def vocabulary(self) -> int:
        """Ids that the model knows."""
        return self._vocabulary

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """The trained tensors by name; under FSDP slices, which have the shape of the whole."""
        return self._trained

    def check_trainable(self, rows: Sequence[Row], loss: Loss) -> None:
        """Refuse rows and losses that `forward_backward` refuses, before they are dealt out."""
        self._resolved(rows, loss)

    # ── the weights ───────────────────────────────────────────────────────────────────────────────

    def _place(self) -> None:
        self.processes.agree(None)
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            tensor.data.copy_(self.processes.spread(tensor.data.to(self.device)))
        if self.sharding is None:
            super()._place()
        else:
            shard(self.model, self.sharding, self.device)

    @contextmanager
    def _using(self, weights: Weights) -> Iterator[None]:
        self._forget_gathered()
        with super()._using(weights):
            try:
                yield
            finally:
                self._forget_gathered()

    def _forget_gathered(self) -> None:
        if self.must_keep_step:
            forget_gathered(self.model)

    def layout(self, state: Mapping[str, weight_sets.Tensors]) -> Layout:
        """What an optimizer's state consists of."""
        return [
            (name, kind, list(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, kinds in state.items()
            for kind, tensor in kinds.items()
        ]

    def take_up(
        self, found: tuple[weight_sets.Tensors, dict[str, weight_sets.Tensors]] | None, layout: Layout
    ) -> None:
        """Take up what the first process has read as `found`, which is None elsewhere."""
        weights: weight_sets.Tensors = {}
        for name, p in self._trained.items():
            read = None if found is None else found[0][name]
            weights[name] = self._spread(read, p, tuple(p.shape), p.dtype)
        state: dict[str, weight_sets.Tensors] = {}
        for name, kind, shape, dtype in layout:
            read = None if found is None else found[1][name][kind]
            spread = self._spread(read, self._trained[name], tuple(shape), getattr(torch, dtype))
            state.setdefault(name, {})[kind] = spread
        self._forget_gathered()
        self._take_up(weights, state)

    def _spread(
        self, read: Tensor | None, like: Tensor, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        empty = torch.empty(shape, dtype=dtype, device=self.device)
        return sliced_as(like, self.processes.spread(empty if read is None else read.to(self.device, dtype)))

    def write(self, path: Path | None) -> None:
        """`save` for the process that has a path; the others give their slices."""
        weight_sets.save(path, self._trained, self._optimizer)

    def write_pretrained(self, path: Path | None) -> None:
        """`save_pretrained` for the process that has a path; the others give their slices."""
        holder = self.model if self._adapter is None else self._adapter
        put_together: dict[int, Tensor] = {}  # tied tensors stay one
        state = {}
        for name, tensor in holder.state_dict(keep_vars=True).items():
            if id(tensor) not in put_together:
                full = weight_sets.whole(tensor.detach())
                put_together[id(tensor)] = full if path is None else full.cpu()
            state[name] = put_together[id(tensor)]
        if path is not None:
            holder.save_pretrained(path, state_dict=state)
            self.tokenizer.save_pretrained(path)

    # ── sampling and scoring ──────────────────────────────────────────────────────────────────────

    def _sampling(self, weights: Weights) -> AbstractContextManager[Any]:
        both = ExitStack()
        both.enter_context(super()._sampling(weights))
        if self.must_keep_step:
            both.enter_context(gathered(self.model, self.sharding))
        return both

    def _without_gradient(self) -> AbstractContextManager[Any]:
        # What FSDP gathers in inference mode could not take part in a gradient later.
        return torch.no_grad() if self.must_keep_step else super()._without_gradient()

    def _batches(self, rows: Sequence[Row]) -> Batches:
        batches = list(super()._batches(rows))
        missing = self.processes.highest(len(batches)) - len(batches) if self.must_keep_step else 0
        assert not missing or self.idle is not None
        idle = [padding_batch(self.idle, self.device)] if missing and self.idle is not None else []
        return [*batches, *idle * missing]

    # ── training ──────────────────────────────────────────────────────────────────────────────────

    def _accumulate(self, batches: Batches, fn: LossFn, settings: Mapping[str, float]) -> StepOutput:
        output, failed = StepOutput(0.0, {}), None
        try:
            output = accumulate_gradient(
                self.model, batches, fn, settings, self._autocast, self._head, in_step=self.must_keep_step
            )
        except Exception as error:
            if self.must_keep_step and not isinstance(error, NonFiniteError):
                raise  # the others wait in a pass that this process has left: the run is over
            failed = error
        self._forget_gathered()
        self.processes.agree(failed)
        self._sum_gradient()
        return output

    def _sum_gradient(self) -> None:
        """Sum over processes what FSDP has not summed; a tensor without gradient anywhere keeps none."""
        trained = [p for p in self._trained.values() if not is_sliced(p)]
        there = self.processes.highest_of(p.grad is not None for p in trained)
        summed = [p for p, anywhere in zip(trained, there, strict=True) if anywhere]
        for p in summed:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        self.processes.add_up([p.grad for p in summed if p.grad is not None])

    def _norm(self, gradients: Iterable[Tensor]) -> Tensor:  # type: ignore[override]
        if not self.must_keep_step:
            return LocalEngine._norm(gradients)
        pairs = [(g, g) for g in gradients]
        return self._products(pairs).sum().sqrt()

    def _clip(self, trained: Iterable[Tensor], limit: float, norm: Tensor) -> None:  # type: ignore[override]
        if not self.must_keep_step:
            LocalEngine._clip(trained, limit, norm)
            return
        scale = float((limit / (norm + 1e-6)).clamp(max=1.0))
        for p in trained:
            if p.grad is not None:
                local(p.grad).mul_(scale)

    def _compared(self, added: Gradients, before: Gradients) -> dict[str, float]:
        if not self.must_keep_step:
            return LocalEngine._compared(added, before)
        grads = [g for g in added if g is not None]
        waiting = [g for g in before if g is not None]
        both = [(a, b) for a, b in zip(added, before, strict=True) if a is not None and b is not None]
        if not grads:
            return {}
        squared, other = (float(self._products([(g, g) for g in all_]).sum()) for all_ in (grads, waiting))
        dot = float(self._products(both).sum())
        return comparison(math.sqrt(squared), math.sqrt(other) if both else 0.0, dot)

    def _products(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The dot product of each pair of whole tensors, in float64."""
        products = torch.zeros(len(pairs), dtype=torch.float64, device=self.device)
        for i, (a, b) in enumerate(pairs):
            if is_sliced(a) or self.processes.rank == 0:  # what is not sliced counts once
                products[i] = torch.dot(local(a).reshape(-1), local(b).reshape(-1))
        self.processes.add_up([products])
        return products

    def optim_step(self, params: AdamParams) -> StepOutput:
        """As `LocalEngine.optim_step`; every process takes the same step on what it holds."""
        self._forget_gathered()
        return super().optim_step(params)


def own_device(name: str) -> str:
    """The device of this process: its own GPU, or the CPU.

    Raises:
        UsageError: one device for all processes, or one that gloo and NCCL do not know.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UsageError(
            f"model.device = {name!r} for several processes: each takes a device of its own, so say auto, "
            "cuda or cpu"
        )
    return f"cuda:{local_rank()}" if name == "cuda" else name
