"""The verl plug-in against a stand-in for verl's `core_algos`; tests/integrations_verl has the real one."""

import importlib.metadata
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from didact import advantages as credit
from didact import losses
from didact.errors import CapabilityError, DataError
from didact.integrations import verl as plugin

MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1], [1, 1, 1, 1, 0], [0, 1, 1, 0, 0]])
UIDS = np.array(["a", "b", "a", "b"], dtype=object)


class CoreAlgos:
    """verl 0.9.1's two registries, and two of its ways to aggregate a loss."""

    def __init__(self):
        self.estimators, self.policy_losses = {}, {}

    def register_adv_est(self, name):
        def decorator(fn):
            if self.estimators.setdefault(name, fn) is not fn:
                raise ValueError(f"Adv estimator {name} has already been registered")
            return fn

        return decorator

    def register_policy_loss(self, name):
        def decorator(fn):
            self.policy_losses[name] = fn
            return fn

        return decorator

    @staticmethod
    def agg_loss(loss_mat, loss_mask, loss_agg_mode, dp_size=1, batch_num_tokens=None):
        total = (loss_mat * loss_mask).sum()
        if loss_agg_mode == "token-mean":
            return total / (batch_num_tokens or loss_mask.sum()) * dp_size
        assert loss_agg_mode == "seq-mean-token-mean"
        return ((loss_mat * loss_mask).sum(-1) / loss_mask.sum(-1)).mean()


@pytest.fixture
def core():
    algos = CoreAlgos()
    plugin.register(algos)
    return algos


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def kept(values, row):
    return values[row][MASK[row].bool()].double().numpy()


def test_all_names_are_registered_and_twice_is_once(core):
    plugin.register(core)
    assert set(core.estimators) == set(plugin.ESTIMATORS)
    assert set(core.policy_losses) == set(plugin.LOSSES)
    assert all(name.startswith("didact_") for name in (*core.estimators, *core.policy_losses))


@pytest.mark.parametrize("name", sorted(plugin.ESTIMATORS))
def test_every_estimator_keeps_shape_and_mask(core, name):
    rewards = draw(4, 5)
    given = {"reward_baselines": draw(4, seed=2), "values": draw(4, 5, seed=3)}
    advantages, returns = core.estimators[name](
        token_level_rewards=rewards,
        response_mask=MASK,
        index=UIDS,
        config={"gamma": 0.9, "lam": 0.8},
        **given,
    )
    for found in (advantages, returns):
        assert found.shape == rewards.shape
        assert found.dtype == rewards.dtype
        assert torch.isfinite(found).all()
        assert (found[MASK == 0] == 0).all()
    assert advantages.abs().sum() > 0


def test_critic_free_credit_is_that_of_the_method(core):
    rewards = draw(4, 5)
    found, _ = core.estimators["didact_span_critic_free"](
        rewards, MASK, index=UIDS, config=SimpleNamespace(gamma=0.5)
    )
    returns = [credit.token_returns(kept(rewards, i), 0.5) for i in range(4)]
    means = credit.position_baselines(returns, list(UIDS))
    for i in range(4):
        np.testing.assert_allclose(kept(found, i), returns[i] - means[i], atol=1e-6)


def test_masked_tokens_in_the_middle_do_not_interrupt_gae(core):
    """Row 1 has a tool's token at place 1: credit is that of the answer without it."""
    rewards, values = draw(4, 5), draw(4, 5, seed=3)
    found, returns = core.estimators["didact_span_gae"](
        rewards, MASK, values=values, config={"gamma": 0.9, "lam": 0.8}
    )
    expected = credit.gae(kept(rewards, 1), kept(values, 1), 0.9, 0.8)
    np.testing.assert_allclose(kept(found, 1), expected, atol=1e-6)
    np.testing.assert_allclose(kept(returns, 1), expected + kept(values, 1), atol=1e-6)


def test_a_missing_reward_leaves_its_group_and_trains_nothing(core):
    rewards = torch.zeros(4, 5)
    rewards[0, 2], rewards[2, 3] = 1.0, float("nan")
    for name in ("didact_grpo", "didact_span_critic_free", "didact_rltf_leave_one_out"):
        found, _ = core.estimators[name](rewards, MASK, index=UIDS, config={"norm_adv_by_std_in_grpo": False})
        assert (found == 0).all(), name  # row 0 is alone in its group, row 2 missing
    values = draw(4, 5, seed=3)
    found, returns = core.estimators["didact_span_gae"](rewards, MASK, values=values)
    assert (found[2] == 0).all()
    np.testing.assert_allclose(kept(returns, 2), kept(values, 2))


