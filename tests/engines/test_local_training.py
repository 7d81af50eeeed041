"""Training: gradients, steps, copies of the weights, checkpoints, and what is refused."""

import gc
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from didact.engines.base import POLICY, REFERENCE, AdamParams, Loss, Weights
from didact.engines.local import LocalEngine, LoraSettings
from didact.engines.local import engine as engine_module
from didact.engines.local.training import compared_gradients
from didact.errors import (
    CapabilityError,
    CheckpointError,
    NonFiniteError,
    TrainingGuard,
    UsageError,
)
from didact.losses import LossOutput
from didact.types import Row
from tests.numerics import assert_close, assert_gradients_close

LORA = LoraSettings(rank=4)
STEP = AdamParams(lr=1e-2)
CROSS_ENTROPY, POLICY_GRADIENT, PPO = Loss("cross_entropy"), Loss("policy_gradient"), Loss("ppo")


def only(rows, *names):
    """The same rows with some of their fields."""
    return [Row(r.input_ids, r.target_ids, {n: r.fields[n] for n in names}) for r in rows]


def tensor_gradients(engine):
    return [p.grad for p in engine.model.parameters() if p.requires_grad]


def train(engine, rows, loss=PPO, step=STEP):
    engine.forward_backward(rows, loss)
    return engine.optim_step(step)


def plain_logprobs(model, row):
    """log π of every token of the vocabulary after each input token, by one unpadded forward: [T, V]."""
    return model(input_ids=torch.from_numpy(row.input_ids)[None]).logits[0].float().log_softmax(-1)


def soft(rows, k=3):
    """Rows with k targets a token and their probabilities."""
    draw = np.random.default_rng(1)
    made = []
    for row in rows:
        targets_TK = draw.integers(0, 260, (len(row), k))
        probs_TK = draw.dirichlet(np.ones(k), len(row)).astype(np.float32)
        fields = {"weights": row.fields["weights"], "target_probs": probs_TK}
        made.append(Row(row.input_ids, targets_TK, fields))
    return made


# ── the entropy bonus ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("loss", [POLICY_GRADIENT, PPO])
def test_the_entropy_bonus_is_that_of_autograd(make_engine, make_model, rows, shape, loss):
    """∇ (L − c Σ w H), with H over the whole vocabulary at every target of nonzero weight."""
    if loss is POLICY_GRADIENT:
        rows = only(rows, "weights", "advantages")
    plain, engine, model = make_engine(shape), make_engine(shape), make_model(shape)
    without = plain.forward_backward(rows, loss)
    output = engine.forward_backward(rows, replace(loss, entropy_coef=0.3))
    bonus = torch.zeros(())
    entropy = 0.0
    for row in rows:
        logprobs_TV = plain_logprobs(model, row)
        weights_T = torch.from_numpy(row.fields["weights"])
        entropy_T = -(logprobs_TV.exp() * logprobs_TV).sum(-1)
        bonus = bonus + (weights_T * entropy_T).sum()
        entropy += float(entropy_T[weights_T != 0].detach().sum())
    (-0.3 * bonus).backward()
    pairs = zip(tensor_gradients(plain), [p.grad for p in model.parameters()], strict=True)
    assert_gradients_close(tensor_gradients(engine), [a + b for a, b in pairs])
    assert output.loss == pytest.approx(without.loss - 0.3 * float(bonus.detach()), rel=1e-4)
    assert output.metrics["entropy"] == pytest.approx(entropy, rel=1e-4)


def test_no_entropy_bonus_is_no_bit_of_the_gradient(make_engine, rows):
    before, after = make_engine(), make_engine()
    assert before.forward_backward(rows, PPO) == after.forward_backward(rows, replace(PPO, entropy_coef=0.0))
    for a, b in zip(tensor_gradients(before), tensor_gradients(after), strict=True):
        assert torch.equal(a, b)


def test_an_entropy_bonus_alone_makes_the_policy_more_random(make_engine, rows):
    engine = make_engine()
    silent = [replace(r, fields={**r.fields, "advantages": 0 * r.fields["advantages"]}) for r in rows]
    silent = [replace(r, fields={**r.fields, "weights": abs(r.fields["weights"])}) for r in silent]
    loss = Loss("policy_gradient", entropy_coef=1.0)
    silent = only(silent, "weights", "advantages")
    first = engine.forward_backward(silent, loss).metrics["entropy"]
    engine.optim_step(STEP)
    assert engine.forward_backward(silent, loss).metrics["entropy"] > first


