"""What a server does with a loss, measured on throw-away adapters before anything is trained on it.

New adapters of equal rank and seed are equal, so each measurement starts from the same weights. As in
`probe.py`, AdamW with ε far above every gradient and β₁ = β₂ = 0 is plain gradient descent with step lr/ε,
and what it does to log-probs tells how the gradient was added up. This module finds out *which* of the known
ways a server has; `probe.py` then proves the engine that was built on the answer.

Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from didact.engines.base import AdamParams, SamplingParams
from didact.engines.tinker.gradients import Floats, Request, scored
from didact.engines.tinker.protocol import Datum, Sampler, ServerError, Service, Trainer
from didact.engines.tinker.server_behavior import Behaviour, Reduction
from didact.errors import TrainingGuard
from didact.types import Ids, Row

EPS = 1e8
CHANGE = 0.1
"""How far a step should move the row's log-prob, in nats."""
SOFT_TARGETS = 20
"""K that is tried."""


def measure(service: Service, prompt: Ids, completion: Ids, *, rank: int) -> Behaviour:
    """How a server adds up losses, clips, samples and keeps snapshots.

    Args:
        service: The server.
        prompt: Any text's ids, at least one.
        completion: What is trained after it, at least two.
        rank: Of the adapters; they are closed again.

    Raises:
        TrainingGuard: the server adds losses up in a way that cannot be undone exactly.
        ServerError: it failed.
    """
    return _Measure(service, Row.from_completion(prompt, completion), prompt, rank).behaviour()


