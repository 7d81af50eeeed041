"""Quality of critiques: accuracy against the verifier, agreement between annotators, and cost.

precision   of the answers labelled wrong, the share that the verifier rejected
recall      of the answers that the verifier rejected, the share labelled wrong
alpha       1 − observed / expected disagreement (Krippendorff, 2011, "Computing Krippendorff's
            Alpha-Reliability"): 1 is agreement, 0 is chance; annotators may be missing
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from didact.annotation.targets import AnnotatedAnswer
from didact.feedback_store import UNKNOWN_AUTHOR, latest
from didact.types import Feedback, Record

WRONG = frozenset({"wrong", "incorrect", "false", "no", "fail", "failed", "bad", "poor", "thumbs-down", "👎"})
RIGHT = frozenset({"right", "correct", "true", "yes", "pass", "passed", "good", "thumbs-up", "👍"})


class AuthorQuality(Record):
    """Accuracy and cost of one author's critiques."""

    author: str
    source: str
    critiques: int
    """Their number, with failed ones and older versions."""
    share: float
    """Of all critiques, in [0, 1]."""
    failed: float
    """Share of the critiques that failed, in [0, 1]."""
    judged: int
    """Answers with a verdict by the author and by the verifier."""
    precision: float | None
    """None if the author labelled nothing wrong."""
    recall: float | None
    """None if the verifier rejected nothing."""
    tokens: int
    cost_usd: float


class Agreement(Record):
    """Agreement between annotators."""

    annotators: int
    answers: int
    """Answers with at least two values."""
    alpha: float | None
    """Krippendorff's alpha; None if no answer has two values, or all values are equal."""


class Quality(Record):
    """The quality of all critiques of a set of answers."""

    answers: int
    criticised: int
    """Answers with at least one valid critique."""
    authors: tuple[AuthorQuality, ...]
    """By the number of critiques, descending."""
    labels: Agreement
    """Nominal alpha of labels."""
    scores: Agreement
    """Interval alpha of scores."""
    people_labels: Agreement
    people_scores: Agreement


def measure_quality(answers: Sequence[AnnotatedAnswer], *, threshold: float = 0.5) -> Quality:
    """Measure all critiques of a set of answers.

    An author's latest version counts, except for failures, tokens and cost. Agreement is measured per aspect
    (`Feedback.name`). Without a verdict label, a score below `threshold` means wrong.
    """
    said = [(answer, f) for answer in answers for f in answer.feedback]
    final = [(answer, f) for answer in answers for f in latest(answer.feedback, verdicts=True) if f.ok]
    people = [(answer, f) for answer, f in final if f.source == "human"]
    return Quality(
        answers=len(answers),
        criticised=sum(any(f.ok for f in answer.feedback) for answer in answers),
        authors=_authors(said, final, threshold),
        labels=_agreement(final, _label, nominal_alpha),
        scores=_agreement(final, attrgetter("score"), interval_alpha),
        people_labels=_agreement(people, _label, nominal_alpha),
        people_scores=_agreement(people, attrgetter("score"), interval_alpha),
    )


def is_right(feedback: Feedback, *, threshold: float = 0.5) -> bool | None:
    """The verdict of a critique: right (True), wrong (False) or neither (None).

    >>> from didact.types import Provenance
    >>> f = Feedback(label="Wrong", score=1.0, source="human", saw_reference=False,
    ...              provenance=Provenance(author="ann"))
    >>> is_right(f)
    False
    """
    label = _label(feedback)
    if label in WRONG or label in RIGHT:
        return label in RIGHT
    return None if feedback.score is None else feedback.score >= threshold


