"""Alarms over metrics: each is raised by what it names, and by nothing milder."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.evaluation import alarms as kinds
from didact.evaluation.alarms import Alarm, Metrics, alarms, repeated_share


def collapse(records: list[dict[str, Any]]) -> list[Alarm]:
    return kinds.collapse(Metrics(records))


def no_op(records: list[dict[str, Any]]) -> list[Alarm]:
    return kinds.no_op(Metrics(records))


def flat_feedback(records: list[dict[str, Any]]) -> list[Alarm]:
    return kinds.flat_feedback(Metrics(records))


def train_up_held_out_down(records: list[dict[str, Any]]) -> list[Alarm]:
    return kinds.train_up_held_out_down(Metrics(records))


def steps(n: int = 12, **series: Any) -> list[dict[str, Any]]:
    """n lines; a series is a function of the progress in [0, 1], or one value for all."""
    return [
        {
            "step": i + 1,
            "grad_norm": 0.5,
            **{key: value(i / (n - 1)) if callable(value) else value for key, value in series.items()},
        }
        for i in range(n)
    ]


def evaluation(step: int, accuracy: float, n: int = 200) -> dict[str, Any]:
    return {"step": step, "eval": {"accuracy": accuracy, "n": n}}


def test_a_healthy_run_raises_nothing() -> None:
    records = steps(
        entropy=lambda p: 2 - p, length_first=9.0, repeated_first=0.1, critiques=16,
        distinct_critiques=9, correct_first=lambda p: p,
    )  # fmt: skip
    assert alarms([evaluation(0, 0.1), *records, evaluation(12, 0.4)]) == []
    assert alarms([]) == []


@pytest.mark.parametrize(("key", "word"), [("entropy", "entropy"), ("length_first", "length")])
def test_a_fall_to_less_than_a_quarter_is_a_collapse(key: str, word: str) -> None:
    (found,) = collapse(steps(**{key: lambda p: 10.0 if p < 0.5 else 2.0}))
    assert (found.name, found.step) == ("collapse", 12)
    assert word in found.message
    assert "10 to 2" in found.message
    assert collapse(steps(**{key: lambda p: 10.0 if p < 0.5 else 3.0})) == []
    assert collapse(steps(**{key: lambda p: 2.0 if p < 0.5 else 10.0})) == []


def test_a_policy_may_be_as_sure_as_it_is_right() -> None:
    def run(right: float, entropy: float) -> list[dict[str, Any]]:
        return steps(
            entropy=lambda p: 1.0 if p < 0.5 else entropy, correct_first=lambda p: 0.0 if p < 0.5 else right
        )

    assert collapse(run(0.0, 0.2))  # sure of wrong answers
    assert collapse(run(0.4, 0.2)) == []  # below a quarter, but not below a quarter of the wrong ones
    assert collapse(run(0.4, 0.14))
    assert collapse(run(0.6, 0.001)) == []  # it has learned the task
    shrinking = steps(
        length_first=lambda p: 10.0 if p < 0.5 else 2.0, correct_first=lambda p: 0.0 if p < 0.5 else 0.9
    )
    assert [alarm.key for alarm in collapse(shrinking)] == ["length_first"]


def test_every_kind_of_collapse_has_a_key_of_its_own() -> None:
    falling = {"entropy": lambda p: 2.0 * (1 - p), "length_first": lambda p: 9.0 * (1 - p)}
    found = alarms(steps(**falling, repeated_first=lambda p: p))
    assert [(a.name, a.key) for a in found] == [
        ("collapse", "entropy"), ("collapse", "length_first"), ("collapse", "repeated_first"),
    ]  # fmt: skip
    assert all(alarm.stands for alarm in found)


def test_too_short_a_run_has_no_trend() -> None:
    falling = {"entropy": lambda p: 10.0 * (1 - p)}
    assert collapse(steps(5, **falling)) == []
    assert collapse(steps(6, **falling))


def test_text_that_comes_to_repeat_itself_is_a_collapse() -> None:
    (found,) = collapse(steps(repeated_first=lambda p: p))
    assert found.name == "collapse"
    assert "repeats itself" in found.message
    assert collapse(steps(repeated_first=0.9)) == []  # it did from the beginning: that is the task
    assert collapse(steps(repeated_first=lambda p: 0.4 * p)) == []
    assert collapse(steps(repeated_first=lambda p: 0.48 if p < 0.5 else 0.55)) == []  # as much as before


def test_a_run_without_a_gradient_is_a_no_op() -> None:
    assert no_op(steps()) == []
    (zeros,) = no_op(steps(grad_norm=0.0))
    assert "all gradients were 0" in zeros.message
    bare = [{"step": 1}, {"step": 2}]
    (nothing,) = no_op(bare)
    assert (nothing.step, nothing.name) == (2, "no-op")
    assert "no step had anything to learn from" in nothing.message
    assert no_op([*bare, {"step": 3, "grad_norm": 1e-9}]) == []
    assert no_op([evaluation(0, 0.1)]) == []
    # While a run goes on, the first steps may be empty.
    idle = [evaluation(0, 0.1), *({"step": i} for i in range(1, 10))]
    assert alarms(idle, ended=False) == []
    assert alarms(idle)
    assert [a.key for a in alarms([*idle, {"step": 10}], ended=False)] == ["grad_norm"]


def test_critiques_that_are_all_the_same_are_flat() -> None:
    (found,) = flat_feedback(steps(critiques=16, distinct_critiques=1))
    assert found.name == "flat feedback"
    assert "5 different critiques" in found.message
    assert "last 80" in found.message
    assert flat_feedback(steps(critiques=64, distinct_critiques=3))  # 3 of 64: nearly the same
    assert flat_feedback(steps(critiques=16, distinct_critiques=2)) == []
    assert flat_feedback(steps(critiques=3, distinct_critiques=1)) == []  # three may well be alike
    assert flat_feedback(steps(critiques=0, distinct_critiques=0)) == []
    same = steps(critiques=16, distinct_critiques=1)
    assert [a.name for a in alarms(same)] == ["flat feedback"]
    assert alarms(same, flat_by_design=True) == []
    # What counts is the end of the run.
    assert flat_feedback(steps(critiques=16, distinct_critiques=lambda p: 1 if p < 0.5 else 9)) == []
    assert flat_feedback(steps(critiques=16, distinct_critiques=lambda p: 9 if p < 0.5 else 1))


def test_better_in_training_and_surely_worse_elsewhere() -> None:
    rising = steps(correct_first=lambda p: p)
    (found,) = train_up_held_out_down([evaluation(0, 0.5), *rising, evaluation(12, 0.3)])
    assert (found.name, found.step) == ("train up, held-out down", 12)
    assert "50.0% to 30.0%" in found.message
    # The best evaluation counts, not the first; a small fall is luck; without a rise there is no alarm.
    assert train_up_held_out_down([evaluation(0, 0.3), evaluation(6, 0.5), *rising, evaluation(12, 0.3)])
    assert not train_up_held_out_down([evaluation(0, 0.5), *rising, evaluation(12, 0.42)])
    assert not train_up_held_out_down([evaluation(0, 0.5, n=20), *rising, evaluation(12, 0.3, n=20)])
    flat = steps(correct_first=0.5)
    assert not train_up_held_out_down([evaluation(0, 0.5), *flat, evaluation(12, 0.3)])
    assert not train_up_held_out_down([*rising, evaluation(12, 0.3)])
    assert not train_up_held_out_down([evaluation(0, 0.0), *rising, evaluation(12, 0.0)])


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0.0), ("abc", 0.0), ("abcd", 0.0), ("aaaaaaaa", 0.8), ("one two three", 0.0), ("x " * 8, 0.8)],
)
def test_the_repeated_share_counts_grams_that_stood_before(text: str, share: float) -> None:
    assert repeated_share(text) == pytest.approx(share)


@given(st.text())
def test_the_repeated_share_is_a_share(text: str) -> None:
    assert 0 <= repeated_share(text) < 1
