"""The quality meter, against figures that others have published."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.annotation.quality import interval_alpha, is_right, measure_quality, nominal_alpha
from didact.annotation.targets import AnnotatedAnswer
from didact.types import Problem, Provenance, Turn
from tests.test_store import by

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), C: four observers, twelve units.
FOUR_OBSERVERS = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
# The same, A and B: two observers, two values; and two observers, five values.
BINARY = "0 1 0 0 0 0 0 0 1 0\n1 1 1 0 0 1 0 0 0 0"
FIVE_VALUES = "a a b b d c c c e d d a\nb a b b b c c c e d d d"


def units(table: str) -> list[list[str]]:
    rows = [line.split() for line in table.strip().splitlines()]
    return [[value for value in unit if value != "."] for unit in zip(*rows, strict=True)]


def numbers(table: str) -> list[list[float]]:
    return [[float(value) for value in unit] for unit in units(table)]


@pytest.mark.parametrize(("table", "alpha"), [(BINARY, 0.095), (FIVE_VALUES, 0.692), (FOUR_OBSERVERS, 0.743)])
def test_the_alpha_of_names_is_krippendorffs(table: str, alpha: float) -> None:
    assert nominal_alpha(units(table)) == pytest.approx(alpha, abs=5e-4)


def test_the_alpha_of_numbers_is_krippendorffs() -> None:
    assert interval_alpha(numbers(FOUR_OBSERVERS)) == pytest.approx(0.849, abs=5e-4)


def test_of_two_values_both_alphas_are_the_same() -> None:
    assert interval_alpha(numbers(BINARY)) == pytest.approx(nominal_alpha(units(BINARY)))


ratings = st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=8)


@given(ratings, st.floats(-1e6, 1e6), st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3))
def test_the_alpha_of_numbers_knows_no_origin_and_no_unit(
    table: list[list[int]], origin: float, unit: float
) -> None:
    plain = interval_alpha(table)
    moved = interval_alpha([[origin + unit * value for value in row] for row in table])
    assert (plain is None) == (moved is None)
    if plain is not None:
        assert moved == pytest.approx(plain, abs=1e-4)


@given(ratings)
def test_the_alphas_equal_their_definition_pair_by_pair(table: list[list[int]]) -> None:
    rows = [row for row in table if len(row) > 1]
    values = [value for row in rows for value in row]
    for alpha, distance in (
        (nominal_alpha, lambda a, b: float(a != b)),
        (interval_alpha, lambda a, b: float(a - b) ** 2),
    ):
        expected = sum(distance(a, b) for a in values for b in values)
        if not expected:
            assert alpha(table) is None
            continue
        observed = sum(distance(a, b) / (len(row) - 1) for row in rows for a in row for b in row)
        assert alpha(table) == pytest.approx(1 - observed * (len(values) - 1) / expected)


def test_extreme_scores_do_not_overflow() -> None:
    assert interval_alpha([(1e300, 1e300), (-1e300, -1e300)]) == 1
    assert interval_alpha([(1e308, -1e308), (1e308, -1e308)]) == pytest.approx(-0.5)
    assert interval_alpha([(1e9, 1e9), (1e9 + 1, 1e9 + 1), (1e9, 1e9 + 1)]) == pytest.approx(0.4444, abs=1e-4)


def test_where_there_is_nothing_to_compare_there_is_no_alpha() -> None:
    for alpha in (nominal_alpha, interval_alpha):
        assert alpha([]) is None
        assert alpha([(1.0,), (2.0,)]) is None
        assert alpha([(1.0, 1.0), (1.0, 1.0)]) is None


# ── critiques against the verifier ────────────────────────────────────────────────────────────────


def answer(number: int, correct: bool | None, *feedback) -> AnnotatedAnswer:  # type: ignore[no-untyped-def]
    reward = None if correct is None else float(correct)
    turn = Turn(
        prompt_ids=(1,), completion_ids=(2,), logprobs=(-1.0,), text="a", stop_reason="eos", reward=reward
    )  # fmt: skip
    return AnnotatedAnswer(f"r{number}", 0, Problem.ask("q", id=str(number)), turn, feedback)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ({"label": " Wrong "}, False), ({"label": "correct"}, True), ({"score": 0.49}, False),
        ({"score": 0.5}, True), ({"label": "wrong", "score": 1.0}, False),
        ({"label": "long", "score": 1}, True), ({"label": "long"}, None), ({}, None),
    ],
)  # fmt: skip
def test_a_critique_says_right_wrong_or_neither(said: dict, right: bool | None) -> None:
    assert is_right(by("ann", **said)) is right


def test_does_wrong_mean_wrong() -> None:
    wrong, right = {"label": "wrong"}, {"label": "right"}
    found = measure_quality(
        [
            answer(1, False, by("ann", **wrong)),  # hit
            answer(2, False, by("ann", **wrong), by("bob", **right)),  # hit, miss
            answer(3, False, by("ann", **right)),  # miss
            answer(4, True, by("ann", **wrong)),  # false alarm
            answer(5, True, by("ann", **right), by("bob", **right)),
            answer(6, None, by("ann", **wrong)),  # nobody verified it
            answer(7, False, by("ann")),  # says neither
            answer(8, False),
        ]
    )
    ann, bob = found.authors
    assert (ann.author, ann.critiques, ann.judged) == ("ann", 7, 5)
    assert (ann.precision, ann.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (bob.judged, bob.precision, bob.recall) == (2, None, 0.0)
    assert (ann.share, bob.share) == (pytest.approx(7 / 9), pytest.approx(2 / 9))
    assert (found.answers, found.criticised) == (8, 7)


def test_the_latest_version_is_judged_and_everything_is_paid_for() -> None:
    paid = {"source": "judge", "provenance": Provenance(author="judge", tokens=10, cost_usd=0.5)}
    failed = {**paid, "status": "failed", "error": "down", "text": ""}
    said = [by("", label="right", **paid), by("", label="wrong", **paid), by("", **failed)]
    (judge,) = measure_quality([answer(1, False, *said), answer(2, False, by("", **failed))]).authors
    assert (judge.critiques, judge.failed, judge.tokens, judge.cost_usd) == (4, 0.5, 40, 2.0)
    assert (judge.judged, judge.precision, judge.recall) == (1, 1.0, 1.0)


def test_what_is_judged_by_name_is_compared_by_name_and_never_outvotes_the_whole() -> None:
    def rated(author: str, *scores: float) -> list:
        named = [by(author, "", score=s, name=f"thing {i}") for i, s in enumerate(scores)]
        return [by(author, label="wrong"), *named]

    answers = [answer(i, False, *rated("ann", i, 5 - i), *rated("bob", i, 5 - i)) for i in range(4)]
    found = measure_quality(answers)
    assert (found.scores.alpha, found.scores.answers, found.scores.annotators) == (1.0, 4, 2)
    assert [(a.judged, a.recall) for a in found.authors] == [(4, 1.0), (4, 1.0)]
    changed = measure_quality([answer(1, False, by("ann", label="right"), by("ann", "", label="wrong"))])
    assert changed.authors[0].recall == 1.0
    strangers = measure_quality(
        [answer(1, False, by("unknown", label="right"), by("unknown", label="wrong"))]
    )
    assert (strangers.authors[0].judged, strangers.authors[0].recall) == (2, 0.5)


def test_a_failure_is_no_verdict() -> None:
    failed = by("judge", "", status="failed", error="down", source="judge", score=0.0)
    found = measure_quality([answer(1, False, failed)])
    assert (found.authors[0].judged, found.criticised) == (0, 0)


def test_agreement_is_measured_over_answers_with_two_annotators() -> None:
    labels = units(FOUR_OBSERVERS)
    rows = [line.split() for line in FOUR_OBSERVERS.strip().splitlines()]
    answers = []
    for i in range(len(labels)):
        said = [
            by(f"observer {j}", label=f"v{row[i]}", score=float(row[i]))
            for j, row in enumerate(rows)
            if row[i] != "."
        ]
        answers.append(answer(i, None, *said, by("judge", source="judge", label=" V1 ", score=1.0)))
    found = measure_quality(answers)
    assert found.people_labels.alpha == pytest.approx(0.743, abs=5e-4)
    assert found.people_scores.alpha == pytest.approx(0.849, abs=5e-4)
    assert (found.people_labels.annotators, found.people_labels.answers) == (4, 11)
    assert (found.labels.annotators, found.labels.answers) == (5, 12)
    with_judge = nominal_alpha([[*unit, "1"] for unit in labels])
    assert found.labels.alpha == pytest.approx(with_judge)
    assert np.isfinite(found.scores.alpha or np.nan)


def test_without_critiques_there_is_nothing_to_say() -> None:
    found = measure_quality([answer(1, True)])
    assert (found.authors, found.criticised, found.labels.alpha) == ((), 0, None)
    assert measure_quality([]).answers == 0
