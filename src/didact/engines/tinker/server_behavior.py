"""What servers can and cannot do: measured before anything is trained on one, known, or not in the protocol.

Measured is how a server reduces losses, clips, samples and keeps snapshots. New adapters of equal rank and
seed are equal, so each measurement starts from the same weights. As in `probe.py`, AdamW with ε far above
every gradient and β₁ = β₂ = 0 is gradient descent with step lr/ε, whose effect on log-probs shows how the
gradient was reduced. `probe.py` then checks the resulting engine.

Shapes: T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import resources
from typing import Literal

import numpy as np
import yaml

from didact.engines.base import POLICY, SamplingParams, TopLogprobs, Weights
from didact.engines.probe import CHANGE, plain_step
from didact.engines.tinker.gradients import row_datum, scoring_datum
from didact.engines.tinker.wire import Datum, Floats, TinkerError, TinkerSampler, TinkerService, TinkerTrainer
from didact.errors import CapabilityError, TrainingGuard
from didact.types import Ids, Row

Reduction = Literal["sum", "mean of row means"]
"""How a server reduces a loss: the sum over rows and tokens, or each row divided by the sum of its weights
and the total by the number of rows since the last step."""

NO_CLIP = 1e6
"""A `max_grad_norm` of at least this much means no clipping."""
SOFT_TARGETS = 20
"""The K that is tried."""
SDK = "tinker SDK"


@dataclass(frozen=True)
class ServerBehavior:
    """Measured properties of a server.

    Attributes:
        reduction: How losses are reduced.
        clips: `max_grad_norm` is applied.
        snapshots: Sampling weights stay the same when the adapter trains on.
        raw_logprobs: Sampled log-probs are those before temperature.
        soft_targets: K of [T, K] targets that cross-entropy takes, as far as tried; 0 for none.
    """

    reduction: Reduction = "sum"
    clips: bool = True
    snapshots: bool = True
    raw_logprobs: bool = True
    soft_targets: int = 0

    def lines(self) -> list[str]:
        """One line per property, for `didact doctor`."""
        exact = (
            "gradients are sent as weights"
            if self.reduction == "sum"
            else "rescaled exactly: gradients are sent as advantages of importance_sampling"
        )
        clip = "applied" if self.clips else f"ignored: set optim.max_grad_norm to {NO_CLIP:g}"
        return [
            f"reduction            {self.reduction}: {exact}",
            f"gradient clipping    {clip}",
            f"snapshots            {'frozen' if self.snapshots else 'change with the adapter: refused'}",
            f"sampled log-probs    {'untempered' if self.raw_logprobs else 'tempered: scored again'}",
            f"soft targets         {self.soft_targets or 'none'}",
        ]


def known_differences(server: str) -> list[dict[str, str]]:
    """Those of a server, found by its name, and of the SDK: server, version, behavior and handling."""
    listed: list[dict[str, str]] = yaml.safe_load(
        resources.files("didact.engines.tinker").joinpath("known_differences.yaml").read_text("utf-8")
    )
    named = (known["server"].split(",")[0] for known in listed)
    return [k for k, name in zip(listed, named, strict=True) if name.lower() in server.lower() or name == SDK]


class Unsupported:
    """Methods of `Engine` that no server can do."""

    def values(self, rows: Sequence[Row]) -> list[Floats]:
        raise no_value_head()

    def full_kl(self, rows: Sequence[Row]) -> list[Floats]:
        raise CapabilityError(
            "engine: tinker has no KL over the whole vocabulary, which `kl: full` needs: take a KL of the "
            "sampled tokens, or engine: local"
        )

    def top_logprobs(self, rows: Sequence[Row], k: int, *, weights: Weights = POLICY) -> list[TopLogprobs]:
        raise CapabilityError(
            "engine: tinker has no top_logprobs: its protocol returns log-probs of given tokens only. Take "
            "engine: local"
        )

    def update_snapshot(self, name: str, decay: float) -> None:
        raise no_named_snapshots()

    def drop_snapshot(self, name: str) -> None:
        raise no_named_snapshots()

    snapshot_names: Set[str] = frozenset()


def no_value_head() -> CapabilityError:
    """The error for methods that need a value head."""
    return CapabilityError(
        "engine: tinker has no value head, which credit `gae` and method `ppo` need: take "
        "settings.credit=critic_free, whose baseline is the mean of a group, or engine: local"
    )


def no_named_snapshots() -> CapabilityError:
    """The error of every call that needs a named snapshot."""
    return CapabilityError(
        "engine: tinker has no named snapshots: its protocol can neither average weights nor save a second "
        "set of them with a checkpoint. Use `snapshot()` without a name, or engine: local"
    )


def measure(service: TinkerService, prompt: Ids, completion: Ids, *, rank: int) -> ServerBehavior:
    """Measure a server on temporary adapters of this rank, with a completion of at least two ids.

    Raises:
        TrainingGuard: the server's reduction cannot be undone exactly.
        TinkerError: the server failed.
    """
    on = _Measurement(service, prompt, Row.from_completion(prompt, completion), rank)
    size, gain = on.step_size()
    once = on.weighted(1)
    double = on.gain([on.weighted(2)], size) / gain
    pair = on.gain([once, once], size) / gain
    clipped = on.gain([once], size, max_grad_norm=1e-6) / gain
    snapshots, raw, soft = on.sampling(size)
    return ServerBehavior(reduction(double, pair), abs(clipped) < 0.1, snapshots, raw, soft)


@dataclass
class _Measurement:
    service: TinkerService
    prompt: Ids
    row: Row
    rank: int

    def step_size(self) -> tuple[float, float]:
        """A step size lr/ε that changes the row's log-prob by about `CHANGE`, and the change itself."""
        size = 1e-4
        for attempt in range(12):
            gain = self.gain([self.weighted(1)], size)
            # The first step may include the gradient that a crashed run left behind.
            if attempt and CHANGE / 2 <= abs(gain) <= 2 * CHANGE:
                return size, gain
            size *= float(np.clip(CHANGE / abs(gain), 0.01, 100)) if gain else 100
        raise TrainingGuard(f"{self.service.name} changes no weight at any learning rate: it cannot train")

    def gain(self, data: Sequence[Datum], size: float, max_grad_norm: float = math.inf) -> float:
        """Change of the row's log-prob, in nats, by a cross-entropy step on `data` from a new adapter."""
        with closing(self.service.create(rank=self.rank, seed=0)) as trainer:
            before = self._score(trainer)
            self._step(trainer, data, size, max_grad_norm)
            after = self._score(trainer)
        return float(((after - before) * self.row.fields["weights"]).sum(dtype=np.float64))

    def sampling(self, size: float) -> tuple[bool, bool, int]:
        """Are snapshots frozen, are sampled log-probs untempered, and how many soft targets are taken."""
        with closing(self.service.create(rank=self.rank, seed=0)) as trainer:
            soft = self._soft_targets(trainer)
            self._step(trainer, [self.weighted(1)], size)
            trained = self._score(trainer)
            snapshot = trainer.sampler()
            raw = self._raw(trainer, snapshot)
            drift = np.abs(self._score(trainer) - trained).max()
            if drift > 1e-3:
                raise TrainingGuard(
                    f"sampling from {self.service.name} changes the adapter in training, by {drift:.2g} nats "
                    "a token: it cannot be trained on"
                )
            first = self._by_sampler(snapshot)
            self._step(trainer, [self.weighted(1)], size)
            moved = self._score(trainer)
            second = self._by_sampler(snapshot)
            after = self._score(trainer)
        change = np.abs(moved - trained).max()
        frozen = max(np.abs(second - first).max(), np.abs(after - moved).max()) < 0.1 * change
        return bool(frozen), raw, soft

    def _raw(self, trainer: TinkerTrainer, sampler: TinkerSampler) -> bool:
        params = SamplingParams(max_tokens=8, temperature=0.7)
        drawn = sampler.sample(self.prompt, 4, params, seed=0, end_ids=()).wait()
        rows = [Row.from_completion(self.prompt, s.ids) for s in drawn]
        scored = trainer.forward([scoring_datum(row) for row in rows]).wait()
        gaps = [np.abs(a[-len(s.ids) :] - s.logprobs).max() for a, s in zip(scored, drawn, strict=True)]
        return bool(max(gaps) < 0.05)

    def _score(self, trainer: TinkerTrainer) -> Floats:
        return trainer.forward([scoring_datum(self.row)]).wait()[0]

    def _by_sampler(self, sampler: TinkerSampler) -> Floats:
        ids = (*self.row.input_ids.tolist(), int(self.row.target_ids[-1]))
        return np.asarray(sampler.logprobs(ids).wait(), np.float32)

    def _soft_targets(self, trainer: TinkerTrainer) -> int:
        targets = np.repeat(self.row.target_ids[:, None], SOFT_TARGETS, axis=1)
        try:
            [found] = trainer.forward([scoring_datum(replace(self.row, target_ids=targets))]).wait()
            hard = self._score(trainer)
        except TinkerError:
            return 0
        same = found.shape == targets.shape and np.abs(found - hard[:, None]).max() < 1e-2
        return SOFT_TARGETS if same else 0

    def _step(
        self, trainer: TinkerTrainer, data: Sequence[Datum], size: float, max_grad_norm: float = math.inf
    ) -> None:
        gradient = trainer.forward_backward(data, "cross_entropy", {})
        step = trainer.optim_step(plain_step(size, max_grad_norm))
        gradient.wait()
        step.wait()

    def weighted(self, factor: int) -> Datum:
        return row_datum(self.row, weights=factor * self.row.fields["weights"])


def reduction(double: float, pair: float) -> Reduction:
    """The reduction with which doubled weights and a doubled row give these multiples of one row's step.

    >>> reduction(1.99, 2.02)
    'sum'
    >>> reduction(1.0, 1.0)
    'mean of row means'

    Raises:
        TrainingGuard: it is neither.
    """
    if abs(double - 2) < 0.3 and abs(pair - 2) < 0.3:
        return "sum"
    if abs(double - 1) < 0.05 and abs(pair - 1) < 0.05:
        return "mean of row means"
    raise TrainingGuard(
        f"the server takes {double:.3g} times the step for doubled weights and {pair:.3g} times for two "
        "equal rows: neither a sum (2 and 2) nor a mean of row means (1 and 1), and cannot be undone exactly"
    )
