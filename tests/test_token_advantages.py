"""Credit by token: against numbers by hand, sums over all pairs, and each other."""

import ast
import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from didact.advantages import (
    explained_variance,
    gae,
    group_advantages,
    position_baselines,
    token_returns,
    whitened,
)

number = st.floats(-5, 5)
share = st.floats(0, 1)
answer = st.lists(st.tuples(number, number), min_size=1, max_size=8)


# ── by hand ───────────────────────────────────────────────────────────────────────────────────────


def test_returns_by_hand():
    assert token_returns([1.0, 0.0, -1.0], 0.5).tolist() == [0.75, -0.5, -1.0]


def test_gae_by_hand():
    # γ = .5, λ = .5. Errors: 1 + .5·.4 − .2 = 1;  0 + .5·(−1) − .4 = −.9;  −1 − (−1) = 0.
    found = gae([1.0, 0.0, -1.0], [0.2, 0.4, -1.0], 0.5, 0.5)
    np.testing.assert_allclose(found, [1.0 + 0.25 * -0.9, -0.9, 0.0], atol=1e-12)


def test_baselines_by_hand():
    returns = [[2.0, 1.0], [4.0], [0.0, 3.0, 6.0], [7.0]]
    found = position_baselines(returns, ["a", "a", "a", "b"])
    # At position 1 the second answer has ended, and counts with 4; at 2 the first does with 1.
    assert [b.tolist() for b in found] == [[2.0, 8 / 3], [2.0], [2.0, 8 / 3, 11 / 3], [7.0]]
    assert position_baselines([], []) == []


def test_whitening_by_hand():
    found = whitened([[1.0], [3.0, 5.0, 7.0]])
    spread = math.sqrt(5)
    np.testing.assert_allclose(np.concatenate(found), np.array([-3, -1, 1, 3]) / spread, rtol=1e-6)
    assert [len(f) for f in found] == [1, 3]
    assert whitened([]) == []


def test_explained_variance_by_hand():
    assert explained_variance([1.0, 2.0], [1.0, 2.0]) == 1
    assert explained_variance([5.0, 5.0], [1.0, 3.0]) == 0
    assert explained_variance([3.0, 1.0], [1.0, 3.0]) == -3
    assert math.isnan(explained_variance([1.0, 2.0], [3.0, 3.0]))


# ── an implementation of its own ──────────────────────────────────────────────────────────────────


def numpy_gae(rewards, values, gamma, lam):
    """Σ_l (γλ)^l (r_{t+l} + γ V_{t+l+1} − V_{t+l}), as a double sum over a padded value."""
    T, V = len(rewards), [*values, 0.0]
    return [
        sum((gamma * lam) ** (k - t) * (rewards[k] + gamma * V[k + 1] - V[k]) for k in range(t, T))
        for t in range(T)
    ]


@given(answer, share, share)
def test_gae_is_the_sum_that_defines_it(pairs, gamma, lam):
    rewards, values = zip(*pairs, strict=True)
    np.testing.assert_allclose(
        gae(rewards, values, gamma, lam), numpy_gae(rewards, values, gamma, lam), atol=1e-9
    )


# ── identities ────────────────────────────────────────────────────────────────────────────────────


@given(answer, share)
def test_at_lambda_one_gae_is_the_return_less_the_value(pairs, gamma):
    rewards, values = (np.array(column) for column in zip(*pairs, strict=True))
    np.testing.assert_allclose(
        gae(rewards, values, gamma, 1.0), token_returns(rewards, gamma) - values, atol=1e-9
    )


@given(answer, share)
def test_without_values_and_without_gamma_gae_is_the_reward(pairs, lam):
    rewards, _ = zip(*pairs, strict=True)
    np.testing.assert_allclose(gae(rewards, np.zeros(len(rewards)), 0.0, lam), rewards)


@given(answer, share, share, number)
def test_gae_is_linear_so_a_flipped_sign_flips_it(pairs, gamma, lam, factor):
    rewards, values = (np.array(column) for column in zip(*pairs, strict=True))
    scaled = gae(factor * rewards, factor * values, gamma, lam)
    np.testing.assert_allclose(scaled, factor * gae(rewards, values, gamma, lam), atol=1e-9)


@given(st.lists(st.tuples(number, st.integers(1, 5), st.sampled_from("ab")), min_size=1, max_size=8))
def test_one_reward_at_the_last_token_has_the_baseline_of_whole_answers(answers):
    rewards, lengths, groups = zip(*answers, strict=True)
    returns = [token_returns([0.0] * (n - 1) + [r], 1.0) for r, n in zip(rewards, lengths, strict=True)]
    expected = group_advantages(rewards, groups)
    for G, b, A in zip(returns, position_baselines(returns, groups), expected, strict=True):
        np.testing.assert_allclose(G - b, np.full(len(G), A), atol=1e-9)


@given(st.lists(answer, min_size=1, max_size=5), st.randoms())
def test_the_order_of_answers_does_not_matter(answers, random):
    returns = [[r for r, _ in pairs] for pairs in answers]
    groups = [i % 2 for i in range(len(returns))]
    order = random.sample(range(len(returns)), len(returns))
    found = position_baselines(returns, groups)
    moved = position_baselines([returns[i] for i in order], [groups[i] for i in order])
    for i, b in zip(order, moved, strict=True):
        np.testing.assert_allclose(b, found[i], atol=1e-12)


def test_a_value_is_needed_for_every_reward():
    with pytest.raises(ValueError, match="2 rewards for 1"):
        gae([1.0, 2.0], [0.0], 1.0, 1.0)


# ── a peer's ──────────────────────────────────────────────────────────────────────────────────────


def functions_of(path, *names, **known):
    """Functions of a source file by name, without what else it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    for node in kept:
        node.decorator_list = []
    exec(compile(ast.Module(kept, []), str(path), "exec"), known)
    return known


@pytest.mark.skipif(importlib.util.find_spec("verl") is None, reason="verl is not installed")
def test_gae_and_whitening_are_verls():
    """From verl's own source where it is installed, because importing it needs a cluster's libraries."""
    home = Path(importlib.util.find_spec("verl").submodule_search_locations[0])
    masks = functions_of(
        home / "utils" / "torch_functional.py",
        "masked_sum", "masked_mean", "masked_var", "masked_whiten", torch=torch,
    )  # fmt: skip
    verl = functions_of(
        home / "trainer" / "ppo" / "core_algos.py",
        "compute_gae_advantage_return", torch=torch, verl_F=SimpleNamespace(**masks),
    )["compute_gae_advantage_return"]  # fmt: skip
    draw, lengths = np.random.default_rng(0), (7, 3, 5)
    rewards, values = draw.normal(size=(2, 3, 7))
    mask = np.arange(7) < np.array(lengths)[:, None]
    white, returns = verl(
        torch.tensor(rewards * mask), torch.tensor(values * mask), torch.tensor(mask).double(), 0.9, 0.8
    )
    own = [gae(r[:n], v[:n], 0.9, 0.8) for r, v, n in zip(rewards, values, lengths, strict=True)]
    for i, n in enumerate(lengths):
        np.testing.assert_allclose(own[i] + values[i, :n], returns[i, :n], atol=1e-9)
    # It divides by the sample's standard deviation, n − 1, and Didact by the batch's own, n.
    n = sum(lengths)
    for ours, theirs, length in zip(whitened(own), white.numpy(), lengths, strict=True):
        np.testing.assert_allclose(ours, theirs[:length] * (n / (n - 1)) ** 0.5, atol=1e-6)
