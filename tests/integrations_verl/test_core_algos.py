"""The plug-in in verl itself, on a CPU: `make test-verl`. Without verl, everything here is skipped.

verl loads the plug-in through its entry point, so that Didact must be installed beside it. Where both have
the same formula they must agree to 1e-6; where they differ, the difference is stated and measured.
"""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

if importlib.util.find_spec("verl") is None:
    pytest.skip("verl is not installed: run `make test-verl`", allow_module_level=True)

from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos
from verl.workers.config import FSDPActorConfig

from didact.integrations import verl as plugin

B, T = 8, 12
UIDS = np.array(["a", "a", "a", "a", "b", "b", "b", "b"], dtype=object)
LENGTHS = [12, 3, 7, 1, 9, 12, 5, 10]
MASK = torch.tensor([[float(t < n) for t in range(T)] for n in LENGTHS])
TOOL = MASK.clone()
TOOL[0, 4:6] = TOOL[5, 0] = TOOL[7, 8] = 0.0
EXACT = {"rtol": 0.0, "atol": 1e-6}


def draw(seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(B, T))).float()


def outcome(mask):
    """One reward at the last token of each answer."""
    rewards = torch.zeros(B, T)
    for i in range(B):
        rewards[i, int(mask[i].nonzero().max())] = float(i % 3 == 0) + 0.1 * i
    return rewards


def actor(**changes):
    """verl's own settings of an actor, as its trainer makes them."""
    settings = {
        "strategy": "fsdp",
        "rollout_n": 1,
        "ppo_micro_batch_size_per_gpu": 1,
        "ppo_mini_batch_size": 8,
    }
    return FSDPActorConfig(**{**settings, **changes})


def test_verl_loads_the_plugin_by_itself():
    """In a process that says nothing of Didact, as verl's workers are."""
    names = [*plugin.ESTIMATORS, *plugin.LOSSES]
    code = (
        "import logging; logging.basicConfig(level=logging.DEBUG)\n"
        "from verl.trainer.ppo import core_algos as c\n"
        f"print([n for n in {names!r} if n not in {{**c.ADV_ESTIMATOR_REGISTRY, **c.POLICY_LOSS_REGISTRY}}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr[-2000:]


@pytest.mark.parametrize("mask", [MASK, TOOL], ids=["padding", "tools"])
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.99, 0.95), (1.0, 0.0)])
def test_gae_is_verls_before_it_whitens(mask, gamma, lam):
    rewards, values = draw(0) * mask, draw(1)
    config = AlgoConfig(gamma=gamma, lam=lam)
    ours, returns = plugin.span_gae(rewards, mask, values=values, config=config)
    _, theirs = core_algos.compute_gae_advantage_return(rewards, values, mask, gamma, lam)
    torch.testing.assert_close(returns, theirs * mask, **EXACT)
    torch.testing.assert_close(ours, (theirs - values) * mask, **EXACT)


@pytest.mark.parametrize("mask", [MASK, TOOL], ids=["padding", "tools"])
def test_grpo_is_verls_without_the_division(mask):
    config = AlgoConfig(norm_adv_by_std_in_grpo=False)
    ours, _ = plugin.grpo(outcome(mask), mask, index=UIDS, config=config)
    theirs, _ = core_algos.compute_grpo_outcome_advantage(
        outcome(mask), mask, UIDS, norm_adv_by_std_in_grpo=False
    )
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_grpo_divides_by_the_std_of_n_where_verl_takes_n_less_one():
    ours, _ = plugin.grpo(outcome(MASK), MASK, index=UIDS, config=AlgoConfig())
    theirs, _ = core_algos.compute_grpo_outcome_advantage(outcome(MASK), MASK, UIDS)
    torch.testing.assert_close(ours, theirs * (4 / 3) ** 0.5, rtol=1e-4, atol=1e-6)


def test_critic_free_span_credit_of_one_reward_at_the_end_is_grpo():
    ours, _ = plugin.span_critic_free(outcome(MASK), MASK, index=UIDS, config=AlgoConfig())
    theirs, _ = core_algos.compute_grpo_outcome_advantage(
        outcome(MASK), MASK, UIDS, norm_adv_by_std_in_grpo=False
    )
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_leave_one_out_is_verls_rloo():
    ours, _ = plugin.rltf_leave_one_out(outcome(MASK), MASK, index=UIDS)
    theirs, _ = core_algos.compute_rloo_outcome_advantage(outcome(MASK), MASK, UIDS)
    torch.testing.assert_close(ours, theirs, **EXACT)


MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


def both(name, theirs, mode, mask=MASK, **changes):
    """Loss and gradient of ours and verl's on the same batch, from the registry, as verl's actor asks."""
    # clip_ratio_c is a second clip, of negative advantages, which Didact's PPO has not.
    config = actor(clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=1e9, **changes)
    old, advantages = draw(0) - 3, draw(2) * mask
    results = []
    for loss_mode in (name, theirs):
        new = (old + 0.5 * draw(1)).requires_grad_()
        fn = core_algos.get_policy_loss_fn(loss_mode)
        loss, metrics = fn(
            old_log_prob=old, log_prob=new, advantages=advantages, response_mask=mask.bool(),
            loss_agg_mode=mode, config=config, rollout_is_weights=None,
        )  # fmt: skip
        loss.backward()
        results.append((loss.detach(), new.grad, metrics))
    return results


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "theirs"), [("didact_ppo", "vanilla"), ("didact_cispo", "cispo")])
def test_a_clipped_loss_and_its_gradient_are_verls(name, theirs, mode):
    (loss, gradient, metrics), (expected, expected_gradient, expected_metrics) = both(name, theirs, mode)
    # token-sum is a sum over 59 tokens in float32.
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, **EXACT)
    assert metrics["actor/ppo_kl"] == pytest.approx(expected_metrics["actor/ppo_kl"], abs=1e-6)


def test_verls_second_clip_is_the_only_difference_of_ppo():
    """With verl's default clip_ratio_c of 3, a poor token that became far likelier loses its gradient."""
    old = torch.zeros(1, 2)
    mask, advantages = torch.ones(1, 2, dtype=torch.bool), -torch.ones(1, 2)
    gradients = []
    for name in ("didact_ppo", "vanilla"):
        new = torch.tensor([[0.1, 2.0]], requires_grad=True)
        core_algos.get_policy_loss_fn(name)(old, new, advantages, mask, "token-sum", actor())[0].backward()
        gradients.append(new.grad)
    ours, theirs = gradients
    torch.testing.assert_close(ours[0, 0], theirs[0, 0], **EXACT)
    assert ours[0, 1] > 1
    assert theirs[0, 1] == 0


def test_a_global_batch_over_two_ranks_is_normalised_as_verl_does():
    batch = {"dp_size": 2, "batch_num_tokens": 500, "global_batch_size": 64}
    for mode in MODES[:4]:
        config_loss = []
        for name in ("didact_ppo", "vanilla"):
            config = actor(clip_ratio_c=1e9)
            config.global_batch_info.update(batch)
            fn = core_algos.get_policy_loss_fn(name)
            loss, _ = fn(draw(0), draw(0) + 0.2 * draw(1), draw(2), MASK.bool(), mode, config)
            config_loss.append(loss)
        torch.testing.assert_close(*config_loss, rtol=1e-6, atol=1e-6)
