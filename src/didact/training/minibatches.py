"""The rows of a step in parts, for several optimizer steps on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from didact.methods import LossTerm
from didact.rng import generator
from didact.types import Row


def minibatches(terms: Sequence[LossTerm], parts: int, passes: int, *, seed: int) -> list[list[LossTerm]]:
    """The terms of every optimizer step: the minibatches of the first pass, then those of the second, ….

    In one part the terms stay as they are. In several, each term's rows are dealt out in an order drawn
    anew for each pass, with weights times the number of parts: a part's gradient is then an estimate of the
    whole batch's, as its size is under a gradient clip.

    Args:
        terms: A method's terms, none of them empty.
        parts: ≥ 1. No part is empty, so there are fewer of them where no term has as many rows.
        passes: ≥ 1.
        seed: For the orders.
    """
    if not terms:
        return []
    parts = min(parts, max(len(term.rows) for term in terms))
    if parts == 1:
        return [list(terms) for _ in range(passes)]
    return [part for number in range(passes) for part in _dealt(terms, parts, seed, number)]


def _dealt(terms: Sequence[LossTerm], parts: int, seed: int, number: int) -> list[list[LossTerm]]:
    found: list[list[LossTerm]] = [[] for _ in range(parts)]
    for term in terms:
        order = generator(seed, "minibatches", number, term.name).permutation(len(term.rows))
        for part, chosen in enumerate(np.array_split(order, parts)):
            if len(chosen):
                rows = [_weighted(term.rows[i], parts) for i in chosen]
                found[part].append(term._replace(rows=rows))
    return found


def _weighted(row: Row, factor: int) -> Row:
    weights_T = (row.fields["weights"] * factor).astype(np.float32)
    return dataclasses.replace(row, fields={**row.fields, "weights": weights_T})