# ── log-probs ─────────────────────────────────────────────────────────────────────────────────────


def test_logprobs_of_padded_rows_are_those_of_each_row_alone(make_engine, make_model, rows, shape):
    found = make_engine(shape, tokens_per_batch=80).logprobs(rows)
    model = make_model(shape)
    for row, logprobs_T in zip(rows, found, strict=True):
        with torch.inference_mode():
            expected_TV = plain_logprobs(model, row).numpy()
        assert_close(logprobs_T, expected_TV[np.arange(len(row)), row.target_ids])
        assert logprobs_T.dtype == np.float32


def test_logprobs_of_soft_targets_have_a_column_for_each(make_engine, make_model, rows):
    model = make_model()
    for row, logprobs_TK in zip(soft(rows), make_engine().logprobs(soft(rows)), strict=True):
        with torch.inference_mode():
            expected_TV = plain_logprobs(model, row).numpy()
        expected_TK = np.take_along_axis(expected_TV, row.target_ids, axis=1)
        assert_close(logprobs_TK, expected_TK)


# ── gradients ─────────────────────────────────────────────────────────────────────────────────────


def test_the_gradient_is_that_of_the_written_out_formula(make_engine, make_model, rows, shape):
    engine = make_engine(shape)
    output = engine.forward_backward(rows, PPO)

    model = make_model(shape)
    total = torch.zeros(())
    for row in rows:
        logprobs_T = plain_logprobs(model, row).gather(1, torch.from_numpy(row.target_ids)[:, None])[:, 0]
        w, a, old = (torch.from_numpy(row.fields[n]) for n in ("weights", "advantages", "old_logprobs"))
        ratio_T = torch.exp(logprobs_T - old)
        total = total - (w * torch.minimum(ratio_T * a, ratio_T.clamp(0.8, 1.2) * a)).sum()
    total.backward()
    expected = [p.grad for p in model.parameters()]
    assert output.loss == pytest.approx(float(total.detach()), rel=1e-5)
    assert_gradients_close(tensor_gradients(engine), expected)


def test_soft_targets_train_towards_their_distribution(make_engine, make_model, rows):
    engine, model = make_engine(), make_model()
    output = engine.forward_backward(soft(rows), CROSS_ENTROPY)
    total = torch.zeros(())
    for row in soft(rows):
        picked_TK = plain_logprobs(model, row).gather(1, torch.from_numpy(row.target_ids))
        w_T, q_TK = torch.from_numpy(row.fields["weights"]), torch.from_numpy(row.fields["target_probs"])
        total = total - (w_T * (q_TK * picked_TK).sum(-1)).sum()
    total.backward()
    expected = [p.grad for p in model.parameters()]
    assert output.loss == pytest.approx(float(total.detach()), rel=1e-5)
    assert_gradients_close(tensor_gradients(engine), expected)


@pytest.mark.parametrize("tokens_per_batch", [1, 40, 100])
def test_micro_batches_do_not_change_the_gradient(make_engine, rows, tokens_per_batch):
    whole, split = make_engine(), make_engine(tokens_per_batch=tokens_per_batch)
    expected, found = whole.forward_backward(rows, PPO), split.forward_backward(rows, PPO)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-4)
    assert_gradients_close(tensor_gradients(split), tensor_gradients(whole))


def test_the_order_of_rows_does_not_change_the_gradient(make_engine, rows):
    one, other = make_engine(), make_engine()
    one.forward_backward(rows, PPO)
    other.forward_backward(rows[::-1], PPO)
    assert_gradients_close(tensor_gradients(other), tensor_gradients(one))


def test_two_calls_accumulate_what_one_call_adds(make_engine, rows):
    once, twice = make_engine(), make_engine()
    once.forward_backward(rows, PPO)
    twice.forward_backward(rows[:3], PPO)
    twice.forward_backward(rows[3:], PPO)
    assert_gradients_close(tensor_gradients(twice), tensor_gradients(once))


