"""What the engine needs of a server: the Tinker protocol in numpy arrays, without the SDK.

`wire.py` puts the `tinker` SDK behind these, tests a fake. A request is submitted at once and waited for
later, so that several are under way together; those of one adapter are done in the order of submission.

Shapes: T targets of a row, K soft targets a token.
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


class ServerError(DidactError):
    """The server failed, refused a request or did not answer in time. A run can be resumed."""

    exit_code = 75


class Pending(Protocol[T_co]):
    """A request that is under way."""

    def wait(self) -> T_co:
        """Its answer.

        Raises:
            ServerError: there is none, and whether the server did what was asked is not known.
        """
        ...


@dataclass(frozen=True)
class Datum:
    """One row as the wire has it: `tokens[t]` predicts `inputs["target_tokens"][t]`.

    Inputs are "target_tokens" ([T] or [T, K]) and, by the loss, "weights", "advantages", "logprobs".
    """

    tokens: NDArray[np.int64]
    inputs: Mapping[str, NDArray[Any]]


class Sequenced(NamedTuple):
    """One completion as a server gave it."""

    ids: Ids
    logprobs: tuple[float, ...]
    stopped: bool
    """It ended by itself, not at `max_tokens`."""


class Sampler(Protocol):
    """Weights that are sampled and scored, not trained."""

    def sample(
        self, prompt: Ids, n: int, params: SamplingParams, *, seed: int, end_ids: Sequence[int]
    ) -> Pending[list[Sequenced]]:
        """n completions that end at one of `end_ids`. Stop strings are the caller's to find."""
        ...

    def logprobs(self, ids: Ids) -> Pending[list[float]]:
        """log π of each id but the first, given those before it."""
        ...


class Trainer(Protocol):
    """One adapter on the server, with its optimizer and the gradient that waits."""

    def forward(self, data: Sequence[Datum]) -> Pending[list[Floats]]:
        """log π of the targets of each row, [T] or [T, K]."""
        ...

    def forward_backward(
        self, data: Sequence[Datum], loss: str, settings: Mapping[str, float] | None = None
    ) -> Pending[list[Floats]]:
        """Add a gradient; the log-probs of the targets come back."""
        ...

    def optim_step(self, params: AdamParams) -> Pending[dict[str, float]]:
        """One AdamW step; the server's own metrics come back."""
        ...

    def save(self, name: str) -> Pending[str]:
        """Keep weights and optimizer state on the server; the path to them comes back."""
        ...

    def sampler(self) -> Sampler:
        """The weights as they are now."""
        ...

    def download(self, path: Path, name: str) -> bool:
        """Fetch the adapter into a directory; False where the server or this SDK does not hand it out."""
        ...

    def close(self) -> None:
        """Let the server forget the adapter."""
        ...


class Service(Protocol):
    """A server."""

    @property
    def name(self) -> str:
        """Which one, with the SDK's version, for messages and the table of quirks."""
        ...

    def create(self, *, rank: int, seed: int) -> Trainer:
        """A new adapter; equal arguments make equal ones."""
        ...

    def restore(self, path: str) -> Trainer:
        """A new adapter with the weights and optimizer state that `Trainer.save` kept."""
        ...

    def reference(self) -> Sampler:
        """The model without an adapter."""
        ...
