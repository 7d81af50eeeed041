"""`json_v1`: the JSON object that `critique run --spans` requests.

A reply that does not fit the form is repaired where that takes no guess: text around the object is left out,
raw line breaks in strings are accepted, and of a truncated object everything that is complete is kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ValidationError

from didact.feedback.judge import MAX_SPANS, SPAN_PROMPTS, TOP_SCORE, find_phrase, marks_form
from didact.prompts import conversation_text, load_prompt, shorten
from didact.reward_model.format import Format, Reading, Written
from didact.spans import MatchPolicy, Quote
from didact.types import Feedback, Message, Problem, Span

LABELS = {"right": 1.0, "partly right": 0.5, "wrong": 0.0}
_CONTEXTS = (8, 16, 32, 64, 128)
"""Numbers of characters before a passage that are tried to distinguish it from its copies."""
_CLOSE = {"{": "}", "[": "]"}


class JsonFormat(Format):
    """`json_v1`."""

    name = "json_v1"
    policy = MatchPolicy()

    def messages(
        self, problem: Problem, answer: str, *, reasoning: bool, context: int | None = None
    ) -> tuple[Message, ...]:
        question = conversation_text(problem)
        if context is not None:
            question = shorten(question, context)
        prompt = load_prompt(SPAN_PROMPTS[reasoning, False])
        return (Message(role="user", content=prompt.fenced(question=question, answer=answer)),)

    def write(self, feedback: Feedback, answer: str, *, reasoning: bool) -> Written | None:
        graded = grade(feedback)
        if graded is None or (reasoning and not feedback.text.strip()):
            return None
        quotes, lost = self.quotes(feedback.spans, answer)

        def passages(label: str) -> list[dict[str, str]]:
            own = [q for q in quotes if q.label == label]
            phrases: list[dict[str, str]] = [{"phrase": q.phrase or ""} if reasoning else {} for q in own]
            pairs = zip(own, phrases, strict=True)
            return [{"quote": q.text, "before": q.before or "", **phrase} for q, phrase in pairs]

        score, label = round(graded[0], 2), graded[1]
        record = {
            **({"critique": feedback.text} if reasoning else {}),
            "good_spans": passages("good"),
            "poor_spans": passages("poor"),
            "score": int(score) if score == int(score) else score,
            "label": label,
        }
        return Written(json.dumps(record, ensure_ascii=False), lost)

    def read(self, text: str, *, reasoning: bool, cut: bool = False) -> Reading | None:
        try:
            return _reading(marks_form(reasoning).model_validate_json(text).model_dump(), repaired=False)
        except ValidationError:
            record = repaired_json(text)
        return None if record is None else _reading(record, repaired=True)

    def candidates(self, span: Span, answer: str) -> list[Quote]:
        """The quote alone, then with more and more of the text before it."""
        before = [answer[max(0, span.start - n) : span.start] for n in _CONTEXTS]
        contexts = [None, *(text for text in dict.fromkeys(before) if text.strip())]
        return [Quote(span.quote, span.label, phrase=span.phrase, before=text) for text in contexts]


def grade(feedback: Feedback) -> tuple[float, str] | None:
    """(score from 0 to 10, label) of a feedback, derived from each other or from its spans where one is
    missing; None if it has none of them."""
    score, label = feedback.score, feedback.label
    if score is not None and not 0 <= score <= 1:
        score = None
    if label not in LABELS:
        if score is not None:
            label = "right" if score >= 1 else "wrong" if score <= 0 else "partly right"
        else:
            marks = {span.label for span in feedback.spans}
            if not marks:
                return None
            label = "partly right" if len(marks) > 1 else "right" if "good" in marks else "wrong"
    return TOP_SCORE * (LABELS[label] if score is None else score), label


def repaired_json(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text, without incomplete items at its end; None if there is none.

    >>> repaired_json('Here: {"a": ["b", {"c": 1}, {"d')
    {'a': ['b', {'c': 1}]}
    """
    start = text.find("{")
    if start < 0:
        return None
    stack: list[str] = []
    quoted = escaped = False
    kept = ""
    for i, c in enumerate(text[start:], start):
        if quoted:
            quoted = escaped or c != '"'
            escaped = c == "\\" and not escaped
            continue
        if c == '"':
            quoted = True
        elif c in _CLOSE:
            stack.append(c)
        elif c == "," and len(stack) <= 2:
            kept = text[start:i] + _closing(stack)
        elif c in "}]":
            if not stack or _CLOSE[stack.pop()] != c:
                break
            kept = text[start : i + 1] + _closing(stack)
            if not stack:
                break
    try:
        found = json.loads(kept, strict=False)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _closing(stack: Sequence[str]) -> str:
    return "".join(_CLOSE[c] for c in reversed(stack)) if len(stack) <= 8 else ""


def _reading(record: dict[str, Any], *, repaired: bool) -> Reading | None:
    good, poor = record.get("good_spans"), record.get("poor_spans")
    if not isinstance(good, list) and not isinstance(poor, list):
        return None
    critique, score, label = record.get("critique"), record.get("score"), record.get("label")
    critique = critique if isinstance(critique, str) else ""
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= TOP_SCORE:
        score = None
    return Reading(
        critique,
        (*_quotes(good, "good", critique), *_quotes(poor, "poor", critique)),
        None if score is None else score / TOP_SCORE,
        label if isinstance(label, str) and label in LABELS else None,
        repaired,
    )


def _quotes(items: Any, label: Literal["good", "poor"], critique: str) -> list[Quote]:
    """The passages with one label; other items are left out."""
    quotes = []
    for item in items[:MAX_SPANS] if isinstance(items, list) else []:
        quote = item.get("quote") if isinstance(item, dict) else None
        if isinstance(quote, str) and quote:
            before, phrase = item.get("before"), item.get("phrase")
            phrase = find_phrase(phrase, critique) if isinstance(phrase, str) else None
            before = before if isinstance(before, str) and before else None
            quotes.append(Quote(quote, label, phrase=phrase, before=before))
    return quotes