def test_each_call_reports_the_norm_of_its_own_gradient(make_engine, rows, gradients):
    whole, alone = make_engine(), make_engine()
    first, second = whole.forward_backward(rows[:3], PPO), whole.forward_backward(rows[3:], PPO)
    alone.forward_backward(rows[:3], PPO)
    a = gradients(alone).double()
    alone._clear_gradient()
    alone.forward_backward(rows[3:], PPO)
    b = gradients(alone).double()
    assert first.metrics["grad_norm"] == pytest.approx(float(a.norm()), rel=1e-5)
    assert second.metrics["grad_norm"] == pytest.approx(float(b.norm()), rel=1e-5)
    assert second.metrics["cosine"] == pytest.approx(float(a @ b / (a.norm() * b.norm())), rel=1e-4)
    assert "cosine" not in first.metrics
    third = whole.forward_backward(rows[:1], PPO)  # against the sum of what was there
    both, c = a + b, third.metrics["grad_norm"]
    total = whole.optim_step(STEP).metrics["grad_norm"]
    expected = (total**2 - float(both @ both) - c**2) / (2 * c * float(both.norm()))
    assert third.metrics["cosine"] == pytest.approx(expected, abs=1e-3)
    assert "cosine" not in whole.forward_backward(rows, PPO).metrics  # the step took the gradient


def negated(row):
    return Row(row.input_ids, row.target_ids, {**row.fields, "weights": -row.fields["weights"]})


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_gradient_is_along_itself_and_against_its_negation(make_engine, rows, lora):
    engine, plain = make_engine(lora=lora), only(rows, "weights")
    norm = engine.forward_backward(plain, CROSS_ENTROPY).metrics["grad_norm"]
    again = engine.forward_backward(plain, CROSS_ENTROPY).metrics
    assert (again["grad_norm"], again["cosine"]) == (norm, pytest.approx(1.0, abs=1e-5))
    against = engine.forward_backward([negated(row) for row in plain], CROSS_ENTROPY).metrics
    assert (against["grad_norm"], against["cosine"]) == (
        pytest.approx(norm, rel=1e-5),
        pytest.approx(-1.0, abs=1e-5),
    )


def test_gradients_of_different_tensors_are_orthogonal():
    ones, none = torch.ones(3, 2), torch.zeros(3, 2)
    assert compared_gradients([ones, none], [none, ones]) == {"grad_norm": pytest.approx(6**0.5), "cosine": 0}
    assert compared_gradients([ones, None], [None, ones]) == {"grad_norm": pytest.approx(6**0.5)}
    half = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]])
    found = compared_gradients([half.T.contiguous().T, None], [half, ones])  # laid out in another order
    assert found == {"grad_norm": 5.0, "cosine": pytest.approx(5 / 31**0.5)}
    assert compared_gradients([half], [-half])["cosine"] == -1.0
    assert compared_gradients([none], [ones]) == {"grad_norm": 0.0}
    assert compared_gradients([None], [ones]) == {}


def test_comparing_gradients_changes_no_bit_of_them(make_engine, rows, gradients, monkeypatch):
    seen, blind = make_engine(), make_engine()
    for step in range(3):
        for part in (rows[:3], rows[3:], rows[2:5]):
            reported = seen.forward_backward(part, PPO)
            with monkeypatch.context() as patched:
                patched.setattr(engine_module, "compared_gradients", lambda added, before, **_: {})
                unreported = blind.forward_backward(part, PPO)
            assert "grad_norm" in reported.metrics
            assert reported.metrics.keys() - unreported.metrics.keys() <= {"grad_norm", "cosine"}
        assert torch.equal(gradients(seen), gradients(blind)), step
        assert seen.optim_step(STEP) == blind.optim_step(STEP)
    assert seen.weights_hash() == blind.weights_hash()


def test_a_custom_loss_sees_fields_settings_and_zeros_where_the_weight_is_zero(make_engine, rows):
    seen = {}

    def loss_fn(logprobs_BT, *, weights_BT, advantages_BT, old_logprobs_BT, scale):
        seen.update(logprobs=logprobs_BT.detach(), weights=weights_BT, scale=scale)
        return LossOutput(
            -scale * (weights_BT * advantages_BT * logprobs_BT).sum(), {"rows": len(weights_BT)}
        )

    engine = make_engine()
    output = engine.forward_backward(rows, Loss("mine", {"scale": 3.0}, loss_fn))
    assert seen["scale"] == 3.0
    assert output.metrics == {"rows": len(rows), "grad_norm": pytest.approx(output.metrics["grad_norm"])}
    assert (seen["logprobs"][seen["weights"] == 0] == 0).all()
    assert (seen["logprobs"][seen["weights"] != 0] < 0).all()
    pure = engine.forward_backward(only(rows, "weights", "advantages"), POLICY_GRADIENT)
    assert output.loss == pytest.approx(3 * pure.loss, rel=1e-6)


