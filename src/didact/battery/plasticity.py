"""In-context plasticity: how do critiques change the next answer?

    verbatim repeat   share of further answers that equal the one before
    edit distance     characters changed between consecutive answers, over the longer one's length, in [0, 1]
    Δ log p(correct)  log π(reference | o_{h+1}) − log π(reference | o_h), in nats

o_h is the conversation in which answer h was given; o_{h+1} adds answer h and its critique (RL2F,
arXiv:2602.16066; the loss on the reference by turn is that of arXiv:2602.16488). Δ includes the effect of the
model's own answer: compare with a dialogue of "Please answer once more.". Intervals resample problems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from didact.engines.base import POLICY, Engine, Weights, fits_context
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
    tokens: int
    """Of the reference."""

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
            repeated=before.text.strip() == after.text.strip(),
            distance=edit_distance(before.text.strip(), after.text.strip()),
            was_right=before.correct,
            is_right=after.correct,
        )
        for rollout in rollouts
        for h, (before, after) in enumerate(zip(rollout.turns, rollout.turns[1:], strict=False))
    ]


def critique_gains(
    engine: Engine, renderer: Renderer, rollouts: Sequence[Rollout], *, weights: Weights = POLICY
) -> list[Gain]:
    """Δ log p(correct) of every usable critique, the last answer's included.

    Args:
        engine: Scores the references.
        renderer: Messages → ids for its tokenizer.
        rollouts: Dialogues. Left out: those without a reference, and turns from the one on at which
            conversation and reference no longer fit the model.
        weights: The weights to score with.
    """
    rows: list[Row] = []
    places: list[tuple[Rollout, int, int]] = []
    for rollout in rollouts:
        if rollout.problem.reference is None:
            continue
        answer = renderer.answer(rollout.problem.reference)
        for h, context in enumerate(public_contexts(rollout)):
            prompt = renderer.prompt(context)
            if not fits_context(engine, len(prompt) + len(answer)):
                break
            rows.append(Row.from_completion(prompt, answer))
            places.append((rollout, h, len(answer)))
    scored = engine.logprobs(rows, weights=weights) if rows else []
    sums = [
        float(np.asarray(logprobs_T, np.float64)[row.fields["weights"] != 0].sum())
        for row, logprobs_T in zip(rows, scored, strict=True)
    ]
    found = []
    for i in range(1, len(rows)):
        (rollout, h, tokens), before = places[i], places[i - 1]
        if before[0] is rollout:
            found.append(Gain(rollout.problem.id, h - 1, sums[i - 1], sums[i], tokens))
    return found


def plasticity(moved: Sequence[Move], gains: Sequence[Gain] = (), *, seed: int = 0) -> dict[str, Any]:
    """All measures over all turns and turn by turn, with 95 % intervals over problems, as a record.

    Args:
        moved: Result of `moves`.
        gains: Result of `critique_gains`, if measured.
        seed: Of the bootstrap.

    Returns:
        `repeated`, `edit_distance`, `fixed` (share of wrong answers whose next is right), `flipped` (of right
        ones, whose next is wrong) and `gain`, and the same under `by_turn`. Measures without values are left
        out; a single problem has no interval.
    """
    turns = sorted({m.turn for m in moved} | {g.turn for g in gains})
    record = _measures(moved, gains, seed)
    record["by_turn"] = [
        {
            "turn": turn,
            **_measures([m for m in moved if m.turn == turn], [g for g in gains if g.turn == turn], seed),
        }
        for turn in turns
    ]
    return record


_OF_MOVES: dict[str, tuple[Callable[[Move], bool], Callable[[Move], float]]] = {
    "repeated": (lambda m: True, lambda m: float(m.repeated)),
    "edit_distance": (lambda m: True, lambda m: m.distance),
    "fixed": (lambda m: not m.was_right, lambda m: float(m.is_right)),
    "flipped": (lambda m: m.was_right, lambda m: float(not m.is_right)),
}
"""Measure → which moves it counts, and the value of one."""


def _measures(moved: Sequence[Move], gains: Sequence[Gain], seed: int) -> dict[str, Any]:
    values = {
        name: [(m.problem, value(m)) for m in moved if counts(m)]
        for name, (counts, value) in _OF_MOVES.items()
    }
    values["gain"] = [(g.problem, g.gain) for g in gains]
    record: dict[str, Any] = {}
    for name, pairs in values.items():
        if pairs:
            found = clustered_mean([v for _, v in pairs], [p for p, _ in pairs], seed=seed)
            interval = None if found.low is None else [found.low, found.high]
            record[name] = {
                "mean": found.mean,
                "ci95": interval,
                "n": found.n,
                "problems": found.clusters,
            }
    return record
