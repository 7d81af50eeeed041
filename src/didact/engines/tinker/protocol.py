"""The part of the Tinker protocol that the engine uses, in numpy arrays and without the SDK.

`wire.py` implements it with the `tinker` SDK, the tests with a fake server. Requests are submitted at once
and waited for later; those of one adapter are executed in the order of submission.

Shapes: T targets of a row, K soft targets per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from didact.engines.base import AdamParams, SamplingParams
from didact.errors import DidactError
from didact.types import Ids

T_co = TypeVar("T_co", covariant=True)
Floats = NDArray[np.float32]


class TinkerError(DidactError):
    """The server failed, rejected a request or timed out. The run can be resumed from its checkpoint."""

    exit_code = 75


class Pending(Protocol[T_co]):
    """A submitted request."""

    def wait(self) -> T_co:
        """The result.

        Raises:
            TinkerError: there is none; the server may have executed the request or not.
        """
        ...


@dataclass(frozen=True)
class Datum:
    """A row on the wire: `tokens[t]` predicts `inputs["target_tokens"][t]`.

    Inputs: "target_tokens" ([T] or [T, K]) and, depending on the loss, "weights", "advantages", "logprobs".
    """

    tokens: NDArray[np.int64]
    inputs: Mapping[str, NDArray[Any]]


class SampledSequence(NamedTuple):
    """A completion as the server returned it."""

    ids: Ids
    logprobs: tuple[float, ...]
    stopped: bool
    """False if it ended at `max_tokens`."""


class SamplingClient(Protocol):
    """Frozen weights that can sample and score."""

    def sample(
        self, prompt: Ids, n: int, params: SamplingParams, *, seed: int, end_ids: Sequence[int]
    ) -> Pending[list[SampledSequence]]:
        """n completions that end at one of `end_ids`; stop strings are ignored."""
        ...

    def logprobs(self, ids: Ids) -> Pending[list[float]]:
        """log π of each id except the first."""
        ...


class TrainingClient(Protocol):
    """An adapter on the server with its optimizer and accumulated gradient."""

    def forward(self, data: Sequence[Datum]) -> Pending[list[Floats]]:
        """log π of each row's targets, [T] or [T, K]."""
        ...

    def forward_backward(
        self, data: Sequence[Datum], loss: str, settings: Mapping[str, float] | None = None
    ) -> Pending[list[Floats]]:
        """Accumulate a gradient; returns log π of the targets."""
        ...

    def optim_step(self, params: AdamParams) -> Pending[dict[str, float]]:
        """One AdamW step; returns the server's metrics."""
        ...

    def save(self, name: str) -> Pending[str]:
        """Store weights and optimizer state on the server; returns their path."""
        ...

    def sampler(self) -> SamplingClient:
        """A sampler of the current weights."""
        ...

    def download(self, path: Path, name: str) -> bool:
        """Fetch the adapter into a directory; False if the server or the SDK does not support it."""
        ...

    def close(self) -> None:
        """Unload the adapter."""
        ...


class ServiceClient(Protocol):
    """A server."""

    @property
    def name(self) -> str:
        """The server's name with the SDK's version."""
        ...

    def create(self, *, rank: int, seed: int) -> TrainingClient:
        """A new adapter; equal arguments give equal weights."""
        ...

    def restore(self, path: str) -> TrainingClient:
        """A new adapter with the weights and optimizer state stored by `TrainingClient.save`."""
        ...

    def reference(self) -> SamplingClient:
        """A sampler of the base model."""
        ...
