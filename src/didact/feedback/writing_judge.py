"""Judges of writing, where no verifier knows the answer: a rubric's score, and pairs compared in both orders.

RubricJudge   scores a piece from 1 to 10 and says why; a task's reward and its critique in one reply
PairJudge     says which of two pieces is better, asked in both orders, so that a liking for the first
              place cancels out and can be measured (`symmetry`)

The prompts' rubric is our own: the paper (RLTF, arXiv:2602.02482) names a 1–10 scale for LitBench and did
not release its judge. A verdict that failed is missing: no reward, no preference, and never a 0.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from didact.errors import UsageError
from didact.feedback.model_critic import MAX_CHARS, failure_kind
from didact.feedback.verdicts import Asked, StrictVerdict, ask
from didact.feedback_source import FeedbackRequest
from didact.llm.chat import ChatModel, ChatReply
from didact.prompts import conversation_text, load_prompt, shorten
from didact.tasks.base import Verdict
from didact.types import ErrorKind, Feedback, Problem, Provenance

LOWEST, HIGHEST = 1, 10
"""The rubric's scale."""
KEPT_RATINGS = 4096
"""Ratings that are kept, so that a critic is not asked again what the verifier was told."""


class RubricVerdict(StrictVerdict):
    """A rubric judge's reply.

    >>> RubricVerdict.model_validate_json('{"critique": "The end is rushed.", "score": 6}').score
    6
    """

    critique: Annotated[str, Field(pattern=r"\S")]
    score: Annotated[int, Field(ge=LOWEST, le=HIGHEST)]


class PairVerdict(StrictVerdict):
    """A pairwise judge's reply.

    >>> PairVerdict.model_validate_json('{"reason": "Sharper.", "winner": "first"}').winner
    'first'
    """

    reason: str
    winner: Literal["first", "second", "tie"]


