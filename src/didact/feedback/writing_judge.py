"""Judges of writing, for tasks without a verifier: a rubric score, and pairwise comparison in both orders.

    RubricJudge   scores a piece from 1 to 10 with a critique; one reply is both reward and feedback
    PairJudge     decides which of two pieces is better, in both orders, so that a preference for the first
                  position cancels out and can be measured (`symmetry`)

The prompts' rubric is our own: the paper (RLTF, arXiv:2602.02482) names a 1–10 scale for LitBench and did
not release its judge. A failed verdict is missing: no reward, no preference, and never a 0.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from didact.errors import UsageError
from didact.feedback.judge import NotBlank
from didact.feedback.model_critic import MAX_CHARS, failure_kind, reply_provenance
from didact.feedback_source import FeedbackRequest
from didact.llm.chat import ChatModel, ChatReply
from didact.llm.structured import Parsed, StrictReply, request_json
from didact.prompts import conversation_text, load_prompt, shorten
from didact.tasks.base import Verdict
from didact.types import Feedback, Problem

LOWEST, HIGHEST = 1, 10
"""The rubric's scale."""
KEPT_RATINGS = 4096
"""Ratings that are kept in memory, so that a critique of a scored piece needs no second request."""


class RubricVerdict(StrictReply):
    """A rubric judge's reply.

    >>> RubricVerdict.model_validate_json('{"critique": "The end is rushed.", "score": 6}').score
    6
    """

    critique: NotBlank
    score: Annotated[int, Field(ge=LOWEST, le=HIGHEST)]


EMPTY = RubricVerdict(critique="The piece is empty: write what was asked for.", score=LOWEST)
"""The verdict on an empty piece."""


class PairVerdict(StrictReply):
    """A pairwise judge's reply.

    >>> PairVerdict.model_validate_json('{"reason": "Sharper.", "winner": "first"}').winner
    'first'
    """

    reason: str
    winner: Literal["first", "second", "tie"]


