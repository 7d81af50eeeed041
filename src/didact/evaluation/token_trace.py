"""What an update did to single tokens: what each was credited with, and log π right before and right after.

    credit     the `advantages` of the row that trained the answer, one a token; 0 where no row did
    before     log π(token) under the weights that the update starts from, in nats
    after      the same under the weights that it ends with, all passes and minibatches included

Measured by the run itself, for `inspect` rollouts a step, because the weights in between are not kept: two
forward passes over those answers a step, and some 50 bytes a token in inspected.jsonl.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from didact.engines.base import Engine
from didact.methods import LossTerm
from didact.types import Record, Rollout, Row

T = TypeVar("T")


class TokenTrace(Record):
    """One sampled turn of a rollout: a line of inspected.jsonl."""

    step: int
    """Steps done after the update, as in the other files."""
    rollout: str
    turn: int
    credit: tuple[float, ...] | None
    """A_t of each completion id; None if the row that trained the answer is ambiguous."""
    before: tuple[float, ...]
    """log π of each completion id in nats, before the update."""
    after: tuple[float, ...]
    """And after it."""


def inspect_update(
    engine: Engine,
    rollouts: Sequence[Rollout],
    terms: Sequence[LossTerm],
    step: int,
    n: int,
    update: Callable[[], T],
) -> tuple[T, list[TokenTrace]]:
    """Do an update, and measure n rollouts of the step, spread evenly over it, before and after.

    Args:
        rollouts: Of the step.
        terms: Of the update.
        step: Steps done after the update.
        n: How many rollouts at most; 0 measures nothing.
        update: Changes the weights.

    Returns:
        What `update` returned, and a record for every turn measured.
    """
    n = min(n, len(rollouts))
    chosen = {rollouts[i * len(rollouts) // n].id for i in range(n)}
    # A given answer is measured too; it may have been trained as well.
    turns = [(r, h) for r in rollouts if r.id in chosen for h in range(len(r.turns))]
    if not turns:
        return update(), []
    rows = [_whole(r, h) for r, h in turns]
    credits = turn_credits(rollouts, terms)
    before = engine.logprobs(rows)
    done = update()
    after = engine.logprobs(rows)
    found = []
    for (r, h), *columns in zip(turns, before, after, strict=True):
        n_T = len(r.turns[h].completion_ids)
        first, last = (tuple(map(float, column[-n_T:])) for column in columns)
        credit = credits[r.id, h]
        found.append(TokenTrace(step=step, rollout=r.id, turn=h, credit=credit, before=first, after=last))
    return done, found


def turn_credits(
    rollouts: Sequence[Rollout], terms: Sequence[LossTerm]
) -> dict[tuple[str, int], tuple[float, ...] | None]:
    """A_t of every turn of a step, by rollout and turn, from the rows that carry it.

    A row is a turn's when it has the same ids throughout. Where several turns have the same ids, their rows
    are theirs in order if there are as many; a method may leave out rows without a gradient, which makes
    the others ambiguous. Terms without advantages, as a distillation, credit no token.
    """
    same: dict[tuple[bytes, bytes], list[tuple[str, int]]] = defaultdict(list)
    for rollout in rollouts:
        for h in range(len(rollout.turns)):
            same[_key(_whole(rollout, h))].append((rollout.id, h))
    held: dict[tuple[bytes, bytes], list[Row]] = defaultdict(list)
    for term in terms:
        for row in term.rows:
            if "advantages" in row.fields and row.target_ids.ndim == 1:
                held[_key(row)].append(row)
    lengths = {(r.id, h): len(t.completion_ids) for r in rollouts for h, t in enumerate(r.turns)}
    found: dict[tuple[str, int], tuple[float, ...] | None] = {}
    for key, owners in same.items():
        columns = [tuple(map(float, row.fields["advantages"])) for row in held[key]]
        for number, owner in enumerate(owners):
            size = lengths[owner]
            if not columns:
                found[owner] = (0.0,) * size
            elif len(columns) == len(owners):
                found[owner] = columns[number][-size:]
            else:
                found[owner] = None
    return found


def _whole(rollout: Rollout, turn: int) -> Row:
    sampled = rollout.turns[turn]
    return Row.from_completion(sampled.prompt_ids, sampled.completion_ids)


def _key(row: Row) -> tuple[bytes, bytes]:
    return np.asarray(row.input_ids, np.int64).tobytes(), np.asarray(row.target_ids, np.int64).tobytes()
