"""Judges that mark passages: a critique first, quotes that are verified, one repair, nothing guessed."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.errors import UsageError
from didact.feedback.judge import (
    MAX_SPANS,
    SPAN_PROMPTS,
    ArguedMarks,
    ArguedPassage,
    Judge,
    Marks,
    Passage,
    SpanJudge,
    make_judge,
)
from didact.llm.chat import ChatReply
from didact.llm.structured import json_schema
from didact.prompts import load_prompt
from didact.registry import SOURCES
from didact.spans import SpanReport
from didact.types import Feedback
from tests.test_judge import PROBLEM, ScriptedChat, about

ANSWER = "I add 2 and 2. It’s five, so it is five."


def passage(quote, phrase="", before=""):
    return {"quote": quote, "before": before, "phrase": phrase}


def marks(good=(), poor=(), critique="Right so far. The sum is off by one.", score=3, label="wrong"):
    return json.dumps(
        {
            "critique": critique,
            "good_spans": list(good),
            "poor_spans": list(poor),
            "score": score,
            "label": label,
        }
    )


def bare(good=(), poor=(), score=3, label="wrong"):
    found = json.loads(marks(good, poor, score=score, label=label))
    del found["critique"]
    for kind in ("good_spans", "poor_spans"):
        found[kind] = [{k: v for k, v in p.items() if k != "phrase"} for p in found[kind]]
    return json.dumps(found)


def judged(replies, answer=ANSWER, **settings):
    judge = SpanJudge(ScriptedChat(replies), **settings)
    (feedback,) = judge.critique([about(answer)])
    return feedback, judge


def told(feedback):
    return [(s.quote, s.label, s.phrase) for s in feedback.spans]


GOOD = marks(
    [passage("I add 2 and 2", "Right so far.")],
    [passage("It's five", "the sum is off"), passage("five", "off by one", before="so it is")],
)


def test_a_reply_becomes_a_critique_with_passages():
    f, judge = judged([GOOD])
    assert (f.text, f.score, f.label, f.source) == (
        "Right so far. The sum is off by one.",
        0.3,
        "wrong",
        "judge",
    )
    # The answer's own characters and the critique's own words.
    assert told(f) == [
        ("I add 2 and 2", "good", "Right so far."),
        ("It’s five", "poor", "The sum is off"),
        ("five", "poor", "off by one"),
    ]
    assert [s.start for s in f.spans] == [0, 15, 35]
    assert all(ANSWER[s.start : s.end] == s.quote for s in f.spans)
    assert judge.repairs == 0
    assert (judge.report.exact, judge.report.normalised, judge.report.unaligned) == (2, 1, 0)
    assert f.provenance.author == f"scripted:{load_prompt('spans_v1').label}"
    assert (f.provenance.tokens, f.saw_reference) == (7, False)
    assert Feedback.model_validate_json(f.model_dump_json()) == f


def test_passages_without_a_critique_before_them():
    reply = bare([passage("I add 2 and 2")], [passage("five", before="so it is")])
    f, judge = judged([reply], reasoning=False)
    assert (f.text, f.ok, f.score) == ("", True, 0.3)
    assert told(f) == [("I add 2 and 2", "good", None), ("five", "poor", None)]
    (asked,) = judge.model.requests
    assert "critique" not in asked.schema["properties"]
    assert "critique" not in asked.messages[0].content
    assert f.provenance.author == f"scripted:{load_prompt('spans_only_v1').label}"
    # Each form is no reply of the other.
    assert not judged([reply] * 2)[0].ok
    assert not judged([GOOD] * 2, reasoning=False)[0].ok


def test_the_schemas_the_strict_forms_and_the_prompts_name_the_same_keys_in_the_same_order():
    for (reasoning, _), name in SPAN_PROMPTS.items():
        form, item = (ArguedMarks, ArguedPassage) if reasoning else (Marks, Passage)
        made = json_schema(form)
        assert made["required"] == list(made["properties"]) == list(form.model_fields)
        inner = made["properties"]["poor_spans"]["items"]
        assert set(inner["required"]) == set(inner["properties"]) == set(item.model_fields)
        text = load_prompt(name).text
        assert re.findall(r'^"(\w+)":', text, re.M) == made["required"]
        assert all(f'"{key}"' in text for key in inner["required"])
        assert f"exactly these {['four', 'five'][reasoning]} keys" in text
        labels = list(form.model_fields["label"].annotation.__args__)
        assert made["properties"]["label"]["enum"] == labels
        assert all(f'"{label}"' in text for label in labels)
    assert next(iter(json_schema(ArguedMarks)["properties"])) == "critique"  # thought comes before marks


# ── quotes that are not there ─────────────────────────────────────────────────────────────────────────

LOST = marks([passage("I add 2 and 2")], [passage("It is six"), passage("five")])
MENDED = marks([passage("I add 2 and 2")], [passage("It’s five"), passage("five", before="so it is ")])


def test_a_quote_that_is_not_there_is_asked_for_once_more_and_then_dropped_and_counted():
    f, judge = judged([LOST, MENDED])
    assert [s.quote for s in f.spans] == ["I add 2 and 2", "It’s five", "five"]
    assert (judge.repairs, judge.report.unaligned) == (1, 0)
    assert (f.provenance.tokens, f.provenance.cost_usd) == (14, 0.5)
    first, second = judge.model.requests
    wish = second.messages[-1].content
    assert "the quote 'It is six' does not occur in the answer" in wish
    assert "the quote 'five' occurs more than once" in wish
    assert "I add" not in wish
    assert second.schema == first.schema

    f, judge = judged([LOST, LOST])
    assert f.ok
    assert [s.quote for s in f.spans] == ["I add 2 and 2"]
    assert len(judge.model.requests) == 2
    assert (judge.report.quotes, judge.report.unaligned, judge.report.ambiguous) == (3, 2, 1)


def test_a_repair_that_is_worse_does_not_replace_what_was_there():
    for worse in ("prose", marks(), ChatReply(error="down", tokens=7, cost_usd=0.25)):
        f, judge = judged([LOST, worse])
        assert f.ok
        assert [s.quote for s in f.spans] == ["I add 2 and 2"]
        assert (f.provenance.tokens, f.provenance.cost_usd) == (14, 0.5)
        assert judge.report.quotes == 3


BAD = {
    "prose": "The answer is wrong.",
    "fenced": f"```json\n{GOOD}\n```",
    "blank critique": marks(critique=" "),
    "other label": marks(label="bad"),
    "score": marks(score=11),
    "empty quote": marks([passage("")]),
    "no phrase": marks([{"quote": "a", "before": ""}]),
    "own offsets": marks([{**passage("a"), "start": 0}]),
    "text for a list": GOOD.replace('"good_spans": [', '"good_spans": "x", "other": ['),
    "many": marks([passage("I")] * (MAX_SPANS + 1)),
}


@pytest.mark.parametrize("case", BAD)
def test_what_has_not_the_form_is_asked_for_once_more_and_then_fails(case):
    failed, judge = judged([BAD[case]] * 2)
    assert (failed.status, failed.score, failed.spans, failed.text) == ("failed", None, (), "")
    assert "twice" in failed.error
    assert (judge.repairs, judge.report) == (1, SpanReport())
    assert judged([BAD[case], GOOD])[0].spans == judged([GOOD])[0].spans


def test_a_failed_request_is_not_asked_again_here():
    failed, judge = judged([ChatReply(error="the server is down")])
    assert (failed.error, judge.repairs) == ("the server is down", 0)


def test_the_reference_is_shown_to_a_privileged_judge_only():
    for privileged in (False, True):
        f, judge = judged([GOOD], privileged=privileged)
        assert f.saw_reference is privileged
        assert ("FOUR" in judge.model.requests[0].messages[0].content) is privileged
    judge = SpanJudge(ScriptedChat([GOOD]), privileged=True)
    request = about(ANSWER, problem=PROBLEM.model_copy(update={"reference": None}))
    failed, found = judge.critique([request, about(ANSWER)])
    assert "has no reference to show" in failed.error
    assert found.ok


def test_many_answers_keep_their_order_and_their_own_repairs():
    answers = [ANSWER, "It is six.", ANSWER]
    judge = SpanJudge(ScriptedChat([GOOD, LOST, LOST, MENDED, MENDED]))
    found = judge.critique([about(a, index=i) for i, a in enumerate(answers)])
    assert [f.turn for f in found] == [0, 1, 2]
    assert [[s.quote for s in f.spans] for f in found] == [
        ["I add 2 and 2", "It’s five", "five"],
        ["It is six"],  # the repair finds fewer in this answer
        ["I add 2 and 2", "It’s five", "five"],
    ]
    assert judge.report.answers == 3


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=10), max_size=4), st.text(max_size=10))
def test_whatever_is_quoted_every_span_quotes_the_answer(answer, quotes, phrase):
    reply = marks([passage(q, phrase) for q in quotes], [passage(q, phrase, before=phrase) for q in quotes])
    f, judge = judged([reply] * 2, answer=answer)
    if not f.ok:  # half a surrogate pair is no JSON text
        assert any("\ud800" <= c <= "\udfff" for c in phrase + "".join(quotes))
        return
    assert all(answer[s.start : s.end] == s.quote for s in f.spans)
    assert all(s.phrase is None or s.phrase in f.text for s in f.spans)
    assert judge.report.quotes == 2 * len(quotes)


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_setting_output_chooses_the_judge():
    chat = ScriptedChat([])
    judge = make_judge(chat, "spans", reasoning=False, privileged=True)
    assert isinstance(judge, SpanJudge)
    assert judge.prompt.name == "spans_only_private_v1"
    assert isinstance(make_judge(chat, "json"), Judge)
    with pytest.raises(UsageError, match="reasoning=false"):
        make_judge(chat, "json", reasoning=False)
    with pytest.raises(UsageError, match="output"):
        SOURCES.make("judge:openai", {"output": "span"})
    for name in ("judge:openai", "judge:local"):
        found = SOURCES.make(name, {"output": "spans", "reasoning": False})
        assert (found.output, found.reasoning) == ("spans", False)
