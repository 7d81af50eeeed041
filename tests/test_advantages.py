"""Credit against numbers by hand, and the properties that every baseline keeps."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.advantages import (
    explained_variance,
    first_reward_baseline,
    first_turn_baseline,
    gae,
    group_advantages,
    group_mean,
    group_size,
    last_reward_returns,
    leave_one_out_baseline,
    mean_of_known,
    no_baseline,
    position_baselines,
    returns_to_go,
    second_turn_baseline,
    token_returns,
    whitened,
)

NAN = math.nan
reward = st.one_of(st.just(NAN), st.floats(-10, 10))
rewards_in_groups = st.lists(st.tuples(reward, st.sampled_from("abc")), min_size=1, max_size=20)


def unzip(pairs):
    values, groups = zip(*pairs, strict=True)
    return np.array(values), list(groups)


# ── by hand ───────────────────────────────────────────────────────────────────────────────────────


def test_a_group_mean_is_over_its_own_known_values():
    #                 a    b    a    b    a    c
    values = [1.0, 5.0, 0.0, NAN, NAN, NAN]
    found = group_mean(values, ["a", "b", "a", "b", "a", "c"])
    np.testing.assert_array_equal(found, [0.5, 5.0, 0.5, 5.0, 0.5, NAN])


def test_group_advantages_by_hand():
    rewards, groups = [1.0, 0.0, 0.0, 1.0, 3.0], [0, 0, 0, 0, 1]
    np.testing.assert_allclose(group_advantages(rewards, groups), [0.5, -0.5, -0.5, 0.5, 0.0])
    # The standard deviation of 1, 0, 0, 1 is ½.
    np.testing.assert_allclose(
        group_advantages(rewards, groups, divide_by_std=True), [1, -1, -1, 1, 0], atol=1e-5
    )


def test_a_missing_reward_gets_no_advantage_and_leaves_its_groups_mean():
    found = group_advantages([1.0, NAN, 0.0], ["a", "a", "a"])
    np.testing.assert_array_equal(found, [0.5, NAN, -0.5])


@pytest.mark.parametrize("divide_by_std", [False, True])
def test_equal_rewards_and_lonely_ones_give_nothing(divide_by_std):
    found = group_advantages([0.1, 0.1, 0.1, 7.0], [0, 0, 0, 1], divide_by_std=divide_by_std)
    np.testing.assert_allclose(found, 0, atol=1e-9)


def test_the_first_turn_baseline_by_hand():
    # The third first turn was right, so it had no second turn; it still counts in the baseline of 1/3.
    found = first_turn_baseline([1.0, 0.0, NAN], [0.0, 0.0, 1.0], ["a", "a", "a"])
    np.testing.assert_allclose(found, [2 / 3, -1 / 3, NAN])


def test_a_second_turn_that_always_succeeds_keeps_its_signal():
    """Where centring the second rewards on their own mean would give exactly 0."""
    found = first_turn_baseline([1.0] * 4, [1.0, 0.0, 0.0, 0.0], [0] * 4)
    np.testing.assert_allclose(found, 0.75)
    np.testing.assert_array_equal(group_advantages([1.0] * 4, [0] * 4), 0.0)


@pytest.mark.parametrize(("gamma", "first_time", "after_feedback"), [(0.1, 0.675, -0.225), (1.0, 0.0, 0.0)])
def test_a_small_gamma_tells_right_at_once_from_right_after_feedback(gamma, first_time, after_feedback):
    """RLTF's R = r₀ + γ r₁: 2 of 8 are right at once, the others after feedback."""
    first = np.array([1.0, 1.0, 0, 0, 0, 0, 0, 0])
    second = 1.0 - first
    found = group_advantages(first + gamma * second, [0] * 8)
    np.testing.assert_allclose(found, [first_time] * 2 + [after_feedback] * 6, atol=1e-12)


def test_the_other_baselines_by_hand():
    # Group a: three of four had a second turn. Group b: one of one, so there is no other.
    second, first = [1.0, 0.0, NAN, 0.0, 1.0], [0.0, 0.5, 1.0, 0.0, 0.25]
    groups = ["a", "a", "a", "a", "b"]
    np.testing.assert_allclose(second_turn_baseline(second, first, groups), [2 / 3, -1 / 3, NAN, -1 / 3, 0])
    np.testing.assert_allclose(leave_one_out_baseline(second, first, groups), [1, -0.5, NAN, -0.5, NAN])
    np.testing.assert_allclose(first_reward_baseline(second, first, groups), [1, -0.5, NAN, 0, 0.75])
    np.testing.assert_allclose(no_baseline(second, first, groups), second)


