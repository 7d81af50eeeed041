"""What a reward model writes: a critique and the passages of the answer that it marks.

    json_v1    the reply that `critique run --spans` asks for, with its prompt: critique, good_spans,
               poor_spans, score and label as one JSON object
    lines_v1   for models too small for JSON: the critique on one line, then a passage a line, as "+ quote",
               "- quote", or "-2 quote" for the second place of several

A name is frozen: a model that was trained on it is asked in it for ever. Without `reasoning` no critique
comes before the passages. `write` makes only what `read` gives back; a passage that has no unambiguous
quote is left out and counted. `read` never raises: what a model wrote is data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from didact.errors import UsageError, did_you_mean
from didact.feedback.span_judge import MAX_SPANS, PROMPTS
from didact.prompts import conversation_text, critique_messages, load_prompt, shorten
from didact.reward_model import json_text, lines
from didact.spans import MatchPolicy, Quote, locate
from didact.types import Feedback, Message, Problem, Span


@dataclass(frozen=True)
class Reading:
    """What a reply says, before its quotes are looked up.

    Attributes:
        critique: The critique; "" without one.
        quotes: The marked passages, in the reply's order.
        score: In [0, 1]; None where the reply or the format has none.
        label: "right", "partly right", "wrong" or None likewise.
        repaired: It did not fit the form, and something of it was left out.
    """

    critique: str
    quotes: tuple[Quote, ...]
    score: float | None = None
    label: str | None = None
    repaired: bool = False


class Written(NamedTuple):
    """A feedback in a format."""

    text: str
    """The target z."""
    lost: int
    """Spans that have no unambiguous quote and are left out."""


class Format(Protocol):
    """One form of target and the prompt that asks for it."""

    name: str
    policy: MatchPolicy
    """What counts as the place of a quote."""

    def messages(
        self, problem: Problem, answer: str, *, reasoning: bool, context: int | None = None
    ) -> tuple[Message, ...]:
        """The conversation that asks for marks.

        Args:
            problem: What was asked.
            answer: The answer, which is never cut.
            reasoning: A critique comes first.
            context: Show at most so many characters of the problem, its beginning and its end, with a
                notice; None shows all.
        """
        ...

    def write(self, said: Feedback, answer: str, *, reasoning: bool) -> Written | None:
        """The target for a feedback; None where the format cannot say it."""
        ...

    def read(self, text: str, *, reasoning: bool, cut: bool = False) -> Reading | None:
        """What a reply says; None where nothing can be made of it.

        Args:
            text: The reply.
            reasoning: A critique was asked for first.
            cut: The reply was cut off, so that its last part may be incomplete.
        """
        ...


class JsonFormat:
    """`json_v1`. See the top of this file."""

    name = "json_v1"
    policy = MatchPolicy()

    def messages(
        self, problem: Problem, answer: str, *, reasoning: bool, context: int | None = None
    ) -> tuple[Message, ...]:
        question = conversation_text(problem)
        if context is not None:
            question = shorten(question, context)
        prompt = load_prompt(PROMPTS[reasoning, False])
        return (Message(role="user", content=prompt.fenced(question=question, answer=answer)),)

    def write(self, said: Feedback, answer: str, *, reasoning: bool) -> Written | None:
        grade = json_text.grade(said)
        if grade is None or (reasoning and not said.text.strip()):
            return None
        quotes, lost = _quotes(said.spans, answer, self.policy, json_text.candidates)
        return Written(json_text.dump(said.text if reasoning else None, quotes, *grade), lost)

    def read(self, text: str, *, reasoning: bool, cut: bool = False) -> Reading | None:
        found = json_text.load(text, reasoning=reasoning)
        return None if found is None else Reading(*found)


class LinesFormat:
    """`lines_v1`. See the top of this file."""

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

    def write(self, said: Feedback, answer: str, *, reasoning: bool) -> Written | None:
        quotes, lost = _quotes(said.spans, answer, self.policy, lines.candidates)
        text = lines.dump(said.text if reasoning else None, quotes)
        return Written(text, lost) if text else None

    def read(self, text: str, *, reasoning: bool, cut: bool = False) -> Reading | None:
        found = lines.load(text, reasoning=reasoning, cut=cut)
        if found is None:
            return None
        critique, quotes, repaired = found
        return Reading(critique, quotes, repaired=repaired)


FORMATS: dict[str, Format] = {f.name: f for f in (JsonFormat(), LinesFormat())}


def make_format(name: str) -> Format:
    """A format by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r} of a reward model: {did_you_mean(name, FORMATS)}")
    return FORMATS[name]


def _quotes(
    spans: Sequence[Span], answer: str, policy: MatchPolicy, candidates: Candidates
) -> tuple[list[Quote], int]:
    """Quotes that lead back to exactly these spans, in the answer's order, and how many have none."""
    found: list[Quote] = []
    lost = 0
    for span in sorted(spans, key=lambda s: (s.start, s.end, s.label)):
        quote = next((q for q in candidates(span, answer) if _leads_to(q, span, answer, policy)), None)
        if quote is None or sum(q.label == quote.label for q in found) >= MAX_SPANS:
            lost += 1
        else:
            found.append(quote)
    return found, lost


def _leads_to(quote: Quote, span: Span, answer: str, policy: MatchPolicy) -> bool:
    places = [(s.start, s.end) for s in locate([quote], answer, policy).spans]
    return places == [(span.start, span.end)]


class Candidates(Protocol):
    """Ways to quote a span, the plainest first."""

    def __call__(self, span: Span, answer: str) -> Sequence[Quote]: ...
