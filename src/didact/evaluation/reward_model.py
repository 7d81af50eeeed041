"""How well a reward model marks annotated answers that it was not trained on, with intervals over answers.

For a polarity, a token counts as found where the model and the annotator both give it that sign:

    precision = TP / (TP + FP)     recall = TP / (TP + FN)     F1 = 2 TP / (2 TP + FP + FN)

A reply that cannot be read marks nothing: every annotated token is missed, its IoU is 0 and it is not exact,
also where the annotator marked nothing. A share of nothing is None, never 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from didact.errors import DataError
from didact.rendering.renderer import Renderer
from didact.reward_model.model import RewardModel
from didact.reward_model.task import Annotated
from didact.rng import generator
from didact.spans import Offsets, token_labels, token_offsets

Floats64 = NDArray[np.float64]
SIGNS = {"good": 1.0, "poor": -1.0}
THIRDS = ("first", "middle", "last")
RESAMPLES = 2_000


@dataclass(frozen=True)
class AnnotatedSpans:
    """The spans of one answer, by the annotator and by the model.

    Attributes:
        gold_T: The annotator's sign of each token: 1 good, −1 poor, 0 neither.
        found_T: The model's; None where its reply could not be read.
        drawn_KT: The signs of K replies that were drawn, for calibration; 0 in one that could not be read.
            None where none were drawn.
    """

    gold_T: NDArray[Any]
    found_T: NDArray[Any] | None
    drawn_KT: NDArray[Any] | None = None


class Measured(NamedTuple):
    """A number with its 95 % interval; None where there is nothing to measure."""

    value: float | None
    low: float | None = None
    high: float | None = None


def evaluate_reward_model(
    model: RewardModel, items: Sequence[Annotated], renderer: Renderer, *, draws: Sequence[RewardModel] = ()
) -> dict[str, Any]:
    """The numbers of `measure`, tokens being those of the reward model's own tokenizer.

    Args:
        items: Annotated answers.
        draws: The same model, each with a seed of its own and above temperature 0, for calibration.

    Returns:
        Also `repaired`, replies that had to be mended; `too_long`, answers that it cannot be asked about,
        which count as failures; `quotes` and those `unplaced`.

    Raises:
        DataError: there are no answers.
    """
    before = dict(model.seen)
    asked = [(item.problem, item.answer) for item in items]
    marked = model.mark(asked)
    drawn = [each.mark(asked) for each in draws]
    cases = []
    for i, (item, own) in enumerate(zip(items, marked, strict=True)):
        answer = item.answer
        offsets = _offsets(answer, renderer)
        votes = [token_labels(each[i].spans, offsets, answer) for each in drawn]
        cases.append(
            AnnotatedSpans(
                gold_T=token_labels(item.feedback.spans, offsets, answer),
                found_T=None if own.reading is None else token_labels(own.spans, offsets, answer),
                drawn_KT=np.stack(votes) if votes else None,
            )
        )
    counts = {n: model.seen[n] - before.get(n, 0) for n in ("repaired", "too_long", "quotes", "unplaced")}
    return {**measure(cases), **counts}


def _offsets(answer: str, renderer: Renderer) -> Offsets:
    """Where the answer's tokens stand; its characters, where the tokenizer does not give it back."""
    try:
        return token_offsets(renderer.answer(answer)[:-1], renderer.tokenizer, answer)
    except DataError:
        first = np.arange(len(answer))
        return np.stack([first, first + 1], axis=1)


def measure(cases: Sequence[AnnotatedSpans], *, seed: int = 0) -> dict[str, Any]:
    """Every number of a reward model on annotated answers.

    Returns:
        `answers`, and as `Measured`: `failures`, the share of replies that could not be read; `iou`, the mean
        over answers of tokens marked alike / tokens marked by either (1 where neither marks any); `exact`,
        the share of answers with every token as annotated; `good` and `poor` with `precision`, `recall` and
        `f1` of `all` tokens and of each third of the answer; `calibration` likewise with `ece` (expected
        calibration error of the share of draws that mark a token, the bins being those shares) and `brier`;
        `coverage` and `coverage_gold`, the shares of tokens that the model and the annotator mark.

    Raises:
        DataError: there are no answers.
    """
    if not cases:
        raise DataError("there is no annotated answer to measure a reward model on")
    weights_RN = resampled(len(cases), seed, RESAMPLES)

    def share(numerator_N: Sequence[float], denominator_N: Sequence[float]) -> Measured:
        return _share(np.asarray(numerator_N), np.asarray(denominator_N), weights_RN)

    ones = [1.0] * len(cases)
    gold = [np.asarray(case.gold_T, np.float64) for case in cases]
    found = [np.zeros(len(c.gold_T)) if c.found_T is None else np.asarray(c.found_T) for c in cases]
    failed = [float(case.found_T is None) for case in cases]
    pairs = list(zip(gold, found, failed, strict=True))
    sizes = [float(len(g)) for g in gold]
    record: dict[str, Any] = {
        "answers": len(cases),
        "failures": share(failed, ones),
        "iou": share([0.0 if bad else _iou(g, f) for g, f, bad in pairs], ones),
        "exact": share([float(not bad and np.array_equal(g, f)) for g, f, bad in pairs], ones),
        "coverage": share([float(np.count_nonzero(f)) for f in found], sizes),
        "coverage_gold": share([float(np.count_nonzero(g)) for g in gold], sizes),
    }
    for name, sign in SIGNS.items():
        record[name] = {
            where: _scores(gold, found, sign, part, share) for part, where in enumerate(("all", *THIRDS), -1)
        }
    drawn = [case.drawn_KT for case in cases if case.drawn_KT is not None]
    if drawn:
        record["calibration"] = {
            name: _calibration(gold, drawn, sign, weights_RN, share) for name, sign in SIGNS.items()
        }
    return record