def test_rows_of_weight_zero_cost_and_change_nothing(make_engine, rows, gradients):
    engine, padded = make_engine(), make_engine()
    silent = Row.from_completion((5, 6), (7, 8), weights=0.0, advantages=9.0, old_logprobs=-1.0)
    assert padded.forward_backward([silent, *rows, silent], PPO) == engine.forward_backward(rows, PPO)
    assert torch.equal(gradients(padded), gradients(engine))
    assert make_engine().forward_backward([silent], PPO) == (0.0, {})
    assert make_engine().forward_backward([], PPO) == (0.0, {})


def test_dropout_stays_off(make_engine, make_model, rows):
    with_dropout, without = make_engine(model=make_model(attention_dropout=0.5)), make_engine()
    assert with_dropout.forward_backward(rows, PPO) == without.forward_backward(rows, PPO)


def test_bfloat16_computes_coarsely_and_keeps_float32_weights(make_engine, rows):
    fine, coarse = make_engine(), make_engine(dtype="bfloat16")
    assert {p.dtype for p in coarse.model.parameters()} == {torch.float32}
    assert coarse.dtype == "bfloat16"
    gaps = [np.abs(a - b).max() for a, b in zip(fine.logprobs(rows), coarse.logprobs(rows), strict=True)]
    assert 0 < max(gaps) < 0.5
    small = AdamParams(lr=1e-6)  # a step that bfloat16 weights would round away
    before = coarse.weights_hash()
    train(coarse, rows, step=small)
    assert coarse.weights_hash() != before


# ── steps ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_step_is_one_of_clipped_adamw(make_engine, rows, gradients):
    engine = make_engine()
    step = AdamParams(lr=3e-3, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.1, max_grad_norm=0.5)
    parameters = list(engine.model.parameters())
    theta = torch.cat([p.detach().flatten() for p in parameters]).double()
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for t in (1, 2):
        engine.forward_backward(rows, PPO)
        g = gradients(engine).double()
        norm = float(g.norm())
        assert engine.optim_step(step) == (0.0, {"grad_norm": pytest.approx(norm, rel=1e-5)})
        g = g * 0.5 / norm
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        m_hat, v_hat = m / (1 - 0.8**t), v / (1 - 0.9**t)
        theta = theta * (1 - 3e-3 * 0.1) - 3e-3 * m_hat / (v_hat.sqrt() + 1e-6)
    found = torch.cat([p.detach().flatten() for p in parameters]).double()
    torch.testing.assert_close(found, theta, atol=1e-5, rtol=1e-4)
    assert all(p.grad is None for p in parameters)


def test_a_step_without_a_gradient_is_refused(make_engine, rows):
    engine = make_engine()
    with pytest.raises(TrainingGuard, match="no gradient"):
        engine.optim_step(STEP)
    train(engine, rows)
    with pytest.raises(TrainingGuard, match="no gradient"):
        engine.optim_step(STEP)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_adds_nothing_and_touches_no_weight(make_engine, rows, gradients, bad):
    engine = make_engine(tokens_per_batch=1)

    def broken_on_long_rows(logprobs_BT, *, weights_BT, **fields):
        factor = bad if logprobs_BT.shape[1] > 15 else 1.0
        return LossOutput((factor * weights_BT * logprobs_BT).sum(), {})

    engine.forward_backward(rows[:4], PPO)
    waiting, weights = gradients(engine).clone(), engine.weights_hash()
    with pytest.raises(NonFiniteError, match="nothing was added"):
        engine.forward_backward(rows, Loss("broken", fn=broken_on_long_rows))
    assert torch.equal(gradients(engine), waiting)
    assert engine.weights_hash() == weights


def test_a_gradient_that_is_not_finite_changes_no_weight_and_is_cleared(make_engine, rows):
    engine = make_engine()
    train(engine, rows)
    weights = engine.weights_hash()

    def root_at_zero(logprobs_BT, *, weights_BT, **fields):
        return LossOutput(((logprobs_BT - logprobs_BT.detach()) * weights_BT).abs().sqrt().sum(), {})

    assert engine.forward_backward(rows, Loss("root", fn=root_at_zero)).loss == 0
    with pytest.raises(NonFiniteError, match="no weight was changed"):
        engine.optim_step(STEP)
    assert engine.weights_hash() == weights
    with pytest.raises(TrainingGuard, match="no gradient"):
        engine.optim_step(STEP)