def test_returns_to_go_by_hand():
    rewards = [[0.0, 0.5, 1.0], [1.0, NAN, NAN], [0.0, NAN, 1.0], [NAN, 0.5, NAN]]
    np.testing.assert_allclose(
        returns_to_go(rewards, [3, 1, 3, 2], 0.1),
        # The third dialogue's second turn could not be verified: what came of its first one is unknown.
        [[0.06, 0.6, 1.0], [1.0, NAN, NAN], [NAN, NAN, 1.0], [NAN, 0.5, NAN]],
    )
    np.testing.assert_array_equal(returns_to_go(rewards[:2], [3, 1], 0.0), rewards[:2])


def test_means_of_known_by_hand():
    np.testing.assert_array_equal(mean_of_known([[1.0, NAN, NAN], [0.0, 2.0, NAN]]), [0.5, 2.0, NAN])


# ── properties ────────────────────────────────────────────────────────────────────────────────────


@given(rewards_in_groups)
def test_advantages_of_a_group_sum_to_zero_and_are_missing_where_rewards_are(pairs):
    rewards, groups = unzip(pairs)
    found = group_advantages(rewards, groups)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(rewards))
    for group in set(groups):
        inside = found[[g == group for g in groups]]
        assert np.nansum(inside) == pytest.approx(0, abs=1e-9)


@given(rewards_in_groups, st.floats(-5, 5))
def test_advantages_do_not_change_when_all_rewards_shift(pairs, shift):
    rewards, groups = unzip(pairs)
    np.testing.assert_allclose(
        group_advantages(rewards + shift, groups), group_advantages(rewards, groups), atol=1e-9
    )


@given(rewards_in_groups, st.floats(0.1, 5))
def test_advantages_scale_with_rewards_unless_divided_by_their_deviation(pairs, factor):
    rewards, groups = unzip(pairs)
    np.testing.assert_allclose(
        group_advantages(factor * rewards, groups), factor * group_advantages(rewards, groups), atol=1e-9
    )
    np.testing.assert_allclose(
        group_advantages(factor * rewards, groups, divide_by_std=True, eps=1e-12)[_spread(rewards, groups)],
        group_advantages(rewards, groups, divide_by_std=True, eps=1e-12)[_spread(rewards, groups)],
        atol=1e-6,
    )


def _spread(rewards, groups):
    """Which entries belong to a group whose rewards differ by more than rounding."""
    deviation = np.sqrt(group_mean((rewards - group_mean(rewards, groups)) ** 2, groups))
    return deviation > 1e-3


@given(rewards_in_groups, st.randoms(use_true_random=False))
def test_the_order_of_a_batch_does_not_change_its_credit(pairs, random):
    order = list(range(len(pairs)))
    random.shuffle(order)
    rewards, groups = unzip(pairs)
    shuffled = group_advantages(rewards[order], [groups[i] for i in order])
    np.testing.assert_allclose(shuffled, group_advantages(rewards, groups)[order], atol=1e-9)


@given(rewards_in_groups)
def test_groups_do_not_touch_each_other(pairs):
    rewards, groups = unzip(pairs)
    found = group_advantages(rewards, groups)
    for group in set(groups):
        inside = np.array([g == group for g in groups])
        alone = group_advantages(rewards[inside], [group] * inside.sum())
        np.testing.assert_allclose(found[inside], alone, atol=1e-9)


@given(rewards_in_groups)
def test_with_equal_turns_the_first_turn_baseline_is_the_group_mean(pairs):
    rewards, groups = unzip(pairs)
    known = Counter(group for group, reward in zip(groups, rewards, strict=True) if not np.isnan(reward))
    expected = group_advantages(rewards, groups)
    expected[[known[group] < 2 for group in groups]] = np.nan
    np.testing.assert_array_equal(first_turn_baseline(rewards, rewards, groups), expected)


@given(rewards_in_groups)
def test_leaving_one_out_is_the_mean_of_the_others(pairs):
    rewards, groups = unzip(pairs)
    found = leave_one_out_baseline(rewards, rewards, groups)
    for i, (reward, group) in enumerate(pairs):
        others = [r for j, (r, g) in enumerate(pairs) if j != i and g == group and not math.isnan(r)]
        expected = reward - np.mean(others) if others else NAN
        assert found[i] == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(rewards_in_groups)