def nominal_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha of nominal values, at most 1; None if no unit has two, or all values are equal.

    >>> nominal_alpha([("a", "a"), ("b", "b"), ("a", "b")])
    0.4444444444444444
    """
    codes: dict[Hashable, int] = {}
    pairs = [np.array([codes.setdefault(v, len(codes)) for v in unit]) for unit in units if len(unit) > 1]
    if not pairs:
        return None

    def differing(values: np.ndarray[Any, Any]) -> float:
        """Ordered pairs of values that differ."""
        return float(len(values) ** 2 - (np.bincount(values) ** 2).sum())

    return _alpha(pairs, differing)


def interval_alpha(units: Iterable[Sequence[float]]) -> float | None:
    """Krippendorff's alpha of interval values, by squared differences; see `nominal_alpha`.

    >>> interval_alpha([(1, 1), (2, 2), (3, 3)]), interval_alpha([(1.0, 1.0)])
    (1.0, None)
    """
    pairs = [np.array(unit, dtype=np.float64) for unit in units if len(unit) > 1]
    if not pairs:
        return None
    everything = np.concatenate(pairs)
    if np.all(everything == everything[0]):
        return None
    # Alpha is invariant to shift and scale; near 1, squares neither cancel nor overflow.
    middle, spread = everything.mean(), np.abs(everything - everything.mean()).max()
    pairs = [(values - middle) / spread for values in pairs]

    def squared(values: np.ndarray[Any, Any]) -> float:
        """Squared differences, summed over ordered pairs of values."""
        return float(2 * len(values) * ((values - values.mean()) ** 2).sum())

    return _alpha(pairs, squared)


def _alpha(
    pairs: Sequence[np.ndarray[Any, Any]], disagreement: Callable[[np.ndarray[Any, Any]], float]
) -> float | None:
    """1 − D_o / D_e: the disagreement within units over that among all values."""
    everything = np.concatenate(pairs)
    n = len(everything)
    expected = disagreement(everything) / (n - 1)
    observed = sum(disagreement(values) / (len(values) - 1) for values in pairs)
    return None if expected == 0 else 1 - observed / expected


def _authors(
    said: Sequence[tuple[AnnotatedAnswer, Feedback]],
    final: Sequence[tuple[AnnotatedAnswer, Feedback]],
    threshold: float,
) -> tuple[AuthorQuality, ...]:
    by_author: dict[tuple[str, str], list[Feedback]] = defaultdict(list)
    for _, feedback in said:
        by_author[feedback.provenance.label, feedback.source].append(feedback)
    verdicts = _verdicts(final, threshold)
    found = []
    for (author, source), all_ in by_author.items():
        counted = verdicts[author, source]
        wrong = sum(not correct for correct, _ in counted)
        called = sum(not right for _, right in counted)
        hits = sum(not correct and not right for correct, right in counted)
        found.append(
            AuthorQuality(
                author=author,
                source=source,
                critiques=len(all_),
                share=len(all_) / len(said),
                failed=sum(not f.ok for f in all_) / len(all_),
                judged=len(counted),
                precision=hits / called if called else None,
                recall=hits / wrong if wrong else None,
                tokens=sum(f.provenance.tokens for f in all_),
                cost_usd=sum(f.provenance.cost_usd for f in all_),
            )
        )
    return tuple(sorted(found, key=lambda a: (-a.critiques, a.author, a.source)))


def _verdicts(
    final: Sequence[tuple[AnnotatedAnswer, Feedback]], threshold: float
) -> dict[tuple[str, str], list[tuple[bool, bool]]]:
    """(is correct, verdict) of each verified answer by (author, source)."""
    found: dict[tuple[Any, ...], tuple[bool, bool]] = {}
    # A verdict on the whole answer, which comes last, takes precedence over one on an aspect.
    for number, (answer, f) in enumerate(sorted(final, key=lambda said: said[1].name is None)):
        right = is_right(f, threshold=threshold)
        if answer.turn.reward is not None and right is not None:
            author = f.provenance.label
            one = number if author == UNKNOWN_AUTHOR else None
            found[author, f.source, answer.rollout, answer.index, one] = answer.turn.correct, right
    by_author: dict[tuple[str, str], list[tuple[bool, bool]]] = defaultdict(list)
    for (author, source, *_), verdict in found.items():
        by_author[author, source].append(verdict)
    return by_author


def _agreement(
    said: Sequence[tuple[AnnotatedAnswer, Feedback]],
    value: Callable[[Feedback], Any],
    alpha: Callable[[Iterable[Sequence[Any]]], float | None],
) -> Agreement:
    units: dict[tuple[str, int, str | None], list[tuple[str, Any]]] = defaultdict(list)
    for answer, feedback in said:
        if (given := value(feedback)) is not None:
            unit = units[answer.rollout, answer.index, feedback.name]
            unit.append((feedback.provenance.label, given))
    compared = {where: unit for where, unit in units.items() if len(unit) > 1}
    return Agreement(
        annotators=len({author for unit in compared.values() for author, _ in unit}),
        answers=len({where[:2] for where in compared}),
        alpha=alpha([[given for _, given in unit] for unit in compared.values()]),
    )


def _label(feedback: Feedback) -> str | None:
    return None if feedback.label is None else feedback.label.strip().casefold()
