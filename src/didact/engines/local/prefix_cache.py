"""What a model has read of a conversation, kept from one turn to the next.

Between `turns()` and its end, the keys and values of every sampled row are kept under its ids. A later prompt
that begins with them is read from there on only:

    turn 1    question · answer                               read: the question
    turn 2    question · answer · critique · answer           read: the answer's last id and the critique

Kept states are those of the same ids at the same positions, so nothing changes but rounding. Weights must not
change in between; each set of weights has states of its own.

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
"""Of each layer the keys and values, [H, T, D]."""


@dataclass
class PrefixCache:
    """States of rows that were sampled with one set of weights.

    Attributes:
        room: Positions that are kept at most; the oldest rows leave first.
    """

    room: int
    _states: dict[Ids, States] = field(default_factory=dict)
    _filled: int = 0

    def keep(self, cache: Any, b: int, begin: int, ids: Ids) -> None:
        """Keep the states of row b of a cache, where its ids begin behind so much padding."""
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
        """Put what is known of left-padded prompts into an empty cache.

        Returns:
            How many of the L positions need not be read any more. A prompt of which less is known than of the
            others is read further back, and these with it.
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
        """The longest kept ids that the prompt begins with; its last id has to be read in any case."""
        for length in sorted({len(ids) for ids in self._states if len(ids) < len(prompt)}, reverse=True):
            if prompt[:length] in self._states:
                return prompt[:length]
        return ()


def _plain(cache: Any) -> bool:
    """Is every layer one whose states belong to positions? Sliding windows and recurrent ones are not."""
    return all(isinstance(layer, PreallocatedLayer) for layer in cache.layers)


class PrefixCacheScope:
    """The `turns` of an engine: call it to begin to keep."""

    def __init__(self) -> None:
        self._kept: dict[str, PrefixCache] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Keep what is sampled until the end; one inside another changes nothing."""
        if self._kept is not None:
            yield
            return
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def of(self, weights: Weights, room: int) -> PrefixCache | None:
        """What is kept of rows that these weights sampled; None outside of `turns()`."""
        return None if self._kept is None else self._kept.setdefault(weights.name, PrefixCache(room))
