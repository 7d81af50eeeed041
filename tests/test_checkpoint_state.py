"""The method's state in a checkpoint: floats and arrays, bit for bit, on a real run too."""

import math

import numpy as np
import pytest

import didact
from didact.errors import CheckpointError, UsageError
from didact.methods import GRPO
from didact.training.checkpoint import METHOD_STATE, State, load_checkpoint, save_checkpoint


class NoEngine:
    def save(self, path):
        (path / "weights").write_text("")

    def load(self, path):
        assert (path / "weights").exists()


STATE = {
    "float": 0.1 + 0.2,
    "nan": math.nan,
    "infinity": -math.inf,
    "float32": np.linspace(0, 1, 7, dtype=np.float32).reshape(7, 1),
    "transposed": np.arange(6, dtype=np.int64).reshape(2, 3).T,
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3)),
}


def test_floats_and_arrays_come_back_bit_for_bit(tmp_path):
    save_checkpoint(tmp_path, NoEngine(), State(step=3, method_state=STATE))
    state, torn = load_checkpoint(tmp_path, NoEngine())
    assert (state.step, torn) == (3, [])
    assert state.method_state.keys() == STATE.keys()
    for name, value in STATE.items():
        found = state.method_state[name]
        assert type(found) is type(value)
        if isinstance(value, float):
            assert np.float64(found).tobytes() == np.float64(value).tobytes()
        else:
            assert found.dtype == value.dtype
            np.testing.assert_array_equal(found, value)


def test_other_kinds_of_state_are_refused_by_name_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="'words'"):
        save_checkpoint(tmp_path, NoEngine(), State(step=1, method_state={"words": "left"}))
    assert not list(tmp_path.iterdir())


def test_a_torn_state_is_passed_over_by_name(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, NoEngine(), State(step=step, method_state=STATE))
    (tmp_path / "step-000002" / METHOD_STATE).unlink()
    state, [torn] = load_checkpoint(tmp_path, NoEngine())
    assert state.step == 1
    assert METHOD_STATE in torn
    assert CheckpointError.exit_code == 3


class Averaging(GRPO):
    """GRPO with a running mean of the rewards by place in the batch, and an average of the weights."""

    def rows(self, ctx, rollouts):
        rewards = np.array([r.turns[0].reward or 0.0 for r in rollouts])
        ctx.method_state.setdefault("mean", np.zeros(len(rewards)))
        ctx.method_state["mean"] *= 0.5  # in place
        ctx.method_state["mean"] += 0.5 * rewards
        ctx.metrics["mean"] = float(ctx.method_state["mean"].sum())
        if "average" not in ctx.engine.snapshot_names:
            ctx.engine.snapshot("average")
        ctx.engine.update_snapshot("average", 0.5)
        return super().rows(ctx, rollouts)


def test_a_resumed_run_continues_a_method_s_arrays_and_snapshots(tmp_path):
    settings = {
        "method": Averaging(samples=2), "problems_per_step": 4, "steps": 3,
        "eval": {"problems": 0}, "sampling": {"max_tokens": 6}, "checkpoint_every": 1, "optim": {"lr": 1e-3},
        "task": {"name": "spell_backward", "settings": {"min_word_len": 3, "max_word_len": 4}},
    }  # fmt: skip

    def stop(record):
        if record["step"] == 2:
            raise KeyboardInterrupt

    didact.train(out=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        didact.train(out=tmp_path / "cut", report=stop, **settings)
    didact.resume(tmp_path / "cut", method=Averaging(samples=2))
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (
        tmp_path / "whole" / "metrics.jsonl"
    ).read_bytes()
    last = "checkpoints/step-000003"
    for file in (METHOD_STATE, "snapshots.safetensors", "weights.safetensors"):
        whole, cut = (tmp_path / run / last / file for run in ("whole", "cut"))
        assert whole.read_bytes() == cut.read_bytes()