def resampled(n: int, seed: int, resamples: int) -> Floats64:
    """How often each of n answers is drawn in each bootstrap resample, [R, N]."""
    rng = generator(seed, "span-bootstrap")
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def thirds(size: int) -> NDArray[np.int64]:
    """The third of an answer that each of its tokens is in.

    >>> thirds(4).tolist()
    [0, 0, 1, 2]
    """
    return np.arange(size) * 3 // max(size, 1)


Share = Callable[[Sequence[float], Sequence[float]], Measured]


def _scores(
    gold: Sequence[Floats64], found: Sequence[Floats64], sign: float, part: int, share: Share
) -> dict[str, Measured]:
    """Precision, recall and F1 of one sign in one third (−1: everywhere)."""
    hit, said, true = [], [], []
    for g, f in zip(gold, found, strict=True):
        here = np.ones(len(g), bool) if part < 0 else thirds(len(g)) == part
        is_gold, is_found = (g == sign) & here, (f == sign) & here
        hit.append(float((is_gold & is_found).sum()))
        said.append(float(is_found.sum()))
        true.append(float(is_gold.sum()))
    both = [s + t for s, t in zip(said, true, strict=True)]
    f1 = share([2 * h for h in hit], both)
    return {"precision": share(hit, said), "recall": share(hit, true), "f1": f1}


def _iou(gold_T: Floats64, found_T: NDArray[Any]) -> float:
    either = np.count_nonzero((gold_T != 0) | (found_T != 0))
    return float(np.count_nonzero((gold_T == found_T) & (gold_T != 0)) / either) if either else 1.0


def _calibration(
    gold: Sequence[Floats64], drawn: Sequence[NDArray[Any]], sign: float, weights_RN: Floats64, share: Share
) -> dict[str, Measured]:
    """How far the share of draws that give a token a sign is from the share of such tokens that have it."""
    draws = len(drawn[0])
    truth_NB, said_NB = (np.zeros((len(gold), draws + 1)) for _ in range(2))
    brier = []
    for i, (g, d) in enumerate(zip(gold, drawn, strict=True)):
        votes_T = (np.asarray(d) == sign).sum(0)
        true_T = (g == sign).astype(np.float64)
        truth_NB[i] = np.bincount(votes_T, true_T, minlength=draws + 1)
        said_NB[i] = np.bincount(votes_T, minlength=draws + 1) * np.arange(draws + 1) / draws
        brier.append(float(((votes_T / draws - true_T) ** 2).sum()))
    sizes = np.array([float(len(g)) for g in gold])

    def ece(weights_RN: Floats64) -> Floats64:
        gaps_R = np.abs(weights_RN @ truth_NB - weights_RN @ said_NB).sum(-1)
        return np.asarray(_ratio(gaps_R, weights_RN @ sizes))

    value = float(ece(np.ones((1, len(gold))))[0])
    return {"ece": _measured(value, ece(weights_RN)), "brier": share(brier, list(sizes))}


def _share(numerator_N: Floats64, denominator_N: Floats64, weights_RN: Floats64) -> Measured:
    """A ratio of sums over answers with its percentile bootstrap interval."""
    total = denominator_N.sum()
    if not total:
        return Measured(None)
    value = float(numerator_N.sum() / total)
    return _measured(value, _ratio(weights_RN @ numerator_N, weights_RN @ denominator_N))


def _ratio(above: Floats64, below: Floats64) -> Floats64:
    """NaN where a resample holds nothing to measure."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _measured(value: float, values_R: Floats64) -> Measured:
    known = values_R[~np.isnan(values_R)]
    if np.isnan(value) or not len(known):
        return Measured(None)
    low, high = np.quantile(known, [0.025, 0.975])
    return Measured(value, float(low), float(high))
