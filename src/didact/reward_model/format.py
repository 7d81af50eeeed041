"""The formats of a reward model's target: a critique and the marked passages of the answer.

    json_v1    the reply that `critique run --spans` requests, with its prompt: critique, good_spans,
               poor_spans, score and label as one JSON object
    lines_v1   for models too small for JSON: the critique on one line, then one passage per line, as
               "+ quote", "- quote", or "-2 quote" for the second occurrence of several

A released format never changes, because trained models depend on it. `write` produces only what `read` gives
back: a passage without an unambiguous quote is left out and counted. `read` never raises. Without `reasoning`
there is no critique before the passages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from didact.feedback.judge import MAX_SPANS
from didact.spans import MatchPolicy, Quote, locate
from didact.types import Feedback, Message, Problem, Span


@dataclass(frozen=True)
class Reading:
    """The content of a reply, before its quotes are looked up.

    Attributes:
        critique: "" if there is none.
        quotes: The marked passages, in the reply's order.
        score: In [0, 1]; None if the reply or the format has none.
        label: "right", "partly right" or "wrong"; None likewise.
        repaired: The reply did not fit the format, and a part of it was left out.
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
    """Spans without an unambiguous quote, which are left out."""


class Format(ABC):
    """One form of target, with the prompt that requests it."""

    name: ClassVar[str]
    policy: ClassVar[MatchPolicy]
    """What counts as the place of a quote."""

    @abstractmethod
    def messages(
        self, problem: Problem, answer: str, *, reasoning: bool, context: int | None = None
    ) -> tuple[Message, ...]:
        """The conversation that requests the marks.

        Args:
            problem: The problem of the answer.
            answer: Never cut.
            reasoning: A critique comes first.
            context: The most characters of the problem to show (see `prompts.shorten`); None shows all.
        """

    @abstractmethod
    def write(self, feedback: Feedback, answer: str, *, reasoning: bool) -> Written | None:
        """The target for a feedback; None if the format cannot express it."""

    @abstractmethod
    def read(self, text: str, *, reasoning: bool, cut: bool = False) -> Reading | None:
        """The content of a reply; None if it is unreadable.

        Args:
            text: The reply.
            reasoning: A critique was requested first.
            cut: The reply was cut off, so its last part may be incomplete.
        """

    @abstractmethod
    def candidates(self, span: Span, answer: str) -> Sequence[Quote]:
        """Ways to quote a span, the plainest first."""

    def quotes(self, spans: Sequence[Span], answer: str) -> tuple[list[Quote], int]:
        """Quotes that lead back to exactly these spans, in the answer's order, and how many have none."""
        found: list[Quote] = []
        lost = 0
        for span in sorted(spans, key=lambda s: (s.start, s.end, s.label)):
            quote = next((q for q in self.candidates(span, answer) if self._leads_to(q, span, answer)), None)
            if quote is None or sum(q.label == quote.label for q in found) >= MAX_SPANS:
                lost += 1
            else:
                found.append(quote)
        return found, lost

    def _leads_to(self, quote: Quote, span: Span, answer: str) -> bool:
        places = [(s.start, s.end) for s in locate([quote], answer, self.policy).spans]
        return places == [(span.start, span.end)]
