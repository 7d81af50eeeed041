"""Named snapshots, moving averages of the weights, and the likeliest tokens under any weights."""

import numpy as np
import pytest
import torch

from didact.engines.base import POLICY, REFERENCE, AdamParams, Loss, SamplingParams, Weights
from didact.engines.local import LoraSettings
from didact.errors import CheckpointError, UsageError
from didact.types import Row
from tests.numerics import assert_close

LORA = LoraSettings(rank=4)
VOCABULARY = 260
AVERAGE = Weights("average")


def train(engine, rows):
    engine.forward_backward(rows, Loss("ppo"))
    engine.optim_step(AdamParams(lr=1e-2))


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(params=[None, LORA], ids=["full", "lora"])
def engine(request, make_engine):
    return make_engine(lora=request.param)


# ── the likeliest tokens ──────────────────────────────────────────────────────────────────────────


def test_all_tokens_are_the_log_softmax(engine, rows):
    for row, top in zip(rows, engine.top_logprobs(rows, VOCABULARY), strict=True):
        with torch.inference_mode():
            logits_TV = engine.model(input_ids=torch.from_numpy(row.input_ids)[None]).logits[0].float()
        expected_TV = logits_TV.log_softmax(-1).numpy()
        assert top.ids.dtype == np.int64
        np.testing.assert_array_equal(np.sort(top.ids, axis=1), np.tile(np.arange(VOCABULARY), (len(row), 1)))
        assert_close(top.logprobs, np.take_along_axis(expected_TV, top.ids, axis=1))
        assert (np.diff(top.logprobs, axis=1) <= 0).all()


def test_fewer_tokens_are_the_first_of_all(engine, rows):
    for few, every in zip(engine.top_logprobs(rows, 3), engine.top_logprobs(rows, VOCABULARY), strict=True):
        np.testing.assert_array_equal(few.logprobs, every.logprobs[:, :3])
    assert engine.top_logprobs([], 3) == []


def test_they_are_those_of_the_weights_that_are_named(make_engine, rows):
    engine = make_engine(keep_reference=True)
    before = engine.top_logprobs(rows, 5)
    then = engine.snapshot("then")
    train(engine, rows)
    now = engine.top_logprobs(rows, 5)
    for weights in (REFERENCE, then):
        for a, b in zip(engine.top_logprobs(rows, 5, weights=weights), before, strict=True):
            assert equal(a, b)
    assert not equal([t.logprobs for t in now], [t.logprobs for t in before])


def test_their_log_probs_are_those_of_soft_targets_with_their_ids(engine, rows):
    tops = engine.top_logprobs(rows, 4)
    soft = [
        Row(r.input_ids, t.ids, {"weights": r.fields["weights"]}) for r, t in zip(rows, tops, strict=True)
    ]
    assert_close(engine.logprobs(soft), [top.logprobs for top in tops], rel=1e-6)


@pytest.mark.parametrize("k", [0, VOCABULARY + 1])
def test_a_number_of_tokens_outside_the_vocabulary_is_refused(make_engine, rows, k):
    with pytest.raises(UsageError, match=str(k)):
        make_engine().top_logprobs(rows, k)


# ── moving averages ───────────────────────────────────────────────────────────────────────────────


def test_an_average_with_decay_0_is_the_current_weights_and_with_decay_1_the_old(engine, rows):
    engine.snapshot("average")
    old = engine.logprobs(rows)
    train(engine, rows)
    new = engine.logprobs(rows)
    engine.update_snapshot("average", 1.0)
    assert equal(engine.logprobs(rows, weights=AVERAGE), old)
    engine.update_snapshot("average", 0.0)
    assert equal(engine.logprobs(rows, weights=AVERAGE), new)
    assert not equal(old, new)


