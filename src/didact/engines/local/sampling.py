"""Sampling from a transformers causal language model, with log-probs and stop reasons.

Each distinct prompt is computed once, its cache is repeated for its n samples, and finished rows leave the
batch. Token t of sample j of prompt i is drawn by the t-th uniform number of a generator of its own, so that
the other rows of the batch do not change its draws.

Shapes: B rows, P distinct prompts, T positions, V vocabulary.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from didact.engines.base import Sample, SamplingParams
from didact.engines.local.kv_cache import PrefixCache, make_cache
from didact.errors import NonFiniteError, UsageError
from didact.rendering.chat_template import end_of_turn
from didact.rng import generator
from didact.types import Ids, StopReason

Streams: TypeAlias = Sequence[tuple[int, int]]
"""A seed and a number for each prompt; with the sample's index they seed its draws."""
DROP_ABOVE = 1 / 8
"""Share of finished rows from which copying the cache without them costs less than carrying them."""

RECURRENT_CACHE = "cache_params"
"""The argument for the cache of a model without attention, as Mamba, whose state has no padding to mask."""


def streams(seed: int | Sequence[int], prompts: int) -> Streams:
    """One seed with each prompt's place in the batch; or a seed for each prompt, whatever its place."""
    return [(seed, i) for i in range(prompts)] if isinstance(seed, int) else [(own, 0) for own in seed]


@dataclass(frozen=True)
class Sampler:
    """Samples from one model.

    Attributes:
        model: A transformers causal language model in eval mode.
        eos_ids: Ids that end a completion.
        tokens_per_batch: Cache positions (rows x longest possible row) that one batch may take.
    """

    model: Any
    tokenizer: Any
    eos_ids: Collection[int]
    tokens_per_batch: int
    kept: PrefixCache | None = None

    def sample(
        self, prompts: Sequence[Ids], n: int, params: SamplingParams, drawn: Streams
    ) -> list[list[Sample]]:
        """n completions for each prompt, drawn from its own stream. Run it without gradients.

        Raises:
            NonFiniteError: the model's log-probs are NaN.
        """
        samples: dict[tuple[int, int], Sample] = {}
        for requests in self._batches(prompts, n, params.max_tokens):
            batch = _Batch.start(self.model, prompts, requests, params, drawn, self.kept)
            done = self._run(batch, params)
            samples.update(zip(requests, done, strict=True))
        return [[samples[i, j] for j in range(n)] for i in range(len(prompts))]

    def _batches(self, prompts: Sequence[Ids], n: int, max_tokens: int) -> Iterator[list[tuple[int, int]]]:
        """(prompt, sample) pairs, prompts of like length together, as many as the budget takes."""
        by_length = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
        batch: list[tuple[int, int]] = []
        for request in [(i, j) for i in by_length for j in range(n)]:
            longest = len(prompts[request[0]]) + max_tokens
            if batch and (len(batch) + 1) * longest > self.tokens_per_batch:
                yield batch
                batch = []
            batch.append(request)
        if batch:
            yield batch

    def _run(self, batch: _Batch, params: SamplingParams) -> list[Sample]:
        ids: list[list[int]] = [[] for _ in batch.rows]
        logprobs: list[list[float]] = [[] for _ in batch.rows]
        reasons: list[StopReason | None] = [None] * len(batch.rows)
        alive = len(batch.rows)
        for step in range(params.max_tokens):
            logits_BV = penalised(batch.logits_BV, batch.seen_BV, step, params, self.eos_ids)
            next_B, logprobs_B = draw(batch.logits_BV, batch.uniforms_BT[:, step], params, logits_BV)
            for row, token, logprob in zip(batch.rows, next_B.tolist(), logprobs_B.tolist(), strict=True):
                if reasons[row] is not None:
                    continue
                if not math.isfinite(logprob):
                    raise NonFiniteError(
                        f"the model gives NaN log-probs at completion token {step}: its weights are "
                        "broken; go back to an earlier checkpoint, or lower the learning rate"
                    )
                ids[row].append(token)
                logprobs[row].append(logprob)
                reasons[row] = why_stop(ids[row], params, self.tokenizer, self.eos_ids)
                alive -= reasons[row] is not None
            if not alive:
                break
            if len(batch.rows) - alive >= DROP_ABOVE * len(batch.rows):
                self._keep(batch, ids, reasons)
                next_B = batch.drop([reasons[row] is None for row in batch.rows], next_B)
            batch.advance(self.model, next_B)
        self._keep(batch, ids, reasons)
        return [
            Sample(tuple(i), tuple(lp), reason or "length")
            for i, lp, reason in zip(ids, logprobs, reasons, strict=True)
        ]

    def _keep(
        self, batch: _Batch, ids: Sequence[Sequence[int]], reasons: Sequence[StopReason | None]
    ) -> None:
        """Cache the states of finished rows: those of all ids but the last."""
        if self.kept is None:
            return
        for b, row in enumerate(batch.rows):
            if reasons[row] is not None:
                prompt = batch.prompts[row]
                self.kept.keep(batch.cache, b, batch.longest - len(prompt), (*prompt, *ids[row][:-1]))


