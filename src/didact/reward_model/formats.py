"""The formats of a reward model's target: a critique and the marked passages of the answer.

    json_v1    the JSON object that `critique run --spans` requests, with its prompt: critique, good_spans,
               poor_spans, score and label
    lines_v1   for models too small for JSON: the critique on one line, then one passage per line, as
               "+ quote", "- quote", or "-2 quote" for the second occurrence of several

A released format never changes, because trained models depend on it. `write` produces only what `read` gives
back: a passage without an unambiguous quote is left out and counted. `read` never raises: where it takes no
guess, json_v1 repairs a reply (text around the object is left out, raw line breaks in strings are accepted,
of a truncated object everything that is complete is kept). Without `reasoning` there is no critique before
the passages.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import islice
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import ValidationError

from didact.errors import UsageError, did_you_mean
from didact.feedback.judge import MAX_SPANS, SPAN_PROMPTS, TOP_SCORE, find_phrase, marks_form
from didact.prompts import conversation_text, critique_messages, load_prompt, shorten
from didact.spans import MatchPolicy, Quote, locate
from didact.types import Feedback, Message, Problem, Span

LABELS = {"right": 1.0, "partly right": 0.5, "wrong": 0.0}
_CONTEXTS = (8, 16, 32, 64, 128)
"""Numbers of characters before a passage that are tried to distinguish it from its copies."""
_CLOSE = {"{": "}", "[": "]"}


class Reading(NamedTuple):
    """The content of a reply, before its quotes are looked up."""

    critique: str
    quotes: tuple[Quote, ...]
    """The marked passages, in the reply's order."""
    score: float | None = None
    """In [0, 1]; None if the reply or the format has none."""
    label: str | None = None
    """As "right", "partly right" or "wrong"; None likewise."""
    repaired: bool = False
    """The reply did not fit the format, and a part of it was left out."""


class Written(NamedTuple):
    """A feedback in a format."""

    text: str
    lost: int
    """Spans without an unambiguous quote, which are left out."""


class Format(ABC):
    """One form of target, with the prompt that requests it."""

    name: ClassVar[str]
    policy: ClassVar[MatchPolicy]
    """What counts as the place of a quote."""

    @abstractmethod
    def messages(
        self, problem: Problem, answer: str, *, reasoning: bool, context: int | None = None
    ) -> tuple[Message, ...]:
        """The conversation that requests the marks, a critique first with `reasoning`.

        The answer is never cut. `context` is the most characters of the problem to show (see
        `prompts.shorten`); None shows all.
        """

    @abstractmethod
    def write(self, feedback: Feedback, answer: str, *, reasoning: bool) -> Written | None:
        """The target for a feedback; None if the format cannot express it."""

    @abstractmethod
    def read(self, text: str, *, reasoning: bool, cut: bool = False) -> Reading | None:
        """The content of a reply; None if it is unreadable. The end of a `cut` one may be incomplete."""

    @abstractmethod
    def candidates(self, span: Span, answer: str) -> Sequence[Quote]:
        """Ways to quote a span, the plainest first."""

    def quotes(self, spans: Sequence[Span], answer: str) -> tuple[list[Quote], int]:
        """Quotes that lead back to exactly these spans, in the answer's order, and how many have none."""
        found: list[Quote] = []
        lost = 0
        for span in sorted(spans, key=lambda s: (s.start, s.end, s.label)):
            quote = next((q for q in self.candidates(span, answer) if self._leads_to(q, span, answer)), None)
            if quote is None or sum(q.label == quote.label for q in found) >= MAX_SPANS:
                lost += 1
            else:
                found.append(quote)
        return found, lost

    def _leads_to(self, quote: Quote, span: Span, answer: str) -> bool:
        places = [(s.start, s.end) for s in locate([quote], answer, self.policy).spans]
        return places == [(span.start, span.end)]


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


NOTHING = "none"
"""The target without a critique and passages, since a target cannot be empty."""
_LINE = re.compile(r"([+-])([1-9][0-9]{0,2})? (.+)", re.DOTALL)
_SIGN = {"good": "+", "poor": "-"}
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_ESCAPED = {"n": "\n", "r": "\r"}
_MOST = 999
"""Occurrences of a quote that can be numbered."""


class LinesFormat(Format):
    """`lines_v1`; line breaks and backslashes are escaped, so that every text is one line."""

    name = "lines_v1"
    policy = MatchPolicy(repeats="by_index", fuzzy=False)

    def messages(
        self, problem: Problem, answer: str, *, reasoning: bool, context: int | None = None
    ) -> tuple[Message, ...]:
        asked = critique_messages(problem, answer)[:-1]
        if context is not None:
            question = shorten(conversation_text(problem), context)
            asked = (Message(role="user", content=question), asked[-1])
        wish = load_prompt("marks_v1" if reasoning else "marks_only_v1").text
        return (*asked, Message(role="user", content=wish))

    def write(self, feedback: Feedback, answer: str, *, reasoning: bool) -> Written | None:
        quotes, lost = self.quotes(feedback.spans, answer)
        lines = [f"{_SIGN[q.label]}{q.occurrence or ''} {_escape(q.text)}" for q in quotes]
        if reasoning:
            lines.insert(0, _escape(feedback.text))
        text = "\n".join(lines or [NOTHING])
        return Written(text, lost) if text else None

    def read(self, text: str, *, reasoning: bool, cut: bool = False) -> Reading | None:
        """The content of a reply; None if no line is readable.

        >>> LinesFormat().read("Not 5.\\n-2 5", reasoning=True).quotes
        (Quote(text='5', label='poor', phrase=None, occurrence=2, before=None),)
        """
        lines = text.split("\n")
        critique = _unescape(lines.pop(0)) if reasoning else ""
        if cut:
            if not lines:
                return None
            lines.pop()
        if not text.strip():
            return None
        if not reasoning and [line.strip() for line in lines] == [NOTHING]:
            return Reading("", ())
        lines = [line for line in lines if line.strip()]
        found = [m for line in lines if (m := _LINE.fullmatch(line))]
        if (lines or not reasoning) and not found:
            return None
        quotes = tuple(
            Quote(_unescape(m[3]), "good" if m[1] == "+" else "poor", occurrence=int(m[2]) if m[2] else None)
            for m in found[: 2 * MAX_SPANS]
        )
        return Reading(critique, quotes, repaired=cut or len(quotes) < len(lines))

    def candidates(self, span: Span, answer: str) -> list[Quote]:
        """The quote alone, or with the number of its occurrence if there are several."""
        found = re.finditer(f"(?={re.escape(span.quote)})", answer)
        starts = [m.start() for m in islice(found, _MOST)]
        if len(starts) < 2:
            return [Quote(span.quote, span.label)]
        if span.start not in starts:
            return []
        return [Quote(span.quote, span.label, occurrence=starts.index(span.start) + 1)]


def _escape(text: str) -> str:
    return re.sub(r"[\\\n\r]", lambda m: _ESCAPES[m[0]], text)


def _unescape(line: str) -> str:
    return re.sub(r"\\(.)", lambda m: _ESCAPED.get(m[1], m[1]), line, flags=re.DOTALL)


FORMATS: dict[str, Format] = {f.name: f for f in (JsonFormat(), LinesFormat())}


def make_format(name: str) -> Format:
    """A format by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r} of a reward model: {did_you_mean(name, FORMATS)}")
    return FORMATS[name]