# ── copies of the weights ─────────────────────────────────────────────────────────────────────────


def assert_equal_logprobs(one, other):
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_with_lora_the_reference_is_the_base_model(make_engine, rows):
    engine = make_engine(lora=LORA)
    base = make_engine().logprobs(rows)
    train(engine, rows)
    train(engine, rows)
    assert_equal_logprobs(engine.logprobs(rows, weights=REFERENCE), base)
    assert any(not np.array_equal(a, b) for a, b in zip(engine.logprobs(rows), base, strict=True))
    train(engine, rows)  # and the adapter can still be trained
    assert not engine.capabilities.full_finetune


def test_without_lora_the_reference_is_a_copy_that_must_be_asked_for(make_engine, rows):
    engine = make_engine(keep_reference=True)
    start = engine.logprobs(rows)
    train(engine, rows)
    assert_equal_logprobs(engine.logprobs(rows, weights=REFERENCE), start)
    with pytest.raises(CapabilityError, match="keep_reference=True"):
        make_engine().logprobs(rows, weights=REFERENCE)


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_snapshot_stays_while_the_live_weights_move(make_engine, rows, lora):
    engine = make_engine(lora=lora)
    train(engine, rows)
    then, snapshot = engine.logprobs(rows), engine.snapshot()
    train(engine, rows)
    now = engine.logprobs(rows, weights=POLICY)
    assert_equal_logprobs(engine.logprobs(rows, weights=snapshot), then)
    assert_equal_logprobs(engine.logprobs(rows), now)
    assert max(np.abs(a - b).max() for a, b in zip(then, now, strict=True)) > 1e-3


def test_a_snapshot_lives_as_long_as_its_handle(make_engine, rows):
    engine = make_engine()
    snapshot = engine.snapshot()
    name = snapshot.name
    engine.logprobs(rows[:1], weights=snapshot)
    del snapshot
    gc.collect()
    with pytest.raises(UsageError, match="keep the handle"):
        engine.logprobs(rows[:1], weights=Weights(name))


# ── checkpoints and exports ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_loaded_checkpoint_continues_bit_for_bit(make_engine, rows, tmp_path, lora):
    engine = make_engine(lora=lora)
    train(engine, rows)
    train(engine, rows)
    engine.save(tmp_path)
    saved = engine.weights_hash()
    train(engine, rows)
    continued = engine.weights_hash()

    fresh = make_engine(lora=lora)
    for resumed in (engine, fresh):
        resumed.load(tmp_path)
        assert resumed.weights_hash() == saved
        train(resumed, rows)
        assert resumed.weights_hash() == continued


