"""A judge that marks passages: a critique first, then good and poor passages that it supports.

The dual feedback of Text2Grad (arXiv:2505.22338). A quote counts if it has one place in the answer: copied,
equal up to typography, or nearly equal (`didact.spans`). A reply with any other quote is requested once more,
with what was wrong; quotes that still have no place make no span and are counted.

Without `reasoning` the reply has no critique before the passages, which is the paper's ablation.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from didact.errors import UsageError, did_you_mean
from didact.feedback.judge import TOP_SCORE, Grade, Judge, NotBlank, Score, StructuredJudge, TextJudge
from didact.feedback.model_critic import MAX_CHARS
from didact.feedback_source import FeedbackRequest
from didact.llm.chat import ChatModel, ChatReply
from didact.llm.structured import StrictReply, parse
from didact.prompts import shorten
from didact.spans import Alignment, MatchPolicy, Quote, QuoteMatch, SpanReport, locate
from didact.types import Feedback

LOG = logging.getLogger("didact")
PROMPTS = {
    (True, False): "spans_v1",
    (True, True): "spans_private_v1",
    (False, False): "spans_only_v1",
    (False, True): "spans_only_private_v1",
}
"""By (reasoning, privileged)."""
MAX_SPANS = 64
"""Passages of one label in one reply."""
_SHOWN, _SHOWN_CHARS = 5, 80
_REASONS = {
    "absent": "does not occur in the answer",
    "ambiguous": 'occurs more than once, so quote more of it or give the words "before" it',
    "blank": "is empty",
}


class Passage(StrictReply):
    """A passage without a reason."""

    quote: Annotated[str, Field(min_length=1)]
    before: str


class ArguedPassage(Passage):
    """A passage and the part of the critique that is about it."""

    phrase: str


class Marks(StrictReply):
    """A reply without a critique."""

    good_spans: Annotated[list[Passage], Field(max_length=MAX_SPANS)]
    poor_spans: Annotated[list[Passage], Field(max_length=MAX_SPANS)]
    score: Score
    label: Grade


class ArguedMarks(StrictReply):
    """A reply with the critique first. The order of the fields is the order of writing."""

    critique: NotBlank
    good_spans: Annotated[list[ArguedPassage], Field(max_length=MAX_SPANS)]
    poor_spans: Annotated[list[ArguedPassage], Field(max_length=MAX_SPANS)]
    score: Score
    label: Grade


AnyMarks: TypeAlias = ArguedMarks | Marks


def marks_form(reasoning: bool) -> type[AnyMarks]:
    """The form of a reply with or without a critique."""
    return ArguedMarks if reasoning else Marks


class SpanJudge(StructuredJudge[AnyMarks]):
    """Critiques with good and poor passages, by any chat model.

    Args:
        model: The judge.
        privileged: Show the reference, with the instruction not to reveal it.
        reasoning: A critique comes before the passages. Without it a feedback has no text.
        policy: What counts as the place of a quote.
        max_chars: Longer texts are cut in the middle, with a notice.

    Attributes:
        report: How the quotes of all replies so far were placed.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        privileged: bool = False,
        reasoning: bool = True,
        policy: MatchPolicy = MatchPolicy(),  # noqa: B008
        max_chars: int = MAX_CHARS,
    ) -> None:
        prompt = PROMPTS[reasoning, privileged]
        super().__init__(model, "judge", prompt, private=privileged, max_chars=max_chars)
        self.form = marks_form(reasoning)
        self.policy = policy
        self.report = SpanReport()

    def graded(self, request: FeedbackRequest, value: AnyMarks, reply: ChatReply) -> Feedback:
        """The critique and the placed passages as a feedback."""
        critique = value.critique.strip() if isinstance(value, ArguedMarks) else ""
        shown = shorten(critique, self.max_chars)
        aligned = self._aligned(value, request.turn.text)
        self.report += SpanReport.of(aligned, request.turn.text)
        if aligned.unaligned:
            LOG.info(
                "judge %s: %d of %d quotes have no certain place in their answer and make no span",
                self.model.name, len(aligned.unaligned), len(aligned.matches),
            )  # fmt: skip
        spans = tuple(
            s if s.phrase is None or s.phrase in shown else s.model_copy(update={"phrase": None})
            for s in aligned.spans
        )
        return self.feedback(
            request, reply, text=critique, score=value.score / TOP_SCORE, label=value.label, spans=spans
        )

    def fault(self, request: FeedbackRequest, reply: ChatReply) -> str | None:
        """What is wrong with a reply: it is invalid, or quotes what has no place in the answer."""
        if reply.error is not None:
            return None
        if invalid := super().fault(request, reply):
            return invalid
        lost = self._aligned(self.form.model_validate_json(reply.text), request.turn.text).unaligned
        if not lost:
            return None
        named = "; ".join(map(_named, lost[:_SHOWN]))
        return (
            f"{named}. Copy every quote from the answer character by character, and leave out what you cannot"
        )

    def better(self, request: FeedbackRequest, first: ChatReply, second: ChatReply) -> ChatReply:
        """The reply with more placed quotes, at the cost of both."""
        counts = [self._count(request, reply) for reply in (first, second)]
        if counts[0] is None or (counts[1] is not None and counts[1] >= counts[0]):
            return second
        return replace(first, tokens=second.tokens, cost_usd=second.cost_usd)

    def _count(self, request: FeedbackRequest, reply: ChatReply) -> int | None:
        """Quotes with a place less those without one; None for an invalid reply."""
        value = parse(self.model.name, self.form, reply).value
        if value is None:
            return None
        aligned = self._aligned(value, request.turn.text)
        return len(aligned.matches) - len(aligned.unaligned)

    def _aligned(self, marks: AnyMarks, answer: str) -> Alignment:
        critique = marks.critique if isinstance(marks, ArguedMarks) else ""
        quotes = [_quote(p, "good", critique) for p in marks.good_spans]
        quotes += [_quote(p, "poor", critique) for p in marks.poor_spans]
        return locate(quotes, answer, self.policy)