def test_an_average_is_that_of_the_formula(engine, rows):
    engine.snapshot("average")
    expected = {name: p.detach().double() for name, p in engine._trained.items()}
    for _ in range(3):
        train(engine, rows)
        engine.update_snapshot("average", 0.9)
        for name, p in engine._trained.items():
            expected[name] = 0.9 * expected[name] + 0.1 * p.detach().double()
    with engine._using(AVERAGE):
        found = [p.detach().clone() for p in engine._trained.values()]
    assert_close(found, expected.values(), rel=1e-6)


def test_an_average_does_not_move_the_trained_weights_nor_follow_them(engine, rows):
    engine.snapshot("average")
    train(engine, rows)
    before, average = engine.weights_hash(), engine.logprobs(rows, weights=AVERAGE)
    engine.update_snapshot("average", 1.0)
    train(engine, rows)
    assert engine.weights_hash() != before
    assert equal(engine.logprobs(rows, weights=AVERAGE), average)


def test_samples_come_from_the_weights_that_are_named(make_engine, rows):
    engine = make_engine()
    params, prompts = SamplingParams(max_tokens=8), [(5, 6, 7), (8, 9)]
    before = engine.sample(prompts, 2, params, seed=0)
    engine.snapshot("average")
    train(engine, rows)
    assert engine.sample(prompts, 2, params, seed=0, weights=AVERAGE) == before
    assert engine.sample(prompts, 2, params, seed=0, weights=POLICY) != before


# ── names and checkpoints ─────────────────────────────────────────────────────────────────────────


def test_a_named_snapshot_stays_until_it_is_dropped(engine, rows):
    engine.snapshot("average")
    assert engine.snapshot_names == {"average"}
    engine.logprobs(rows, weights=AVERAGE)
    engine.drop_snapshot("average")
    assert engine.snapshot_names == set()
    for call in (
        lambda: engine.logprobs(rows, weights=AVERAGE),
        lambda: engine.update_snapshot("average", 0.5),
        lambda: engine.drop_snapshot("average"),
    ):
        with pytest.raises(UsageError, match="'average'"):
            call()


def test_a_snapshot_of_the_same_name_replaces_the_earlier_one(engine, rows):
    engine.snapshot("average")
    train(engine, rows)
    engine.snapshot("average")
    assert equal(engine.logprobs(rows, weights=AVERAGE), engine.logprobs(rows))


@pytest.mark.parametrize("name", ["", "a.b", "../up", "live", "reference", "#0"])
def test_names_that_a_checkpoint_could_not_hold_are_refused(make_engine, name):
    with pytest.raises(UsageError, match="snapshot name"):
        make_engine().snapshot(name)


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_a_decay_that_is_no_share_is_refused(make_engine, decay):
    engine = make_engine()
    engine.snapshot("average")
    with pytest.raises(UsageError, match="decay"):
        engine.update_snapshot("average", decay)


def test_a_resumed_engine_continues_its_average_bit_for_bit(engine, make_engine, rows, tmp_path):
    engine.snapshot("average")
    engine.snapshot("teacher")
    engine.snapshot()  # no part of the checkpoint
    train(engine, rows)
    engine.update_snapshot("average", 0.9)
    engine.save(tmp_path)
    resumed = make_engine(lora=LORA if engine._adapter is not None else None)
    resumed.snapshot("forgotten")
    resumed.load(tmp_path)
    assert resumed.snapshot_names == {"average", "teacher"}
    for each in (engine, resumed):
        train(each, rows)
        each.update_snapshot("average", 0.9)
    for weights in (AVERAGE, Weights("teacher"), POLICY):
        assert equal(resumed.logprobs(rows, weights=weights), engine.logprobs(rows, weights=weights))


def test_a_torn_snapshot_file_is_refused_and_changes_nothing(make_engine, rows, tmp_path):
    engine = make_engine()
    engine.snapshot("average")
    engine.save(tmp_path)
    train(engine, rows)
    before = engine.weights_hash()
    file = tmp_path / "snapshots.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="torn"):
        engine.load(tmp_path)
    assert engine.weights_hash() == before
    assert engine.snapshot_names == {"average"}
