"""Judges: language models that criticise answers and grade them, with three forms of output.

    text    the critique alone, for models too small to write JSON (the bundled one among them)
    json    `Judge`: a JSON object with critique, score, label and quoted passages
    spans   `SpanJudge`: a critique, then good and poor passages that it supports

JSON replies follow the rules of `llm.structured`: the whole object or none, one repair, and then a failed
feedback without a score.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Generic, Literal, TypeAlias, TypeVar

from pydantic import Field

from didact.errors import UsageError, did_you_mean
from didact.feedback.model_critic import MAX_CHARS, ModelCritic
from didact.feedback_source import FeedbackRequest
from didact.llm.chat import ChatModel, ChatReply
from didact.llm.structured import StrictReply, request_json
from didact.prompts import shorten
from didact.spans import Alignment, MatchPolicy, Quote, QuoteMatch, SpanReport, locate
from didact.spans.match import QuoteError, find_quote
from didact.types import Feedback, Span

LOG = logging.getLogger("didact")
TOP_SCORE = 10
"""Judges score from 0 to this; a feedback's score is the share of it, in [0, 1]."""
MAX_SPANS = 64
"""Passages of one label in one reply."""
Score: TypeAlias = Annotated[float, Field(ge=0, le=TOP_SCORE)]
Grade: TypeAlias = Literal["right", "partly right", "wrong"]
NotBlank: TypeAlias = Annotated[str, Field(pattern=r"\S")]
TEXT_PROMPTS = {False: "critique_v1", True: "judge_text_private_v1"}
JSON_PROMPTS = {False: "judge_v1", True: "judge_private_v1"}
"""By `privileged`."""
SPAN_PROMPTS = {
    (True, False): "spans_v1",
    (True, True): "spans_private_v1",
    (False, False): "spans_only_v1",
    (False, True): "spans_only_private_v1",
}
"""By (reasoning, privileged)."""
_SHOWN, _SHOWN_CHARS = 5, 80
_REASONS = {
    "absent": "does not occur in the answer",
    "ambiguous": 'occurs more than once, so quote more of it or give the words "before" it',
    "blank": "is empty",
}


def make_judge(
    model: ChatModel, output: str, *, privileged: bool = False, reasoning: bool = True
) -> ModelCritic:
    """The judge for a value of the setting `output`: "text", "json" or "spans".

    Args:
        privileged: Show the reference, with the instruction not to reveal it.
        reasoning: Of "spans": a critique comes before the passages.

    Raises:
        UsageError: there is no such output, or `reasoning` is off for one that always has a critique.
    """
    if output == "spans":
        return SpanJudge(model, privileged=privileged, reasoning=reasoning)
    if not reasoning:
        raise UsageError(f"feedback.settings.reasoning=false is for output=spans, not {output}: leave it out")
    if output == "json":
        return Judge(model, privileged=privileged)
    if output == "text":
        return ModelCritic(model, "judge", TEXT_PROMPTS[privileged], private=privileged)
    raise UsageError(f"a judge has no output {output!r}: {did_you_mean(output, ['text', 'json', 'spans'])}")


V = TypeVar("V", bound=StrictReply)


