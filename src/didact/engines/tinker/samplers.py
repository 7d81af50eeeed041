"""Which sampler stands for which weights."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable

from didact.engines.base import POLICY, REFERENCE, Weights
from didact.engines.tinker.protocol import Sampler, Service, Trainer
from didact.errors import UsageError


class Samplers:
    """Samplers of an adapter's current weights, of the base model and of snapshots, made when first needed.

    Args:
        service: Has the base model.
        trainer: Gives the adapter that is trained now.
    """

    def __init__(self, service: Service, trainer: Callable[[], Trainer]) -> None:
        self._service, self._trainer = service, trainer
        self._live: Sampler | None = None
        self._reference: Sampler | None = None
        self._kept: dict[str, Sampler] = {}
        self._numbers = itertools.count()

    def of(self, weights: Weights) -> Sampler:
        """The sampler of these weights.

        Raises:
            UsageError: a snapshot whose handle is gone.
        """
        if weights == POLICY:
            self._live = self._live or self._trainer().sampler()
            return self._live
        if weights == REFERENCE:
            self._reference = self._reference or self._service.reference()
            return self._reference
        if weights.name in self._kept:
            return self._kept[weights.name]
        raise UsageError(
            f"unknown weights {weights.name!r}: a snapshot lives as long as the handle that `snapshot` "
            "returned; keep the handle, not its name"
        )

    def keep(self) -> Weights:
        """A handle on the adapter's weights as they are now."""
        handle = Weights(f"snapshot-{next(self._numbers)}")
        self._kept[handle.name] = self.of(POLICY)
        weakref.finalize(handle, self._kept.pop, handle.name, None)
        return handle

    def forget_live(self) -> None:
        """The adapter's weights have changed."""
        self._live = None
