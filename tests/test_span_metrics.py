"""Token-level numbers of a reward model against hand-computed ones; a failure is never a success."""

from __future__ import annotations

import numpy as np
import pytest

from didact.errors import DataError
from didact.evaluation.reward_model import AnnotatedSpans, measure, resampled, thirds


def case(gold, found, drawn=None):
    array = None if found is None else np.array(found, np.float32)
    draws = None if drawn is None else np.array(drawn, np.float32)
    return AnnotatedSpans(np.array(gold, np.float32), array, draws)


CASES = [
    case([1, 1, 0, -1, 0, -1], [1, 0, 1, -1, 1, -1]),
    case([-1, 0, 0], [-1, 0, 0]),
    case([1, 1, -1], None),
]


def test_the_numbers_are_those_computed_by_hand():
    found = measure(CASES)
    assert found["answers"] == 3
    # good: 1 hit of 3 said and 4 annotated. poor: 3 hits of 3 said and 4 annotated.
    good, poor = found["good"]["all"], found["poor"]["all"]
    assert [good[k].value for k in ("precision", "recall", "f1")] == pytest.approx([1 / 3, 1 / 4, 2 / 7])
    assert [poor[k].value for k in ("precision", "recall", "f1")] == pytest.approx([1, 3 / 4, 6 / 7])
    # In the first third of the six tokens stand two, of the three tokens one.
    assert found["good"]["first"]["recall"].value == pytest.approx(1 / 3)
    assert found["good"]["last"]["precision"].value == 0
    assert found["poor"]["last"]["recall"].value == pytest.approx(1 / 2)
    # 3 alike of 6 marked by either, 1 of 1, and a failure.
    assert found["iou"].value == pytest.approx((3 / 6 + 1 + 0) / 3)
    assert found["exact"].value == pytest.approx(1 / 3)
    assert found["failures"].value == pytest.approx(1 / 3)
    assert found["coverage"].value == pytest.approx(6 / 12)
    assert found["coverage_gold"].value == pytest.approx(8 / 12)


def test_a_failure_on_an_unmarked_answer_is_a_failure():
    found = measure([case([0, 0], None)])
    assert (found["iou"].value, found["exact"].value, found["failures"].value) == (0, 0, 1)
    assert found["good"]["all"]["recall"].value is None
    found = measure([case([0, 0], [0, 0])])
    assert (found["iou"].value, found["exact"].value, found["failures"].value) == (1, 1, 0)


def test_calibration_is_the_gap_between_votes_and_truth():
    drawn = [[1, 1, 0], [1, 0, 0]]  # votes for good: 1, 1/2, 0
    found = measure([case([1, 1, 1], [1, 1, 0], drawn)])["calibration"]["good"]
    assert found["ece"].value == pytest.approx((0 + 0.5 + 1) / 3)
    assert found["brier"].value == pytest.approx((0 + 0.25 + 1) / 3)
    assert measure([case([0], [0], [[-1], [-1]])])["calibration"]["poor"]["brier"].value == 1
    assert "calibration" not in measure(CASES)


def test_intervals_resample_answers():
    found = measure(CASES, seed=1)["exact"]
    assert found.low == 0
    assert found.high == 1
    assert measure(CASES, seed=1) == measure(CASES, seed=1)
    same = measure([CASES[1]] * 5)
    assert same["poor"]["all"]["f1"] == (1, 1, 1)
    weights_RN = resampled(4, 0, 50)
    assert weights_RN.shape == (50, 4)
    assert set(weights_RN.sum(1)) == {4}


def test_thirds_cover_an_answer():
    assert thirds(7).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert thirds(1).tolist() == [0]
    assert thirds(0).tolist() == []


def test_nothing_to_measure_is_said():
    with pytest.raises(DataError, match="no annotated answer"):
        measure([])
