"""The engine interface: sampling, scoring and training of one model. Shaped like Tinker's API, synchronous.

* Token in, token out: a sampled id is never re-encoded.
* Losses are *sums* over tokens; the method owns every normaliser. `forward_backward` accumulates until
  `optim_step`.
* `capabilities` lists what an engine supports; everything else raises CapabilityError.
* `probe.py` measures through this interface that gradients are linear in the rows' weights. A public server
  failed that by a factor of 10¹⁰ without an error.
* With several processes (`didact.distributed`) every rank makes the same calls with the same arguments, and
  gets the same results.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from didact.errors import CapabilityError
from didact.types import Ids, Row, StopReason


@dataclass(frozen=True)
class SamplingParams:
    """Sampling settings.

    Attributes:
        max_tokens: Limit of a completion's length, ≥ 1.
        temperature: > 0; 0 means greedy.
        top_p: Nucleus mass in (0, 1].
        top_k: Sample from the k likeliest tokens; 0 means all.
        repetition_penalty: θ > 0: the logits of tokens of prompt and completion are divided by θ above 0 and
            multiplied by θ below (CTRL, arXiv:1909.05858); 1 is off. Comes first, before the temperature.
        min_tokens: This many tokens at least come before an end id or the end of a stop string.
        stop: A completion ends with the first of these strings, and includes it.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0
    min_tokens: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or above, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or above, not {self.top_k}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be above 0, not {self.repetition_penalty}")
        if self.min_tokens < 0:
            raise ValueError(f"min_tokens must be 0 (off) or above, not {self.min_tokens}")

    @property
    def penalised(self) -> bool:
        """Whether there is a repetition penalty or a least length."""
        return self.repetition_penalty != 1 or self.min_tokens > 0

    @property
    def plain(self) -> bool:
        """Whether completions are drawn from the model's own distribution."""
        return (self.temperature, self.top_p, self.top_k, self.penalised) == (1, 1, 0, False)


class Sample(NamedTuple):
    """One completion."""

    ids: Ids
    """The sampled ids; the last one is the end-of-turn id where `stop_reason` is "eos"."""
    logprobs: tuple[float, ...]
    """log π of each id in nats under the model itself: before penalties, temperature, top-p and top-k."""
    stop_reason: StopReason


@dataclass(frozen=True)
class AdamParams:
    """Hyperparameters of one AdamW step; there is no schedule."""

    lr: float = 1e-5
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; inf switches clipping off."""


@dataclass(frozen=True)
class Capabilities:
    """What an engine supports. A method checks before it starts."""

    value_head: bool = False
    """Has `values`, and takes losses with a parameter `values_BT`."""
    full_kl: bool = False
    """Has `full_kl`."""
    top_logprobs: bool = False
    """Has `top_logprobs`."""
    soft_targets: int = 0
    """K of [T, K] targets that `cross_entropy` takes; 0 means hard targets only."""
    full_finetune: bool = True
    """Trains all weights (else an adapter only)."""
    entropy: bool = False
    """Takes losses with an `entropy_coef`."""
    penalties: bool = False
    """Samples with `repetition_penalty` and `min_tokens`."""
    snapshots: bool = True
    """`snapshot()` copies the weights, to sample and score with."""
    named_snapshots: bool = False
    """`snapshot(name)`, `update_snapshot` and `drop_snapshot`: copies that are part of a checkpoint."""
    compares_gradients: bool = False
    """`forward_backward` reports `grad_norm` and `cosine`; see StepOutput."""


@dataclass(frozen=True)
class ValueHeadSettings:
    """A value head V = w · h + b on the last hidden state h, in float32; V is 0 at the start.

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
    """Names a set of weights that an engine holds."""

    name: str


POLICY = Weights("live")
"""The weights being trained."""
REFERENCE = Weights("reference")
"""The weights at the engine's creation; with LoRA, the model without the adapter."""

