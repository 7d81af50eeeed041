"""Controls change what a method reads, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.controls import CONTROLS, controlled
from didact.controls.base import ControlledSource
from didact.controls.substitutes import SECOND_TRY, Shuffled
from didact.feedback.program import RIGHT, WRONG, ProgramCritic
from didact.feedback_source import FeedbackRequest
from didact.feedback_store import is_by
from didact.types import Feedback, Problem, Provenance, Turn
from tests.helpers import CountingCritic, turn

WORDS = ["sun", "moon", "star", "comet"]


def ask(
    word: str, answer: str = "x", *, reward: float | None = 0.0, reference: str | None = "", index: int = 0
) -> FeedbackRequest:
    """An answer to "spell `word` backward"; an empty reference stands for the right one."""
    problem = Problem.ask(
        f"Spell {word} backward", id=word, reference=word[::-1] if reference == "" else reference
    )
    given = Turn(
        prompt_ids=(1,), completion_ids=(2,), logprobs=(-0.5,), text=answer, stop_reason="eos", reward=reward
    )
    return FeedbackRequest(problem, given, index)


def test_no_control_is_the_critic_itself() -> None:
    critic = CountingCritic()
    assert controlled(critic, None) is critic


def test_shuffled_is_the_deal_that_the_seed_says() -> None:
    asked = [ask(word) for word in WORDS]
    expected = ControlledSource(Shuffled(), ProgramCritic(), 5).critique(asked)
    assert controlled(ProgramCritic(), "shuffled", seed=5).critique(asked) == expected


def test_an_unknown_control_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'shuffled'"):
        controlled(CountingCritic(), "shufled")


@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_answers_every_request_in_order_and_about_its_turn(control: str) -> None:
    asked = [ask(word, index=i) for i, word in enumerate(WORDS)]
    said = controlled(ProgramCritic(), control).critique(asked)
    assert [f.turn for f in said] == [0, 1, 2, 3]
    assert all(f.ok for f in said)
    assert controlled(ProgramCritic(), control).critique([]) == []


@pytest.mark.parametrize("control", ["verdict", "reference", "second-try"])
def test_what_stands_in_place_of_a_critique_asks_nobody(control: str) -> None:
    critic = CountingCritic()
    controlled(critic, control).critique([ask("sun")])
    assert critic.asked == 0


def test_a_verdict_says_right_or_wrong_and_no_more() -> None:
    asked = [ask("sun", "sux"), ask("sun", "nus", reward=1.0), ask("sun", "?", reward=None)]
    said = controlled(CountingCritic(), "verdict").critique(asked)
    assert [f.text for f in said] == [WRONG, RIGHT, ""]
    assert [f.label for f in said] == ["wrong", "right", None]
    assert said[2].status == "failed"
    assert said[2].score is None
    assert said[2].error


def test_the_reference_is_said_as_it_stands_and_leaks() -> None:
    said = controlled(CountingCritic(), "reference").critique([ask("sun"), ask("sun", reference=None)])
    assert (said[0].text, said[0].saw_reference, said[0].leaks) == ("nus", True, True)
    assert said[1].status == "failed"
    assert said[1].error_kind == "missing_reference"


@given(st.sampled_from(WORDS), st.text(max_size=8), st.sampled_from([None, 0.0, 1.0]))
def test_a_second_try_is_told_the_same_whatever_was_asked_or_answered(
    word: str, answer: str, reward: float | None
) -> None:
    (said,) = controlled(CountingCritic(), "second-try").critique([ask(word, answer, reward=reward)])
    assert said.text == SECOND_TRY
    assert (said.saw_reference, said.label, said.score) == (False, None, None)


def test_another_problems_critique_is_of_this_answer_but_against_what_was_not_asked() -> None:
    asked = [ask("sun", "nuu"), ask("moon", "noox")]
    said = controlled(ProgramCritic(), "other-problem").critique(asked)
    assert said[0].text == ProgramCritic().text("nuu", "noom")
    assert said[1].text == ProgramCritic().text("noox", "nus")
    assert said[0].leaks is None
    assert said[0].score is None


def test_an_answer_that_is_right_here_is_wrong_there() -> None:
    asked = [ask("sun", "nus", reward=1.0), ask("moon", "nus")]
    said = controlled(ProgramCritic(), "other-problem").critique(asked)
    assert said[0].label == "wrong"
    assert said[0].text.startswith(WRONG)
    assert said[1].label == "right"  # it is the other problem's answer


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), st.integers(0, 9))
def test_nobody_is_measured_against_the_own_problem(words: list[str], seed: int) -> None:
    class Recorder:
        asked: list[FeedbackRequest]

        def critique(self, requests):  # type: ignore[no-untyped-def]
            self.asked = list(requests)
            return CountingCritic().critique(requests)

    critic = Recorder()
    asked = [ask(word, f"{word} {i}") for i, word in enumerate(words)]
    said = controlled(critic, "other-problem", seed=seed).critique(asked)  # type: ignore[arg-type]
    assert len(said) == len(words)
    for request in getattr(critic, "asked", []):
        assert request.problem.id != request.turn.text.split()[0]
    assert all(f.ok or f.error_kind == "not_dealt" for f in said)


def test_without_another_problem_it_fails_rather_than_say_the_truth() -> None:
    critic = CountingCritic()
    said = controlled(critic, "other-problem").critique([ask("sun"), ask("sun", "y")])
    assert [f.error_kind for f in said] == ["not_dealt", "not_dealt"]
    assert critic.asked == 0


def test_a_critic_that_fails_under_a_control_is_a_failure() -> None:
    asked = [ask("sun"), ask("moon")]
    said = controlled(CountingCritic(fails=(0,)), "other-problem").critique(asked)
    assert [f.status for f in said] == ["failed", "ok"]


def test_a_persons_dealt_words_are_still_theirs() -> None:
    class Ann:
        def critique(self, requests):  # type: ignore[no-untyped-def]
            return [
                Feedback(
                    turn=r.index, text="Hm.", source="human", saw_reference=False,
                    provenance=Provenance(author="ann"),
                )
                for r in requests
            ]  # fmt: skip

    said = controlled(Ann(), "other-problem").critique([ask("sun"), ask("moon")])
    assert all(is_by(f, "ann") for f in said)
    assert all(f.provenance.control == "other-problem" for f in said)


def test_the_turn_that_was_asked_about_is_not_changed() -> None:
    given_ = dataclasses.replace(ask("sun"), turn=turn((1,), 2, -0.5, 1.0))
    before = given_.turn.model_dump()
    controlled(ProgramCritic(), "other-problem").critique([given_, ask("moon")])
    assert given_.turn.model_dump() == before
