"""A judge that marks what it speaks of: a critique first, then good and poor passages that it supports.

The dual feedback of Text2Grad (arXiv:2505.22338). A quote counts where the answer holds it at one place,
copied, up to typography or nearly (`didact.spans`). A reply with a quote that has no such place is asked for
once more, with what was wrong; what has none then makes no span and is counted.

Without `reasoning` the passages are asked for alone: no critique before them, which is the paper's ablation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from didact.errors import UsageError
from didact.feedback.judge import TOP_SCORE, Judge
from didact.feedback.model_critic import MAX_CHARS, ModelCritic
from didact.feedback.verdicts import StrictVerdict, ask_again, read_verdict, unusable
from didact.feedback_source import FeedbackRequest
from didact.llm.chat import ChatModel, ChatReply, ChatRequest
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
"""Passages of one kind in one reply."""
_SHOWN, _SHOWN_CHARS = 5, 80
_WHY = {
    "absent": "does not occur in the answer",
    "ambiguous": 'occurs more than once, so quote more of it or give the words "before" it',
    "blank": "is empty",
}


class Passage(StrictVerdict):
    """A passage without a reason."""

    quote: Annotated[str, Field(min_length=1)]
    before: str


class ArguedPassage(Passage):
    """A passage and the part of the critique that is about it."""

    phrase: str


class Marks(StrictVerdict):
    """A reply without a critique."""

    good_spans: Annotated[list[Passage], Field(max_length=MAX_SPANS)]
    poor_spans: Annotated[list[Passage], Field(max_length=MAX_SPANS)]
    score: Annotated[float, Field(ge=0, le=TOP_SCORE)]
    label: Literal["right", "partly right", "wrong"]


class ArguedMarks(StrictVerdict):
    """A reply with the critique first."""

    critique: Annotated[str, Field(pattern=r"\S")]
    good_spans: Annotated[list[ArguedPassage], Field(max_length=MAX_SPANS)]
    poor_spans: Annotated[list[ArguedPassage], Field(max_length=MAX_SPANS)]
    score: Annotated[float, Field(ge=0, le=TOP_SCORE)]
    label: Literal["right", "partly right", "wrong"]


def schema(reasoning: bool) -> dict[str, Any]:
    """The form of a reply, for servers that can hold a model to it. The keys' order is that of writing."""
    keys = ["quote", "before", *(["phrase"] if reasoning else [])]
    passages = {"type": "array", "items": _object({key: {"type": "string"} for key in keys})}
    critique: dict[str, Any] = {"critique": {"type": "string"}} if reasoning else {}
    marks = {
        "good_spans": passages,
        "poor_spans": passages,
        "score": {"type": "number"},
        "label": {"type": "string", "enum": ["right", "partly right", "wrong"]},
    }
    return _object({**critique, **marks})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    required = list(properties)
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


