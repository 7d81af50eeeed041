"""Stops a run whose feedback source fails too often."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from didact.controls.shuffled import NOBODY
from didact.errors import Interrupted, TrainingGuard
from didact.feedback_source import FAILURE_WINDOW
from didact.llm.cache import SPENT
from didact.types import Rollout


class FeedbackFailureGuard:
    """Counts failed critiques over the last `FAILURE_WINDOW` ones.

    The count is not checkpointed: a resumed run starts with an empty window. Only critiques of judges count,
    whose failures may be temporary; those dropped as leaks, or not dealt by a control, do not.

    Args:
        limit: Largest failed share of the window, in (0, 1]; 1 never stops.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.recent: deque[bool] = deque(maxlen=FAILURE_WINDOW)
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
        """Stop if the budget is spent or too many critiques failed; an unfilled window counts as successes.

        Raises:
            TrainingGuard: the budget is spent; resuming does not help.
            Interrupted: too many critiques failed.
        """
        if self.spent:
            raise TrainingGuard(self.spent)
        failed = sum(self.recent)
        if failed > self.limit * FAILURE_WINDOW:
            raise Interrupted(
                f"{failed} of the last {len(self.recent)} critiques failed, more than feedback.max_failed = "
                f"{self.limit:g} of {FAILURE_WINDOW} allows (the last one: {self.last_error}); stopped"
            )
