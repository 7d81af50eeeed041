"""The records: round trips through one JSON line, and what they refuse."""

import doctest
import importlib
import pkgutil
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import didact
from didact.types import ErrorKind, Feedback, Message, Problem, Provenance, Rollout, Row, Span, Turn

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
filled = texts.filter(bool)
metadata = st.dictionaries(
    texts, st.none() | st.integers(-(2**53), 2**53) | texts | st.lists(texts), max_size=3
)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    history = draw(
        st.lists(st.builds(Message, role=st.sampled_from(["system", "assistant"]), content=texts), max_size=2)
    )
    return Problem(
        id=draw(filled),
        messages=(*history, Message(role="user", content=draw(texts))),
        reference=draw(st.none() | texts),
        metadata=draw(metadata),
    )


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    ids = draw(st.lists(st.integers(0, 10**6), max_size=6))
    logprobs = st.floats(max_value=0, allow_nan=False, allow_infinity=False)
    return Turn(
        prompt_ids=tuple(draw(st.lists(st.integers(0, 10**6), max_size=4))),
        completion_ids=tuple(ids),
        logprobs=tuple(draw(st.lists(logprobs, min_size=len(ids), max_size=len(ids)))),
        text=draw(texts),
        stop_reason=draw(st.sampled_from(["eos", "stop", "length"])),
        reward=draw(st.none() | st.floats(0, 1)),
    )


@st.composite
def spans(draw: st.DrawFn) -> Span:
    start, quote = draw(st.integers(0, 50)), draw(filled)
    return Span(
        start=start, end=start + len(quote), quote=quote, label=draw(st.sampled_from(["good", "poor"]))
    )


@st.composite
def feedbacks(draw: st.DrawFn) -> Feedback:
    error = draw(st.none() | filled)
    return Feedback(
        turn=draw(st.integers(0, 3)),
        text=draw(texts),
        source=draw(st.sampled_from(["human", "judge", "program", "teacher", "self"])),
        score=draw(st.none() | st.floats(-1, 1)),
        name=draw(st.none() | filled),
        spans=tuple(draw(st.lists(spans(), max_size=2))),
        status="ok" if error is None else "failed",
        error=error,
        error_kind=None if error is None else draw(st.none() | st.sampled_from(get_args(ErrorKind))),
        saw_reference=draw(st.booleans()),
        provenance=Provenance(author=draw(filled), tokens=draw(st.integers(0, 99))),
    )


@given(problems(), st.lists(turns(), min_size=1, max_size=3), st.lists(feedbacks(), max_size=3))
def test_a_rollout_survives_its_json_line(problem, some_turns, some_feedback):
    rollout = Rollout(
        id="a", group="g", problem=problem, turns=tuple(some_turns), feedback=tuple(some_feedback)
    )
    line = rollout.model_dump_json()
    assert "\n" not in line
    assert Rollout.model_validate_json(line) == rollout


def turn(**changes):
    given_values = {
        "prompt_ids": (1,), "completion_ids": (2, 3), "logprobs": (-0.1, -0.2),
        "text": "x", "stop_reason": "eos",
    }  # fmt: skip
    return Turn(**given_values | changes)


def said(**changes):
    given_values = {"source": "judge", "saw_reference": False, "provenance": Provenance(author="m")}
    return Feedback(**given_values | changes)


def test_problems_that_ask_the_same_have_one_key_whatever_their_white_space():
    def key(*said):
        return Problem(id="p", messages=[Message(role=r, content=c) for r, c in said]).question_key

    assert key(("user", " 2 +\n2? ")) == key(("user", "2 + 2?")) == "user\x1f2 + 2?"
    assert key(("system", "Be brief."), ("user", "2?")) == "system\x1fBe brief.\x1euser\x1f2?"
    assert key(("user", "a"), ("user", "b")) != key(("user", "a b"))
    assert key(("assistant", "a"), ("user", "b")) != key(("user", "a"), ("user", "b"))


def test_a_turn_without_reward_is_not_correct_and_a_full_reward_is():
    assert [turn(reward=r).correct for r in (None, 0.0, 0.99, 1.0, 1.5)] == [False, False, False, True, True]


