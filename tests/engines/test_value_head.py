"""The value head, and the distance from the reference over the whole vocabulary."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from didact.engines.base import POLICY, REFERENCE, AdamParams, Loss, ValueHeadSettings
from didact.engines.local import LoraSettings
from didact.errors import CapabilityError, CheckpointError
from didact.types import Row
from tests.numerics import assert_close, assert_gradients_close

HEAD = ValueHeadSettings(lr_scale=10.0)
ACTOR_CRITIC = Loss("actor_critic", {"value_clip": 0.2, "value_coef": 0.5})
STEP = AdamParams(lr=1e-2)


@pytest.fixture
def value_rows(rows):
    """The rows with what a critic's loss needs."""
    draw = np.random.default_rng(2)
    made = []
    for row in rows:
        mask_T = row.fields["weights"] != 0
        more = {
            name: (draw.normal(size=len(row)) * mask_T).astype(np.float32)
            for name in ("returns", "old_values")
        }
        made.append(dataclasses.replace(row, fields={**row.fields, **more}))
    return made


def train(engine, rows, step=STEP):
    output = engine.forward_backward(rows, ACTOR_CRITIC)
    engine.optim_step(step)
    return output


def hidden_states(engine, row):
    """What the output layer reads, by one unpadded forward: [T, H]."""
    found = engine.model(input_ids=torch.from_numpy(row.input_ids)[None], output_hidden_states=True)
    return found.hidden_states[-1][0].float()


def by_hand(engine, row):
    head = engine._head
    with torch.inference_mode():
        return (hidden_states(engine, row) @ head.weight + head.bias).numpy()


# ── values ────────────────────────────────────────────────────────────────────────────────────────


def test_values_start_at_zero(make_engine, rows):
    engine = make_engine(value_head=HEAD)
    assert engine.capabilities.value_head
    assert not any(values_T.any() for values_T in engine.values(rows))


def test_values_are_the_head_on_the_last_state_however_rows_are_padded(make_engine, value_rows, shape):
    engine = make_engine(shape, value_head=HEAD, tokens_per_batch=80)
    train(engine, value_rows)
    found = engine.values(value_rows)
    for row, values_T in zip(value_rows, found, strict=True):
        expected_T = np.where(row.fields["weights"] != 0, by_hand(engine, row), 0)
        assert_close(values_T, expected_T)
        assert values_T.dtype == np.float32
        assert values_T.any()
    for row, values_T in zip(value_rows, found, strict=True):
        assert_close(engine.values([row])[0], values_T)


def test_the_gradient_is_that_of_the_formula(make_engine, make_model, value_rows):
    """½ w max((V − R)², (V_c − R)²) and PPO's part, by autograd on the plain model, row by row."""
    engine = make_engine(value_head=HEAD)
    train(engine, value_rows)  # so that V is not 0, whose gradient would not reach the model
    total = 0.0
    for row in value_rows:
        f = {n: torch.from_numpy(v) for n, v in row.fields.items()}
        logits_TV = engine.model(input_ids=torch.from_numpy(row.input_ids)[None]).logits[0].float()
        logprobs_T = logits_TV.log_softmax(-1)[torch.arange(len(row)), torch.from_numpy(row.target_ids)]
        ratio_T = (logprobs_T - f["old_logprobs"]).exp()
        gain_T = torch.minimum(ratio_T * f["advantages"], ratio_T.clamp(0.8, 1.2) * f["advantages"])
        value_T = hidden_states(engine, row) @ engine._head.weight + engine._head.bias
        clipped_T = f["old_values"] + (value_T - f["old_values"]).clamp(-0.2, 0.2)
        error_T = torch.maximum((value_T - f["returns"]) ** 2, (clipped_T - f["returns"]) ** 2)
        used = f["weights"] != 0
        total = total + (f["weights"] * (0.5 * 0.5 * error_T - gain_T))[used].sum()
    trained = list(engine._trained.values())
    expected = torch.autograd.grad(total, trained)
    output = engine.forward_backward(value_rows, ACTOR_CRITIC)
    assert output.loss == pytest.approx(float(total.detach()), rel=1e-4)
    assert_gradients_close([p.grad for p in trained], expected)


def test_micro_batches_do_not_change_the_gradient(make_engine, value_rows):
    found = []
    for budget in (40, 4096):
        engine = make_engine(value_head=HEAD, tokens_per_batch=budget)
        engine.forward_backward(value_rows, ACTOR_CRITIC)
        found.append([p.grad.clone() for p in engine._trained.values() if p.grad is not None])
    assert_gradients_close(*found)


def test_the_head_learns_at_its_own_rate(make_engine, value_rows):
    moved = {}
    for scale in (1.0, 10.0):
        engine = make_engine(value_head=ValueHeadSettings(lr_scale=scale))
        before = {n: p.detach().clone() for n, p in engine._trained.items()}
        train(engine, value_rows)
        moved[scale] = {n: p.detach() - before[n] for n, p in engine._trained.items()}
    for name, small in moved[1.0].items():
        factor = 10 if name.startswith("value_head.") else 1
        assert_close(moved[10.0][name], factor * small, rel=1e-3)