def make_judge(
    model: ChatModel, output: str, *, privileged: bool = False, reasoning: bool = True
) -> TextJudge | Judge | SpanJudge:
    """The judge for a value of the setting `output`: "text", "json" or "spans".

    Raises:
        UsageError: there is no such output, or `reasoning` is off for one that always has a critique.
    """
    if output == "spans":
        return SpanJudge(model, privileged=privileged, reasoning=reasoning)
    if not reasoning:
        raise UsageError(f"feedback.settings.reasoning=false is for output=spans, not {output}: leave it out")
    if output not in _JUDGES:
        raise UsageError(f"a judge has no output {output!r}: {did_you_mean(output, [*_JUDGES, 'spans'])}")
    return _JUDGES[output](model, privileged=privileged)


_JUDGES: dict[str, type[TextJudge] | type[Judge]] = {"text": TextJudge, "json": Judge}


def find_phrase(phrase: str, critique: str) -> str | None:
    """The words of the critique that a phrase quotes; None if it quotes none."""
    placed = locate([Quote(phrase, "good")], critique, MatchPolicy(repeats="first", fuzzy=False)).spans
    return placed[0].quote if placed else None


def _quote(passage: Passage, label: Literal["good", "poor"], critique: str) -> Quote:
    """A passage with the words of the critique about it, if there are any."""
    phrase = find_phrase(passage.phrase, critique) if isinstance(passage, ArguedPassage) else None
    return Quote(passage.quote, label, phrase=phrase, before=passage.before or None)


def _named(placed: QuoteMatch) -> str:
    return f"the quote {shorten(placed.quote.text, _SHOWN_CHARS)!r} {_REASONS[placed.reason or 'absent']}"
