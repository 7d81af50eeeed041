"""A teacher who knows no more than that an answer was wrong: the baseline that any second try has."""

from __future__ import annotations

from collections.abc import Sequence

from didact.feedback_source import FeedbackRequest
from didact.types import Feedback, Provenance

RETRY = "That is wrong. Try again."


class Retry:
    """Says one sentence of every answer that it is shown.

    Who asks it about wrong answers alone, as `rollouts.didactic` does, makes it tell the truth.

    Args:
        text: The sentence.
    """

    def __init__(self, text: str = RETRY) -> None:
        self.text = text

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """The sentence, once a request."""
        return [
            Feedback(
                turn=request.index,
                text=self.text,
                source="program",
                label="wrong",
                saw_reference=False,
                provenance=Provenance(author="program:retry"),
            )
            for request in requests
        ]