def test_correct_can_differ_from_the_reward():
    assert turn(reward=0.3, correct=True).correct
    assert not turn(reward=1.0, correct=False).correct


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: turn(logprobs=(-0.1,)), "1 log-probs for 2 completion ids"),
        (lambda: turn(logprobs=(-0.1, float("nan"))), "finite"),
        (lambda: turn(reward=float("inf")), "finite"),
        (lambda: turn(rewards=1.0), "rewards"),
        (lambda: turn(stop_reason="tired"), "stop_reason"),
        (lambda: Problem(id="p", messages=()), "messages"),
        (lambda: Problem(id="p", messages=(Message(role="assistant", content="a"),)), "must be the user's"),
        (lambda: Message(role="tool", content="a"), "role"),
        (lambda: Span(start=0, end=3, quote="ab", label="poor"), "3 characters long"),
        (lambda: Span(start=0, end=0, quote="", label="poor"), "quote"),
        (lambda: Span(start=-1, end=1, quote="ab", label="good"), "start"),
        (lambda: said(status="failed"), "needs an error"),
        (lambda: said(error="timeout"), "needs an error"),
        (lambda: said(error_kind="budget"), "error_kind"),
        (lambda: said(status="failed", error="full", error_kind="odd"), "error_kind"),
        (lambda: said(source="oracle"), "source"),
        (lambda: Rollout(id="a", group="g", problem=Problem.ask("?", id="p"), turns=()), "turns"),
    ],
)  # fmt: skip
def test_a_record_refuses_what_it_cannot_mean(make, message):
    with pytest.raises(ValidationError, match=message):
        make()


def test_records_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        turn().text = "other"


def test_a_failed_feedback_is_never_used_and_never_forgotten():
    failed = said(status="failed", error="timeout")
    problem = Problem.ask("?", id="p")
    rollout = Rollout(id="a", group="g", problem=problem, turns=(turn(), turn()), feedback=(failed,))
    assert rollout.feedback_on(0) is None
    assert rollout.feedback_failed(0)
    assert not rollout.feedback_failed(1)
    rescued = rollout.model_copy(update={"feedback": (failed, said(text="too long"))})
    assert rescued.feedback_on(0).text == "too long"
    assert not rescued.feedback_failed(0)


def test_tokens_of_policy_and_critic_are_counted_apart():
    critic = said(provenance=Provenance(author="m", tokens=40))
    problem = Problem.ask("?", id="p")
    rollout = Rollout(id="a", group="g", problem=problem, turns=(turn(), turn()), feedback=(critic,))
    assert (rollout.sampled_tokens, rollout.feedback_tokens) == (4, 40)


ids = st.lists(st.integers(0, 99), min_size=1, max_size=8)


@given(ids, ids)
def test_a_row_predicts_every_completion_token_and_no_prompt_token(prompt, completion):
    row = Row.from_completion(prompt, completion, advantages=list(range(1, len(completion) + 1)))
    trained = row.fields["weights"] > 0
    assert row.target_ids[trained].tolist() == completion
    assert row.fields["advantages"][trained].tolist() == list(range(1, len(completion) + 1))
    assert not row.fields["advantages"][~trained].any()
    assert [*row.input_ids, row.target_ids[-1]] == [*prompt, *completion]
    assert row.input_ids[1:].tolist() == row.target_ids[:-1].tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Row.from_completion((), (1,)), "at least one prompt token"),
        (lambda: Row.from_completion((1,), ()), "one completion token"),
        (lambda: Row(np.arange(3), np.arange(3), {}), "weights"),
        (lambda: Row(np.arange(3), np.arange(2), {"weights": np.ones(3, np.float32)}), "target_ids has 2"),
        (lambda: Row(np.arange(3), np.arange(3), {"weights": np.ones(2, np.float32)}), "weights has 2"),
    ],
)
def test_a_row_refuses_misaligned_fields(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_column_of_the_wrong_length_is_not_stretched():
    with pytest.raises(ValueError, match="broadcast"):
        Row.from_completion((1,), (2, 3, 4), advantages=[1.0, 2.0])


def test_every_record_carries_an_example_that_runs():
    module = importlib.import_module("didact.types")
    found = {t.name.split(".")[-1] for t in doctest.DocTestFinder().find(module) if t.examples}
    assert {"Message", "Problem", "Turn", "Span", "Feedback", "Rollout", "Row"} <= found


def test_every_module_can_be_imported_on_its_own():
    names = [m.name for m in pkgutil.walk_packages(didact.__path__, "didact.")]
    assert "didact.types" in names
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
