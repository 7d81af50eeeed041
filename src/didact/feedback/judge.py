"""Judges: language models that criticise answers and grade them.

    TextJudge   the critique alone, for models too small to write JSON (the bundled one among them)
    Judge       a JSON object with critique, score, label and quoted passages
    SpanJudge   (`span_judge`) a critique, then good and poor passages that it supports

JSON replies follow the rules of `llm.structured`: the whole object or none, one repair, and then a failed
feedback without a score.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Generic, Literal, TypeAlias, TypeVar

from pydantic import Field

from didact.feedback.model_critic import MAX_CHARS, ModelCritic
from didact.feedback_source import FeedbackRequest
from didact.llm.chat import ChatModel, ChatReply, ChatRequest
from didact.llm.structured import StrictReply, json_schema, parse, request_again, validation_error
from didact.spans.match import QuoteError, find_quote
from didact.types import Feedback, Span

LOG = logging.getLogger("didact")
TOP_SCORE = 10
"""Judges score from 0 to this; a feedback's score is the share of it, in [0, 1]."""
Score: TypeAlias = Annotated[float, Field(ge=0, le=TOP_SCORE)]
Grade: TypeAlias = Literal["right", "partly right", "wrong"]
NotBlank: TypeAlias = Annotated[str, Field(pattern=r"\S")]
TEXT_PROMPTS = {False: "critique_v1", True: "judge_text_private_v1"}
PROMPTS = {False: "judge_v1", True: "judge_private_v1"}
"""By `privileged`."""


class TextJudge(ModelCritic):
    """A critique in free text.

    Args:
        model: The judge.
        privileged: Show the reference, with the instruction not to reveal it. Without it, the request is
            `critique_messages`, on which the bundled model was trained.
        max_chars: Longer texts are cut in the middle, with a notice.
    """

    def __init__(self, model: ChatModel, *, privileged: bool = False, max_chars: int = MAX_CHARS) -> None:
        super().__init__(model, "judge", TEXT_PROMPTS[privileged], private=privileged, max_chars=max_chars)


V = TypeVar("V", bound=StrictReply)


class StructuredJudge(ModelCritic, Generic[V]):
    """A judge that replies with a JSON object.

    Attributes:
        form: The form of a reply.
        repairs: Replies that were requested a second time.
    """

    form: type[V]
    repairs: int = 0

    def ask(self, request: FeedbackRequest) -> ChatRequest:
        """The request about an answer, with the schema of the reply."""
        return ChatRequest(self.messages(request), json_schema(self.form))

    def answered(self, requests: Sequence[FeedbackRequest]) -> list[ChatReply]:
        """One reply per feedback request, in order; a faulty one is requested a second and last time."""
        asked = [self.ask(request) for request in requests]
        first = self.model.complete(asked)
        faulty = {i: why for i, reply in enumerate(first) if (why := self.fault(requests[i], reply))}
        self.repairs += len(faulty)
        second = request_again(first, faulty, asked, self.model.complete)
        for i in faulty:
            second[i] = self.better(requests[i], first[i], second[i])
        return second

    def read(self, request: FeedbackRequest, reply: ChatReply) -> Feedback:
        """A reply as a feedback, or a failed feedback that quotes the beginning of the reply."""
        parsed = parse(self.model.name, self.form, reply)
        if parsed.value is None:
            return self.failed(request, parsed.error or "", reply)
        return self.graded(request, parsed.value, reply)

    def fault(self, request: FeedbackRequest, reply: ChatReply) -> str | None:
        """What is wrong with a reply, for the request that repairs it; None if it is good or missing."""
        return validation_error(self.form, reply)

    def better(self, request: FeedbackRequest, first: ChatReply, second: ChatReply) -> ChatReply:
        """Which of a faulty reply and its repair counts; `second` has the cost of both."""
        return second

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
    """Critiques with a score and with quotes of passages, each of which the answer has to hold exactly once.

    Args:
        model: The judge.
        privileged: Show the reference, with the instruction not to reveal it.
        max_chars: Longer texts are cut in the middle, with a notice.

    Attributes:
        quotes: Quotes in all replies so far.
        dropped_quotes: Those that do not occur exactly once in their answer; they make no span.
    """

    form = JudgeVerdict

    def __init__(self, model: ChatModel, *, privileged: bool = False, max_chars: int = MAX_CHARS) -> None:
        super().__init__(model, "judge", PROMPTS[privileged], private=privileged, max_chars=max_chars)
        self.quotes = self.dropped_quotes = 0

    def graded(self, request: FeedbackRequest, value: JudgeVerdict, reply: ChatReply) -> Feedback:
        """The verdict as a feedback."""
        spans = self._spans(value, request.turn.text)
        return self.feedback(
            request, reply, text=value.critique, score=value.score / TOP_SCORE, label=value.label, spans=spans
        )

    def _spans(self, verdict: JudgeVerdict, answer: str) -> tuple[Span, ...]:
        spans = []
        for quoted in verdict.spans:
            phrase = quoted.phrase if quoted.phrase and quoted.phrase in verdict.critique else None
            try:
                spans.append(find_quote(answer, quoted.quote, quoted.label, phrase=phrase))
            except QuoteError:
                continue
        dropped = len(verdict.spans) - len(spans)
        self.quotes += len(verdict.spans)
        self.dropped_quotes += dropped
        if dropped:
            LOG.info(
                "judge %s: %d of %d quotes do not occur exactly once in their answer and make no span",
                self.model.name, dropped, len(verdict.spans),
            )  # fmt: skip
        return tuple(spans)
