"""What no server of the Tinker protocol can do, refused with the reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from didact.engines.base import POLICY, TopLogprobs, Weights
from didact.engines.tinker.gradients import no_value_head
from didact.errors import CapabilityError
from didact.types import Row


class Unsupported:
    """Methods of `Engine` that raise CapabilityError."""

    def values(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Refused: there is no value head."""
        raise no_value_head()

    def full_kl(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Refused: the protocol returns log-probs of tokens, not of the whole vocabulary."""
        raise CapabilityError(
            "engine: tinker has no KL over the whole vocabulary, which `kl: full` needs: take a KL of the "
            "sampled tokens, or engine: local"
        )

    def top_logprobs(self, rows: Sequence[Row], k: int, *, weights: Weights = POLICY) -> list[TopLogprobs]:
        """Refused: the protocol returns log-probs of given tokens only."""
        raise CapabilityError(
            "engine: tinker has no top_logprobs: its protocol returns log-probs of given tokens only. Take "
            "engine: local"
        )

    def update_snapshot(self, name: str, decay: float) -> None:
        """Refused: weights on a server cannot be averaged."""
        raise no_named_snapshots()

    def drop_snapshot(self, name: str) -> None:
        """Refused, as there are none."""
        raise no_named_snapshots()

    @property
    def snapshot_names(self) -> frozenset[str]:
        """Empty."""
        return frozenset()


def no_named_snapshots() -> CapabilityError:
    """The error of every call that needs a named snapshot."""
    return CapabilityError(
        "engine: tinker has no named snapshots: its protocol can neither average weights nor save a second "
        "set of them with a checkpoint. Use `snapshot()` without a name, or engine: local"
    )
