"""Too many failed critiques stop a run; a model that fails at its own critique does not."""

from __future__ import annotations

import pytest

from didact.controls import controlled
from didact.errors import BudgetExceeded, Interrupted
from didact.feedback_source import FAILURE_WINDOW
from didact.training.metrics import rollout_metrics
from didact.training.monitors import FeedbackFailureGuard
from didact.types import Rollout
from tests.helpers import CountingCritic, dialogue


def by(source: str, *, failed: bool = True) -> Rollout:
    rollout = dialogue(0.0, failed=failed) if failed else dialogue(0.0, 1.0)
    said = rollout.feedback[0].model_copy(update={"source": source})
    return rollout.model_copy(update={"feedback": (said,)})


def test_a_judge_may_fail_as_often_as_the_limit_says_and_no_more() -> None:
    watch = FeedbackFailureGuard(0.1)
    watch.add([by("judge") for _ in range(6)])
    watch.check()
    watch.add([by("judge")])
    with pytest.raises(Interrupted, match=r"7 of .* 7 critiques"):
        watch.check()


def test_a_spent_budget_is_no_reason_to_start_again() -> None:
    rollout = by("judge")
    said = rollout.feedback[0].model_copy(update={"error": "max_requests = 5", "error_kind": "budget"})
    watch = FeedbackFailureGuard(0.1)
    watch.add([rollout.model_copy(update={"feedback": (said,)})])
    with pytest.raises(BudgetExceeded, match="max_requests = 5"):
        watch.check()


def test_old_failures_are_forgotten() -> None:
    watch = FeedbackFailureGuard(0.1)
    watch.add([by("judge") for _ in range(7)])
    watch.add([by("judge", failed=False) for _ in range(FAILURE_WINDOW)])
    watch.check()


@pytest.mark.parametrize("source", ["self", "teacher", "human", "program"])
def test_what_asking_again_would_not_mend_stops_nothing(source: str) -> None:
    watch = FeedbackFailureGuard(0.1)
    watch.add([by(source) for _ in range(FAILURE_WINDOW)])
    watch.check()


def test_a_critique_that_cannot_be_dealt_stops_nothing() -> None:
    from didact.feedback_source import FeedbackRequest

    rollout = dialogue(0.0)
    (lost,) = controlled(CountingCritic(), "shuffled").critique(
        [FeedbackRequest(rollout.problem, rollout.turns[0], 0)]
    )
    assert not lost.ok
    said = lost.model_copy(update={"source": "judge"})
    watch = FeedbackFailureGuard(0.1)
    watch.add([rollout.model_copy(update={"feedback": (said,)})] * FAILURE_WINDOW)
    watch.check()


def test_a_leak_that_was_dropped_is_no_failure_of_the_judge() -> None:
    rollout = by("judge")
    dropped = rollout.feedback[0].model_copy(update={"error": "dropped", "error_kind": "leak"})
    watch = FeedbackFailureGuard(0.1)
    watch.add([rollout.model_copy(update={"feedback": (dropped,)})] * FAILURE_WINDOW)
    watch.check()


def test_metrics_count_what_was_not_verified_as_neither_right_nor_wrong() -> None:
    known, lost = dialogue(0.0, 1.0), dialogue(0.0, 1.0)
    turn = lost.turns[1].model_copy(update={"reward": None, "correct": False})
    lost = lost.model_copy(update={"turns": (lost.turns[0], turn)})
    found = rollout_metrics([known, lost])
    assert found["correct_second"] == 1.0
    assert found["groups_skipped"] == 0
    assert rollout_metrics([known, dialogue(0.0, failed=True)])["groups_skipped"] == 1
