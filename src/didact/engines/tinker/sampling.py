"""Samplers of the current weights, the reference and snapshots, and the end of a sampled completion."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Set
from typing import Any

from didact.engines.base import POLICY, REFERENCE, Sample, SamplingParams, Weights
from didact.engines.local.sampling import Sampler
from didact.engines.tinker.wire import TinkerError, TinkerSampler, TinkerService, TinkerTrainer
from didact.errors import UsageError


class Samplers:
    """The sampler of each set of weights, created when first needed.

    Args:
        service: Samples the base model.
        trainer: Returns the adapter in training.
    """

    def __init__(self, service: TinkerService, trainer: Callable[[], TinkerTrainer]) -> None:
        self._service, self._trainer = service, trainer
        self._current: TinkerSampler | None = None
        self._reference: TinkerSampler | None = None
        self._snapshots: dict[str, TinkerSampler] = {}
        self._numbers = itertools.count()

    def of(self, weights: Weights) -> TinkerSampler:
        """The sampler of these weights.

        Raises:
            UsageError: a snapshot whose handle is gone.
        """
        if weights == POLICY:
            self._current = self._current or self._trainer().sampler()
            return self._current
        if weights == REFERENCE:
            self._reference = self._reference or self._service.reference()
            return self._reference
        if weights.name in self._snapshots:
            return self._snapshots[weights.name]
        raise UsageError(
            f"unknown weights {weights.name!r}: a snapshot lives as long as the handle that `snapshot` "
            "returned; keep the handle, not its name"
        )

    def snapshot(self) -> Weights:
        """A handle on the current weights."""
        handle = Weights(f"snapshot-{next(self._numbers)}")
        self._snapshots[handle.name] = self.of(POLICY)
        weakref.finalize(handle, self._snapshots.pop, handle.name, None)
        return handle

    def invalidate_current(self) -> None:
        """The adapter's weights have changed."""
        self._current = None


def truncate(
    drawn: Sample, params: SamplingParams, tokenizer: Any, end_ids: Set[int], *, server: str
) -> Sample:
    """The completion up to its end id, its first stop string or `max_tokens`, as LocalEngine ends it.

    Servers take stop ids or stop strings, not both, so stop strings are applied here.

    Raises:
        TinkerError: it ends before any of them, so its end id is missing.
    """
    rule = Sampler(None, tokenizer, end_ids, 0)
    for end in range(1, len(drawn.ids) + 1):
        reason = rule.why_stop(drawn.ids[:end], params)
        if reason is not None:
            return Sample(drawn.ids[:end], drawn.logprobs[:end], reason)
    raise TinkerError(
        f"{server} ended a completion after {len(drawn.ids)} of {params.max_tokens} tokens without its end "
        "id: it cannot be trained on as it was sampled"
    )