def test_loading_a_checkpoint_from_before_the_first_step_forgets_the_optimizer(make_engine, rows, tmp_path):
    engine, other = make_engine(), make_engine()
    engine.save(tmp_path)
    train(engine, rows)
    engine.forward_backward(rows, PPO)  # a gradient that load must clear
    engine.load(tmp_path)
    train(engine, rows)
    train(other, rows)
    assert engine.weights_hash() == other.weights_hash()


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "engine.json"])
def test_a_torn_checkpoint_is_refused_and_changes_nothing(make_engine, rows, tmp_path, file):
    engine = make_engine()
    train(engine, rows)
    engine.save(tmp_path)
    train(engine, rows)
    before = engine.weights_hash()
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="torn"):
        engine.load(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(CheckpointError, match="torn"):
        engine.load(tmp_path)
    assert engine.weights_hash() == before


def test_a_checkpoint_of_another_model_is_refused(make_engine, tmp_path):
    make_engine(lora=LORA).save(tmp_path)
    with pytest.raises(CheckpointError, match="same LoRA settings"):
        make_engine().load(tmp_path)
    with pytest.raises(CheckpointError, match="has shape"):
        make_engine(lora=LoraSettings(rank=2)).load(tmp_path)


def test_plain_transformers_loads_what_full_training_saved(make_engine, rows, tmp_path, shape, tokenizer):
    engine = make_engine(shape)
    train(engine, rows)
    engine.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.from_numpy(rows[1].input_ids)[None]
    with torch.inference_mode():
        assert torch.equal(model(input_ids=ids).logits, engine.model(input_ids=ids).logits)
    again = LocalEngine.from_pretrained(tmp_path, device="cpu", dtype="float32")
    assert again.weights_hash() == engine.weights_hash()
    assert again.tokenizer.encode("né") == tokenizer.encode("né")


def test_plain_peft_loads_what_lora_training_saved(make_engine, make_model, rows, tmp_path):
    make_model().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    engine = make_engine(model=base, lora=LORA)
    train(engine, rows)
    engine.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    ids = torch.from_numpy(rows[1].input_ids)[None]
    with torch.inference_mode():
        assert torch.equal(plain(input_ids=ids).logits, engine.model(input_ids=ids).logits)
    merged = LocalEngine.from_pretrained(tmp_path / "adapter", device="cpu", dtype="float32")
    for one, other in zip(merged.logprobs(rows), engine.logprobs(rows), strict=True):
        assert_close(one, other)


def test_the_start_of_an_adapter_is_seeded_and_leaves_the_global_random_state(make_engine):
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    one, same = make_engine(lora=LORA), make_engine(lora=LORA)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.weights_hash() == same.weights_hash()
    assert make_engine(lora=LoraSettings(rank=4, seed=1)).weights_hash() != one.weights_hash()


def test_a_model_with_missing_weights_is_refused(make_engine, tmp_path):
    make_engine().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match="up_proj"):
        LocalEngine.from_pretrained(tmp_path)


def test_a_model_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        LocalEngine.from_pretrained(tmp_path / "nowhere")


# ── what is refused ───────────────────────────────────────────────────────────────────────────────


def test_an_unknown_loss_names_the_nearest(make_engine, rows):
    with pytest.raises(UsageError, match="did you mean 'policy_gradient'"):
        make_engine().forward_backward(rows, Loss("policy_gradients"))


def test_a_loss_and_rows_that_do_not_fit_are_refused_before_any_work(make_engine, rows):
    engine = make_engine()
    with pytest.raises(UsageError, match="old_logprobs"):
        engine.forward_backward(only(rows, "weights", "advantages"), PPO)
    with pytest.raises(UsageError, match="advantages"):
        engine.forward_backward(rows, CROSS_ENTROPY)
    with pytest.raises(UsageError, match="clip"):
        engine.forward_backward(rows, Loss("ppo", {"clip": 0.2}))
    with pytest.raises(UsageError, match="LossOutput"):
        engine.forward_backward(rows, Loss("bare", fn=lambda logprobs_BT, **fields: logprobs_BT.sum()))


def test_rows_that_cannot_go_together_or_into_the_model_are_refused_by_index(make_engine, rows):
    engine = make_engine()
    with pytest.raises(UsageError, match="row 1"):
        engine.forward_backward([rows[0], *only(rows, "weights")], PPO)
    with pytest.raises(UsageError, match="row 8"):
        engine.forward_backward([*only(soft(rows), "weights"), *only(rows, "weights")], CROSS_ENTROPY)
    with pytest.raises(UsageError, match=r"row 0 .* 129 .* 128"):
        engine.logprobs([Row.from_completion((5,), (5,) * 129)])
    with pytest.raises(UsageError, match=r"row 0 .* 260"):
        engine.logprobs([Row.from_completion((5,), (260,))])


def test_settings_that_mean_nothing_are_refused(make_engine):
    with pytest.raises(UsageError, match="dtype"):
        make_engine(dtype="float64")
    with pytest.raises(UsageError, match="tokens_per_batch"):
        make_engine(tokens_per_batch=0)


def test_an_adapter_that_would_be_unpickled_is_refused(make_engine, tmp_path):
    engine = make_engine(lora=LORA)
    engine.save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(UsageError, match=r"adapter_model\.safetensors"):
        LocalEngine.from_pretrained(tmp_path)


def test_the_hash_of_the_model_sees_frozen_weights_too(make_engine):
    engine = make_engine(lora=LORA)
    trained, whole = engine.weights_hash(), engine.model_hash()
    with torch.no_grad():
        next(p for p in engine.model.parameters() if not p.requires_grad).add_(1)
    assert engine.weights_hash() == trained
    assert engine.model_hash() != whole
