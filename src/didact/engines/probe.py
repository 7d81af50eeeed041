"""The conformance probe: does an engine follow the interface of `base.py`?

It uses the interface alone, so it works on a server as well as on a local engine. AdamW with β₁ = β₂ = 0 and
an ε far above every gradient takes a step of −(lr/ε)·g: plain gradient descent. The change of log-probs shows
how the gradient was summed. A server that divides each row by its weight sum, as one public server did, takes
the same step for twice the weights.

Most checks compare two ways to the *same* step, as twice the weights at half the step size, so they hold to
rounding for any curvature of the loss. Shapes: T tokens.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from didact.engines.base import AdamParams, Engine, Loss, SamplingParams, rescored
from didact.losses import BUILTIN
from didact.types import Ids, Row

TEXT = "Spell this word backward: sun. The answer is nus."
EPS = 1e8
SNAPSHOT = "probe"
"""The name of a snapshot while the probe runs."""
CHANGE = 0.1
"""The change of the probe row's log-prob that a step aims at, in nats."""
LOGPROB_TOLERANCE = 0.05
"""Largest difference in nats between log-probs of `sample`, `logprobs` and `top_logprobs`, which may come
from different kernels."""
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

    @property
    def holds(self) -> bool:
        """Whether the measurement is as expected; NaN is not."""
        return abs(self.measured - self.expected) <= self.tolerance

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "FAILS"
        return f"{verdict}  {self.name}: {self.measured:.4g}, expected {self.expected:g} ± {self.tolerance:g}"