LossFn = Callable[..., Any]
"""(logprobs_BT, **fields_BT, **settings) -> losses.LossOutput. A parameter `values_BT` receives the
value head's output."""


@dataclass(frozen=True)
class Loss:
    """A loss: a built-in by name, or a function of target log-probs.

    A row's field `x` is passed to the function as keyword `x_BT`, each setting under its own name.
    """

    name: str
    """A key of `losses.BUILTIN`, or any name for the logs when `fn` is given."""
    settings: Mapping[str, float] = field(default_factory=dict)
    fn: LossFn | None = None
    entropy_coef: float = 0.0
    """c: the loss has −c Σ w H, with w a target's weight and H the entropy of the model's next token there,
    over the whole vocabulary, in nats."""


class TopLogprobs(NamedTuple):
    """The likeliest tokens at each target of one row."""

    ids: NDArray[np.int64]
    """[T, k], the likeliest first."""
    logprobs: NDArray[np.float32]
    """[T, k] in nats."""


class StepOutput(NamedTuple):
    """The result of a `forward_backward` or an `optim_step`."""

    loss: float
    """The summed loss; 0 for an `optim_step`."""
    metrics: dict[str, float]
    """Sums over tokens for `forward_backward`; `grad_norm` (before clipping) for `optim_step`.

    An engine with `compares_gradients` adds to those of a `forward_backward` that had a gradient:
    `grad_norm`, the norm of this call's gradient, and `cosine`, in [−1, 1], between it and the sum of the
    earlier calls' since the last `optim_step`; no `cosine` where either is 0.
    """


