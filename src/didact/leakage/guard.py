"""The leak meter with a model as second opinion, and the guard between a feedback source and a method."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from pydantic import ValidationError

from didact.errors import TrainingGuard, UsageError, did_you_mean
from didact.feedback_source import (
    FeedbackRequest,
    FeedbackSource,
    answer_alone,
    critiques_correct_answers,
    in_completion,
)
from didact.leakage.detect import find_leak, leak
from didact.leakage.query import Leak, LeakQuery
from didact.llm.chat import ChatModel, ChatRequest, ask
from didact.llm.structured import StrictReply, json_schema
from didact.prompts import conversation_text, load_prompt, shorten
from didact.types import Feedback

LOG = logging.getLogger("didact")
LeakPolicy: TypeAlias = Literal["keep", "redact", "drop", "fail"]
BLANK = "[…]"
"""Replaces a leak that was cut out."""
JUDGED_CHARS = 20_000
"""A judge sees longer texts cut in the middle; the rules always read the whole text."""
_ROUNDS = 8


class LeakJudgment(StrictReply):
    """A judge's reply.

    >>> LeakJudgment.model_validate_json('{"leaks": true, "quote": "twelve"}').quote
    'twelve'
    """

    leaks: bool
    quote: str


class LeakMeter:
    """Finds leaks by rules, and asks a model about critiques without one.

    The judge cannot overrule the rules, because it reads the critique and might be manipulated by it.

    Args:
        judge: A second opinion; None for the rules alone.

    Attributes:
        unjudged: Critiques for which the judge gave no valid reply; the rules decide those.
    """

    def __init__(self, judge: ChatModel | None = None) -> None:
        self.judge = judge
        self.unjudged = 0

    def measure(self, queries: Sequence[LeakQuery]) -> list[Leak]:
        """One result per query, in order.

        Raises:
            UsageError: the judge cannot answer, for example because the server refuses the API key.
        """
        found = [find_leak(query) for query in queries]
        if self.judge is None:
            return found
        open_ = [i for i, query in enumerate(queries) if not found[i].leaks and not query.is_empty]
        replies = ask(self.judge, [_request(queries[i]) for i in open_])
        for i, reply in zip(open_, replies, strict=True):
            try:
                judgment = None if reply.error is not None else LeakJudgment.model_validate_json(reply.text)
            except ValidationError:
                judgment = None
            if judgment is None:
                self.unjudged += 1
                LOG.warning("leak judge %s: %s", self.judge.name, reply.error or "no valid reply")
            elif judgment.leaks:
                found[i] = _judged(queries[i].critique.source, judgment.quote, found[i].overlap)
        return found


def _request(query: LeakQuery) -> ChatRequest:
    """The request to the judge about a critique, with every text as data."""
    messages = load_prompt("leak_v1").messages(
        JUDGED_CHARS,
        question=query.question.source,
        reference=query.reference,
        answer=query.answer.source,
        critique=query.critique.source,
    )
    return ChatRequest(messages, json_schema(LeakJudgment))


def _judged(critique: str, quote: str, overlap: float) -> Leak:
    """A judge's leak; if the critique does not hold the quote, the whole critique is the evidence."""
    start = critique.find(quote) if quote.strip() else -1
    span = (start, start + len(quote)) if start >= 0 else (0, len(critique))
    return Leak.at("judge", critique, [span], overlap)


class LeakGuard:
    """Wraps a source: marks every critique that states the answer, and handles it by a policy.

    keep     only marks: `leaks` is True or False
    redact   replaces the leak by "[…]"; a critique that still leaks is dropped
    drop     turns the critique into a failed feedback, which leaves every baseline and loss
    fail     stops the run

    `leaks` is about the critique as the source wrote it, before redaction. A failed feedback, and one on a
    problem without a reference, is not changed and has `leaks` None.

    Args:
        policy: How a leak is handled.
        meter: Finds the leaks; the rules alone by default.
        thoughts: Show the source the thoughts before an answer too. A source with the attribute
            `reads_completions` always gets them.

    Attributes:
        counts: The number of critiques "measured" and "leaked", and of these "redacted" or "dropped".
    """

    def __init__(
        self,
        source: FeedbackSource,
        policy: LeakPolicy = "keep",
        meter: LeakMeter | None = None,
        *,
        thoughts: bool = False,
    ) -> None:
        if policy not in get_args(LeakPolicy):
            raise UsageError(
                f"there is no leak policy {policy!r}: {did_you_mean(str(policy), get_args(LeakPolicy))}"
            )
        self.source = source
        self._whole = thoughts or getattr(source, "reads_completions", False)
        self.policy = policy
        self.meter = meter or LeakMeter()
        self.counts: Counter[str] = Counter()

    @property
    def critiques_correct_answers(self) -> bool:
        return critiques_correct_answers(self.source)

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback per request, in order, marked and handled by the policy.

        Raises:
            TrainingGuard: a critique leaks and the policy is "fail".
            UsageError: the source or the judge cannot answer.
        """
        written = self.source.critique([answer_alone(request, whole=self._whole) for request in requests])
        guarded = list(written if self._whole else map(in_completion, written, requests))
        pairs = enumerate(zip(requests, guarded, strict=True))
        queries = {
            i: LeakQuery(f.text, r.problem.reference, conversation_text(r.problem), r.turn.answer)
            for i, (r, f) in pairs
            if f.ok and r.problem.reference is not None
        }
        leaks = self.meter.measure(list(queries.values()))
        for (i, query), found in zip(queries.items(), leaks, strict=True):
            guarded[i] = self._handle(requests[i], guarded[i], query, found)
        return guarded

    def _handle(
        self, request: FeedbackRequest, feedback: Feedback, query: LeakQuery, found: Leak
    ) -> Feedback:
        self.counts["measured"] += 1
        if not found.leaks:
            return feedback.model_copy(update={"leaks": False})
        self.counts["leaked"] += 1
        if self.policy == "fail":
            raise TrainingGuard(
                f"the feedback on problem {request.problem.id!r} (turn {request.index}, by "
                f"{feedback.provenance.author}) states the answer ({found.kind}): "
                f"{shorten(found.quote, 200)!r}. "
                "Mend the source, or set the leak policy to redact, drop or keep."
            )
        marked = feedback.model_copy(update={"leaks": True})
        if self.policy == "keep":
            return marked
        text = _redacted(query, found) if self.policy == "redact" else None
        if text is None:
            self.counts["dropped"] += 1
            error = f"dropped: its text states the answer ({found.kind})"
            nothing = {"text": "", "spans": (), "score": None, "label": None}
            failure = {"status": "failed", "error": error, "error_kind": "leak"}
            return marked.model_copy(update={**nothing, **failure})
        self.counts["redacted"] += 1
        # A span quotes the answer, but its phrase quotes the critique as it was.
        spans = tuple(
            s if s.phrase is None or s.phrase in text else s.model_copy(update={"phrase": None})
            for s in feedback.spans
        )
        return marked.model_copy(update={"text": text, "spans": spans})


def _redacted(query: LeakQuery, found: Leak) -> str | None:
    """The critique without its leaks; None if it still leaks, or if nothing is left."""
    text = query.critique.source
    for _ in range(_ROUNDS):
        for evidence in reversed(found.evidence):
            text = text[: evidence.start] + BLANK + text[evidence.end :]
        if not any(c.isalnum() for c in text):
            return None
        found = leak(text, query.reference, question=query.question.source, answer=query.answer.source)
        if not found.leaks:
            return text
    return None