class RubricJudge:
    """Scores pieces of writing with a chat model; a scorer for `WritingTask` and a feedback source.

    A rating is a feedback: its score is (s − 1) / 9 of the rubric's score s. An empty piece has the lowest
    score, without a request.

    Args:
        good: The lowest rubric score of a correct piece, which ends a two-turn dialogue early.
        max_chars: Longer texts are cut in the middle, with a notice.

    Raises:
        UsageError: `good` is off the scale.
    """

    def __init__(self, model: ChatModel, *, good: int = 9, max_chars: int = MAX_CHARS) -> None:
        if not LOWEST < good <= HIGHEST:
            raise UsageError(f"good must be a score from {LOWEST + 1} to {HIGHEST}, not {good}")
        self.model, self.good, self.max_chars = model, good, max_chars
        self.prompt = load_prompt("writing_rubric_v1")
        self._kept = OrderedDict[str, Feedback]()

    def rate(self, asked: Sequence[tuple[Problem, str]]) -> list[Feedback]:
        """One rating per (problem, piece), in order; equal pairs are requested once.

        Raises:
            UsageError: no request can succeed, for example because the server refuses the API key.
        """
        keys = [_key(problem, piece) for problem, piece in asked]
        new = {
            key: self.prompt.messages(self.max_chars, question=conversation_text(problem), answer=piece)
            for key, (problem, piece) in zip(keys, asked, strict=True)
            if key not in self._kept and piece.strip()
        }
        parsed = request_json(self.model, list(new.values()), RubricVerdict)
        fresh = {key: self._rating(one) for key, one in zip(new, parsed, strict=True)}
        self._kept.update({key: rating for key, rating in fresh.items() if rating.ok})
        for key in keys:
            if key in self._kept:
                self._kept.move_to_end(key)
        empty = self._rating(Parsed(EMPTY, ChatReply(), None))
        ratings = [fresh.get(key) or self._kept.get(key) or empty for key in keys]
        while len(self._kept) > KEPT_RATINGS:  # the least recently used go first
            self._kept.popitem(last=False)
        return ratings

    def score(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict per (problem, piece), in order; no reward if the judge failed."""
        return [self.verdict(rating) for rating in self.rate(asked)]

    def verdict(self, rating: Feedback) -> Verdict:
        """A rating as a verifier's verdict."""
        good = rating.score is not None and rating.score >= _reward(self.good)
        return Verdict(rating.score, good, rating.error)

    def knows(self, problem: Problem, piece: str) -> bool:
        """Whether the rating of this piece is kept, so that it costs no request."""
        return _key(problem, piece) in self._kept

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback per request, in order: the rating of the piece."""
        ratings = self.rate([(request.problem, request.turn.answer) for request in requests])
        pairs = zip(requests, ratings, strict=True)
        return [rating.model_copy(update={"turn": request.index}) for request, rating in pairs]

    def _rating(self, parsed: Parsed[RubricVerdict]) -> Feedback:
        verdict, reply = parsed.value, parsed.reply
        return Feedback(
            text="" if verdict is None else shorten(verdict.critique.strip(), self.max_chars),
            source="judge",
            score=None if verdict is None else _reward(verdict.score),
            status="failed" if verdict is None else "ok",
            error=parsed.error,
            error_kind=failure_kind(reply) if verdict is None else None,
            saw_reference=False,
            provenance=reply_provenance(f"{self.model.name}:{self.prompt.label}", reply),
        )


def _reward(score: int) -> float:
    """A rubric score in [0, 1]."""
    return (score - LOWEST) / (HIGHEST - LOWEST)


class Pair(NamedTuple):
    """Two pieces on one task."""

    problem: Problem
    a: str
    b: str


class PairComparison(NamedTuple):
    """A pairwise judge's verdicts on one pair, in both orders: 1 for a, 0 for b and ½ for a tie."""

    a_first: float | None
    """With a in the first position; None if the verdict failed."""
    b_first: float | None
    tokens: int
    """Tokens that the judge generated."""
    cost_usd: float

    @property
    def preference(self) -> float | None:
        """How far a is preferred, in [0, 1]: the mean of both orders; None unless both succeeded."""
        if self.a_first is None or self.b_first is None:
            return None
        return (self.a_first + self.b_first) / 2


class PairJudge:
    """Compares two pieces on one task, always in both orders; longer texts than `max_chars` are cut."""

    def __init__(self, model: ChatModel, *, max_chars: int = MAX_CHARS) -> None:
        self.model, self.max_chars = model, max_chars
        self.prompt = load_prompt("writing_pair_v1")

    def compare(self, pairs: Sequence[Pair]) -> list[PairComparison]:
        """One comparison per pair, in order.

        Raises:
            UsageError: no request can succeed, for example because the server refuses the API key.
        """
        orders = [(p.problem, *pieces) for p in pairs for pieces in ((p.a, p.b), (p.b, p.a))]
        asked = [
            self.prompt.messages(self.max_chars, question=conversation_text(problem), first=one, second=two)
            for problem, one, two in orders
        ]
        parsed = request_json(self.model, asked, PairVerdict)
        return [_comparison(*parsed[i : i + 2]) for i in range(0, len(parsed), 2)]


class Symmetry(NamedTuple):
    """How little a pairwise judge depends on the order, over the pairs with a verdict in both."""

    share: float | None
    """Of these pairs with the same verdict in both orders, in [0, 1]; None without any."""
    bias: float | None
    """(first − second) / (first + second) of the verdicts for each position, in [−1, 1]; None without any."""


def symmetry(comparisons: Sequence[PairComparison]) -> Symmetry:
    """Measure how often verdicts survive the swap, and which position wins."""
    both = [(c.a_first, c.b_first) for c in comparisons if c.preference is not None]
    first = sum((a == 1) + (b == 0) for a, b in both)
    second = sum((a == 0) + (b == 1) for a, b in both)
    return Symmetry(
        share=sum(a == b for a, b in both) / len(both) if both else None,
        bias=(first - second) / (first + second) if first + second else None,
    )


def _comparison(a_first: Parsed[PairVerdict], b_first: Parsed[PairVerdict]) -> PairComparison:
    value = {"first": 1.0, "tie": 0.5, "second": 0.0}
    both = (a_first, b_first)
    return PairComparison(
        None if a_first.value is None else value[a_first.value.winner],
        None if b_first.value is None else 1 - value[b_first.value.winner],
        sum(parsed.reply.tokens for parsed in both),
        sum(parsed.reply.cost_usd for parsed in both),
    )


def _key(problem: Problem, piece: str) -> str:
    texts = "\x1f".join([*(f"{m.role}\x1e{m.content}" for m in problem.messages), piece])
    return hashlib.sha256(texts.encode("utf-8", "surrogatepass")).hexdigest()