class SpanJudge(ModelCritic):
    """Critiques with good and poor passages, by any chat model.

    Args:
        model: Who judges.
        privileged: The judge sees the reference, and is told not to reveal it.
        reasoning: A critique comes before the passages. Without it a feedback has no text.
        policy: What counts as the place of a quote.
        max_chars: Longer texts are cut in the middle, with a notice.

    Attributes:
        report: What became of all quotes so far.
        repairs: Replies that were asked for a second time.
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
        self.form: type[ArguedMarks] | type[Marks] = ArguedMarks if reasoning else Marks
        self.schema = schema(reasoning)
        self.policy = policy
        self.report = SpanReport()
        self.repairs = 0

    def ask(self, request: FeedbackRequest) -> ChatRequest:
        """The request for a critique with passages, or for passages alone."""
        return ChatRequest(self.messages(request), self.schema)

    def answered(self, requests: Sequence[FeedbackRequest]) -> list[ChatReply]:
        """One reply a request; what is unusable, or quotes what is not there, is asked for once more."""
        asked = [self.ask(request) for request in requests]
        first = self.replies(asked)
        wrong = {i: why for i, r in enumerate(first) if (why := self._fault(requests[i], r))}
        self.repairs += len(wrong)
        second = ask_again(first, wrong, asked, self.replies)
        return [
            self._better(requests[i], reply, second[i]) if i in wrong else reply
            for i, reply in enumerate(first)
        ]

    def read(self, request: FeedbackRequest, reply: ChatReply) -> Feedback:
        """The reply as a feedback, quotes without a place left out, or a failed one."""
        found = read_verdict(self.model.name, self.form, reply)
        if isinstance(found, str):
            return self.failed(request, found, reply)
        text = shorten(found.critique.strip(), self.max_chars) if isinstance(found, ArguedMarks) else ""
        aligned = self._aligned(found, request.turn.text)
        self.report += SpanReport.of(aligned, request.turn.text)
        if aligned.unaligned:
            LOG.info(
                "judge %s: %d of %d quotes have no certain place in their answer and make no span",
                self.model.name, len(aligned.unaligned), len(aligned.placed),
            )  # fmt: skip
        spans = tuple(
            s if s.phrase is None or s.phrase in text else s.model_copy(update={"phrase": None})
            for s in aligned.spans
        )
        return Feedback(
            turn=request.index,
            text=text,
            source=self.source,
            score=found.score / TOP_SCORE,
            label=found.label,
            spans=spans,
            saw_reference=self.private,
            provenance=self.provenance(reply),
        )

    def _fault(self, request: FeedbackRequest, reply: ChatReply) -> str | None:
        """What is wrong with a reply that came, for its author; None if nothing is."""
        if reply.error is not None:
            return None
        if wrong := unusable([reply], self.form):
            return wrong[0]
        lost = self._aligned(self.form.model_validate_json(reply.text), request.turn.text).unaligned
        if not lost:
            return None
        told = "; ".join(map(_told, lost[:_SHOWN]))
        return (
            f"{told}. Copy every quote from the answer character by character, and leave out what you cannot"
        )

    def _better(self, request: FeedbackRequest, first: ChatReply, second: ChatReply) -> ChatReply:
        """Of two replies the one with more quotes that have a place, at the price of both."""
        counts = [self._count(request, reply) for reply in (first, second)]
        if counts[0] is None or (counts[1] is not None and counts[1] >= counts[0]):
            return second
        return replace(first, tokens=second.tokens, cost_usd=second.cost_usd)

    def _count(self, request: FeedbackRequest, reply: ChatReply) -> int | None:
        """How many quotes of a reply have a place; None where it is no verdict."""
        found = read_verdict(self.model.name, self.form, reply)
        if isinstance(found, str):
            return None
        aligned = self._aligned(found, request.turn.text)
        return len(aligned.placed) - len(aligned.unaligned)

    def _aligned(self, found: Marks | ArguedMarks, answer: str) -> Alignment:
        critique = found.critique if isinstance(found, ArguedMarks) else ""
        quotes = [_quote(p, "good", critique) for p in found.good_spans]
        quotes += [_quote(p, "poor", critique) for p in found.poor_spans]
        return locate(quotes, answer, self.policy)


def make_judge(
    model: ChatModel, output: str, *, privileged: bool = False, reasoning: bool = True
) -> Judge | SpanJudge:
    """The judge with this form of reply: "text", "json" or "spans".

    Raises:
        UsageError: no such form, or `reasoning` is switched off for one that has a critique at all times.
    """
    if output == "spans":
        return SpanJudge(model, privileged=privileged, reasoning=reasoning)
    if not reasoning:
        raise UsageError(f"feedback.settings.reasoning=false is for output=spans, not {output}: leave it out")
    return Judge(model, privileged=privileged, output=output)


def own_words(phrase: str, critique: str) -> str | None:
    """The critique's own words that a phrase quotes; None where it quotes none."""
    placed = locate([Quote(phrase, "good")], critique, MatchPolicy(repeats="first", fuzzy=False)).spans
    return placed[0].quote if placed else None


def _quote(passage: Passage, label: Literal["good", "poor"], critique: str) -> Quote:
    """A passage with the critique's own words about it, where it has such."""
    phrase = own_words(passage.phrase, critique) if isinstance(passage, ArguedPassage) else None
    return Quote(passage.quote, label, phrase=phrase, before=passage.before or None)


def _told(placed: QuoteMatch) -> str:
    return f"the quote {shorten(placed.quote.text, _SHOWN_CHARS)!r} {_WHY[placed.reason or 'absent']}"
