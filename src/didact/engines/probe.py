"""The conformance probe: does an engine's gradient mean what the contract says?

It works through the contract alone, so it fits a server as well as a local engine. AdamW whose ε is
far above every gradient, with β₁ = β₂ = 0, takes a step of −(lr/ε)·g: plain gradient descent. What
the step does to log-probs then tells how the gradient was summed. A server that divides each row by
its weight sum, which one public server did, answers twice the weights with the same step.

Most checks compare two ways to the *same* step, as twice the weights at half the step size, so they
hold to rounding however curved the loss is. Shapes: T tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from didact.engines.base import AdamParams, Engine, Loss, SamplingParams
from didact.losses import BUILTIN
from didact.types import Ids, Row

TEXT = "Spell this word backward: sun. The answer is nus."
EPS = 1e8
CROSS_ENTROPY = Loss("cross_entropy")
POLICY_GRADIENT = Loss("policy_gradient")


@dataclass(frozen=True)
class ProbeResult:
    """One check.

    >>> print(ProbeResult("twice the weights, twice the step", 1.0, 2.0, 0.1))
    FAILS  twice the weights, twice the step: 1, expected 2 ± 0.1
    """

    name: str
    measured: float
    expected: float
    tolerance: float
    """Largest |measured − expected| that holds."""
    holds: bool = field(init=False)

    def __post_init__(self) -> None:
        # Written so that NaN does not hold.
        object.__setattr__(self, "holds", bool(abs(self.measured - self.expected) <= self.tolerance))

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "FAILS"
        return f"{verdict}  {self.name}: {self.measured:.4g}, expected {self.expected:g} ± {self.tolerance:g}"


def probe(engine: Engine, *, change: float = 0.1, logprob_tolerance: float = 0.05) -> list[ProbeResult]:
    """Measure that sampling, log-probs, gradients and steps agree, and leave the engine as found.

    A gradient that waits for `optim_step` is lost, so probe before training or between steps.

    Args:
        engine: Any engine. It is saved to a temporary directory and loaded after every measurement.
        change: How far a step should move the log-prob of the probe row, in nats. Raise it for an
            engine whose arithmetic is coarse.
        logprob_tolerance: How far the log-probs of `sample` and `logprobs` may be apart, in nats; they
            may come from different kernels.

    Returns:
        One result a check; where the weights do not move at all, only that one about the step.
    """
    with tempfile.TemporaryDirectory() as directory:
        engine.save(Path(directory))
        try:
            return _Probe(engine, Path(directory), change).results(logprob_tolerance)
        finally:
            engine.load(Path(directory))


@dataclass
class _Probe:
    engine: Engine
    start: Path
    """Where the engine's state lies."""
    change: float
    grad_norm: float | None = None
    """As the last step reported it."""
    calls: list[dict[str, float]] = field(default_factory=list)
    """What the calls before the last step reported."""

    def __post_init__(self) -> None:
        ids = tuple(self.engine.tokenizer.encode(TEXT))
        ids = ids if len(ids) >= 6 else (ids * 6)[:6]
        self.prompt: Ids = ids[: len(ids) // 2]
        self.row = Row.from_completion(self.prompt, ids[len(ids) // 2 :])
        self.before_T = self.engine.logprobs([self.row])[0]

    def results(self, logprob_tolerance: float) -> list[ProbeResult]:
        sampling = self._sampling_agrees(logprob_tolerance)
        size = self._step_size()
        if size is None:
            moved = ProbeResult("a step raises the log-probs it trains (sign)", 0.0, 1.0, 0.0)
            return [sampling, moved]
        row, w_T = self.row, self.row.fields["weights"]
        once = self._gain([[row]], size)
        norm = self.grad_norm

        def relative_to_once(*calls: Sequence[Row], step: float) -> float:
            return self._gain(calls, step) / once

        first_T = np.zeros_like(w_T)
        first_T[np.flatnonzero(w_T)[0]] = 1.0
        half_T = w_T * (np.arange(len(w_T)) % 2)
        parts = [weighted(row, half_T), weighted(row, w_T - half_T)]
        twice = weighted(row, 2 * w_T)
        in_parts = relative_to_once([parts[0]], [parts[1]], step=size)
        compared = self._norms_add_up()
        results = [
            sampling,
            ProbeResult("a step raises the log-probs it trains (sign)", float(np.sign(once)), 1.0, 0.0),
            ProbeResult("twice the weights", 2 * relative_to_once([twice], step=size / 2), 2.0, 0.1),
            ProbeResult("two equal rows", 2 * relative_to_once([row, row], step=size / 2), 2.0, 0.1),
            ProbeResult("two calls", 2 * relative_to_once([row], [row], step=size / 2), 2.0, 0.1),
            ProbeResult("a row in two parts", in_parts, 1.0, 0.05),
            ProbeResult("a negative weight", relative_to_once([weighted(row, -w_T)], step=size), -1.0, 0.3),
            self._advantages_are_weights(first_T, size),
            *self._policy_losses(size),
        ]
        if norm is not None:
            # −ΔL = (lr/ε)·|g|² to first order, and here L = −Σ w log π.
            ratio = once / (size * norm**2) if norm > 0 else float("nan")
            results.append(ProbeResult("finite difference over |gradient|²", ratio, 1.0, 0.3))
        return [*results, *compared]

    def _sampling_agrees(self, tolerance: float) -> ProbeResult:
        """The log-probs of samples are those of the model itself, also when temperature is not 1."""
        params = SamplingParams(max_tokens=16, temperature=0.7)
        [samples] = self.engine.sample([self.prompt], 4, params, seed=0)
        rows = [Row.from_completion(self.prompt, s.ids) for s in samples]
        gaps = [
            np.abs(scored_T[-len(s.ids) :] - np.asarray(s.logprobs)).max()
            for s, scored_T in zip(samples, self.engine.logprobs(rows), strict=True)
        ]
        return ProbeResult("log-probs of sample and logprobs", float(max(gaps)), 0.0, tolerance)

    def _norms_add_up(self) -> list[ProbeResult]:
        """|a|² + |b|² + 2 cos |a||b| = |a + b|², for an engine that compares the gradients of two calls."""
        if not self.engine.capabilities.compares_gradients:
            return []
        a, b = (call.get("grad_norm", float("nan")) for call in self.calls)
        cosine = self.calls[1].get("cosine", float("nan"))
        whole = self.grad_norm or float("nan")
        found = (a**2 + b**2 + 2 * cosine * a * b) / whole**2
        return [ProbeResult("norms and cosine of two calls over |gradient|²", found, 1.0, 0.02)]

    def _advantages_are_weights(self, only_T: NDArray[np.float32], size: float) -> ProbeResult:
        """An advantage on one token trains what a cross-entropy weight on it alone trains."""
        weight_T = self._shift([[weighted(self.row, only_T)]], CROSS_ENTROPY, size)
        advantages = replace(self.row, fields={**self.row.fields, "advantages": only_T})
        advantage_T = self._shift([[advantages]], POLICY_GRADIENT, size)
        gap = np.abs(advantage_T - weight_T).max() / np.abs(weight_T).max()
        return ProbeResult("an advantage on one token against a weight on it", float(gap), 0.0, 0.05)

    def _policy_losses(self, size: float) -> list[ProbeResult]:
        """Each loss that has a name is, off policy and clipped, what its function differentiates to.

        Ratios are e^½ and e^−½ by turns, outside the clip, and every other pair of advantages is negative.
        """
        turns_T = np.arange(len(self.before_T))
        advantages_T = np.where(turns_T % 4 < 2, 1.0, -1.0).astype(np.float32)
        old_T = self.before_T + np.where(turns_T % 2, 0.5, -0.5).astype(np.float32)
        fields = {**self.row.fields, "advantages": advantages_T, "old_logprobs": old_T}
        row = replace(self.row, fields=fields)
        results = []
        for name in ("importance_sampling", "ppo", "cispo"):
            named_T = self._shift([[row]], Loss(name), size)
            given_T = self._shift([[row]], Loss(name, fn=BUILTIN[name]), size)
            gap = np.abs(named_T - given_T).max() / np.abs(given_T).max()
            results.append(ProbeResult(f"{name} by name against its function", float(gap), 0.0, 0.05))
        return results

    def _step_size(self) -> float | None:
        """lr/ε that moves the row's log-prob by about `change`; None where nothing moves it."""
        size = 1e-6
        for _ in range(16):
            moved = abs(self._gain([[self.row]], size))
            if self.change / 2 <= moved <= 2 * self.change:
                return size
            size *= float(np.clip(self.change / moved, 0.01, 100)) if moved > 0 else 100
        return None

    def _gain(self, calls: Sequence[Sequence[Row]], size: float) -> float:
        """What a cross-entropy step on these calls adds to the row's log-prob, in nats."""
        weights_T = self.row.fields["weights"]
        return float((weights_T * self._shift(calls, CROSS_ENTROPY, size)).sum(dtype=np.float64))

    def _shift(self, calls: Sequence[Sequence[Row]], loss: Loss, size: float) -> NDArray[np.float32]:
        """The change of the row's log-probs [T] by one step of plain gradient descent."""
        self.calls = [self.engine.forward_backward(rows, loss).metrics for rows in calls]
        adam = AdamParams(lr=size * EPS, beta1=0.0, beta2=0.0, eps=EPS, max_grad_norm=float("inf"))
        self.grad_norm = self.engine.optim_step(adam).metrics.get("grad_norm")
        after_T = self.engine.logprobs([self.row])[0]
        self.engine.load(self.start)
        return after_T - self.before_T


def weighted(row: Row, weights_T: NDArray[np.float32]) -> Row:
    """The row with other weights."""
    return replace(row, fields={**row.fields, "weights": weights_T})