def probe_text(tokenizer: Any) -> tuple[Ids, Ids]:
    """Ids of the probed prompt and completion, at least three each."""
    ids = tuple(tokenizer.encode(TEXT))
    ids = ids if len(ids) >= 6 else (ids * 6)[:6]
    return ids[: len(ids) // 2], ids[len(ids) // 2 :]


def plain_step(size: float, max_grad_norm: float = math.inf) -> AdamParams:
    """A step of −size·g."""
    return AdamParams(lr=size * EPS, beta1=0.0, beta2=0.0, eps=EPS, max_grad_norm=max_grad_norm)


def probe(engine: Engine) -> list[ProbeResult]:
    """Measure that sampling, log-probs, gradients and steps agree; the engine's state is restored.

    The engine is saved to a temporary directory and loaded after every measurement. An accumulated gradient
    is lost, so probe before training or between steps. If no step moves the weights, the checks of gradients
    are left out.
    """
    with tempfile.TemporaryDirectory() as directory:
        engine.save(Path(directory))
        try:
            return _Probe(engine, Path(directory)).results()
        finally:
            engine.load(Path(directory))


@dataclass
class _Probe:
    engine: Engine
    start: Path
    """The directory with the engine's state."""
    grad_norm: float | None = None
    """Of the last step."""
    calls: list[dict[str, float]] = field(default_factory=list)
    """Metrics of the calls before the last step."""

    def __post_init__(self) -> None:
        self.prompt, completion = probe_text(self.engine.tokenizer)
        self.row = Row.from_completion(self.prompt, completion)
        self.before_T = self.engine.logprobs([self.row])[0]

    def results(self) -> list[ProbeResult]:
        scores = [self._sampling_agrees(), *self._top_agrees()]
        size = self._step_size()
        if size is None:
            moved = ProbeResult("a step raises the log-probs it trains (sign)", 0.0, 1.0, 0.0)
            return [*scores, moved]
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
            *scores,
            ProbeResult("a step raises the log-probs it trains (sign)", float(np.sign(once)), 1.0, 0.0),
            ProbeResult("twice the weights", 2 * relative_to_once([twice], step=size / 2), 2.0, 0.1),
            ProbeResult("two equal rows", 2 * relative_to_once([row, row], step=size / 2), 2.0, 0.1),
            ProbeResult("two calls", 2 * relative_to_once([row], [row], step=size / 2), 2.0, 0.1),
            ProbeResult("a row in two parts", in_parts, 1.0, 0.05),
            ProbeResult("a negative weight", relative_to_once([weighted(row, -w_T)], step=size), -1.0, 0.3),
            self._advantages_are_weights(first_T, size),
            *self._policy_losses(size),
            *self._averages(size),
        ]
        if norm is not None:
            # −ΔL = (lr/ε)·|g|² to first order, and here L = −Σ w log π.
            ratio = once / (size * norm**2) if norm > 0 else float("nan")
            results.append(ProbeResult("finite difference over |gradient|²", ratio, 1.0, 0.3))
        return [*results, *compared]

    def _sampling_agrees(self) -> ProbeResult:
        """The log-probs of samples are those of the model itself, also when temperature is not 1."""
        params = SamplingParams(max_tokens=16, temperature=0.7)
        groups = self.engine.sample([self.prompt], 4, params, seed=0)
        pairs = zip(groups[0], rescored(self.engine, [self.prompt], groups)[0], strict=True)
        gaps = [np.abs(np.subtract(drawn.logprobs, scored.logprobs)).max() for drawn, scored in pairs]
        return ProbeResult("log-probs of sample and logprobs", float(max(gaps)), 0.0, LOGPROB_TOLERANCE)

    def _top_agrees(self) -> list[ProbeResult]:
        """The log-prob of the likeliest token is the one that `logprobs` has for it."""
        if not self.engine.capabilities.top_logprobs:
            return []
        [top] = self.engine.top_logprobs([self.row], 2)
        [scored_T] = self.engine.logprobs([replace(self.row, target_ids=top.ids[:, 0])])
        gap = float(np.abs(scored_T - top.logprobs[:, 0]).max())
        sorted_ = float((top.logprobs[:, 0] >= top.logprobs[:, 1]).all())
        return [
            ProbeResult("log-probs of top_logprobs and logprobs", gap, 0.0, LOGPROB_TOLERANCE),
            ProbeResult("top_logprobs has the likeliest token first", sorted_, 1.0, 0.0),
        ]

    def _averages(self, size: float) -> list[ProbeResult]:
        """A named snapshot keeps its weights with decay 1 and takes the current ones with decay 0."""
        if not self.engine.capabilities.named_snapshots:
            return []
        average = self.engine.snapshot(SNAPSHOT)
        self._step([[self.row]], CROSS_ENTROPY, size)
        gaps = []
        for decay, expected_T in ((1.0, self.before_T), (0.0, self.engine.logprobs([self.row])[0])):
            self.engine.update_snapshot(SNAPSHOT, decay)
            found_T = self.engine.logprobs([self.row], weights=average)[0]
            gaps.append(float(np.abs(found_T - expected_T).max()))
        self.engine.drop_snapshot(SNAPSHOT)
        self.engine.load(self.start)
        return [
            ProbeResult("an average with decay 1 against the old weights", gaps[0], 0.0, 0.05 * CHANGE),
            ProbeResult("an average with decay 0 against the current ones", gaps[1], 0.0, 0.05 * CHANGE),
        ]

    def _norms_add_up(self) -> list[ProbeResult]:
        """|a|² + |b|² + 2 cos |a||b| = |a + b|² for the gradients a and b of two calls."""
        if not self.engine.capabilities.compares_gradients:
            return []
        a, b = (call.get("grad_norm", float("nan")) for call in self.calls)
        cosine = self.calls[1].get("cosine", float("nan"))
        whole = self.grad_norm or float("nan")
        found = (a**2 + b**2 + 2 * cosine * a * b) / whole**2
        return [ProbeResult("norms and cosine of two calls over |gradient|²", found, 1.0, 0.02)]

    def _advantages_are_weights(self, only_T: NDArray[np.float32], size: float) -> ProbeResult:
        """An advantage on one token has the gradient of a cross-entropy weight on that token alone."""
        weight_T = self._shift([[weighted(self.row, only_T)]], CROSS_ENTROPY, size)
        advantages = replace(self.row, fields={**self.row.fields, "advantages": only_T})
        advantage_T = self._shift([[advantages]], POLICY_GRADIENT, size)
        gap = np.abs(advantage_T - weight_T).max() / np.abs(weight_T).max()
        return ProbeResult("an advantage on one token against a weight on it", float(gap), 0.0, 0.05)

    def _policy_losses(self, size: float) -> list[ProbeResult]:
        """Each built-in loss has the gradient of its function, off policy and clipped.

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
        """lr/ε that moves the row's log-prob by about CHANGE; None where nothing moves it."""
        size = 1e-6
        for _ in range(16):
            moved = abs(self._gain([[self.row]], size))
            if CHANGE / 2 <= moved <= 2 * CHANGE:
                return size
            size *= float(np.clip(CHANGE / moved, 0.01, 100)) if moved > 0 else 100
        return None

    def _gain(self, calls: Sequence[Sequence[Row]], size: float) -> float:
        """The change of the row's log-prob by a cross-entropy step on these calls, in nats."""
        weights_T = self.row.fields["weights"]
        return float((weights_T * self._shift(calls, CROSS_ENTROPY, size)).sum(dtype=np.float64))

    def _shift(self, calls: Sequence[Sequence[Row]], loss: Loss, size: float) -> NDArray[np.float32]:
        """The change of the row's log-probs [T] by one step of plain gradient descent."""
        self._step(calls, loss, size)
        after_T = self.engine.logprobs([self.row])[0]
        self.engine.load(self.start)
        return after_T - self.before_T

    def _step(self, calls: Sequence[Sequence[Row]], loss: Loss, size: float) -> None:
        """One step of plain gradient descent."""
        self.calls = [self.engine.forward_backward(rows, loss).metrics for rows in calls]
        self.grad_norm = self.engine.optim_step(plain_step(size)).metrics.get("grad_norm")


def weighted(row: Row, weights_T: NDArray[np.float32]) -> Row:
    """The row with these weights."""
    return replace(row, fields={**row.fields, "weights": weights_T})