class Engine(Protocol):
    """Holds the weights of one model; samples, scores and trains them."""

    @property
    def capabilities(self) -> Capabilities:
        """What it supports."""

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer of the model."""

    @property
    def end_ids(self) -> Set[int]:
        """Ids that end a completion: the tokenizer's eos and the chat template's end of turn among them."""

    @property
    def max_length(self) -> int | None:
        """The context length in tokens, prompt and completion together; None for no limit."""

    def sample(
        self,
        prompts: Sequence[Ids],
        n: int,
        params: SamplingParams,
        *,
        seed: int | Sequence[int],
        weights: Weights = POLICY,
    ) -> list[list[Sample]]:
        """n completions for each prompt. Equal arguments and weights give equal samples.

        Args:
            seed: One seed, with a stream of its own for each place in the batch; or a seed for each prompt,
                whose draws then do not depend on its place.
        """

    def logprobs(self, rows: Sequence[Row], *, weights: Weights = POLICY) -> list[NDArray[np.float32]]:
        """log π(target) for every target of each row, in nats: a list of [T] (or [T, K]) arrays."""

    def top_logprobs(self, rows: Sequence[Row], k: int, *, weights: Weights = POLICY) -> list[TopLogprobs]:
        """The k likeliest tokens at each target of each row, and their log-probs.

        Raises:
            UsageError: k is not in 1 to the size of the vocabulary.
            CapabilityError: the engine has no `top_logprobs`.
        """

    def values(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """V of the prefix before each target of nonzero weight, else 0: a list of [T] arrays.

        Raises:
            CapabilityError: the engine has no value head.
        """

    def full_kl(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """KL(π ‖ π_reference) in nats over the whole vocabulary at each target: a list of [T] arrays, 0
        where a row's weight is 0.

        Raises:
            CapabilityError: the engine has no `full_kl`, or no reference.
        """

    def forward_backward(self, rows: Sequence[Row], loss: Loss) -> StepOutput:
        """Add the gradient of the loss, summed over rows, to the accumulated one.

        Raises:
            CapabilityError: the loss takes values and the engine has no value head.
            NonFiniteError: the loss is NaN or Inf; nothing was added.
        """

    def optim_step(self, params: AdamParams) -> StepOutput:
        """Clip, take one AdamW step, and clear the gradient.

        Raises:
            NonFiniteError: the gradient is NaN or Inf; no weight was changed.
        """

    def snapshot(self, name: str | None = None) -> Weights:
        """Copy the trained weights.

        Args:
            name: Of letters, digits, - and _: the copy is part of checkpoints and stays until
                `drop_snapshot`; an earlier copy of this name is replaced, and `Weights(name)` names it. None:
                the copy lives as long as the returned handle, and is not saved.

        Raises:
            CapabilityError: the engine has no (named) snapshots.
        """

    def update_snapshot(self, name: str, decay: float) -> None:
        """Exponential moving average: s ← decay · s + (1 − decay) · w, with w the trained weights.

        Raises:
            UsageError: no snapshot of this name, or a decay outside [0, 1].
            CapabilityError: the engine has no named snapshots.
        """

    def drop_snapshot(self, name: str) -> None:
        """Delete a named snapshot.

        Raises:
            UsageError: no snapshot of this name.
            CapabilityError: the engine has no named snapshots.
        """

    @property
    def snapshot_names(self) -> Set[str]:
        """Names of the snapshots that checkpoints include."""

    def weights_hash(self) -> str:
        """A hash of the trained weights: equal hashes, equal weights."""

    def model_hash(self) -> str:
        """A hash of all weights, the frozen ones included."""

    def save(self, path: Path) -> None:
        """Write weights, optimizer state and named snapshots for `load`, into an existing directory."""

    def load(self, path: Path) -> None:
        """Restore weights, optimizer state and named snapshots bit for bit."""

    def save_pretrained(self, path: Path) -> None:
        """Write the model (or adapter) and tokenizer for plain transformers and peft."""


def reuse_prefix_cache(engine: Engine) -> AbstractContextManager[None]:
    """A context in which an engine may reuse the key-value states of earlier samples with the same prefix.

    Samples change by rounding only. The weights must not change inside. An engine without `prefix_cache`
    ignores it.
    """
    context: Callable[[], AbstractContextManager[None]] = getattr(engine, "prefix_cache", nullcontext)
    return context()


def rescored(
    engine: Engine, prompts: Sequence[Ids], groups: Sequence[Sequence[Sample]], *, weights: Weights = POLICY
) -> list[list[Sample]]:
    """The samples of each prompt with the log-probs that `logprobs` computes."""
    rows = [Row.from_completion(p, s.ids) for p, own in zip(prompts, groups, strict=True) for s in own]
    found = iter(engine.logprobs(rows, weights=weights))
    return [[s._replace(logprobs=tuple(next(found)[-len(s.ids) :].tolist())) for s in own] for own in groups]


def refuse_unsupported(engine: Engine, *, entropy: bool = False, penalties: bool = False) -> None:
    """Raise a CapabilityError for a loss or sampling parameters that the engine does not support."""
    if entropy and not engine.capabilities.entropy:
        raise CapabilityError(
            "entropy_coef needs the probabilities of the whole vocabulary, which this engine does not give: "
            "set settings.entropy_coef=0, or take engine: local"
        )
    if penalties and not engine.capabilities.penalties:
        raise CapabilityError(
            "this engine samples without a repetition penalty and a least length: set "
            "sampling.repetition_penalty=1 and sampling.min_tokens=0, or take engine: local or vllm"
        )


def tokenizer_hash(engine: Engine) -> str:
    """A hash of everything that the tokenizer does to a conversation, and of the ids that end an answer."""
    tokenizer = engine.tokenizer
    rules = getattr(tokenizer, "backend_tokenizer", None)  # vocabulary, merges, normalizer, splits
    words = sorted(tokenizer.get_vocab().items()) if rules is None else rules.to_str()
    special = str(getattr(tokenizer, "special_tokens_map", None))
    whole = json.dumps([words, special, tokenizer.chat_template, sorted(engine.end_ids)])
    return hashlib.sha256(whole.encode()).hexdigest()


def fits_context(engine: Engine, tokens: int) -> bool:
    """Whether `tokens`, prompt and completion together, fit the engine's context length."""
    return engine.max_length is None or tokens <= engine.max_length
