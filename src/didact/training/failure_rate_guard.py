"""When too many critiques fail, a run stops: what it would learn from is not what was asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from didact.controls.shuffled import NOBODY
from didact.errors import Interrupted, TrainingGuard
from didact.llm.cache import SPENT
from didact.types import Rollout

WINDOW = 64
"""Critiques that are looked back on."""


class FeedbackFailureGuard:
    """Counts failed critiques over the last `WINDOW` ones.

    It starts empty with every process, so that a resumed run gets a fresh chance, and it changes
    nothing that is computed. Only judges are watched: what they fail at may pass, where a self-critique
    that is cut off, a reference that is missing or an answer that nobody criticised will not. A critique
    that was dropped because it leaks, or could not be dealt, is no failure of its source.

    Args:
        limit: The largest share of the window that may fail, in (0, 1]; 1 never stops.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.recent: deque[bool] = deque(maxlen=WINDOW)
        self.last_error: str | None = None
        self.spent: str | None = None

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Count the critiques of one step."""
        for rollout in rollouts:
            for feedback in rollout.feedback:
                if feedback.source != "judge" or feedback.provenance.author == NOBODY:
                    continue
                failed = not feedback.ok and not feedback.leaks
                self.recent.append(failed)
                if failed and feedback.error:
                    self.last_error = feedback.error
                    self.spent = feedback.error if feedback.error.startswith(SPENT) else self.spent

    def check(self) -> None:
        """Stop if a budget is spent, or if more failed than may; unseen places of the window count as good.

        Raises:
            TrainingGuard: a budget is spent, which no new start mends.
            Interrupted: too many failed.
        """
        if self.spent:
            raise TrainingGuard(self.spent)
        failed = sum(self.recent)
        if failed > self.limit * WINDOW:
            raise Interrupted(
                f"{failed} of the last {len(self.recent)} critiques failed, more than feedback.max_failed = "
                f"{self.limit:g} of {WINDOW} allows (the last one: {self.last_error}); stopped"
            )
