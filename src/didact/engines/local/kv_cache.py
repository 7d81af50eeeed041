"""Key-value caches: without copies at every token, and reused from one turn of a conversation to the next.

transformers' `DynamicCache` concatenates, so each new token copies all earlier ones; `StaticCache` attends
over its whole capacity. Writing into preallocated memory and returning a view of the filled part avoids both,
which is worth 10-40 % of the sampling time of a small model on a CPU (benchmarks/sampling.py).

Inside `engine.prefix_cache()` the keys and values of every sampled row are kept under its ids. Of a later
prompt that begins with them, the forward pass computes the rest only:

    turn 1    question · answer                               computed: the question
    turn 2    question · answer · critique · answer           computed: the answer's last id and the critique

Kept states are those of the same ids at the same positions, so results differ by rounding only.

Shapes: P prompts, L ids of the longest, H heads, D size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from didact.types import Ids

States: TypeAlias = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [H, T, D]."""


class PreallocatedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one full-attention layer, [B, H, capacity, D], filled from the left.

    It has the methods of a sampling loop, `update` and `reorder_cache`. As in the base class, `keys` and
    `values` are the filled part.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.capacity = capacity
        self.filled = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the states of new positions and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._keys = self._room_for(key_states)
            self._values = self._room_for(value_states)
        start, self.filled = self.filled, self.filled + key_states.shape[-2]
        self._keys[:, :, start : self.filled] = key_states
        self._values[:, :, start : self.filled] = value_states
        self.keys = self._keys[:, :, : self.filled]
        self.values = self._values[:, :, : self.filled]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Replace row i by row `beam_idx[i]`; rows may be repeated and left out.

        Raises:
            RuntimeError: the model has stored nothing.
        """
        if not self.is_initialized:
            raise RuntimeError("the model stores no keys and values in the cache that it is given")
        keys = self._keys[:, :, : self.filled].index_select(0, beam_idx)
        values = self._values[:, :, : self.filled].index_select(0, beam_idx)
        self._keys, self._values, self.filled = self._room_for(keys), self._room_for(values), 0
        self.update(keys, values)

    def _room_for(self, states: Tensor) -> Tensor:
        B, heads, _, size = states.shape
        return states.new_empty(B, heads, self.capacity, size)


def make_cache(config: Any, capacity: int) -> DynamicCache:
    """The cache that suits a model: sliding-window and recurrent layers keep transformers' own kind."""
    cache = DynamicCache(config=config)
    cache.layers = [
        PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


@dataclass
class PrefixCache:
    """States of rows that were sampled with one set of weights."""

    room: int
    """The largest number of positions; the oldest rows are evicted first."""
    _states: dict[Ids, States] = field(default_factory=dict)
    _filled: int = 0

    def keep(self, cache: Any, b: int, begin: int, ids: Ids) -> None:
        """Store the states of row b of a key-value cache, whose ids start at position `begin`."""
        if ids in self._states or len(ids) > self.room or not _plain(cache):
            return
        span = slice(begin, begin + len(ids))
        self._states[ids] = [
            (layer.keys[b, :, span].clone(), layer.values[b, :, span].clone()) for layer in cache.layers
        ]
        self._filled += len(ids)
        while self._filled > self.room:
            oldest = next(iter(self._states))
            del self._states[oldest]
            self._filled -= len(oldest)

    def fill(self, cache: Any, prompts: Sequence[Ids]) -> int:
        """Copy the cached states of left-padded prompts into an empty key-value cache.

        Returns:
            The number of the L positions that are filled: as many as are cached for all prompts.
        """
        if not self._states or not _plain(cache):
            return 0
        longest = max(map(len, prompts))
        found = [self._longest(prompt) for prompt in prompts]
        unread = max(len(prompt) - len(ids) for prompt, ids in zip(prompts, found, strict=True))
        filled = longest - unread
        if filled <= 0:
            return 0
        for n, layer in enumerate(cache.layers):
            both = []
            for part in (0, 1):
                like = self._states[max(found, key=len)][n][part]
                states = like.new_zeros(len(prompts), like.shape[0], filled, like.shape[2])
                for p, (prompt, ids) in enumerate(zip(prompts, found, strict=True)):
                    padding = longest - len(prompt)
                    if padding < filled:
                        states[p, :, padding:] = self._states[ids][n][part][:, : filled - padding]
                both.append(states)
            layer.update(*both)
        return filled

    def _longest(self, prompt: Ids) -> Ids:
        """The longest cached proper prefix of a prompt; its last id is computed in any case."""
        for length in sorted({len(ids) for ids in self._states if len(ids) < len(prompt)}, reverse=True):
            if prompt[:length] in self._states:
                return prompt[:length]
        return ()


def _plain(cache: Any) -> bool:
    """Whether every layer has states by position, which sliding windows and recurrent layers have not."""
    return all(isinstance(layer, PreallocatedLayer) for layer in cache.layers)