def test_a_head_that_does_not_share_the_model_leaves_its_gradient_to_ppo(make_engine, value_rows, rows):
    alone = make_engine(value_head=ValueHeadSettings(shares_model=False))
    with torch.no_grad():
        alone._head.weight.fill_(0.3)
    alone.forward_backward(value_rows, ACTOR_CRITIC)
    plain = make_engine()
    plain.forward_backward(rows, Loss("ppo"))
    expected = {name: p.grad for name, p in plain._trained.items()}
    assert_gradients_close([alone._trained[name].grad for name in expected], expected.values())
    assert alone._head.weight.grad.any()


def test_without_a_head_values_are_refused_and_nothing_is_added(make_engine, value_rows):
    engine = make_engine()
    assert not engine.capabilities.value_head
    with pytest.raises(CapabilityError, match="critic_free"):
        engine.values(value_rows)
    with pytest.raises(CapabilityError, match="critic_free"):
        engine.forward_backward(value_rows, ACTOR_CRITIC)
    assert all(p.grad is None for p in engine._trained.values())


def test_a_learning_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="lr_scale"):
        ValueHeadSettings(lr_scale=0.0)


# ── checkpoints ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)], ids=["whole", "lora"])
def test_a_checkpoint_holds_the_head_and_its_moments_bit_for_bit(make_engine, value_rows, tmp_path, lora):
    straight, resumed = make_engine(value_head=HEAD, lora=lora), make_engine(value_head=HEAD, lora=lora)
    train(straight, value_rows)
    straight.save(tmp_path)
    train(straight, value_rows)
    resumed.load(tmp_path)
    assert resumed.weights_hash() != straight.weights_hash()
    train(resumed, value_rows)
    assert resumed.weights_hash() == straight.weights_hash()
    assert resumed.model_hash() == straight.model_hash()
    for a, b in zip(resumed.values(value_rows), straight.values(value_rows), strict=True):
        np.testing.assert_array_equal(a, b)


def test_both_hashes_cover_the_head(make_engine):
    engine = make_engine(value_head=HEAD)
    before = engine.weights_hash(), engine.model_hash()
    assert before == (make_engine(value_head=HEAD).weights_hash(), make_engine(value_head=HEAD).model_hash())
    with torch.no_grad():
        engine._head.bias += 1
    assert engine.weights_hash() != before[0]
    assert engine.model_hash() != before[1]


def test_a_checkpoint_without_a_head_is_refused_by_an_engine_with_one(make_engine, tmp_path):
    make_engine().save(tmp_path)
    with pytest.raises(CheckpointError, match=r"value_head\.bias"):
        make_engine(value_head=HEAD).load(tmp_path)


def test_the_saved_model_is_a_plain_one(make_engine, value_rows, tmp_path):
    engine = make_engine(value_head=HEAD)
    train(engine, value_rows)
    engine.save_pretrained(tmp_path)
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.from_numpy(value_rows[0].input_ids)[None]
    with torch.inference_mode():
        torch.testing.assert_close(model(input_ids=ids).logits, engine.model(input_ids=ids).logits)


# ── the whole vocabulary's KL ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)], ids=["whole", "lora"])
def test_full_kl_is_the_sum_over_the_vocabulary(make_engine, make_model, value_rows, lora):
    engine = make_engine(value_head=HEAD, lora=lora, keep_reference=True, tokens_per_batch=80)
    assert not any(kl_T.any() for kl_T in engine.full_kl(value_rows))
    train(engine, value_rows, AdamParams(lr=3e-2))
    start = make_model()
    for row, kl_T in zip(value_rows, engine.full_kl(value_rows), strict=True):
        ids = torch.from_numpy(row.input_ids)[None]
        with torch.inference_mode():
            own, other = (
                m(input_ids=ids).logits[0].double().softmax(-1).numpy() for m in (engine.model, start)
            )
        expected_T = (own * np.log(own / other)).sum(-1) * (row.fields["weights"] != 0)
        assert_close(kl_T, expected_T, rel=1e-3)
        assert kl_T.max() > 0.01


def test_full_kl_is_the_mean_of_k1_over_the_vocabulary(make_engine, value_rows):
    engine = make_engine(value_head=HEAD, keep_reference=True)
    train(engine, value_rows)
    row = value_rows[0]
    T = len(row)
    everything = Row(row.input_ids, np.tile(np.arange(260), (T, 1)), {"weights": row.fields["weights"]})
    [own_TV], [other_TV] = (engine.logprobs([everything], weights=w) for w in (POLICY, REFERENCE))
    expected_T = (np.exp(own_TV) * (own_TV - other_TV)).sum(-1) * (row.fields["weights"] != 0)
    assert_close(engine.full_kl([row])[0], expected_T, rel=1e-3)


def test_full_kl_needs_a_reference(make_engine, value_rows):
    with pytest.raises(CapabilityError, match="keep_reference"):
        make_engine().full_kl(value_rows)
