"""`lines_v1`: the critique on one line, then one marked passage per line.

    It should have 6 characters, not 5. Character 1 should be n.
    - t
    +2 ab

Line breaks and backslashes are escaped, so that every text is one line.
"""

from __future__ import annotations

import re
from itertools import islice

from didact.feedback.judge import MAX_SPANS
from didact.prompts import conversation_text, critique_messages, load_prompt, shorten
from didact.reward_model.format import Format, Reading, Written
from didact.spans import MatchPolicy, Quote
from didact.types import Feedback, Message, Problem, Span

NOTHING = "none"
"""The target without a critique and passages, since a target cannot be empty."""
_LINE = re.compile(r"([+-])([1-9][0-9]{0,2})? (.+)", re.DOTALL)
_SIGN = {"good": "+", "poor": "-"}
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_ESCAPED = {"n": "\n", "r": "\r"}
_MOST = 999
"""Occurrences of a quote that can be numbered."""


class LinesFormat(Format):
    """`lines_v1`."""

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
