"""Stops a run whose feedback source fails too often."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from didact.errors import BudgetExceeded, Interrupted
from didact.feedback_source import FAILURE_WINDOW
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
        self.budget_error: str | None = None

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Count the critiques of one step."""
        for rollout in rollouts:
            for feedback in rollout.feedback:
                if feedback.source != "judge" or feedback.error_kind == "not_dealt":
                    continue
                failed = not feedback.ok and feedback.error_kind != "leak"
                self.recent.append(failed)
                if failed and feedback.error:
                    self.last_error = feedback.error
                if feedback.error_kind == "budget":
                    self.budget_error = feedback.error

    def check(self) -> None:
        """Stop if the budget is spent or too many critiques failed; an unfilled window counts as successes.

        Raises:
            BudgetExceeded: resuming does not help until the limit is raised.
            Interrupted: too many critiques failed.
        """
        if self.budget_error is not None:
            raise BudgetExceeded(self.budget_error)
        failed = sum(self.recent)
        if failed > self.limit * FAILURE_WINDOW:
            raise Interrupted(
                f"{failed} of the last {len(self.recent)} critiques failed, more than feedback.max_failed = "
                f"{self.limit:g} of {FAILURE_WINDOW} allows (the last one: {self.last_error}); stopped"
            )
