"""Runs a feedback source over existing answers, in batches that can be resumed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from didact.annotation.targets import AnnotatedAnswer, AnswerStore
from didact.errors import Interrupted, UsageError
from didact.feedback_source import FAILURE_WINDOW, FeedbackRequest, FeedbackSource
from didact.feedback_store import FeedbackRecord
from didact.types import Feedback


@dataclass
class CritiqueRunReport:
    """Counts of a run over answers."""

    asked: int = 0
    """Answers that were sent to the source."""
    skipped: int = 0
    """Answers that it had criticised before."""
    failed: int = 0
    """Critiques that failed; they are stored, and requested again by the next run."""
    error: str | None = None
    good: int = 0
    """Spans."""
    poor: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    """Wall-clock time in the source."""

    def add(self, replies: Sequence[Feedback]) -> None:
        """Count replies of the source."""
        errors = [f.error for f in replies if not f.ok]
        labels = [span.label for f in replies for span in f.spans]
        self.asked += len(replies)
        self.failed += len(errors)
        self.error = self.error or (errors[0] if errors else None)
        self.good += labels.count("good")
        self.poor += labels.count("poor")
        self.tokens += sum(f.provenance.tokens for f in replies)
        self.cost_usd += sum(f.provenance.cost_usd for f in replies)


def criticise_answers(
    store: AnswerStore,
    source: FeedbackSource,
    *,
    answers: Sequence[AnnotatedAnswer] | None = None,
    batch_size: int = 16,
    max_failed: float = 0.1,
    spans: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> CritiqueRunReport:
    """Request critiques of all answers that the source has not criticised yet, and store them.

    Every batch is stored before the next is requested. A second run skips stored critiques and requests
    failed ones again. Replies without a request, because a budget is spent, are not stored.

    Args:
        store: Takes the critiques.
        answers: Those to criticise; all in the store by default.
        batch_size: The number of answers requested at once, ≥ 1.
        max_failed: The maximum share of failures among a judge's last `FAILURE_WINDOW` critiques, in (0, 1];
            1 never stops. A program's failures, such as a missing reference, do not count.
        spans: A program's critique without spans counts as missing.
        progress: Called after every batch with the number of answers done and the total.

    Raises:
        UsageError: no request to this source can succeed; stored critiques are kept.
        Interrupted: too many failures, or a spent budget; stored critiques are kept.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, not {batch_size}")
    if not 0 < max_failed <= 1:
        raise UsageError(f"max_failed must lie in (0, 1], not {max_failed}")
    todo = store.answers() if answers is None else answers
    report, recent = CritiqueRunReport(), deque[Feedback](maxlen=FAILURE_WINDOW)
    author: str | None = None
    # The first batch has one answer, whose reply reveals the author.
    for start in (0, *range(1, len(todo), batch_size)) if todo else ():
        batch = todo[start : start + batch_size] if start else todo[:1]
        new = [a for a in batch if author is None or not _has(a, author, spans)]
        report.skipped += len(batch) - len(new)
        unsent: list[Feedback] = []
        if new:
            started = time.perf_counter()
            replies = source.critique([FeedbackRequest(a.problem, a.turn, a.index) for a in new])
            report.seconds += time.perf_counter() - started
            sent = [(a, f) for a, f in zip(new, replies, strict=True) if not _unsent(f)]
            unsent = [f for f in replies if _unsent(f)]
            # The author was unknown before the first reply, which may repeat a stored critique.
            fresh = [(a, f) for a, f in sent if not (f.ok and _has(a, f.provenance.author, spans))]
            store.merge([FeedbackRecord(rollout=a.rollout, feedback=f) for a, f in fresh])
            author = author or replies[0].provenance.author
            report.add([f for _, f in sent])
            recent += [f for _, f in sent if f.source == "judge"]
        done = report.asked + report.skipped
        progress(done, len(todo))
        _check(recent, unsent, max_failed, f"{done} of {len(todo)}")
    return report


def _unsent(reply: Feedback) -> bool:
    """Was no request sent, because the budget is exceeded?"""
    return reply.error_kind == "budget" and not reply.provenance.tokens and not reply.provenance.cost_usd


def _check(recent: Sequence[Feedback], unsent: Sequence[Feedback], max_failed: float, done: str) -> None:
    """Raise Interrupted if the budget is spent or too many critiques failed."""
    if unsent:
        raise Interrupted(
            f"stopped with {done} answers done, which are kept: {unsent[0].error}, and begin again"
        )
    # A critique that was dropped because it leaks is no failure of its source.
    errors = [f.error for f in recent if not f.ok and f.error_kind != "leak"]
    if len(errors) > max_failed * FAILURE_WINDOW:
        raise Interrupted(
            f"{len(errors)} of the last {len(recent)} critiques failed, more than feedback.max_failed = "
            f"{max_failed:g} of {FAILURE_WINDOW} allows (the last one: {errors[-1]}). Stopped with {done} "
            "answers done: mend that and begin again; critiques that are there are passed over"
        )


def _has(answer: AnnotatedAnswer, author: str, spans: bool) -> bool:
    """Is there a critique by this author, with spans if a program must give them?"""
    found = [f for f in answer.feedback if f.ok and f.provenance.author == author]
    return any(f.spans or f.source != "program" or not spans for f in found)
