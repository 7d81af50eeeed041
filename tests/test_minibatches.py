"""A batch in parts: every row once a pass, and nothing changed in one part."""

import numpy as np
import pytest

from didact.engines.base import Loss
from didact.methods import LossTerm
from didact.training.loop import minibatches
from didact.types import Row


def term(name, n):
    rows = [Row.from_completion((1,), (10 + i, 2), weights=0.5) for i in range(n)]
    return LossTerm(name, Loss("cross_entropy"), rows)


def tokens(part, name):
    return [int(row.target_ids[0]) for t in part if t.name == name for row in t.rows]


def test_in_one_part_the_terms_are_as_they_were():
    terms = [term("a", 3), term("b", 1)]
    assert minibatches(terms, 1, 2, seed=0) == [terms, terms]
    assert minibatches([], 4, 2, seed=0) == []


def test_every_pass_deals_every_row_once_in_an_order_of_its_own():
    steps = minibatches([term("a", 7)], 3, 2, seed=0)
    assert [len(tokens(part, "a")) for part in steps] == [3, 2, 2] * 2
    passes = [[i for part in half for i in tokens(part, "a")] for half in (steps[:3], steps[3:])]
    assert [sorted(p) for p in passes] == [list(range(10, 17))] * 2
    assert passes[0] != passes[1]
    again = minibatches([term("a", 7)], 3, 2, seed=0)
    assert [tokens(p, "a") for p in again] == [tokens(p, "a") for p in steps]
    assert [tokens(p, "a") for p in minibatches([term("a", 7)], 3, 2, seed=1)] != [
        tokens(p, "a") for p in steps
    ]


def test_the_mean_of_the_parts_gradients_is_the_whole_ones():
    steps = minibatches([term("a", 6)], 3, 1, seed=0)
    total = sum(row.fields["weights"].sum() for part in steps for t in part for row in t.rows)
    assert total / 3 == pytest.approx(6 * 2 * 0.5)
    assert steps[0][0].rows[0].fields["weights"].dtype == np.float32


def test_a_term_with_fewer_rows_than_parts_is_in_some_of_them_and_no_part_is_empty():
    steps = minibatches([term("a", 2), term("b", 1)], 4, 1, seed=0)
    assert [[t.name for t in part] for part in steps] == [["a", "b"], ["a"]]
