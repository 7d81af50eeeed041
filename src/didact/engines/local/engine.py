"""LocalEngine: torch, transformers and peft in one process; `distributed.py` has the one of several."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from didact.engines.base import (
    POLICY,
    REFERENCE,
    AdamParams,
    Capabilities,
    Loss,
    LossFn,
    Sample,
    SamplingParams,
    StepOutput,
    TopLogprobs,
    ValueHeadSettings,
    Weights,
)
from didact.engines.local.kv_cache import PrefixCache
from didact.engines.local.loading import (
    MERGED,
    LoraSettings,
    Precision,
    config_json,
    load_pretrained,
    merged_copy,
    pick_device,
    use_bfloat16,
    with_lora,
    without_peft_warnings,
)
from didact.engines.local.sampling import Sampler, Streams, check_prompts, end_ids_of, streams
from didact.engines.local.scoring import (
    Arrays,
    Batches,
    Score,
    check_rows,
    micro_batches,
    score_rows,
    target_kl,
    target_logprobs,
    top_logprobs,
)
from didact.engines.local.state import Checkpoint, TrainState, read, sha256, swapped_in, write
from didact.engines.local.training import (
    ValueHead,
    accumulate_gradient,
    compared_gradients,
    dot_product,
    resolve_loss,
    takes_values,
)
from didact.errors import CapabilityError, NonFiniteError, TrainingGuard, UsageError
from didact.types import Ids, Row

SAMPLING_BATCH = 8
"""A sampling batch takes this many times `tokens_per_batch`: it keeps no activations for a gradient."""
CPU_BATCH = 2048
"""Tokens of a micro-batch beyond which a CPU gets slower, because activations fall out of its cache."""


class LocalEngine(TrainState):
    """An engine on this machine's CPU or GPU; see `Engine`. All of the model is trained, or a LoRA adapter.

    The trained weights and the optimizer are float32; in bfloat16, only the arithmetic is. The model
    stays in eval mode: there is no dropout, and equal arguments give equal results.

    Args:
        model: A transformers causal language model. The engine owns it from now on.
        lora: Train an adapter instead of the whole model.
        device: A torch device, or "auto": CUDA, else MPS, else the CPU.
        dtype: What to compute in; "auto" is bfloat16 on GPUs that are made for it, else float32.
        tokens_per_batch: Padded tokens that a training micro-batch may hold. It bounds memory only.
        keep_reference: Keep a copy of the starting weights as REFERENCE. An adapter needs none.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        lora: LoraSettings | None = None,
        device: str = "auto",
        dtype: Precision = "auto",
        tokens_per_batch: int = 8192,
        keep_reference: bool = False,
        value_head: ValueHeadSettings | None = None,
    ) -> None:
        if tokens_per_batch < 1:
            raise UsageError(f"tokens_per_batch must be at least 1, not {tokens_per_batch}")
        self.device = pick_device(device)
        self.tokenizer = tokenizer
        on_cpu, half = self.device.type == "cpu", use_bfloat16(dtype, self.device)
        self._training_tokens = min(tokens_per_batch, CPU_BATCH) if on_cpu else tokens_per_batch
        self.dtype: Literal["float32", "bfloat16"] = "bfloat16" if half else "float32"
        self._adapter = None if lora is None else with_lora(model, lora)
        self._on_merged = getattr(model, MERGED, False)
        # peft puts its layers into the model itself, whose own forward costs less than the wrapper's.
        self.model = model if self._adapter is None else self._adapter.get_base_model()
        self.model.eval()
        if lora is None:
            self.model.float().requires_grad_(True)
        self._place()
        trained: dict[str, torch.Tensor] = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        head = None if value_head is None else ValueHead(self.model, value_head).to(self.device)
        trained |= {} if head is None else head.tensors()
        super().__init__(trained, head, keep_reference=keep_reference and lora is None)
        self._prefixes: dict[str, PrefixCache] | None = None
        """Of each set of weights, inside `prefix_cache`."""
        config = self.model.config.get_text_config(decoder=True)
        self._vocabulary: int = config.vocab_size
        positions: int | None = getattr(config, "max_position_embeddings", None)
        self._row_limit = positions if positions is None or positions > 0 else None  # XLNet has -1
        self.max_length = self._row_limit
        self.capabilities = Capabilities(
            soft_targets=self._vocabulary,
            full_finetune=lora is None,
            value_head=value_head is not None,
            full_kl=True,
            top_logprobs=True,
            entropy=True,
            penalties=True,
            named_snapshots=True,
            compares_gradients=True,
        )

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        lora: LoraSettings | None = None,
        device: str = "auto",
        dtype: Precision = "auto",
        attention: str | None = None,
        **settings: Any,
    ) -> Self:
        """Load a model from a directory or the hub; safetensors only, and no code of the repository.

        Args:
            path_or_id: A directory that `save_pretrained` wrote, an adapter's included, or a hub id.
            attention: A transformers attention implementation, as "sdpa" or "flash_attention_2";
                None takes transformers' choice.
            lora, device, dtype, **settings: As for the class.

        Raises:
            UsageError: there is no such model, or a file of it is broken or incomplete.
        """
        # Frozen weights may be bfloat16; trained ones must take steps that bfloat16 would round away.
        half = lora is not None and use_bfloat16(dtype, pick_device(device))
        stored = torch.bfloat16 if half else torch.float32
        model, tokenizer = cls._load(str(path_or_id), dtype=stored, attention=attention)
        return cls(model, tokenizer, lora=lora, device=device, dtype=dtype, **settings)

    @property
    def end_ids(self) -> set[int]:
        return end_ids_of(self.tokenizer, self.model.generation_config)

    def sample(
        self,
        prompts: Sequence[Ids],
        n: int,
        params: SamplingParams,
        *,
        seed: int | Sequence[int],
        weights: Weights = POLICY,
    ) -> list[list[Sample]]:
        check_prompts(prompts, n, params, max_length=self.max_length, vocabulary=self._vocabulary)
        return self._sample(prompts, n, params, streams(seed, len(prompts)), weights)

    @contextmanager
    def prefix_cache(self) -> Iterator[None]:
        """Cache samples until the end of the block (`kv_cache.py`); a nested one has no effect."""
        if self._prefixes is not None:
            yield
            return
        self._prefixes = {}
        try:
            yield
        finally:
            self._prefixes = None

    def logprobs(self, rows: Sequence[Row], *, weights: Weights = POLICY) -> list[NDArray[np.float32]]:
        with self._using(weights):
            return [scores_T for (scores_T,) in self._score(rows, target_logprobs)]

    def top_logprobs(self, rows: Sequence[Row], k: int, *, weights: Weights = POLICY) -> list[TopLogprobs]:
        if not 1 <= k <= self._vocabulary:
            raise UsageError(f"top_logprobs: k must be 1 to {self._vocabulary}, not {k}")
        with self._using(weights):
            return [TopLogprobs(*found) for found in self._score(rows, partial(top_logprobs, k))]

    def values(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        return [scores_T for (scores_T,) in self._score(rows, self._value_head().score, weighted=True)]

    def full_kl(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        with self._using(REFERENCE):
            pass  # refused before anything is computed
        score = partial(target_kl, lambda: self._using(REFERENCE))
        return [scores_T for (scores_T,) in self._score(rows, score, weighted=True)]

    def forward_backward(self, rows: Sequence[Row], loss: Loss) -> StepOutput:
        """See `Engine.forward_backward`.

        A custom loss function sees one micro-batch at a time, so it must be a sum over rows. Tokens of
        weight 0 are not scored: their log-probs reach the loss as 0.

        Raises:
            UsageError: an unknown loss, or rows that do not fit it.
        """
        if not rows:
            return StepOutput(0.0, {})
        check_rows(rows, max_length=self._row_limit, vocabulary=self._vocabulary)
        fn = resolve_loss(loss, rows[0].fields)
        if takes_values(fn):
            self._value_head()
        return self._train([row for row in rows if row.fields["weights"].any()], fn, loss)

    def optim_step(self, params: AdamParams) -> StepOutput:
        """See `Engine.optim_step`; a gradient that is NaN or Inf is cleared too.

        Raises:
            TrainingGuard: there is no gradient, because no row of nonzero weight was trained.
        """
        trained = [p for p in self._trained.values() if p.grad is not None]
        if not trained:
            raise TrainingGuard(
                "there is no gradient to step on: call forward_backward with at least one row of "
                "nonzero weight before optim_step"
            )
        norm = self._norm([p.grad for p in trained if p.grad is not None])
        grad_norm = float(norm)
        if not math.isfinite(grad_norm):
            self._clear_gradient()
            raise NonFiniteError(
                f"the gradient's norm is {grad_norm}: no weight was changed and the gradient was cleared. "
                "Look at the rows' weights and advantages, or lower the learning rate"
            )
        if grad_norm > params.max_grad_norm:
            self._clip(trained, params.max_grad_norm, norm)
        self._step(params)
        return StepOutput(0.0, {"grad_norm": grad_norm})

    def model_hash(self) -> str:
        """sha256 over the config and all tensors, the frozen ones under an adapter and a value head's too."""
        tensors = sha256({**dict(self.model.named_parameters()), **self._trained})
        return hashlib.sha256(f"{tensors} {config_json(self.model)}".encode()).hexdigest()

    def save(self, path: Path) -> None:
        """See `Engine.save`; an accumulated gradient is not saved."""
        write(Path(path), self._collect())

    def load(self, path: Path) -> None:
        """See `Engine.load`; clears the gradient.

        Raises:
            CheckpointError: the checkpoint is torn or another model's; nothing was changed.
        """
        self._restore(self._read(Path(path)))

    def save_pretrained(self, path: Path) -> None:
        """See `Engine.save_pretrained`; an adapter that was trained on an adapter is saved merged."""
        if self._adapter is None:
            self.model.save_pretrained(path)
        else:
            with without_peft_warnings():
                (merged_copy(self._adapter) if self._on_merged else self._adapter).save_pretrained(path)
        self.tokenizer.save_pretrained(path)

    _norm, _clip = staticmethod(get_total_norm), staticmethod(clip_grads_with_norm_)
    _dot = staticmethod(dot_product)
    _load = staticmethod(load_pretrained)

    def _place(self) -> None:
        self.model.to(self.device)

    def _read(self, path: Path) -> Checkpoint:
        return read(path, self._trained)

    def _sample(
        self, prompts: Sequence[Ids], n: int, params: SamplingParams, drawn: Streams, weights: Weights
    ) -> list[list[Sample]]:
        most = SAMPLING_BATCH * self._training_tokens
        kept = None if self._prefixes is None else self._prefixes.setdefault(weights.name, PrefixCache(most))
        sampler = Sampler(self.model, self.tokenizer, self.end_ids, most, kept)
        with self._sampling(weights), self._without_gradient(), self._autocast():
            return sampler.sample([tuple(p) for p in prompts], n, params, drawn)

    def _sampling(self, weights: Weights) -> AbstractContextManager[Any]:
        return self._using(weights)

    def _train(self, rows: Sequence[Row], fn: LossFn, loss: Loss) -> StepOutput:
        """Add a gradient to that in `.grad`, and compare the two; after a failure `.grad` is as before."""
        trained = list(self._trained.values())
        before = [p.grad for p in trained]
        self._clear_gradient()
        try:
            output = self._accumulate(rows, fn, loss)
        except BaseException:
            for p, gradient in zip(trained, before, strict=True):
                p.grad = gradient
            raise
        compared = compared_gradients([p.grad for p in trained], before, norm=self._norm, dot=self._dot)
        for p, gradient in zip(trained, before, strict=True):
            if gradient is not None:
                p.grad = gradient if p.grad is None else p.grad.add_(gradient)
        return output._replace(metrics={**output.metrics, **compared})

    def _accumulate(self, rows: Sequence[Row], fn: LossFn, loss: Loss) -> StepOutput:
        return accumulate_gradient(self.model, self._batches(rows), fn, loss, self._autocast, self._head)

    def _batches(self, rows: Sequence[Row]) -> Batches:
        return micro_batches(rows, self._training_tokens, self.device)

    def _without_gradient(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    @contextmanager
    def _using(self, weights: Weights) -> Iterator[None]:
        copy = self._find(weights)
        if weights == POLICY:
            yield
        elif copy is not None:
            with swapped_in(self._trained, copy):
                yield
        elif weights == REFERENCE and self._adapter is not None:
            with self._adapter.disable_adapter():
                yield
        elif weights == REFERENCE:
            raise CapabilityError(
                "this engine kept no copy of its starting weights: make it with keep_reference=True (or "
                "with LoRA, where the reference is free)"
            )
        else:
            raise UsageError(
                f"unknown weights {weights.name!r}: keep the handle that `snapshot` returned, or give the "
                f"snapshot a name (there are {sorted(self.snapshot_names)})"
            )

    def _score(self, rows: Sequence[Row], score: Score, *, weighted: bool = False) -> list[Arrays]:
        check_rows(rows, max_length=self._row_limit, vocabulary=self._vocabulary)
        with self._without_gradient(), self._autocast():
            return self._score_rows(rows, score, weighted)

    def _score_rows(self, rows: Sequence[Row], score: Score, weighted: bool) -> list[Arrays]:
        return score_rows(self.model, rows, self._batches(rows), score, weighted=weighted)

    def _value_head(self) -> ValueHead:
        if self._head is None:
            raise CapabilityError(
                "this engine has no value head: make it with value_head=ValueHeadSettings(), or "
                "advantages that need none, as credit=critic_free"
            )
        return self._head

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.dtype == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()
