"""Spans made worse on purpose: the same on every day, as much as is said, and nothing but the spans."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.controls import controlled
from didact.controls.noisy_spans import SPAN_NOISES, SpanNoiseName
from didact.feedback.program import ProgramCritic
from didact.feedback.program import spans as marked
from didact.feedback_source import FeedbackRequest
from didact.types import Feedback, Problem, Provenance, Span, Turn
from tests.test_controls import ask

MATRIX = "0 1 2\n1 0 1\n2 1 3"


class Marks:
    """A critic that marks every word, good and poor in turn."""

    def critique(self, requests):
        return [self.one(request) for request in requests]

    def one(self, request):
        places = [m.span() for m in re.finditer(r"\S+", request.turn.text)]
        both = marked(request.turn.text, places[::2], "good") + marked(
            request.turn.text, places[1::2], "poor"
        )
        return Feedback(
            turn=request.index, text="Mind these.", source="program", saw_reference=True, score=0.5,
            spans=both, provenance=Provenance(author="marks"),
        )  # fmt: skip


class FeedbackRecord:
    """A critic that says one thing."""

    def __init__(self, said: Feedback) -> None:
        self.said = said

    def critique(self, requests):
        return [self.said for _ in requests]


def noisy(noise, answers, seed=0, critic=None):
    asked = [ask(f"word{i}", answer) for i, answer in enumerate(answers)]
    return controlled(critic or Marks(), noise, seed=seed).critique(asked)


def labels(said):
    return [(span.start, span.label) for span in said.spans]


@pytest.mark.parametrize("noise", SPAN_NOISES)
def test_only_the_spans_change_and_all_of_them_quote_their_answer(noise: SpanNoiseName):
    answers = [f"a{i} b c d e f" for i in range(20)]
    clean, worse = noisy(None, answers), noisy(noise, answers)
    assert worse != clean
    assert any(set(labels(a)) != set(labels(b)) for a, b in zip(clean, worse, strict=True))
    for answer, before, after in zip(answers, clean, worse, strict=True):
        assert after.model_copy(update={"spans": (), "provenance": before.provenance}) == before.model_copy(
            update={"spans": ()}
        )
        assert after.provenance.label == f"{after.provenance.control}:marks"
        assert all(answer[span.start : span.end] == span.quote for span in after.spans)


@pytest.mark.parametrize("noise", SPAN_NOISES)
def test_what_happens_to_an_answer_depends_on_the_seed_and_not_on_the_batch(noise: SpanNoiseName):
    answers = [f"a{i} b c d e f g h" for i in range(12)]
    together = noisy(noise, answers)
    asked = [ask(f"word{i}", answer) for i, answer in enumerate(answers)]
    alone = [controlled(Marks(), noise).critique([request])[0] for request in reversed(asked)]
    assert together == alone[::-1]
    assert noisy(noise, answers, seed=1) != together


@pytest.mark.parametrize(("noise", "share"), [("spans-drop30", 0.3), ("spans-drop60", 0.6)])
def test_so_many_spans_are_missing(noise: SpanNoiseName, share: float):
    answers = [f"a{i} b c d e f g h i j" for i in range(200)]
    kept = sum(len(said.spans) for said in noisy(noise, answers))
    assert abs(1 - kept / 2000 - share) < 0.04
    clean = [set(said.spans) for said in noisy(None, answers)]
    assert all(set(said.spans) <= own for said, own in zip(noisy(noise, answers), clean, strict=True))


def test_what_the_smaller_share_drops_the_larger_one_drops_too():
    answers = [f"a{i} b c d e f" for i in range(50)]
    few, many = noisy("spans-drop60", answers), noisy("spans-drop30", answers)
    assert all(set(a.spans) < set(b.spans) or a.spans == b.spans for a, b in zip(few, many, strict=True))
    assert sum(len(said.spans) for said in few) < sum(len(said.spans) for said in many)


def test_two_in_ten_labels_are_turned_over_in_their_places():
    answers = [f"a{i} b c d e f g h i j" for i in range(200)]
    clean, worse = noisy(None, answers), noisy("spans-flip20", answers)
    pairs = [(a, b) for x, y in zip(clean, worse, strict=True) for a, b in zip(x.spans, y.spans, strict=True)]
    assert all((a.start, a.end) == (b.start, b.end) for a, b in pairs)
    turned = [(a.label, b.label) for a, b in pairs if a.label != b.label]
    assert abs(len(turned) / len(pairs) - 0.2) < 0.03
    assert set(turned) == {("good", "poor"), ("poor", "good")}


def test_shuffled_spans_stand_evenly_over_the_answer():
    """One poor word of nine: it must come everywhere, about as often, whatever word was wrong."""
    problem = Problem.ask("matrix", id="m", reference="0 1 2\n1 0 1\n2 1 2")
    where = dict.fromkeys(range(9), 0)
    words = [m.span() for m in re.finditer(r"\S+", MATRIX)]
    given = Turn(prompt_ids=(1,), completion_ids=(2,), logprobs=(0.0,), text=MATRIX, stop_reason="eos")
    for seed in range(900):
        [said] = controlled(ProgramCritic("hint"), "spans-shuffled", seed=seed).critique(
            [FeedbackRequest(problem, given, 0)]
        )
        [poor] = [span for span in said.spans if span.label == "poor"]
        where[words.index((poor.start, poor.end))] += 1
        good = [m for s in said.spans if s.label == "good" for m in s.quote.split()]
        assert len(good) == 8
    # The good words are one block of eight here, so the poor one comes first or last.
    assert where[0] + where[8] == 900
    assert abs(where[0] - 450) < 60


@given(
    st.lists(st.sampled_from(["a", "bc", "a b", " ", "\n", "é́"]), min_size=1, max_size=12).map("".join),
    st.data(),
)
def test_shuffled_spans_keep_their_number_their_labels_and_their_size(answer, data):
    if not answer.strip():
        return
    bounds = st.integers(0, len(answer))
    places = data.draw(st.lists(st.tuples(bounds, bounds).filter(lambda p: p[0] < p[1]), max_size=5))
    own = tuple(
        Span(start=a, end=b, quote=answer[a:b], label="good" if i % 2 else "poor")
        for i, (a, b) in enumerate(places)
        if answer[a:b].strip()
    )
    said = Marks().one(ask("x", answer)).model_copy(update={"spans": own})
    [worse] = noisy("spans-shuffled", [answer], critic=FeedbackRecord(said))

    def size(span):
        return len("".join(span.quote.split())), span.label

    assert all(answer[s.start : s.end] == s.quote for s in worse.spans)
    assert len(worse.spans) == len(own)
    by_word = all(
        (s.start == 0 or answer[s.start - 1].isspace()) and (s.end == len(answer) or answer[s.end].isspace())
        and not s.quote[0].isspace() and not s.quote[-1].isspace()
        for s in own
    )  # fmt: skip
    if by_word:
        assert sorted((len(s.quote.split()), s.label) for s in worse.spans) == sorted(
            (len(s.quote.split()), s.label) for s in own
        )
    else:
        assert sorted(map(size, worse.spans)) == sorted(map(size, own))


def test_a_span_over_everything_stays_and_a_failed_critique_stays_failed():
    whole = Marks().one(ask("x", "a b")).model_copy(update={"spans": marked("a b", [(0, 3)], "good")})
    [said] = noisy("spans-shuffled", ["a b"], critic=FeedbackRecord(whole))
    assert said.spans == whole.spans
    failed = Feedback(
        turn=0, source="program", status="failed", error="down", saw_reference=False,
        provenance=Provenance(author="marks"),
    )  # fmt: skip
    assert noisy("spans-drop30", ["a b"], critic=FeedbackRecord(failed)) == [failed]
