"""In-context plasticity: do critiques change what a model answers, and towards the right answer?

    verbatim repeat   share of further answers that are the one before, word for word
    edit distance     characters changed between an answer and the next, over the longer one's, in [0, 1]
    Δ log p(correct)  log π(reference | o_{h+1}) − log π(reference | o_h), in nats

o_h is the public conversation that answer h was given in; o_{h+1} has answer h and its critique besides. A
model that only acknowledges a critique repeats itself and gains nothing; one that takes it in gains after
every turn (RL2F, arXiv:2602.16066; the loss on the right answer by turn is that of arXiv:2602.16488).

Δ counts what the model's own answer does to the next along with what the critique does: beside a dialogue
with true critiques, measure one with "Please answer once more.".

All functions are pure but `critique_gains`, which scores; intervals resample problems, not turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from didact.engines.base import POLICY, Engine, Weights, fits_context
from didact.evaluation.stats import clustered_mean
from didact.rendering.renderer import Renderer
from didact.rollouts.conversation import public_contexts
from didact.spans.fuzzy import levenshtein
from didact.types import Rollout, Row


class Gain(NamedTuple):
    """What one critique did to the right answer's log-probability."""

    problem: str
    turn: int
    """Of the answer that was criticised."""
    before: float
    """log π(reference | o_turn) in nats, its end-of-turn token included."""
    after: float
    """The same given o_{turn+1}."""
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
    """Is the next the same text, white space around it aside?"""
    distance: float
    """Share of characters changed, in [0, 1]."""
    was_right: bool
    is_right: bool


def edit_distance(one: str, other: str) -> float:
    """Characters to insert, delete or replace, over the longer text's; 0 for equal texts, two empty ones too.

    >>> edit_distance("abcd", "abxd"), edit_distance("", "a"), edit_distance("", "")
    (0.25, 1.0, 0.0)
    """
    return levenshtein(one, other) / max(len(one), len(other), 1)


def moves(rollouts: Sequence[Rollout]) -> list[Move]:
    """Every step from an answer to the next."""
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
    """Δ log p(correct) of every usable critique, the last answer's too.

    Args:
        engine: Scores the references.
        renderer: Messages → ids for its tokenizer.
        rollouts: Dialogues whose conversation grows. Without a reference they have no gains, and from the
            turn on at which conversation and reference do not fit the model.
        weights: Which weights score.
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
    """The numbers as a record: over all turns, and turn by turn, each with a 95 % interval over problems.

    Args:
        moved: Steps from answer to answer.
        gains: Of `critique_gains`; none where nothing was scored.
        seed: Fixes the bootstrap.

    Returns:
        `repeated`, `edit_distance`, `fixed` (of wrong answers, those whose next is right), `flipped` (of
        right ones, those whose next is wrong) and `gain`, and the same under `by_turn`. A measure without
        any value is left out; one of a single problem has no interval.
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
"""Of which moves, and what of each."""


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