def _schema(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


# By hand: servers take a small part of JSON schema only, and "strict" wants every key required.
RUBRIC_SCHEMA = _schema(critique={"type": "string"}, score={"type": "integer"})
PAIR_SCHEMA = _schema(
    reason={"type": "string"}, winner={"type": "string", "enum": ["first", "second", "tie"]}
)


@dataclass(frozen=True)
class Rating:
    """What a rubric judge said about one piece.

    Attributes:
        score: From 1 to 10; None where the verdict failed.
        critique: Why; empty where the verdict failed.
        error: Why there is no score; None when there is one.
        error_kind: The kind of `error`.
        provenance: Who said it, and at what cost.
    """

    score: int | None
    critique: str
    error: str | None
    provenance: Provenance
    error_kind: ErrorKind | None = None

    @property
    def reward(self) -> float | None:
        """(score − 1) / 9, in [0, 1]; None where the verdict failed."""
        return None if self.score is None else (self.score - LOWEST) / (HIGHEST - LOWEST)


class RubricJudge:
    """Scores pieces of writing with a chat model; a scorer for `WritingTask` and a feedback source.

    An empty piece is nobody's to judge: it has the lowest score, and the model is not asked.

    Args:
        model: Who judges.
        good: From this score on a piece counts as right, which ends a two-turn dialogue early.
        max_chars: Longer texts are cut in the middle, with a notice.

    Raises:
        UsageError: `good` is off the scale, or `max_chars` below 1.
    """

    def __init__(self, model: ChatModel, *, good: int = 9, max_chars: int = MAX_CHARS) -> None:
        if not LOWEST < good <= HIGHEST:
            raise UsageError(f"good must be a score from {LOWEST + 1} to {HIGHEST}, not {good}")
        if max_chars < 1:
            raise UsageError(f"max_chars must be at least 1, not {max_chars}")
        self.model, self.good, self.max_chars = model, good, max_chars
        self.prompt = load_prompt("writing_rubric_v1")
        self._known = OrderedDict[str, Rating]()

    def rate(self, asked: Sequence[tuple[Problem, str]]) -> list[Rating]:
        """One rating for each (problem, piece), in order; equal questions are asked once.

        Raises:
            UsageError: no request can ever succeed, as with a key that the server refuses.
        """
        keys = [_key(problem, piece) for problem, piece in asked]
        new = {
            key: (problem, piece)
            for key, (problem, piece) in zip(keys, asked, strict=True)
            if key not in self._known and piece.strip()
        }
        prompts = [self._prompt(problem, piece) for problem, piece in new.values()]
        found = ask(self.model, prompts, RubricVerdict, RUBRIC_SCHEMA)
        fresh = {key: self._rating(one) for key, one in zip(new, found, strict=True)}
        for key, rating in fresh.items():
            if rating.error is None:  # a failure may succeed the next time
                self._known[key] = rating
        for key in keys:
            if key in self._known:  # what was used last is kept longest
                self._known.move_to_end(key)
        ratings = [fresh.get(key) or self._known.get(key) or self._rating(None) for key in keys]
        while len(self._known) > KEPT_RATINGS:
            self._known.popitem(last=False)
        return ratings

    def score(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each (problem, piece), in order; no reward where the judge failed."""
        return [self.verdict(rating) for rating in self.rate(asked)]

    def verdict(self, rating: Rating) -> Verdict:
        """A rating as a verifier's verdict."""
        good = rating.score is not None and rating.score >= self.good
        return Verdict(rating.reward, good, rating.error)

    def knows(self, problem: Problem, piece: str) -> bool:
        """Has it rated this piece, so that it need not be asked again?"""
        return _key(problem, piece) in self._known

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback a request, in order: the rating's own words, which are asked for once only."""
        ratings = self.rate([(request.problem, request.turn.text) for request in requests])
        return [
            Feedback(
                turn=request.index,
                text=rating.critique,
                source="judge",
                score=rating.reward,
                status="ok" if rating.error is None else "failed",
                error=rating.error,
                error_kind=rating.error_kind,
                saw_reference=False,
                provenance=rating.provenance,
            )
            for request, rating in zip(requests, ratings, strict=True)
        ]

    def _prompt(self, problem: Problem, piece: str) -> str:
        question = shorten(conversation_text(problem), self.max_chars)
        return self.prompt.fenced(question=question, answer=shorten(piece, self.max_chars))

    def _rating(self, asked: Asked[RubricVerdict] | None) -> Rating:
        """A rating from a reply; of an empty piece where nothing was asked."""
        reply = ChatReply() if asked is None else asked.reply
        who = f"{self.model.name}:{self.prompt.label}"
        by = Provenance(
            author=who, prompt_hash=reply.request_hash, tokens=reply.tokens, cost_usd=reply.cost_usd
        )
        if asked is None:
            return Rating(LOWEST, "The piece is empty: write what was asked for.", None, by)
        if asked.verdict is None:
            return Rating(None, "", asked.error, by, failure_kind(reply))
        return Rating(asked.verdict.score, shorten(asked.verdict.critique.strip(), self.max_chars), None, by)


class Pair(NamedTuple):
    """Two pieces on one task."""

    problem: Problem
    a: str
    b: str


@dataclass(frozen=True)
class Comparison:
    """What a pairwise judge said about one pair, in both orders.

    Attributes:
        a_first: 1 for a, 0 for b and ½ for a tie, when a stood first; None where the verdict failed.
        b_first: The same, when b stood first.
        errors: Why verdicts are missing.
        tokens: Tokens that the judge generated.
        cost_usd: What the verdicts cost.
    """

    a_first: float | None
    b_first: float | None
    errors: tuple[str, ...] = ()
    tokens: int = 0
    cost_usd: float = 0.0

    @property
    def preference(self) -> float | None:
        """How far a is preferred, in [0, 1]: the mean of both orders; None unless both succeeded."""
        if self.a_first is None or self.b_first is None:
            return None
        return (self.a_first + self.b_first) / 2

    @property
    def survives(self) -> bool | None:
        """Is the verdict the same after the swap? None unless both succeeded."""
        if self.a_first is None or self.b_first is None:
            return None
        return self.a_first == self.b_first


class PairJudge:
    """Compares two pieces on one task, always in both orders.

    Args:
        model: Who judges.
        max_chars: Longer texts are cut in the middle, with a notice.
    """

    def __init__(self, model: ChatModel, *, max_chars: int = MAX_CHARS) -> None:
        if max_chars < 1:
            raise UsageError(f"max_chars must be at least 1, not {max_chars}")
        self.model, self.max_chars = model, max_chars
        self.prompt = load_prompt("writing_pair_v1")

    def compare(self, pairs: Sequence[Pair]) -> list[Comparison]:
        """One comparison a pair, in order.

        Raises:
            UsageError: no request can ever succeed, as with a key that the server refuses.
        """
        orders = [order for p in pairs for order in ((p.problem, p.a, p.b), (p.problem, p.b, p.a))]
        found = ask(self.model, [self._prompt(*order) for order in orders], PairVerdict, PAIR_SCHEMA)
        return [_comparison(found[i], found[i + 1]) for i in range(0, len(found), 2)]

    def _prompt(self, problem: Problem, first: str, second: str) -> str:
        texts = {"question": conversation_text(problem), "first": first, "second": second}
        return self.prompt.fenced(**{name: shorten(text, self.max_chars) for name, text in texts.items()})


class Symmetry(NamedTuple):
    """How far a pairwise judge is deaf to the order."""

    compared: int
    """Pairs with a verdict in both orders."""
    survived: int
    """Those whose verdict is the same after the swap."""
    first: int
    """Verdicts for the piece that stood first, of all 2·compared."""
    second: int
    """Verdicts for the piece that stood second."""
    failed: int
    """Pairs with a verdict missing."""

    @property
    def share(self) -> float | None:
        """Of the compared pairs, the share that survives the swap, in [0, 1]; None where there is none."""
        return self.survived / self.compared if self.compared else None

    @property
    def bias(self) -> float | None:
        """(first − second) / (first + second), in [−1, 1]; 0 for a judge without a liking for a place."""
        decided = self.first + self.second
        return (self.first - self.second) / decided if decided else None


def symmetry(comparisons: Sequence[Comparison]) -> Symmetry:
    """Count how often verdicts survive the swap, and which place wins."""
    both = [(c.a_first, c.b_first) for c in comparisons if c.preference is not None]
    return Symmetry(
        compared=len(both),
        survived=sum(a == b for a, b in both),
        first=sum((a == 1) + (b == 0) for a, b in both),
        second=sum((a == 0) + (b == 1) for a, b in both),
        failed=len(comparisons) - len(both),
    )


def _comparison(a_first: Asked[PairVerdict], b_first: Asked[PairVerdict]) -> Comparison:
    value = {"first": 1.0, "tie": 0.5, "second": 0.0}
    shown_first = None if a_first.verdict is None else value[a_first.verdict.winner]
    shown_second = None if b_first.verdict is None else 1 - value[b_first.verdict.winner]
    replies = (a_first.reply, b_first.reply)
    return Comparison(
        shown_first,
        shown_second,
        tuple(asked.error for asked in (a_first, b_first) if asked.error is not None),
        sum(reply.tokens for reply in replies),
        sum(reply.cost_usd for reply in replies),
    )


def _key(problem: Problem, piece: str) -> str:
    said = "\x1f".join([*(f"{m.role}\x1e{m.content}" for m in problem.messages), piece])
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
