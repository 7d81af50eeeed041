"""Losses against numbers by hand and against each other. Two rows of three tokens:

weights      .5  .5   0 │ 2   0   1        row 1 ends after two tokens, row 2 skips one
advantages    1  -2   9 │ .5  9  -1        9 lies where it must not count
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from didact.losses import (
    BUILTIN,
    actor_critic,
    cispo,
    clipped_value,
    cross_entropy,
    importance_sampling,
    kl_k3,
    policy_gradient,
    ppo,
    with_entropy,
)

LOGPROBS = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, -4.0, -1.5]])
WEIGHTS = torch.tensor([[0.5, 0.5, 0.0], [2.0, 0.0, 1.0]])
ADVANTAGES = torch.tensor([[1.0, -2.0, 9.0], [0.5, 9.0, -1.0]])
# log ρ is ln 2, 0, 9, ln ½, 9, ln ½.
OLD = LOGPROBS - torch.tensor([[math.log(2), 0.0, 9.0], [math.log(0.5), 9.0, math.log(0.5)]])
FIELDS = {"weights_BT": WEIGHTS, "advantages_BT": ADVANTAGES, "old_logprobs_BT": OLD}
# What a critic needs beside them: V went from V_old by .5, -.5, 9 │ 0, 9, .1 on its way to R.
VALUES = torch.tensor([[1.5, 0.5, 9.0], [2.0, 9.0, -0.9]])
VALUE_FIELDS = {
    "values_BT": VALUES,
    "old_values_BT": torch.tensor([[1.0, 1.0, 0.0], [2.0, 0.0, -1.0]]),
    "returns_BT": torch.tensor([[2.0, 2.0, 9.0], [0.0, 9.0, 1.0]]),
}
NEEDS = {
    "cross_entropy": ("weights_BT",),
    "policy_gradient": ("weights_BT", "advantages_BT"),
    "ppo": tuple(FIELDS),
    "actor_critic": (*FIELDS, *VALUE_FIELDS),
    "importance_sampling": tuple(FIELDS),
    "cispo": tuple(FIELDS),
}
FIELDS = FIELDS | VALUE_FIELDS
MORE = {
    "policy_gradient": ("old_logprobs_BT", "ref_logprobs_BT"),
    "ppo": ("ref_logprobs_BT",),
    "actor_critic": ("ref_logprobs_BT",),
}
"""Fields that a loss takes and does not need."""


def call(name, logprobs_BT=LOGPROBS, fields=FIELDS, **settings):
    return BUILTIN[name](logprobs_BT, **{n: fields[n] for n in NEEDS[name]}, **settings)


def gradient(name, logprobs_BT=LOGPROBS, fields=FIELDS, **settings):
    leaf_BT = logprobs_BT.clone().requires_grad_(True)
    call(name, leaf_BT, fields, **settings).loss.backward()
    return leaf_BT.grad


@pytest.fixture(params=sorted(BUILTIN))
def name(request):
    return request.param


# ── by hand ───────────────────────────────────────────────────────────────────────────────────────


def test_cross_entropy_by_hand():
    loss, metrics = call("cross_entropy")
    assert float(loss) == pytest.approx(0.5 * 1 + 0.5 * 2 + 2 * 0.5 + 1 * 1.5)
    assert metrics == {"tokens": 4, "nll": pytest.approx(1 + 2 + 0.5 + 1.5)}


def test_soft_cross_entropy_by_hand():
    logprobs_BTK = torch.tensor([[[-1.0, -2.0], [-3.0, -0.5]]])
    probs_BTK = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]])
    loss, metrics = cross_entropy(
        logprobs_BTK, weights_BT=torch.tensor([[2.0, 1.0]]), target_probs_BT=probs_BTK
    )
    assert float(loss) == pytest.approx(2 * (0.25 * 1 + 0.75 * 2) + 3)
    assert metrics == {"tokens": 2, "nll": pytest.approx(1.75 + 3)}


def test_policy_gradient_by_hand():
    loss, metrics = call("policy_gradient")
    assert float(loss) == pytest.approx(0.5 * 1 * 1 + 0.5 * -2 * 2 + 2 * 0.5 * 0.5 + 1 * -1 * 1.5)
    assert metrics == {"tokens": 4}
    # dL/dlog π = −w A: a poor token (A < 0) is pushed down.
    assert gradient("policy_gradient").tolist() == [[-0.5, 1.0, 0.0], [-1.0, 0.0, 1.0]]


def test_ppo_by_hand():
    # ρ = 2 with A = 1 is clipped to 1.2; ρ = 1; ρ = ½ with A > 0 is not clipped; ρ = ½ with A < 0 is, to 0.8.
    loss, metrics = call("ppo")
    assert float(loss) == pytest.approx(-(0.5 * 1.2 + 0.5 * -2 + 2 * 0.5 * 0.5 + 1 * 0.8 * -1))
    # Σ log π_old − log π = −ln 2 − 0 − ln ½ − ln ½
    assert metrics == {"tokens": 4, "clipped": 2, "off_policy": pytest.approx(math.log(2))}
    # Where the clip binds there is no gradient; elsewhere it is −w ρ A.
    assert gradient("ppo").flatten().tolist() == pytest.approx([0.0, 1.0, 0.0, -0.5, 0.0, 0.0])


def test_ppo_counts_the_tokens_that_the_clip_binds():
    """ρ above the range with A < 0, or below it with A > 0, keeps its gradient, and is not clipped."""
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.1, 1.5, 1.5]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, 0.0, 1.0]])
    weights = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]])
    leaf = torch.zeros(1, 7, requires_grad=True)
    fields = {"weights_BT": weights, "advantages_BT": advantages, "old_logprobs_BT": -ratio.log()}
    output = ppo(leaf, **fields)
    output.loss.backward()
    assert output.metrics["clipped"] == 2
    assert (leaf.grad != 0).tolist() == [[False, True, True, False, True, False, False]]


def test_ppo_clips_each_side_by_its_own_setting():
    loss, _ = call("ppo", clip_low=0.4, clip_high=0.5)
    assert float(loss) == pytest.approx(-(0.5 * 1.5 + 0.5 * -2 + 2 * 0.5 * 0.5 + 1 * 0.6 * -1))


def test_importance_sampling_by_hand():
    loss, _ = call("importance_sampling")
    assert float(loss) == pytest.approx(-(0.5 * 2 + 0.5 * -2 + 2 * 0.5 * 0.5 + 1 * 0.5 * -1))


def test_cispo_by_hand():
    # ρ = 2, 1, ½, ½ becomes 1.2, 1, 0.8, 0.8, whatever the sign of A, and is held constant.
    loss, metrics = call("cispo")
    terms = (0.5 * 1.2 * 1 * 1, 0.5 * 1 * -2 * 2, 2 * 0.8 * 0.5 * 0.5, 1 * 0.8 * -1 * 1.5)
    assert float(loss) == pytest.approx(sum(terms))
    assert metrics == {"tokens": 4, "clipped": 3, "off_policy": pytest.approx(math.log(2))}
    assert gradient("cispo").flatten().tolist() == pytest.approx([-0.6, 1.0, 0.0, -0.8, 0.0, 0.8])
    lopsided, _ = call("cispo", clip_low=0.4, clip_high=0.5)
    terms = (0.5 * 1.5 * 1 * 1, 0.5 * 1 * -2 * 2, 2 * 0.6 * 0.5 * 0.5, 1 * 0.6 * -1 * 1.5)
    assert float(lopsided) == pytest.approx(sum(terms))


def test_sampling_logprobs_tell_how_far_off_policy_reinforce_is_and_change_nothing_else():
    told = policy_gradient(LOGPROBS, **{n: FIELDS[n] for n in NEEDS["ppo"]})
    plain = call("policy_gradient")
    assert torch.equal(plain.loss, told.loss)
    assert told.metrics == {"tokens": 4, "off_policy": pytest.approx(math.log(2))}
    assert "off_policy" not in plain.metrics


@pytest.mark.parametrize("base", ["policy_gradient", "ppo"])
def test_a_reference_adds_beta_times_the_weighted_k3(base):
    reference = LOGPROBS + torch.tensor([[math.log(2), 0.0, 5.0], [math.log(0.5), 5.0, 0.0]])
    k3 = {"doubled": 2 - math.log(2) - 1, "halved": 0.5 + math.log(2) - 1}
    plain, pulled = call(base), call(base, ref_logprobs_BT=reference, kl_coef=0.1)
    extra = 0.1 * (0.5 * k3["doubled"] + 2 * k3["halved"])
    assert float(pulled.loss - plain.loss) == pytest.approx(extra, rel=1e-4)
    assert pulled.metrics["kl"] == pytest.approx(k3["doubled"] + k3["halved"], rel=1e-5)


def test_the_reference_pulls_a_token_that_is_too_likely_down():
    reference = LOGPROBS - 1  # the policy gives each token e times the reference's probability
    silent = FIELDS | {"advantages_BT": torch.zeros_like(ADVANTAGES)}
    pull_BT = gradient("policy_gradient", fields=silent, ref_logprobs_BT=reference, kl_coef=1.0)
    assert (pull_BT[WEIGHTS != 0] > 0).all()  # a descent step lowers log π
    assert (pull_BT[WEIGHTS == 0] == 0).all()


def value_loss(values_BT=VALUES, **settings):
    fields = {n: FIELDS[n] for n in ("weights_BT", "returns_BT", "old_values_BT")}
    return clipped_value(values_BT, **fields, **settings)


def test_the_value_loss_by_hand():
    loss, metrics = value_loss()
    assert float(loss) == pytest.approx(0.5 * (0.5 * 0.5**2 + 0.5 * 1.5**2 + 2 * 2.0**2 + 1 * 1.9**2))
    assert metrics == {"value_error": pytest.approx(0.25 + 2.25 + 4 + 3.61), "value_clipped": 0}


def test_a_clipped_value_counts_the_larger_error_and_has_no_gradient_where_it_went_far_enough():
    leaf_BT = VALUES.clone().requires_grad_(True)
    loss, metrics = value_loss(leaf_BT, value_clip=0.2)
    # 1.5 is clipped to 1.2, .5 to .8; .5 went away from R = 2, so its own error is the larger.
    by_hand = 0.5 * (0.5 * 0.8**2 + 0.5 * 1.5**2 + 2 * 2.0**2 + 1 * 1.9**2)
    assert float(loss.detach()) == pytest.approx(by_hand)
    assert metrics["value_clipped"] == 2
    loss.backward()
    expected = torch.tensor([[0.0, 0.5 * -1.5, 0.0], [2 * 2.0, 0.0, -1.9]])
    torch.testing.assert_close(leaf_BT.grad, expected)


def test_a_descent_step_moves_the_value_towards_the_return():
    leaf_BT = VALUES.clone().requires_grad_(True)
    value_loss(leaf_BT).loss.backward()
    away_BT = (VALUES - FIELDS["returns_BT"]) * WEIGHTS
    torch.testing.assert_close(leaf_BT.grad, away_BT)


def test_actor_and_critic_are_ppo_and_c_times_the_value_loss():
    both = call("actor_critic", value_coef=0.3, value_clip=0.2)
    torch.testing.assert_close(both.loss, call("ppo").loss + 0.3 * value_loss(value_clip=0.2).loss)
    assert both.metrics == call("ppo").metrics | value_loss(value_clip=0.2).metrics
    torch.testing.assert_close(gradient("actor_critic"), gradient("ppo"))
    with pytest.raises(ValueError, match="old_values_BT has shape"):
        actor_critic(
            LOGPROBS, **{n: FIELDS[n] for n in NEEDS["actor_critic"]} | {"old_values_BT": torch.ones(2, 2)}
        )


# ── identities ────────────────────────────────────────────────────────────────────────────────────


def test_on_policy_ppo_and_importance_sampling_have_the_gradient_of_reinforce():
    on_policy = FIELDS | {"old_logprobs_BT": LOGPROBS}
    expected = gradient("policy_gradient")
    torch.testing.assert_close(gradient("ppo", fields=on_policy), expected)
    torch.testing.assert_close(gradient("importance_sampling", fields=on_policy), expected)
    torch.testing.assert_close(gradient("cispo", fields=on_policy), expected)


def test_advantages_of_one_make_reinforce_cross_entropy():
    ones = FIELDS | {"advantages_BT": torch.ones_like(ADVANTAGES)}
    torch.testing.assert_close(call("policy_gradient", fields=ones).loss, call("cross_entropy").loss)


def test_an_infinitely_wide_clip_makes_ppo_importance_sampling():
    wide = call("ppo", clip_low=1e9, clip_high=1e9)
    torch.testing.assert_close(wide.loss, call("importance_sampling").loss)
    assert wide.metrics["clipped"] == 0
    wide_gradient = gradient("cispo", clip_low=1e9, clip_high=1e9)
    torch.testing.assert_close(wide_gradient, gradient("importance_sampling"))


def test_one_hot_soft_targets_are_hard_targets():
    logprobs_BTK = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    target_BT = torch.tensor([[0, 4, 2], [1, 1, 3]])
    one_hot_BTK = torch.nn.functional.one_hot(target_BT, 5).float()
    soft = cross_entropy(logprobs_BTK, weights_BT=WEIGHTS, target_probs_BT=one_hot_BTK)
    hard = cross_entropy(logprobs_BTK.gather(-1, target_BT[..., None])[..., 0], weights_BT=WEIGHTS)
    torch.testing.assert_close(soft.loss, hard.loss)
    assert soft.metrics == pytest.approx(hard.metrics)


def test_every_loss_is_additive_in_its_weights(name):
    part = torch.tensor([[0.5, 0.1, 0.0], [0.0, 0.0, 0.7]])
    whole = call(name).loss
    split = [call(name, fields=FIELDS | {"weights_BT": w}).loss for w in (part, WEIGHTS - part)]
    torch.testing.assert_close(sum(split), whole)
    negated = call(name, fields=FIELDS | {"weights_BT": -WEIGHTS}).loss
    torch.testing.assert_close(negated, -whole)


def test_every_loss_is_the_sum_of_its_rows_losses_in_any_order(name):
    whole = call(name)
    rows = [call(name, LOGPROBS[[b]], {n: f[[b]] for n, f in FIELDS.items()}) for b in (1, 0)]
    torch.testing.assert_close(rows[0].loss + rows[1].loss, whole.loss)
    assert {k: rows[0].metrics[k] + rows[1].metrics[k] for k in whole.metrics} == pytest.approx(whole.metrics)
    flipped = call(name, LOGPROBS.flip(0), {n: f.flip(0) for n, f in FIELDS.items()})
    torch.testing.assert_close(flipped.loss, whole.loss)
    torch.testing.assert_close(
        gradient(name, LOGPROBS.flip(0), {n: f.flip(0) for n, f in FIELDS.items()}), gradient(name).flip(0)
    )


def test_what_lies_in_padding_changes_nothing(name):
    logprobs_BT = torch.nn.functional.pad(LOGPROBS, (0, 2))
    fields = {n: torch.nn.functional.pad(f, (0, 2), value=-1000.0) for n, f in FIELDS.items()}
    fields["weights_BT"] = torch.nn.functional.pad(WEIGHTS, (0, 2))
    torch.testing.assert_close(call(name, logprobs_BT, fields).loss, call(name).loss)
    assert call(name, logprobs_BT, fields).metrics == call(name).metrics
    gradient_BT = gradient(name, logprobs_BT, fields)
    torch.testing.assert_close(gradient_BT[:, :3], gradient(name))
    assert (gradient_BT[:, 3:] == 0).all()


def test_a_reference_in_padding_changes_nothing():
    far = torch.where(WEIGHTS != 0, LOGPROBS, 1000.0)
    torch.testing.assert_close(call("ppo", ref_logprobs_BT=far, kl_coef=1.0).loss, call("ppo").loss)


def test_no_gradient_reaches_a_token_of_weight_zero(name):
    assert (gradient(name)[WEIGHTS == 0] == 0).all()
    assert (gradient(name)[WEIGHTS != 0] != 0).any()


@given(
    st.lists(st.floats(-20, 0), min_size=1, max_size=8), st.lists(st.floats(-20, 0), min_size=8, max_size=8)
)
def test_k3_is_never_negative(logprobs, reference):
    found = kl_k3(torch.tensor(logprobs, dtype=torch.float64), torch.tensor(reference[: len(logprobs)]))
    assert (found >= -1e-12).all()


def test_k3_is_zero_at_equal_and_estimates_the_kl_divergence():
    assert (kl_k3(LOGPROBS, LOGPROBS) == 0).all()
    p_V, q_V = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    expectation = (p_V * kl_k3(p_V.log(), q_V.log())).sum()
    torch.testing.assert_close(expectation, (p_V * (p_V / q_V).log()).sum())


# ── refused ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("loss", [policy_gradient, ppo, importance_sampling, cispo])
def test_a_field_of_another_shape_is_refused_by_name(loss):
    fields = FIELDS | {"advantages_BT": ADVANTAGES[:, :2]}
    fields = {n: fields[n] for n in NEEDS[loss.__name__]}
    with pytest.raises(ValueError, match=r"advantages_BT .*\(2, 2\)"):
        loss(LOGPROBS, **fields)


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name in sorted(BUILTIN) for field in (*NEEDS[name], *MORE.get(name, ()))],
)
def test_every_field_of_another_shape_is_refused_by_name(name, field):
    given_ = {**FIELDS, "ref_logprobs_BT": LOGPROBS - 0.3}
    fields = {n: given_[n] for n in (*NEEDS[name], *MORE.get(name, ()))}
    wrong = torch.ones(1, 3)  # would broadcast
    named = field if field != "values_BT" else "weights_BT"  # what the others are compared with
    with pytest.raises(ValueError, match=f"^{named} has shape"):
        BUILTIN[name](LOGPROBS, **{**fields, field: wrong})


@pytest.mark.parametrize("name", ["policy_gradient", "ppo", "actor_critic"])
def test_a_reference_counts_with_the_coefficient_that_is_given(name):
    """β Σ w k₃ over the trained tokens alone; 0 by default, when only the metric is there."""
    fields = {n: FIELDS[n] for n in NEEDS[name]}
    reference = LOGPROBS - torch.tensor([[0.3, -0.2, 9.0], [0.1, 9.0, 0.5]])
    plain = BUILTIN[name](LOGPROBS, **fields)
    k3 = kl_k3(LOGPROBS, reference)
    trained = WEIGHTS != 0
    for beta, settings in ((0.0, {}), (0.5, {"kl_coef": 0.5})):
        found = BUILTIN[name](LOGPROBS, **fields, ref_logprobs_BT=reference, **settings)
        added = beta * float((WEIGHTS * k3)[trained].sum())
        assert float(found.loss) == pytest.approx(float(plain.loss) + added, rel=1e-5)
        assert found.metrics == {**plain.metrics, "kl": pytest.approx(float(k3[trained].sum()), rel=1e-5)}


def test_the_actor_keeps_each_setting_of_ppo():
    reference = LOGPROBS - 0.3
    for settings in ({"clip_low": 0.6}, {"clip_high": 1.5}, {"kl_coef": 0.5}):
        fields = {n: FIELDS[n] for n in NEEDS["ppo"]} | {"ref_logprobs_BT": reference}
        actor = ppo(LOGPROBS, **fields, **settings)
        both = actor_critic(LOGPROBS, **fields, **VALUE_FIELDS, value_coef=0.0, **settings)
        torch.testing.assert_close(both.loss, actor.loss)
        assert actor.loss != ppo(LOGPROBS, **fields).loss


def test_the_value_loss_counts_a_tenth_by_default():
    fields = {n: FIELDS[n] for n in NEEDS["actor_critic"]}
    found = actor_critic(LOGPROBS, **fields)
    torch.testing.assert_close(found.loss, call("ppo").loss + 0.1 * value_loss().loss)


def test_metrics_have_their_names():
    assert call("importance_sampling").metrics == {"tokens": 4, "off_policy": pytest.approx(math.log(2))}


def test_advantages_beside_one_multiply():
    """A = ½ and A = 0: dividing by A gives another minimum."""
    old = LOGPROBS - math.log(2)
    fields = {"weights_BT": torch.ones(2, 3), "old_logprobs_BT": old}
    for advantage in (0.5, -0.5, 0.0, 3.0):
        found = ppo(LOGPROBS, advantages_BT=torch.full((2, 3), advantage), **fields)
        rho = 1.2 if advantage > 0 else 2.0
        assert float(found.loss) == pytest.approx(-6 * rho * advantage, rel=1e-5)
        assert found.metrics["clipped"] == (6 if advantage > 0 else 0)


def test_a_value_is_clipped_on_both_sides_and_at_the_bound_not():
    values = torch.tensor([[0.5, -0.5, 0.25, -0.25]])
    weights, zeros = torch.ones(1, 4), torch.zeros(1, 4)
    found = clipped_value(values, weights_BT=weights, returns_BT=values, old_values_BT=zeros, value_clip=0.25)
    assert float(found.loss) == pytest.approx(0.5 * 2 * 0.25**2)  # clipped to ±¼, each ¼ away from R
    assert found.metrics["value_clipped"] == 2


def test_soft_targets_of_another_width_are_refused_by_name():
    with pytest.raises(ValueError, match="target_probs_BT"):
        cross_entropy(torch.zeros(1, 2, 3), weights_BT=torch.ones(1, 2), target_probs_BT=torch.ones(1, 2, 4))


def test_the_entropy_bonus_by_hand():
    plain = call("policy_gradient")
    weights_N, entropy_N = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([4.0, 1.0, 2.0], requires_grad=True)
    found = with_entropy(plain, entropy_N, weights_N, 0.1)
    assert float(found.loss.detach()) == pytest.approx(float(plain.loss) - 0.1 * (0.5 * 1 + 1 * 2))
    assert found.metrics == {**plain.metrics, "entropy": 3.0}
    found.loss.backward()
    assert entropy_N.grad.tolist() == pytest.approx([0.0, -0.05, -0.1])
    for wrong in (torch.ones(2), torch.ones(1, 3)):
        with pytest.raises(ValueError):
            with_entropy(plain, entropy_N, wrong, 0.1)
