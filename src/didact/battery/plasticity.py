"""In-context plasticity: how do critiques change the next answer?

    verbatim repeat   share of further answers that equal the one before
    edit distance     characters changed between consecutive answers, over the longer one's length, in [0, 1]
    Δ log p(correct)  log π(reference | o_{h+1}) − log π(reference | o_h), in nats

o_h is the conversation in which answer h was given; o_{h+1} adds answer h and its critique (RL2F,
arXiv:2602.16066; the loss on the reference by turn is that of arXiv:2602.16488). Δ includes the effect of the
model's own answer: compare with a dialogue of "Please answer once more.". Intervals resample problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from didact.engines.base import Engine, fits_context
from didact.evaluation.stats import clustered_mean
from didact.rendering.renderer import Renderer
from didact.rollouts.tutored_dialogue import public_contexts
from didact.spans.fuzzy import levenshtein
from didact.types import Rollout, Row


class Gain(NamedTuple):
    """Change of the reference's log-probability by one critique."""

    problem: str
    turn: int
    """Of the criticised answer."""
    before: float
    """log π(reference | o_turn) in nats, with its end-of-turn token."""
    after: float
    """log π(reference | o_{turn+1})."""

    @property
    def gain(self) -> float:
        """after − before, in nats."""
        return self.after - self.before


class Move(NamedTuple):
    """From one answer of a dialogue to the next."""

    problem: str
    turn: int
    """Of the earlier one."""
    repeated: bool
    """The next answer is the same text, up to surrounding white space."""
    distance: float
    """Share of characters changed, in [0, 1]."""
    was_right: bool
    is_right: bool


def edit_distance(one: str, other: str) -> float:
    """Levenshtein distance over the length of the longer text, in [0, 1].

    >>> edit_distance("abcd", "abxd"), edit_distance("", "a"), edit_distance("", "")
    (0.25, 1.0, 0.0)
    """
    return levenshtein(one, other) / max(len(one), len(other), 1)


def moves(rollouts: Sequence[Rollout]) -> list[Move]:
    """All pairs of consecutive answers."""
    return [
        Move(
            problem=rollout.problem.id,
            turn=h,
            repeated=before.answer.strip() == after.answer.strip(),
            distance=edit_distance(before.answer.strip(), after.answer.strip()),
            was_right=before.correct,
            is_right=after.correct,
        )
        for rollout in rollouts
        for h, (before, after) in enumerate(pairwise(rollout.turns))
    ]


def critique_gains(engine: Engine, renderer: Renderer, rollouts: Sequence[Rollout]) -> list[Gain]:
    """Δ log p(correct) of every usable critique, the last answer's included.

    Left out are dialogues without a reference, and turns from the one on at which conversation and reference
    no longer fit the model.
    """
    rows: list[Row] = []
    places: list[tuple[Rollout, int]] = []
    for rollout in rollouts:
        if rollout.problem.reference is None:
            continue
        answer = renderer.answer(rollout.problem.reference)
        for h, context in enumerate(public_contexts(rollout)):
            prompt = renderer.prompt(context)
            if not fits_context(engine, len(prompt) + len(answer)):
                break
            rows.append(Row.from_completion(prompt, answer))
            places.append((rollout, h))
    scored = engine.logprobs(rows) if rows else []
    sums = [
        float(np.asarray(logprobs_T, np.float64)[row.fields["weights"] != 0].sum())
        for row, logprobs_T in zip(rows, scored, strict=True)
    ]
    return [
        Gain(rollout.problem.id, h, before, after)
        for ((rollout, h), before), ((next_rollout, _), after) in pairwise(zip(places, sums, strict=True))
        if rollout is next_rollout
    ]


def plasticity(moved: Sequence[Move], gains: Sequence[Gain] = ()) -> dict[str, Any]:
    """All measures over all turns and turn by turn, with 95 % intervals over problems, as a record.

    Returns:
        `repeated`, `edit_distance`, `fixed` (share of wrong answers whose next is right), `flipped` (of right
        ones, whose next is wrong) and `gain`, and the same under `by_turn`. Measures without values are left
        out; a single problem has no interval.
    """
    by_turn = []
    for turn in sorted({m.turn for m in moved} | {g.turn for g in gains}):
        measured = _measures([m for m in moved if m.turn == turn], [g for g in gains if g.turn == turn])
        by_turn.append({"turn": turn, **measured})
    return {**_measures(moved, gains), "by_turn": by_turn}


def _measures(moved: Sequence[Move], gains: Sequence[Gain]) -> dict[str, Any]:
    right = [m for m in moved if m.was_right]
    wrong = [m for m in moved if not m.was_right]
    measured = {
        "repeated": _mean((m.problem, m.repeated) for m in moved),
        "edit_distance": _mean((m.problem, m.distance) for m in moved),
        "fixed": _mean((m.problem, m.is_right) for m in wrong),
        "flipped": _mean((m.problem, not m.is_right) for m in right),
        "gain": _mean((g.problem, g.gain) for g in gains),
    }
    return {name: record for name, record in measured.items() if record is not None}


def _mean(pairs: Iterable[tuple[str, float]]) -> dict[str, Any] | None:
    """Mean and interval of (problem, value); None of nothing."""
    known = list(pairs)
    if not known:
        return None
    problems, values = zip(*known, strict=True)
    found = clustered_mean(values, problems)
    return {"mean": found.value, "ci95": found.ci95, "n": found.n, "problems": len(set(problems))}