class StructuredJudge(ModelCritic, Generic[V]):
    """A judge that replies with a JSON object."""

    form: type[V]
    repairs: int = 0
    """Replies that were requested a second time."""

    def criticise(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        conversations = [self.messages(request) for request in requests]
        parsed = request_json(
            self.model, conversations, self.form, lambda i, value: self.review(requests[i], value)
        )
        self.repairs += sum(one.repaired for one in parsed)
        return [
            self.failed(request, one.error or "", one.reply)
            if one.value is None
            else self.graded(request, one.value, one.reply)
            for request, one in zip(requests, parsed, strict=True)
        ]

    def review(self, request: FeedbackRequest, value: V) -> tuple[str | None, int]:
        """What is wrong with the content of a valid reply, and its quality; see `request_json`."""
        return None, 0

    def graded(self, request: FeedbackRequest, value: V, reply: ChatReply) -> Feedback:
        """The feedback that a valid reply gives."""
        raise NotImplementedError


class JudgeQuote(StrictReply):
    """A passage of the answer that the judge calls good or poor."""

    quote: Annotated[str, Field(min_length=1)]
    label: Literal["good", "poor"]
    phrase: str


class JudgeVerdict(StrictReply):
    """The reply of `Judge`, before its quotes are looked up.

    >>> JudgeVerdict.model_validate_json('{"critique": "Wrong.", "score": 2, "label": "wrong", "spans": []}')
    JudgeVerdict(critique='Wrong.', score=2.0, label='wrong', spans=[])
    """

    critique: NotBlank
    score: Score
    label: Grade
    spans: Annotated[list[JudgeQuote], Field(max_length=64)]


class Judge(StructuredJudge[JudgeVerdict]):
    """Critiques with a score and quotes of passages, each of which the answer has to hold exactly once."""

    form = JudgeVerdict

    def __init__(self, model: ChatModel, *, privileged: bool = False) -> None:
        super().__init__(model, "judge", JSON_PROMPTS[privileged], private=privileged)

    def graded(self, request: FeedbackRequest, value: JudgeVerdict, reply: ChatReply) -> Feedback:
        spans = []
        for quoted in value.spans:
            phrase = quoted.phrase if quoted.phrase and quoted.phrase in value.critique else None
            try:
                spans.append(find_quote(request.turn.answer, quoted.quote, quoted.label, phrase=phrase))
            except QuoteError:
                continue
        dropped = len(value.spans) - len(spans)
        if dropped:
            LOG.info(
                "judge %s: %d of %d quotes do not occur exactly once in their answer and make no span",
                self.model.name, dropped, len(value.spans),
            )  # fmt: skip
        return _graded(self, request, reply, value, value.critique, spans)


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
    """Critiques with good and poor passages: the dual feedback of Text2Grad (arXiv:2505.22338).

    A quote counts if it has one place in the answer: copied, equal up to typography, or nearly equal
    (`didact.spans`). A reply with any other quote is requested once more, with what was wrong; quotes that
    still have no place make no span and are counted. Without `reasoning`, the paper's ablation, there is no
    critique before the passages, and a feedback has no text.
    """

    def __init__(self, model: ChatModel, *, privileged: bool = False, reasoning: bool = True) -> None:
        super().__init__(model, "judge", SPAN_PROMPTS[reasoning, privileged], private=privileged)
        self.form = marks_form(reasoning)
        self.report = SpanReport()
        """How the quotes of all replies so far were placed."""

    def graded(self, request: FeedbackRequest, value: AnyMarks, reply: ChatReply) -> Feedback:
        critique = value.critique.strip() if isinstance(value, ArguedMarks) else ""
        shown = shorten(critique, MAX_CHARS)
        aligned = _aligned(value, request.turn.answer)
        self.report += SpanReport.of(aligned)
        if aligned.unaligned:
            LOG.info(
                "judge %s: %d of %d quotes have no certain place in their answer and make no span",
                self.model.name, len(aligned.unaligned), len(aligned.matches),
            )  # fmt: skip
        spans = [
            s if s.phrase is None or s.phrase in shown else s.model_copy(update={"phrase": None})
            for s in aligned.spans
        ]
        return _graded(self, request, reply, value, critique, spans)

    def review(self, request: FeedbackRequest, value: AnyMarks) -> tuple[str | None, int]:
        """The quotes without a place, and the number of those with one less those without."""
        aligned = _aligned(value, request.turn.answer)
        lost = aligned.unaligned
        named = "; ".join(map(_named, lost[:_SHOWN]))
        cure = "Copy every quote from the answer character by character, and leave out what you cannot"
        return f"{named}. {cure}" if lost else None, len(aligned.matches) - len(lost)


def _graded(
    judge: ModelCritic,
    request: FeedbackRequest,
    reply: ChatReply,
    value: JudgeVerdict | AnyMarks,
    critique: str,
    spans: Sequence[Span],
) -> Feedback:
    score, label = value.score / TOP_SCORE, value.label
    return judge.feedback(request, reply, text=critique, score=score, label=label, spans=tuple(spans))


def _aligned(marks: AnyMarks, answer: str) -> Alignment:
    critique = marks.critique if isinstance(marks, ArguedMarks) else ""
    quotes = [_quote(p, "good", critique) for p in marks.good_spans]
    quotes += [_quote(p, "poor", critique) for p in marks.poor_spans]
    return locate(quotes, answer)


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