def test_every_baseline_is_missing_where_the_second_reward_is(pairs):
    rewards, groups = unzip(pairs)
    first = np.zeros(len(rewards))
    for baseline in (second_turn_baseline, first_reward_baseline, no_baseline):
        np.testing.assert_array_equal(np.isnan(baseline(rewards, first, groups)), np.isnan(rewards))


def test_as_many_groups_as_values_are_needed():
    with pytest.raises(ValueError, match="3 values for 2"):
        group_mean([1.0, 2.0, 3.0], ["a", "b"])


# ── precision and the rest of what a mutant may change ────────────────────────────────────────────

ROUGH = np.array([0.1, 0.7, 0.3], dtype=np.float32)
"""float32 values, whose differences and means are other numbers in float64."""
EXACT = ROUGH.astype(np.float64)
GROUPS = ["a", "a", "a"]
IN_FLOAT64 = {
    "group_mean": lambda x: group_mean(x, GROUPS),
    "group_advantages": lambda x: group_advantages(x, GROUPS, divide_by_std=True),
    "first_turn_baseline": lambda x: first_turn_baseline(x, x[::-1], GROUPS),
    "leave_one_out_baseline": lambda x: leave_one_out_baseline(x, x[::-1], GROUPS),
    "first_reward_baseline": lambda x: first_reward_baseline(x, x[::-1], GROUPS),
    "no_baseline": lambda x: no_baseline(x, x[::-1], GROUPS),
    "returns_to_go": lambda x: returns_to_go(x[None], [3], 0.9)[0],
    "last_reward_returns": lambda x: last_reward_returns(x[None], [3], np.float32(0.9)),
    "mean_of_known": lambda x: mean_of_known(np.stack([x, x[::-1]])),
    "token_returns": lambda x: token_returns(x, 0.9),
    "gae": lambda x: gae(x, x[::-1], gamma=0.9, lam=0.8),
    "position_baselines": lambda x: position_baselines([x, x[:2], x[:1]], GROUPS)[1],
    "whitened": lambda x: whitened([x])[0],
    "explained_variance": lambda x: np.asarray(explained_variance(x, x[::-1])),
}


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_all_is_computed_in_float64(name):
    found, wanted = IN_FLOAT64[name](ROUGH), IN_FLOAT64[name](EXACT)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, wanted)


def test_whole_numbers_are_taken_as_floats():
    whole = np.array([1, 0, 1])
    for name, function in IN_FLOAT64.items():
        assert function(whole).dtype == np.float64, name
    assert group_size(["a", "b", "a"]).dtype == np.float64


def test_the_last_rewards_return_by_hand():
    """γ^(τ−1) r_τ, τ counted from 1."""
    rewards = [[0.0, 2.0, 9.0], [3.0, 9.0, 9.0], [0.0, 0.0, NAN]]
    np.testing.assert_allclose(last_reward_returns(rewards, [2, 1, 3], 0.5), [1.0, 3.0, NAN])
    np.testing.assert_array_equal(last_reward_returns([[0.0, 0.0, 4.0]], [3], 0.5), [1.0])


def test_a_tiny_deviation_is_damped_and_never_turned():
    """(r − mean) / (std + ε): with std = ε it is half of what it would be; std − ε would be 0."""
    found = group_advantages([1.0, 3.0], ["a", "a"], divide_by_std=True, eps=1.0)
    np.testing.assert_allclose(found, [-0.5, 0.5])
    np.testing.assert_allclose(whitened([[1.0], [3.0]], eps=1.0), [[-0.5], [0.5]])


def test_two_known_first_rewards_are_enough_for_a_baseline():
    np.testing.assert_allclose(first_turn_baseline([1.0, 1.0], [0.0, 1.0], ["a", "a"]), [0.5, 0.5])
    assert np.isnan(first_turn_baseline([1.0, 1.0], [0.0, NAN], ["a", "a"])).all()


def test_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        leave_one_out_baseline([1.0, 0.0], [1.0, 0.0], ["a", "a", "a"])


def test_no_answers_have_no_position_baselines():
    assert position_baselines([], []) == []


def test_explained_variance_by_hand():
    assert explained_variance([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1.0
    assert explained_variance([0.0, 0.0], [0.0, 4.0]) == 0.0
    assert explained_variance([0.0, 2.0], [0.0, 4.0]) == pytest.approx(1 - 1 / 4)
    assert math.isnan(explained_variance([1.0, 2.0], [3.0, 3.0]))
    assert math.isnan(explained_variance([], []))
