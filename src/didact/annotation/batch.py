"""Have a source criticise answers that are there already, batch by batch, so that a stop loses nothing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from didact.annotation.targets import AnnotatedAnswer, AnswerStore
from didact.errors import Interrupted, UsageError
from didact.feedback_source import FAILURE_WINDOW, FeedbackRequest, FeedbackSource
from didact.feedback_store import FeedbackRecord
from didact.types import Feedback

Progress = Callable[[int, int], None]
"""Told how many answers are done, and of how many."""


@dataclass(frozen=True)
class CritiqueRunReport:
    """What came of it.

    Attributes:
        asked: Answers that the source was asked about.
        skipped: Answers that it had criticised before.
        failed: Critiques that failed; they are kept, with their reasons, and asked for again next time.
        error: The first reason; None where none failed.
        good: Passages of answers that the critiques call good.
        poor: Those that they call poor.
        tokens: Tokens that the author generated.
        cost_usd: What it cost.
        seconds: Wall-clock time spent in the source.
    """

    asked: int = 0
    skipped: int = 0
    failed: int = 0
    error: str | None = None
    good: int = 0
    poor: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0


def criticise(
    store: AnswerStore,
    source: FeedbackSource,
    *,
    answers: Sequence[AnnotatedAnswer] | None = None,
    author: str | None = None,
    batch_size: int = 16,
    max_failed: float = 0.1,
    spans: bool = False,
    progress: Progress = lambda done, of: None,
    clock: Callable[[], float] = time.perf_counter,
) -> CritiqueRunReport:
    """Ask a source about every answer that it has not criticised yet, and keep what it says.

    Every batch is on disk before the next one is asked for. After a stop, begin again: what is there is
    passed over, and failures are asked for again. What a budget did not let through is no critique and is
    not kept.

    Args:
        store: The answers, and where critiques go.
        source: Who criticises.
        answers: Which answers; None for all in the store.
        author: The name that the source signs with. None learns it from the first reply.
        batch_size: So many answers are asked about at once, ≥ 1.
        max_failed: The share of a judge's last `FAILURE_WINDOW` critiques that may fail, in (0, 1]; 1 never
            stops. What a judge fails at may pass; a missing reference or a broken program will not.
        spans: A program's critique counts as one only with spans, which those of older runs do not have.
        progress: Told after every batch.
        clock: Seconds, for the time that the source takes.

    Raises:
        UsageError: no request to this source can ever succeed; what came before is kept.
        Interrupted: too many critiques failed, or the source's budget is spent; what came before is kept.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, not {batch_size}")
    if not 0 < max_failed <= 1:
        raise UsageError(f"max_failed must lie in (0, 1], not {max_failed}")
    todo = list(store.answers() if answers is None else answers)
    total, done, recent = len(todo), CritiqueRunReport(), deque[Feedback](maxlen=FAILURE_WINDOW)
    for batch in _batches(todo, batch_size, author):
        new = [a for a in batch if author is None or not _has(a, author, spans)]
        unsent: list[Feedback] = []
        if new:
            started = clock()
            replies = source.critique([FeedbackRequest(a.problem, a.turn, a.index) for a in new])
            seconds = clock() - started
            pairs = list(zip(new, replies, strict=True))
            unsent = [f for f in replies if _unsent(f)]
            sent = [(a, f) for a, f in pairs if not _unsent(f)]
            # Nobody knew before the first reply who signs it; it may repeat what is there.
            fresh = [(a, f) for a, f in sent if not (f.ok and _has(a, f.provenance.author, spans))]
            store.merge([FeedbackRecord(rollout=a.rollout, feedback=f) for a, f in fresh])
            author = author or replies[0].provenance.author
            done = _add(done, [f for _, f in sent], seconds)
            recent += [f for _, f in sent if f.source == "judge"]
        done = _add(done, (), 0.0, skipped=len(batch) - len(new))
        progress(done.asked + done.skipped, total)
        _check(recent, unsent, max_failed, f"{done.asked + done.skipped} of {total}")
    return done


def _unsent(reply: Feedback) -> bool:
    """Was no request sent, because the budget is exceeded?"""
    return reply.error_kind == "budget" and not reply.provenance.tokens and not reply.provenance.cost_usd


def _check(recent: Sequence[Feedback], unsent: Sequence[Feedback], max_failed: float, done: str) -> None:
    """Raise Interrupted where going on would be for nothing."""
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


def _batches(
    answers: Sequence[AnnotatedAnswer], size: int, author: str | None
) -> Iterator[Sequence[AnnotatedAnswer]]:
    """One answer first where it must show who the author is."""
    start = 0
    if author is None and answers:
        yield answers[:1]
        start = 1
    for i in range(start, len(answers), size):
        yield answers[i : i + size]


def _has(answer: AnnotatedAnswer, author: str, spans: bool) -> bool:
    """Did this author criticise the answer already, with spans where those are asked of a program?"""
    said = [f for f in answer.feedback if f.ok and f.provenance.label == author]
    return any(f.spans or f.source != "program" or not spans for f in said)


def _add(
    done: CritiqueRunReport, replies: Sequence[Feedback], seconds: float, *, skipped: int = 0
) -> CritiqueRunReport:
    errors = [f.error for f in replies if not f.ok]
    return CritiqueRunReport(
        asked=done.asked + len(replies),
        skipped=done.skipped + skipped,
        failed=done.failed + len(errors),
        error=done.error or (errors[0] if errors else None),
        good=done.good + sum(s.label == "good" for f in replies for s in f.spans),
        poor=done.poor + sum(s.label == "poor" for f in replies for s in f.spans),
        tokens=done.tokens + sum(f.provenance.tokens for f in replies),
        cost_usd=done.cost_usd + sum(f.provenance.cost_usd for f in replies),
        seconds=done.seconds + seconds,
    )
