"""The engine contract: where the weights live. Shaped like Tinker's API, batch-synchronous.

Rules that every engine keeps:

* Token in, token out. A sampled id is never re-encoded.
* Losses are *sums*; the method owns every normaliser. `forward_backward` accumulates until
  `optim_step`.
* What an engine cannot do, it says in `capabilities` and refuses with a CapabilityError.
* `probe.py` measures on any engine that its gradients are linear in the weights, as they must
  be; a public server failed that by a factor of 10¹⁰ without an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from didact.types import Ids, Row, StopReason


@dataclass(frozen=True)
class SamplingParams:
    """How to sample.

    Attributes:
        max_tokens: At most this many tokens a completion, ≥ 1.
        temperature: > 0; 0 means greedy.
        top_p: Nucleus mass in (0, 1].
        top_k: Only the k likeliest tokens; 0 means all.
        stop: The completion ends where one of these strings first appears (and includes it).
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or above, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or above, not {self.top_k}")


class Sample(NamedTuple):
    """One completion."""

    ids: Ids
    """The sampled ids; the last one is the end-of-turn id where `stop_reason` is "eos"."""
    logprobs: tuple[float, ...]
    """log π of each id in nats under the model itself: before temperature, top-p and top-k."""
    stop_reason: StopReason


@dataclass(frozen=True)
class AdamParams:
    """One optimizer step's settings: AdamW without a hidden schedule."""

    lr: float = 1e-5
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; inf switches clipping off."""


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do. A method checks before it starts."""

    critic: bool = False
    """Has a value head: `values`, and losses that take `values_BT`."""
    full_kl: bool = False
    """Has `full_kl`."""
    soft_targets: int = 0
    """K of [T, K] targets that `cross_entropy` takes; 0 means hard targets only."""
    custom_loss: bool = False
    """Takes a function of target log-probs as loss."""
    full_finetune: bool = True
    """Trains all weights (else an adapter only)."""
    snapshots: bool = True
    """Can keep copies of the weights to sample and score from."""
    compares_gradients: bool = False
    """`forward_backward` reports `grad_norm` and `cosine`; see StepOutput."""


@dataclass(frozen=True)
class ValueHeadSettings:
    """A value head: V = w · h + b on the last hidden state h, in float32, which starts at V = 0.

    Attributes:
        lr_scale: The head's learning rate is this many times the model's.
        shares_model: The value loss trains the model below too; otherwise the head alone.
    """

    lr_scale: float = 1.0
    shares_model: bool = True

    def __post_init__(self) -> None:
        if not self.lr_scale > 0:
            raise ValueError(f"lr_scale must be above 0, not {self.lr_scale}")


@dataclass(frozen=True)
class Weights:
    """A handle on a set of weights that an engine holds."""

    name: str


POLICY = Weights("live")
"""The weights being trained."""
REFERENCE = Weights("reference")
"""The weights as the engine was made; with LoRA, the adapter switched off."""

LossFn = Callable[..., Any]
"""(logprobs_BT, **fields_BT, **settings) -> losses.LossOutput. One that has a parameter `values_BT` gets the
value head's values there."""


@dataclass(frozen=True)
class Loss:
    """A loss that rows are trained with: a built-in by name, or a function of target log-probs.

    A row's field `x` reaches the function as keyword `x_BT`, each setting under its own name.
    """

    name: str
    """A key of `losses.BUILTIN`, or any name for the logs when `fn` is given."""
    settings: Mapping[str, float] = field(default_factory=dict)
    fn: LossFn | None = None


class StepOutput(NamedTuple):
    """What a `forward_backward` or an `optim_step` reports."""

    loss: float
    """The summed loss; 0 for an `optim_step`."""
    metrics: dict[str, float]
    """Sums over tokens for `forward_backward`; `grad_norm` (before clipping) for `optim_step`.

    An engine that compares gradients adds, to the sums of a `forward_backward` that had a gradient,
    `grad_norm`, the norm of what this call added, and `cosine`, in [−1, 1], of that with what earlier
    calls had added since the last `optim_step`; no `cosine` where either is 0.
    """


class Engine(Protocol):
    """Where the weights live."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer of the model."""
        ...

    @property
    def end_ids(self) -> Set[int]:
        """Ids that end a completion; the tokenizer's eos is one of them."""
        ...

    @property
    def max_length(self) -> int | None:
        """Tokens that the model takes, prompt and completion together; None for no limit."""
        ...

    def sample(
        self,
        prompts: Sequence[Ids],
        n: int,
        params: SamplingParams,
        *,
        seed: int | Sequence[int],
        weights: Weights = POLICY,
    ) -> list[list[Sample]]:
        """n completions for each prompt. The same arguments and weights give the same samples.

        With a seed for each prompt, a prompt's draws do not depend on its place in the batch.
        """
        ...

    def logprobs(self, rows: Sequence[Row], *, weights: Weights = POLICY) -> list[NDArray[np.float32]]:
        """log π(target) for every target of each row, in nats: a list of [T] (or [T, K]) arrays."""
        ...

    def values(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """V of the prefix that each target continues: a list of [T] arrays.

        Raises:
            CapabilityError: the engine has no critic.
        """
        ...

    def full_kl(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """KL(π ‖ π_reference) in nats over the whole vocabulary at each target: a list of [T] arrays, 0
        where a row's weight is 0.

        Raises:
            CapabilityError: the engine has no `full_kl`, or no reference.
        """
        ...

    def forward_backward(self, rows: Sequence[Row], loss: Loss) -> StepOutput:
        """Add the gradient of the loss, summed over rows, to what is there.

        Raises:
            CapabilityError: the loss takes values and the engine has no critic.
            NonFiniteError: the loss is NaN or Inf; nothing was added.
        """
        ...

    def optim_step(self, params: AdamParams) -> StepOutput:
        """Clip, take one AdamW step, and clear the gradient.

        Raises:
            NonFiniteError: the gradient is NaN or Inf; no weight was changed.
        """
        ...

    def snapshot(self) -> Weights:
        """Keep a copy of the trained weights as they are now."""
        ...

    def weights_hash(self) -> str:
        """A hash of the trained weights: equal hashes, equal weights."""
        ...

    def model_hash(self) -> str:
        """A hash of all weights, those that are not trained too."""
        ...

    def save(self, path: Path) -> None:
        """Write weights and optimizer state for `load`, into an existing directory."""
        ...

    def load(self, path: Path) -> None:
        """Take up weights and optimizer state exactly as they were saved."""
        ...

    def save_pretrained(self, path: Path) -> None:
        """Write the model (or adapter) and tokenizer for plain transformers and peft."""
        ...


def reuse_prefix_cache(engine: Engine) -> AbstractContextManager[None]:
    """Tells an engine that what is sampled until the end are turns of the same conversations.

    One that has `turns` may keep what it has read; it changes samples by rounding only. The weights must not
    change in between.
    """
    turns: Callable[[], AbstractContextManager[None]] = getattr(engine, "turns", nullcontext)
    return turns()


def takes(engine: Engine, tokens: int) -> bool:
    """Does a model take so many tokens, prompt and completion together?"""
    return engine.max_length is None or tokens <= engine.max_length
