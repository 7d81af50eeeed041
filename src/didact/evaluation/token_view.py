"""One rollout token by token: what a critique called it, what it was credited with, how it then moved.

label     what the spans of critiques give it (methods/text2grad.py), worked out again from the
          rollout and the critiques that the run wrote
phrase    the words of the critique behind a label
credit    A_t that it was trained with, and log π before and after the update, as the run measured them
          for `inspect` rollouts a step (evaluation/token_trace.py); None where it did not
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from didact.errors import DataError, UsageError
from didact.evaluation.report import render
from didact.evaluation.text_sanitizer import plain_text
from didact.evaluation.token_trace import TokenTrace
from didact.feedback_store import FeedbackStore
from didact.jsonl import read_jsonl, write_atomically
from didact.methods.base import Method
from didact.methods.text2grad import SpanRewards, quoting, span_key, span_rewards
from didact.run_dir import RunDir
from didact.spans import Offsets, credited_by, turn_offsets
from didact.types import Feedback, Rollout, Turn


@dataclass(frozen=True)
class TokenView:
    """A sampled token. Its text may be hostile."""

    text: str
    """Its characters; none for an id that ends the answer."""
    label: float | None
    """Of spans; None where none are learned from."""
    credit: float | None
    before: float | None
    """log π in nats."""
    after: float | None
    phrase: str | None
    """The words of the critique about it."""

    @property
    def moved(self) -> float | None:
        """log π after less before, in nats."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class TurnView:
    """An answer of a rollout."""

    rollout: str
    turn: int
    step: int
    question: str
    reward: float | None
    tokens: tuple[TokenView, ...]
    critiques: tuple[str, ...]


def inspectable(run: RunDir) -> Iterator[dict[str, Any]]:
    """The run's rollouts: `rollout`, `step`, `turns`, `reward` of the first answer, whether `measured`."""
    measured = {record["rollout"] for record in read_jsonl(run.inspected)}
    for record in read_jsonl(run.rollouts):
        yield {
            "rollout": record["id"],
            "step": record["step"],
            "turns": len(record["turns"]),
            "reward": record["turns"][0]["reward"],
            "measured": record["id"] in measured,
        }


def rollout_view(run: RunDir, rollout_id: str, method: Method, tokenizer: Any) -> list[TurnView]:
    """A rollout's answers, token by token.

    Args:
        rollout_id: As in rollouts.jsonl.

    Raises:
        UsageError: the run has no such rollout.
    """
    found = next((r for r in read_jsonl(run.rollouts) if r["id"] == rollout_id), None)
    if found is None:
        raise UsageError(
            f"{run.path} has no rollout {plain_text(rollout_id, 80)!r}: "
            f"`didact inspect {run.path}` lists them"
        )
    step = found.pop("step")
    # What was added from outside has no step: the run did not learn from it.
    store = FeedbackStore(run.feedback).read()
    said = [s.feedback for s in store if s.rollout == rollout_id and s.step is not None]
    rollout = Rollout.model_validate({**found, "feedback": said})
    records = map(TokenTrace.model_validate, read_jsonl(run.inspected))
    measured = {record.turn: record for record in records if record.rollout == rollout_id}
    return [
        TurnView(
            rollout=rollout.id,
            turn=h,
            step=step,
            question=rollout.problem.question,
            reward=turn.reward,
            tokens=tuple(_tokens(rollout, h, method, tokenizer, measured.get(h))),
            critiques=tuple(
                f.text if f.ok else f"(failed) {f.error}" for f in rollout.feedback if f.turn == h
            ),
        )
        for h, turn in enumerate(rollout.turns)
    ]


def _tokens(
    rollout: Rollout, h: int, method: Method, tokenizer: Any, measured: TokenTrace | None
) -> Iterator[TokenView]:
    turn = rollout.turns[h]
    try:
        offsets = turn_offsets(turn, tokenizer)
        texts = [turn.text[first:last] for first, last in offsets]
    except DataError:
        offsets = None
        texts = [str(tokenizer.decode([i], skip_special_tokens=True)) for i in turn.completion_ids]
    labels: Sequence[float | None] = [None] * len(texts)
    phrases: Sequence[str | None] = labels  # type: ignore[assignment]
    spans = getattr(method, "spans", None)
    if isinstance(spans, SpanRewards) and h == 0:
        [rewards_T] = span_rewards([rollout], tokenizer, spans)[0]
        if rewards_T is not None:
            labels = [float(r) for r in rewards_T]
            if offsets is not None:
                phrases = _phrases(
                    [f for f in rollout.feedback if f.turn == 0 and f.ok], turn, offsets, labels
                )
    none: Sequence[float | None] = [None] * len(texts)
    moved: tuple[Sequence[float | None], ...] = (none, none, none)
    if measured is not None:
        moved = (measured.credit or none, measured.before, measured.after)
    for values in zip(texts, labels, *moved, phrases, strict=False):
        yield TokenView(*values)


def _phrases(
    said: Sequence[Feedback], turn: Turn, offsets: Offsets, labels: Sequence[Any]
) -> list[str | None]:
    """The words behind each label: those of the span, or else the whole critique that quotes it."""
    quoted = [(span, feedback) for feedback in said for span in quoting(feedback, turn)]
    words = defaultdict(list)
    for span, feedback in quoted:
        words[span_key(span)].append(span.phrase or feedback.text)
    givers = credited_by([span for span, _ in quoted], offsets, labels)
    return [None if giver is None else " / ".join(dict.fromkeys(words[span_key(giver)])) for giver in givers]


def shown_token(text: str) -> str:
    """A token's text on one line, with its white space visible.

    >>> shown_token(" a\\n"), shown_token("")
    ('␣a⏎', '(end)')
    """
    if not text:
        return "(end)"
    return plain_text(text.replace("\r", "␍"), 60).translate({10: "⏎", 9: "⇥", 32: "␣"})


def signed(value: float | None, digits: int = 2) -> str:
    """A number with its sign, which 0 has not; "?" for None.

    >>> signed(0.5), signed(-0.001), signed(None)
    ('+0.50', '0.00', '?')
    """
    if value is None:
        return "?"
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def token_cells(token: TokenView) -> tuple[str, str, str, str, str, str]:
    """What both the terminal and the page show of a token, safe for a terminal: its text, label, credit,
    log π before, how far that moved, and the phrase."""
    before = "?" if token.before is None else f"{token.before:.3f}"
    phrase = " ".join(plain_text(token.phrase or "", 400).split())
    return (
        shown_token(token.text),
        signed(token.label),
        signed(token.credit, 3),
        before,
        signed(token.moved, 4),
        phrase,
    )


def sign(token: TokenView) -> str:
    """`good`, `poor` or `none`: of the label, or of the credit where nothing is labelled."""
    value = token.label if token.label is not None else token.credit
    return "none" if not value else "good" if value > 0 else "poor"


def write_page(file: Path, turns: Sequence[TurnView]) -> None:
    """The answers as one self-contained HTML page, without scripts; all words escaped."""
    file.parent.mkdir(parents=True, exist_ok=True)
    view = {"turns": turns, "sign": sign, "cells": token_cells, "looks": []}
    write_atomically(file, render("tokens.html.j2", view))


def to_json(turns: Sequence[TurnView]) -> str:
    """The answers as JSON, with `moved` in each token; characters that could steer a terminal are escaped."""
    records = [
        {**asdict(turn), "tokens": [{**asdict(token), "moved": token.moved} for token in turn.tokens]}
        for turn in turns
    ]
    return json.dumps(records, indent=1)
