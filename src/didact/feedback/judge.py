"""A judge: a language model that criticises answers.

Two forms of reply:

    json   a verdict: critique, score, label and quoted spans, checked strictly
    text   the critique alone, for models too small to write JSON (the bundled one among them)

A verdict is the whole reply or none of it. What does not fit the form is asked for once more, with
what was wrong, and is then a failed feedback that keeps the reply. Nothing is guessed out of prose,
and a failure is never a score. A quote counts only if the answer holds it exactly once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from didact.errors import UsageError, did_you_mean
from didact.feedback.model_critic import MAX_CHARS, ModelCritic
from didact.feedback.verdicts import StrictVerdict, ask_again, read_verdict, unusable
from didact.feedback_source import FeedbackRequest
from didact.llm.chat import ChatModel, ChatReply, ChatRequest
from didact.prompts import shorten
from didact.spans.quotes import QuoteError, find_quote
from didact.types import Feedback, Span

LOG = logging.getLogger("didact")
TOP_SCORE = 10
"""A judge scores from 0 to this; a feedback's score is the share of it, in [0, 1]."""
PROMPTS = {
    ("json", False): "judge_v1",
    ("json", True): "judge_private_v1",
    ("text", False): "critique_v1",
    ("text", True): "judge_text_private_v1",
}


class Quote(StrictVerdict):
    """A passage of the answer that the judge calls good or poor."""

    quote: Annotated[str, Field(min_length=1)]
    label: Literal["good", "poor"]
    phrase: str


class Verdict(StrictVerdict):
    """A judge's reply, before its quotes are looked up.

    >>> Verdict.model_validate_json('{"critique": "Wrong.", "score": 2, "label": "wrong", "spans": []}').score
    2.0
    """

    critique: Annotated[str, Field(pattern=r"\S")]
    score: Annotated[float, Field(ge=0, le=TOP_SCORE)]
    label: Literal["right", "partly right", "wrong"]
    spans: Annotated[list[Quote], Field(max_length=64)]


# By hand: servers take a small part of JSON schema only, and "strict" wants every key required.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "critique": {"type": "string"},
        "score": {"type": "number"},
        "label": {"type": "string", "enum": ["right", "partly right", "wrong"]},
        "spans": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "quote": {"type": "string"},
                    "label": {"type": "string", "enum": ["good", "poor"]},
                    "phrase": {"type": "string"},
                },
                "required": ["quote", "label", "phrase"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["critique", "score", "label", "spans"],
    "additionalProperties": False,
}
"""The form of a verdict, for servers that can hold a model to it."""


class Judge(ModelCritic):
    """Critiques by any chat model: a server's, or an engine's in this process.

    Args:
        model: Who judges.
        privileged: The judge sees the reference, and is told not to reveal it.
        output: "json" for verdicts, "text" for the critique alone. Without the reference, "text" asks
            with `critique_messages`, the request that the bundled model was trained on.
        max_chars: Longer texts are cut in the middle, with a notice.

    Attributes:
        repairs: Verdicts that were asked for a second time.
        quotes: Quotes that the judge gave.
        dropped_quotes: Those that the answer does not hold exactly once; they make no span.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        privileged: bool = False,
        output: str = "json",
        max_chars: int = MAX_CHARS,
    ) -> None:
        if (output, privileged) not in PROMPTS:
            hint = did_you_mean(str(output), ["json", "text"])
            raise UsageError(f"a judge has no output {output!r}: {hint}")
        prompt = PROMPTS[output, privileged]
        super().__init__(model, "judge", prompt, private=privileged, max_chars=max_chars)
        self.output = output
        self.repairs = self.quotes = self.dropped_quotes = 0

    def ask(self, request: FeedbackRequest) -> ChatRequest:
        """The request for a verdict, or for a critique in free text."""
        return ChatRequest(self.messages(request), SCHEMA if self.output == "json" else None)

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback a request, in order. A verdict that is unusable is asked for once more.

        Raises:
            UsageError: no request can ever succeed, as with a key that the server refuses.
        """
        quotes, dropped = self.quotes, self.dropped_quotes
        written = super().critique(requests)
        quotes, dropped = self.quotes - quotes, self.dropped_quotes - dropped
        if dropped:
            LOG.info(
                "judge %s: %d of %d quotes do not stand exactly once in their answer and make no span",
                self.model.name, dropped, quotes,
            )  # fmt: skip
        return written

    def replies(self, asked: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply a request, those that are no verdict asked for a second and last time."""
        replies = super().replies(asked)
        if self.output == "text":
            return replies
        wrong = unusable(replies, Verdict)
        self.repairs += len(wrong)
        return ask_again(replies, wrong, asked, super().replies)

    def read(self, request: FeedbackRequest, reply: ChatReply) -> Feedback:
        """The verdict in a reply as a feedback, or a failed one that keeps the reply's beginning."""
        if self.output == "text" or reply.error is not None:
            return super().read(request, reply)
        verdict = read_verdict(self.model.name, Verdict, reply)
        if isinstance(verdict, str):
            return self.failed(request, verdict, reply)
        return Feedback(
            turn=request.index,
            text=shorten(verdict.critique.strip(), self.max_chars),
            source=self.source,
            score=verdict.score / TOP_SCORE,
            label=verdict.label,
            spans=self._spans(verdict, request.turn.text),
            saw_reference=self.private,
            provenance=self.provenance(reply),
        )

    def _spans(self, verdict: Verdict, answer: str) -> tuple[Span, ...]:
        spans = []
        for quoted in verdict.spans:
            phrase = quoted.phrase if quoted.phrase and quoted.phrase in verdict.critique else None
            self.quotes += 1
            try:
                spans.append(find_quote(answer, quoted.quote, quoted.label, phrase=phrase))
            except QuoteError:
                self.dropped_quotes += 1
        return tuple(spans)
