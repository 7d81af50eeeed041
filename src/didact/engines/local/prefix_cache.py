"""A prefix cache: key-value states of a conversation, reused from one turn to the next.

Inside `engine.prefix_cache()` the keys and values of every sampled row are cached under its ids. Of a later
prompt that begins with them, the forward pass computes the rest only:

    turn 1    question · answer                               computed: the question
    turn 2    question · answer · critique · answer           computed: the answer's last id and the critique

Cached states are those of the same ids at the same positions, so results differ by rounding only. Weights
must not change inside; each set of weights has a cache of its own.

Shapes: P prompts, L ids of the longest, H heads, D size of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from didact.engines.base import Weights
from didact.engines.local.kv_cache import PreallocatedLayer
from didact.types import Ids

States: TypeAlias = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [H, T, D]."""


@dataclass
class PrefixCache:
    """States of rows that were sampled with one set of weights.

    Attributes:
        room: The largest number of positions; the oldest rows are evicted first.
    """

    room: int
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


class PrefixCacheScope:
    """The `prefix_cache` of an engine: a context in which samples are cached."""

    def __init__(self) -> None:
        self._kept: dict[str, PrefixCache] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Cache samples until the end of the block; a nested one has no effect."""
        if self._kept is not None:
            yield
            return
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def of(self, weights: Weights, room: int) -> PrefixCache | None:
        """The cache of these weights; None outside of the context."""
        return None if self._kept is None else self._kept.setdefault(weights.name, PrefixCache(room))
