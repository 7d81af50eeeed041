"""What a reward model writes: targets that lead back to their spans, and a reader that nothing breaks."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.errors import UsageError
from didact.feedback.judge import ArguedMarks, Marks, SpanJudge
from didact.prompts import load_prompt
from didact.reward_model.formats import FORMATS, grade, make_format, repaired_json
from didact.spans import locate
from didact.types import Feedback, Provenance, Span
from tests.test_judge import PROBLEM, ScriptedChat, about

EVERY = pytest.mark.parametrize("name", sorted(FORMATS))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('ab \n\r\\"+-{}[]2,'), max_size=30)


def said(answer, marks, text="Some of it.", **changes):
    spans = tuple(Span(start=a, end=b, quote=answer[a:b], label=label) for a, b, label in marks)
    return Feedback(
        text=text, source="program", spans=spans, saw_reference=True, provenance=Provenance(author="t"),
        **changes,
    )  # fmt: skip


def places(spans):
    return {(s.start, s.end, s.label) for s in spans}


@st.composite
def annotated(draw):
    answer = draw(TEXTS)
    ends = st.tuples(st.integers(0, len(answer)), st.integers(0, len(answer)))
    marks = draw(st.lists(st.tuples(ends, st.sampled_from(["good", "poor"])), max_size=5))
    found = [(min(e), max(e), label) for e, label in marks if e[0] != e[1]]
    return answer, said(answer, found, text=draw(TEXTS), label="wrong")


@EVERY
@given(case=annotated(), reasoning=st.booleans())
def test_what_is_written_is_read_again(name, case, reasoning):
    answer, feedback = case
    form = make_format(name)
    written = form.write(feedback, answer, reasoning=reasoning)
    if written is None:
        assert reasoning
        assert not feedback.text.strip()
        return
    reading = form.read(written.text, reasoning=reasoning)
    assert reading is not None
    assert not reading.repaired
    assert reading.critique == (feedback.text if reasoning else "")
    found = locate(reading.quotes, answer, form.policy)
    assert found.unaligned == ()
    assert places(found.spans) <= places(feedback.spans)
    assert len(feedback.spans) - len(reading.quotes) == written.lost


@given(case=annotated())
def test_lines_lose_no_span_but_white_space(case):
    answer, feedback = case
    written = make_format("lines_v1").write(feedback, answer, reasoning=False)
    assert written is not None
    assert written.lost == sum(not s.quote.strip() for s in feedback.spans)


@EVERY
@given(text=TEXTS | st.binary(max_size=60).map(lambda b: b.decode("utf-8", "replace")), data=st.data())
def test_the_reader_takes_any_text(name, text, data):
    flags = {"reasoning": data.draw(st.booleans()), "cut": data.draw(st.booleans())}
    reading = make_format(name).read(text, **flags)
    assert reading is None or all(q.text for q in reading.quotes)


KEYS = ["critique", "good_spans", "poor_spans", "score", "label", "quote", "before", "phrase"]
LEAVES = st.none() | st.booleans() | st.floats() | TEXTS


@given(st.recursive(LEAVES, lambda v: st.lists(v) | st.dictionaries(st.sampled_from(KEYS), v)))
def test_the_reader_takes_any_json(value):
    text = json.dumps(value)
    for reasoning in (True, False):
        make_format("json_v1").read(text, reasoning=reasoning)
        make_format("json_v1").read(text[: len(text) // 2], reasoning=reasoning, cut=True)


@EVERY
@given(case=annotated(), data=st.data())
def test_a_cut_reply_keeps_what_is_whole_and_invents_nothing(name, case, data):
    answer, feedback = case
    form = make_format(name)
    written = form.write(feedback, answer, reasoning=True)
    if written is None:
        return
    end = data.draw(st.integers(0, len(written.text)))
    reading = form.read(written.text[:end], reasoning=True, cut=True)
    if reading is not None:
        assert places(locate(reading.quotes, answer, form.policy).spans) <= places(feedback.spans)


def test_lines_are_as_short_as_they_can_be():
    answer = "abcab"
    feedback = said(answer, [(0, 2, "good"), (2, 3, "poor"), (3, 5, "poor")], "One\nis \\ off.")
    text = "One\\nis \\\\ off.\n+1 ab\n- c\n-2 ab"
    form = make_format("lines_v1")
    assert form.write(feedback, answer, reasoning=True) == (text, 0)
    assert form.write(feedback, answer, reasoning=False) == (text.split("\n", 1)[1], 0)
    assert form.write(said(answer, []), answer, reasoning=False) == ("none", 0)
    reading = form.read("none", reasoning=False)
    assert reading is not None
    assert reading.quotes == ()


@pytest.mark.parametrize("reasoning", [True, False])
def test_lines_that_are_no_lines(reasoning):
    form = make_format("lines_v1")
    head = "Not good.\n" if reasoning else ""
    assert form.read(head + "what\n+ a\n-0 b", reasoning=reasoning).quotes[0].text == "a"
    assert form.read(head + "what\n+ a", reasoning=reasoning).repaired
    assert form.read(head + "gibberish", reasoning=reasoning) is None
    assert form.read("", reasoning=reasoning) is None
    assert form.read(head + "+ a\n- b", reasoning=reasoning, cut=True).quotes[0].text == "a"
    assert form.read("Not go", reasoning=reasoning, cut=True) is None


@pytest.mark.parametrize("reasoning", [True, False])
def test_json_is_what_a_span_judge_asks_for_and_takes(reasoning):
    form = make_format("json_v1")
    answer = "I say five, then five."
    feedback = said(answer, [(0, 5, "good"), (17, 21, "poor")], "Not five.", score=0.25)
    written = form.write(feedback, answer, reasoning=reasoning)
    assert written is not None
    (ArguedMarks if reasoning else Marks).model_validate_json(written.text)
    judge = SpanJudge(ScriptedChat([written.text]), reasoning=reasoning)
    (back,) = judge.critique([about(answer)])
    assert places(back.spans) == places(feedback.spans)
    assert (back.score, back.label, back.text) == (0.25, "partly right", "Not five." if reasoning else "")
    assert judge.messages(about(answer)) == form.messages(PROBLEM, answer, reasoning=reasoning)


def test_json_leaves_out_what_it_cannot_tell_apart():
    form = make_format("json_v1")
    written = form.write(said("ab ab", [(0, 2, "poor")], score=0.0), "ab ab", reasoning=True)
    assert written is not None
    assert written.lost == 1
    assert form.write(said("ab", [], text=" ", score=0.0), "ab", reasoning=True) is None
    assert form.write(said("ab", []), "ab", reasoning=True) is None


def test_grades_come_from_score_label_or_spans():
    assert grade(said("a", [], score=1.0)) == (10.0, "right")
    assert grade(said("a", [], label="wrong")) == (0.0, "wrong")
    assert grade(said("a", [], label="partly right", score=0.3)) == (3.0, "partly right")
    assert grade(said("a", [(0, 1, "poor")])) == (0.0, "wrong")
    assert grade(said("ab", [(0, 1, "poor"), (1, 2, "good")])) == (5.0, "partly right")
    assert grade(said("a", [], score=7.0)) is None


def test_json_is_mended_without_a_guess():
    form = make_format("json_v1")
    whole = form.write(
        said("one two", [(0, 3, "good"), (4, 7, "poor")], score=0.0), "one two", reasoning=True
    )
    assert whole is not None
    fenced = form.read(f"Sure!\n```json\n{whole.text}\n```", reasoning=True)
    assert [q.text for q in fenced.quotes] == ["one", "two"]
    assert fenced.repaired
    cut = form.read(whole.text[: whole.text.index('"two"') + 3], reasoning=True, cut=True)
    assert [q.text for q in cut.quotes] == ["one"]
    assert (cut.score, cut.label) == (None, None)
    assert form.read('{"critique": "no spans"}', reasoning=True) is None
    assert form.read("[" * 100_000, reasoning=True) is None
    assert form.read('{"a":' * 100_000, reasoning=True) is None
    assert repaired_json('{"a": "x\ny"}') == {"a": "x\ny"}
    assert repaired_json("{]") is None


def test_unknown_formats_have_a_neighbour():
    with pytest.raises(UsageError, match="lines_v1"):
        make_format("line_v1")


def test_the_prompts_of_small_models_are_short():
    assert len(load_prompt("marks_v1").text) < 150
    shown = make_format("lines_v1").messages(PROBLEM, "five", reasoning=True)
    assert [m.role for m in shown] == ["user", "assistant", "user"]
    assert shown[:2] == (*PROBLEM.messages, shown[1])
    assert shown[1].content == "five"