def test_a_row_without_a_token_is_no_failure(core):
    mask = MASK.clone()
    mask[0] = 0
    for name in ("didact_span_critic_free", "didact_grpo", "didact_direct"):
        found, _ = core.estimators[name](draw(4, 5), mask, index=UIDS)
        assert (found[0] == 0).all()


def test_rltf_sd_compares_with_the_first_turns(core):
    rewards = torch.zeros(4, 5)
    rewards[:, 1] = torch.tensor([1.0, 9.0, 0.0, 0.0])  # row 1's place 1 is masked, so that it earned 0
    first = torch.tensor([0.0, 1.0, 1.0, 0.5])
    found, _ = core.estimators["didact_rltf_sd"](rewards, MASK, index=UIDS, reward_baselines=first)
    assert found[:, 2].tolist() == [0.5, -0.75, -0.5, -0.75]
    own, _ = core.estimators["didact_rltf_first_reward"](rewards, MASK, index=UIDS, reward_baselines=first)
    assert own[:, 2].tolist() == [1.0, -1.0, -1.0, -0.5]


def test_what_verl_does_not_pass_is_named(core):
    with pytest.raises(CapabilityError, match="adv_estimator=gae"):
        core.estimators["didact_span_gae"](draw(4, 5), MASK, index=UIDS)
    with pytest.raises(DataError, match="reward_baselines"):
        core.estimators["didact_rltf_sd"](draw(4, 5), MASK, index=UIDS)
    with pytest.raises(DataError, match="uid"):
        core.estimators["didact_grpo"](draw(4, 5), MASK)
    with pytest.raises(DataError, match="3 uids"):
        core.estimators["didact_grpo"](draw(4, 5), MASK, index=UIDS[:3])


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize("name", sorted(plugin.LOSSES))
def test_a_policy_loss_is_ours_with_verls_normaliser(core, name, mode):
    new, old = draw(4, 5).requires_grad_(), draw(4, 5, seed=1)
    advantages = draw(4, 5, seed=2)
    config = SimpleNamespace(clip_ratio=0.3, clip_ratio_low=None, clip_ratio_high=0.1, global_batch_info={})
    with torch.no_grad():  # the weights must not need the caller's gradient mode
        core.policy_losses[name](old, new.detach(), advantages, MASK, mode, config)
    loss, metrics = core.policy_losses[name](old, new, advantages, MASK, mode, config)
    counts = MASK.sum(-1, keepdim=True)
    weights = MASK / MASK.sum() if mode == "token-mean" else MASK / counts / 4
    clips = {"clip_low": 0.3, "clip_high": 0.1} if name in ("didact_ppo", "didact_cispo") else {}
    ours = {
        "didact_ppo": losses.ppo,
        "didact_cispo": losses.cispo,
        "didact_importance_sampling": losses.importance_sampling,
        "didact_policy_gradient": losses.policy_gradient,
    }[name](new, weights_BT=weights, advantages_BT=advantages, old_logprobs_BT=old, **clips)
    torch.testing.assert_close(loss, ours.loss)
    (found,) = torch.autograd.grad(loss, new)
    (expected,) = torch.autograd.grad(ours.loss, new)
    torch.testing.assert_close(found, expected)
    assert ("actor/pg_clipfrac" in metrics) == bool(clips)
    kl = (old - new.detach())[MASK.bool()].mean()
    assert metrics["actor/ppo_kl"] == pytest.approx(float(kl), abs=1e-6)


def test_global_counts_and_rollout_weights_reach_the_loss(core):
    new, old, advantages = draw(4, 5), draw(4, 5, seed=1), draw(4, 5, seed=2)
    config = {"global_batch_info": {"dp_size": 2, "batch_num_tokens": 100}}
    importance = draw(4, 5, seed=4).abs()
    loss, _ = core.policy_losses["didact_policy_gradient"](
        old, new, advantages, MASK, "token-mean", config, rollout_is_weights=importance
    )
    expected = -(advantages * new * importance * MASK).sum() / 100 * 2
    torch.testing.assert_close(loss, expected)


def test_the_entry_point_names_the_module():
    points = importlib.metadata.entry_points(group="verl.plugins")
    named = [point.value for point in points if point.name == "didact"]
    if not named:
        pytest.skip("didact is not installed, or was before it had a plug-in")
    assert set(named) == {plugin.__name__}


def test_import_does_nothing_without_verl():
    code = (
        "import sys; sys.modules['verl'] = None\n"
        "import importlib.util; importlib.util.find_spec = lambda name, package=None: None\n"
        "import didact.integrations.verl\n"
        "assert 'transformers' not in sys.modules and 'ray' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
