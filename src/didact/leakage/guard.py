"""The meter, with a model as second opinion, and the guard that stands between a source and a method."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from didact.errors import TrainingGuard, UsageError, did_you_mean
from didact.feedback_source import FeedbackRequest, FeedbackSource, critiques_correct_answers
from didact.leakage.detect import leak
from didact.leakage.result import Leak
from didact.llm.chat import ChatModel, ChatRequest
from didact.prompts import conversation_text, load_prompt, shorten
from didact.types import Feedback, Message

LOG = logging.getLogger("didact")
LeakPolicy: TypeAlias = Literal["keep", "redact", "drop", "fail"]
BLANK = "[…]"
"""Stands where a leak was cut out."""
JUDGED_CHARS = 20_000
"""A judge sees longer texts cut in the middle; the rules always read the whole."""
_ROUNDS = 8


@dataclass(frozen=True)
class FeedbackRecord:
    """A critique with all that decides whether it leaks."""

    critique: str
    reference: str
    question: str = ""
    answer: str = ""


class Opinion(BaseModel):
    """A judge's reply.

    >>> Opinion.model_validate_json('{"leaks": true, "quote": "twelve"}').quote
    'twelve'
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    leaks: bool
    quote: str


SCHEMA = {
    "type": "object",
    "properties": {"leaks": {"type": "boolean"}, "quote": {"type": "string"}},
    "required": ["leaks", "quote"],
    "additionalProperties": False,
}


class LeakMeter:
    """Measures leaks by rules, and asks a model about what the rules let pass.

    What the rules find stands: a text under judgement cannot talk its judge out of it.

    Args:
        judge: A second opinion; None for the rules alone.

    Attributes:
        unjudged: Critiques that the judge was asked about without a usable reply; the rules decide those.
    """

    def __init__(self, judge: ChatModel | None = None) -> None:
        self.judge = judge
        self.unjudged = 0

    def measure(self, said: Sequence[FeedbackRecord]) -> list[Leak]:
        """One finding a critique, in order.

        Raises:
            UsageError: the judge can never answer, as with a key that the server refuses.
        """
        found = [
            leak(s.critique, s.reference, question=s.question, answer=s.answer)
            if s.critique.strip()
            else Leak.none()
            for s in said
        ]
        open_ = [i for i, (s, f) in enumerate(zip(said, found, strict=True)) if not f.leaks and _askable(s)]
        if self.judge is None or not open_:
            return found
        replies = self.judge.complete([self.ask(said[i]) for i in open_])
        for i, reply in zip(open_, replies, strict=True):
            opinion = None if reply.error is not None else _opinion(reply.text)
            if opinion is None:
                self.unjudged += 1
                LOG.warning("leak judge %s: %s", self.judge.name, reply.error or "no usable reply")
            elif opinion.leaks:
                found[i] = _second(said[i].critique, opinion.quote, found[i].overlap)
        return found

    def ask(self, said: FeedbackRecord) -> ChatRequest:
        """What the judge is asked about a critique; every text is data in it."""
        texts = {
            "question": said.question,
            "reference": said.reference,
            "answer": said.answer,
            "critique": said.critique,
        }
        content = load_prompt("leak_v1").fenced(**{k: shorten(v, JUDGED_CHARS) for k, v in texts.items()})
        return ChatRequest((Message(role="user", content=content),), SCHEMA)


def _askable(said: FeedbackRecord) -> bool:
    return bool(said.critique.strip() and said.reference.strip())


def _opinion(text: str) -> Opinion | None:
    try:
        return Opinion.model_validate_json(text)
    except ValidationError:
        return None


def _second(critique: str, quote: str, overlap: float) -> Leak:
    """A judge's leak; a quote that the critique does not hold counts as all of it."""
    start = critique.find(quote) if quote.strip() else -1
    span = (start, start + len(quote)) if start >= 0 else (0, len(critique))
    return Leak.at("judge", critique, [span], max(overlap, 0.0))


class LeakGuard:
    """Wraps a source: marks every critique that states the answer, and acts on it.

    keep     only marks: `leaks` is True or False
    redact   puts "[…]" in the answer's place; a critique that still gives it away is dropped
    drop     makes it a failed feedback, which leaves every baseline and loss
    fail     stops

    `leaks` says what the source wrote, before anything was cut out of it. A failed feedback, and one on a
    problem without a reference, stays as it is, with `leaks` None.

    Args:
        source: Who writes the critiques.
        policy: What happens to a leak.
        meter: Who finds it; the rules alone by default.

    Attributes:
        counts: How many critiques were "measured" and "leaked", of which "redacted" or "dropped".
    """

    def __init__(
        self, source: FeedbackSource, policy: LeakPolicy = "keep", meter: LeakMeter | None = None
    ) -> None:
        if policy not in get_args(LeakPolicy):
            raise UsageError(
                f"there is no leak policy {policy!r}: {did_you_mean(str(policy), get_args(LeakPolicy))}"
            )
        self.source = source
        self.policy = policy
        self.meter = meter or LeakMeter()
        self.counts: Counter[str] = Counter()

    @property
    def critiques_correct_answers(self) -> bool:
        return critiques_correct_answers(self.source)

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback a request, in order, marked and acted on.

        Raises:
            TrainingGuard: a critique leaks and the policy is "fail".
            UsageError: the source or the judge can never answer.
        """
        written = self.source.critique(requests)
        pairs = zip(requests, written, strict=True)
        places = [i for i, (r, f) in enumerate(pairs) if f.ok and r.problem.reference is not None]
        said = [_said(requests[i], written[i].text) for i in places]
        guarded = list(written)
        for i, s, found in zip(places, said, self.meter.measure(said), strict=True):
            guarded[i] = self._act(requests[i], written[i], s, found)
        return guarded

    def _act(
        self, request: FeedbackRequest, feedback: Feedback, said: FeedbackRecord, found: Leak
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
        text = self._redacted(said, found) if self.policy == "redact" else None
        if text is None:
            self.counts["dropped"] += 1
            error = f"dropped: its text states the answer ({found.kind})"
            nothing = {"text": "", "spans": (), "score": None, "label": None}
            failure = {"status": "failed", "error": error, "error_kind": "leak"}
            return marked.model_copy(update={**nothing, **failure})
        self.counts["redacted"] += 1
        # A span quotes the answer, but its phrase the critique as it was.
        spans = tuple(
            s if s.phrase is None or s.phrase in text else s.model_copy(update={"phrase": None})
            for s in feedback.spans
        )
        return marked.model_copy(update={"text": text, "spans": spans})

    def _redacted(self, said: FeedbackRecord, found: Leak) -> str | None:
        """The critique without its leaks; None where it leaks all the same, or nothing is left."""
        text = said.critique
        for _ in range(_ROUNDS):
            for evidence in reversed(found.evidence):
                text = text[: evidence.start] + BLANK + text[evidence.end :]
            if not any(c.isalnum() for c in text):
                return None
            found = leak(text, said.reference, question=said.question, answer=said.answer)
            if not found.leaks:
                return text
        return None


def _said(request: FeedbackRequest, critique: str) -> FeedbackRecord:
    reference = request.problem.reference or ""
    return FeedbackRecord(critique, reference, conversation_text(request.problem), request.turn.text)