def why_stop(
    ids: Sequence[int], params: SamplingParams, tokenizer: Any, end_ids: Collection[int]
) -> StopReason | None:
    """The reason to stop after these completion ids, or None."""
    if ids[-1] in end_ids:
        return "eos"
    if params.stop and len(ids) > params.min_tokens:
        # A stop string of k bytes spans at most k tokens; the margin keeps a character that the
        # window cuts in two, and a leading space that decoding strips, away from it.
        window = max(len(s.encode()) for s in params.stop) + 8
        tail = tokenizer.decode(
            list(ids[-window:]), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        if any(s in tail for s in params.stop):
            return "stop"
    return "length" if len(ids) == params.max_tokens else None


@dataclass
class _Batch:
    """Rows that are sampled together, and the state of the model."""

    rows: list[int]
    """Index of each row among those at the start."""
    prompts: list[Ids]
    """Of each row at the start."""
    longest: int
    """Ids of the longest prompt; the others are padded on the left."""
    cache: Any
    logits_BV: Tensor
    """For each row's next token."""
    position_B: Tensor
    """Position of each row's next token, left padding not counted."""
    mask_BT: Tensor | None
    """0 on left padding, up to the cache's capacity; None where nothing is padded."""
    uniforms_BT: Tensor
    """One number in [0, 1) for each token that a row may sample."""
    filled: int
    """Positions in the cache, left padding counted."""
    cache_name: str
    """The argument of the model's forward that takes the cache."""
    seen_BV: Tensor | None
    """Which ids are in each row so far; None without a repetition penalty."""

    @classmethod
    def start(
        cls,
        model: Any,
        prompts: Sequence[Ids],
        requests: Sequence[tuple[int, int]],
        params: SamplingParams,
        drawn: Streams,
        kept: PrefixCache | None,
    ) -> _Batch:
        """Compute every distinct prompt once, from its cached prefix on; then repeat it for each request."""
        slots = {prompt: p for p, prompt in enumerate(dict.fromkeys(prompts[i] for i, _ in requests))}
        length = max(map(len, slots))
        ids_PT = torch.zeros(len(slots), length, dtype=torch.long)
        mask_PT = torch.zeros(len(slots), length + params.max_tokens, dtype=torch.long)
        for prompt, p in slots.items():
            ids_PT[p, length - len(prompt) :] = torch.tensor(prompt)
            mask_PT[p, length - len(prompt) :] = 1
        padded = bool((mask_PT == 0).any())
        ids_PT, mask_PT = ids_PT.to(model.device), mask_PT.to(model.device)
        cache: Any = make_cache(model.config, length + params.max_tokens)
        cache_name = "past_key_values"
        if RECURRENT_CACHE in inspect.signature(model.forward).parameters:
            cache_name = RECURRENT_CACHE
        known = 0 if kept is None else kept.fill(cache, list(slots))
        logits_PV = model(
            input_ids=ids_PT[:, known:],
            attention_mask=mask_PT[:, :length] if padded else None,
            position_ids=(mask_PT[:, :length].cumsum(-1) - 1).clamp(min=0)[:, known:],
            **{cache_name: cache},
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        slot_B = torch.tensor([slots[prompts[i]] for i, _ in requests], device=model.device)
        cache.reorder_cache(slot_B)
        seen_PV = None
        if params.repetition_penalty != 1:
            seen_PV = torch.zeros_like(logits_PV, dtype=torch.bool)
            for prompt, p in slots.items():
                seen_PV[p, list(set(prompt))] = True
        each = [(*drawn[i], j) for i, j in requests]
        uniforms = [generator(seed, "sample", i, j).random(params.max_tokens) for seed, i, j in each]
        # MPS has no float64.
        precise = torch.float32 if model.device.type == "mps" else torch.float64
        return cls(
            rows=list(range(len(requests))),
            prompts=[prompts[i] for i, _ in requests],
            longest=length,
            cache=cache,
            logits_BV=logits_PV[slot_B],
            position_B=torch.tensor([len(prompts[i]) for i, _ in requests], device=model.device),
            mask_BT=mask_PT[slot_B] if padded else None,
            uniforms_BT=torch.from_numpy(np.stack(uniforms)).to(precise).to(model.device),
            filled=length,
            cache_name=cache_name,
            seen_BV=None if seen_PV is None else seen_PV[slot_B],
        )

    def drop(self, keep: Sequence[bool], next_B: Tensor) -> Tensor:
        """Remove the other rows, and return the rest of `next_B`."""
        kept = [b for b, stays in enumerate(keep) if stays]
        kept_B = torch.tensor(kept, device=next_B.device)
        self.rows = [self.rows[b] for b in kept]
        self.cache.reorder_cache(kept_B)
        self.position_B = self.position_B[kept_B]
        self.mask_BT = None if self.mask_BT is None else self.mask_BT[kept_B]
        self.seen_BV = None if self.seen_BV is None else self.seen_BV[kept_B]
        self.uniforms_BT = self.uniforms_BT[kept_B]
        return next_B[kept_B]

    def advance(self, model: Any, next_B: Tensor) -> None:
        """Compute one token of each row."""
        self.filled += 1
        if self.seen_BV is not None:
            self.seen_BV.scatter_(1, next_B[:, None], True)
        mask_BT = None if self.cache_name == RECURRENT_CACHE else self.mask_BT
        self.logits_BV = model(
            input_ids=next_B[:, None],
            attention_mask=None if mask_BT is None else mask_BT[:, : self.filled],
            position_ids=self.position_B[:, None],
            **{self.cache_name: self.cache},
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self.position_B = self.position_B + 1


def penalised(
    logits_BV: Tensor, seen_BV: Tensor | None, step: int, params: SamplingParams, end_ids: Collection[int]
) -> Tensor:
    """Logits for token `step` of each row after repetition penalty and least length; given ones if off."""
    if seen_BV is not None:
        theta = params.repetition_penalty
        less_BV = torch.where(logits_BV < 0, logits_BV * theta, logits_BV / theta)
        logits_BV = torch.where(seen_BV, less_BV, logits_BV)
    if step < params.min_tokens:
        ends = [i for i in end_ids if i < logits_BV.shape[-1]]
        logits_BV = logits_BV.index_fill(-1, torch.tensor(ends, device=logits_BV.device).long(), -math.inf)
    return logits_BV


def draw(
    logits_BV: Tensor, uniforms_B: Tensor, params: SamplingParams, drawn_BV: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The next token of each row by inverting its cumulative distribution.

    Args:
        drawn_BV: Logits to draw by; None for `logits_BV`, the model's.
        uniforms_B: One number in [0, 1) a row; its dtype is the precision of the cumulative sum.
        params: Temperature, top-k and top-p, applied in this order.

    Returns:
        Ids [B] and their log-probs [B] under the untempered, untruncated distribution.
    """
    logprobs_BV = logits_BV.float().log_softmax(-1)
    drawn_BV = logits_BV if drawn_BV is None else drawn_BV
    if params.temperature == 0:
        next_B = drawn_BV.argmax(-1)
        return next_B, logprobs_BV.gather(-1, next_B[:, None])[:, 0]
    own_BV = logprobs_BV if drawn_BV is logits_BV else drawn_BV.float().log_softmax(-1)
    probs_BV = (own_BV / params.temperature).softmax(-1) if params.temperature != 1 else own_BV.exp()
    order_BV = None
    if params.top_k or params.top_p < 1:
        probs_BV, order_BV = probs_BV.sort(stable=True, dim=-1, descending=True)
        if params.top_k:
            probs_BV[:, params.top_k :] = 0
        before_BV = probs_BV.cumsum(-1) - probs_BV
        probs_BV = probs_BV * (before_BV < params.top_p * probs_BV.sum(-1, keepdim=True))
    cumulative_BV = probs_BV.cumsum(-1, dtype=uniforms_B.dtype)
    # Below 1 by more than rounding, so that the threshold stays under the total and no token of
    # probability 0 can be hit.
    below_one_B = uniforms_B.clamp(max=1 - 4 * torch.finfo(uniforms_B.dtype).eps)
    threshold_B1 = below_one_B[:, None] * cumulative_BV[:, -1:]
    index_B1 = torch.searchsorted(cumulative_BV, threshold_B1, right=True)
    index_B1 = index_B1.clamp(max=logits_BV.shape[-1] - 1)  # only NaN gets past the end
    next_B1 = index_B1 if order_BV is None else order_BV.gather(-1, index_B1)
    return next_B1[:, 0], logprobs_BV.gather(-1, next_B1)[:, 0]


def end_ids_of(tokenizer: Any, generation: Any) -> set[int]:
    """Ids that end a completion: the tokenizer's eos, the chat template's end of turn, and those of the
    generation config, if any."""
    configured = getattr(generation, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    template = getattr(tokenizer, "chat_template", None)
    turn = None if template is None else end_of_turn(tokenizer, str(template))
    return {i for i in (tokenizer.eos_token_id, turn, *listed) if i is not None}


def check_prompts(
    prompts: Sequence[Ids], n: int, params: SamplingParams, *, max_length: int | None, vocabulary: int
) -> None:
    """Raise a UsageError for a prompt that does not fit the model with its completion."""
    if n < 1:
        raise UsageError(f"n must be at least 1 sample a prompt, not {n}")
    for i, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise UsageError(f"prompt {i} is empty: a model continues at least one token")
        if max_length is not None and len(prompt) + params.max_tokens > max_length:
            raise UsageError(
                f"prompt {i} has {len(prompt)} tokens, which with max_tokens={params.max_tokens} "
                f"exceeds the model's {max_length}: lower max_tokens, shorten the prompt, or "
                "use a model with a longer context"
            )
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            raise UsageError(
                f"prompt {i} holds a token id outside 0 to {vocabulary - 1}: was it made with "
                "another model's tokenizer?"
            )