@dataclass
class _Measure:
    service: Service
    row: Row
    prompt: Ids
    rank: int

    def behaviour(self) -> Behaviour:
        size, once = self._step_size()
        ones = self.row.fields["weights"]
        twice = self._gain([self._weighted(2 * ones)], size) / once
        pair = self._gain([self._weighted(ones), self._weighted(ones)], size) / once
        clipped = self._gain([self._weighted(ones)], size, max_grad_norm=1e-6) / once
        snapshots, raw, soft = self._sampling(size)
        return Behaviour(
            reduction=reduction(twice, pair),
            clips=abs(clipped) < 0.1,
            snapshots=snapshots,
            raw_logprobs=raw,
            soft_targets=soft,
        )

    def _step_size(self) -> tuple[float, float]:
        """lr/ε that moves the row's log-prob by about `CHANGE`, and by how much it does."""
        size = 1e-4
        for attempt in range(12):
            moved = self._gain([self._weighted(self.row.fields["weights"])], size)
            # The first may hold what an adapter of a run that died left behind.
            if attempt and CHANGE / 2 <= abs(moved) <= 2 * CHANGE:
                return size, moved
            size *= float(np.clip(CHANGE / abs(moved), 0.01, 100)) if moved else 100
        raise TrainingGuard(
            f"{self.service.name} moves no weight, whatever the learning rate: nothing can be trained on it"
        )

    def _gain(self, data: Sequence[Datum], size: float, max_grad_norm: float = float("inf")) -> float:
        """What a cross-entropy step on these rows adds to the row's log-prob, in nats."""
        trainer = self._adapter()
        try:
            [before] = trainer.forward([scored(self.row)]).wait()
            self._step(trainer, data, size, max_grad_norm)
            [after] = trainer.forward([scored(self.row)]).wait()
        finally:
            trainer.close()
        return float(((after - before) * self.row.fields["weights"]).sum(dtype=np.float64))

    def _sampling(self, size: float) -> tuple[bool, bool, int]:
        """Do snapshots keep; are sampled log-probs the model's own; how many soft targets are taken."""
        trainer = self._adapter()
        try:
            soft = self._soft_targets(trainer)
            self._step(trainer, [self._weighted(self.row.fields["weights"])], size, float("inf"))
            [trained] = trainer.forward([scored(self.row)]).wait()
            kept = trainer.sampler()
            raw = self._raw(trainer, kept)
            [still] = trainer.forward([scored(self.row)]).wait()
            if np.abs(still - trained).max() > 1e-3:
                raise TrainingGuard(
                    f"sampling the current weights of {self.service.name} changes them, by "
                    f"{np.abs(still - trained).max():.2g} nats a token: no training could be trusted"
                )
            first = self._by_sampler(kept)
            self._step(trainer, [self._weighted(self.row.fields["weights"])], size, float("inf"))
            [moved] = trainer.forward([scored(self.row)]).wait()
            second = self._by_sampler(kept)
            [after] = trainer.forward([scored(self.row)]).wait()
        finally:
            trainer.close()
        change = np.abs(moved - trained).max()
        keeps = max(np.abs(second - first).max(), np.abs(after - moved).max()) < 0.1 * change
        return bool(keeps), raw, soft

    def _raw(self, trainer: Trainer, sampler: Sampler) -> bool:
        params = SamplingParams(max_tokens=8, temperature=0.7)
        drawn = sampler.sample(self.prompt, 4, params, seed=0, end_ids=()).wait()
        rows = [Row.from_completion(self.prompt, s.ids) for s in drawn]
        again = trainer.forward([scored(row) for row in rows]).wait()
        gaps = [np.abs(a[-len(s.ids) :] - s.logprobs).max() for a, s in zip(again, drawn, strict=True)]
        return bool(max(gaps) < 0.05)

    def _by_sampler(self, sampler: Sampler) -> Floats:
        ids = (*self.row.input_ids.tolist(), int(self.row.target_ids[-1]))
        return np.asarray(sampler.logprobs(ids).wait(), np.float32)

    def _soft_targets(self, trainer: Trainer) -> int:
        targets = np.repeat(self.row.target_ids[:, None], SOFT_TARGETS, axis=1)
        weights = np.ones(targets.shape, np.float32)
        asked = Datum(self.row.input_ids, {"target_tokens": targets, "weights": weights})
        try:
            [found] = trainer.forward([asked]).wait()
            [hard] = trainer.forward([scored(self.row)]).wait()
        except ServerError:
            return 0
        same = found.shape == targets.shape and np.abs(found - hard[:, None]).max() < 1e-2
        return SOFT_TARGETS if same else 0

    def _step(self, trainer: Trainer, data: Sequence[Datum], size: float, max_grad_norm: float) -> None:
        request = Request(list(data), "cross_entropy", {})
        added = trainer.forward_backward(request.data, request.loss, request.settings)
        adam = AdamParams(lr=size * EPS, beta1=0.0, beta2=0.0, eps=EPS, max_grad_norm=max_grad_norm)
        stepped = trainer.optim_step(adam)
        added.wait()
        stepped.wait()

    def _weighted(self, weights: Floats) -> Datum:
        asked = scored(self.row)
        return Datum(asked.tokens, {**asked.inputs, "weights": np.asarray(weights, np.float32)})

    def _adapter(self) -> Trainer:
        return self.service.create(rank=self.rank, seed=0)


def reduction(twice: float, pair: float) -> Reduction:
    """The reduction that answers twice the weights, and two equal rows, with so many times the step.

    >>> reduction(1.99, 2.02)
    'sum'
    >>> reduction(1.0, 1.0)
    'mean of row means'

    Raises:
        TrainingGuard: it is neither.
    """
    if abs(twice - 2) < 0.3 and abs(pair - 2) < 0.3:
        return "sum"
    if abs(twice - 1) < 0.05 and abs(pair - 1) < 0.05:
        return "mean of row means"
    raise TrainingGuard(
        f"the server answers twice the weights with {twice:.3g} times the step and two equal rows with "
        f"{pair:.3g} times: neither the sum of the contract (2 and 2) nor a mean of row means (1 and 1), "
        "which could be undone exactly. Nothing trained on it could be trusted"
    )
