"""One engine on two processes, really two, over loopback: the same numbers as on one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from safetensors.torch import load_file

import didact
from didact.engines.base import POLICY, REFERENCE, AdamParams, Loss, SamplingParams, ValueHeadSettings
from didact.engines.local import LocalEngine, LoraSettings, processes
from didact.engines.local.crew import crew
from didact.engines.local.distributed import DistributedEngine
from didact.engines.local.shares import deal, rows_from_arrays, rows_to_arrays
from didact.engines.probe import probe
from didact.errors import CapabilityError, Interrupted, NonFiniteError, TrainingGuard, UsageError
from didact.losses import LossOutput
from didact.types import Row
from tests.models import save_model

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")

LORA = LoraSettings(rank=4)
CROSS_ENTROPY, POLICY_GRADIENT, PPO = Loss("cross_entropy"), Loss("policy_gradient"), Loss("ppo")
CLIPPED = AdamParams(lr=1e-3, max_grad_norm=0.5)
FREE = AdamParams(lr=1e-3, max_grad_norm=float("inf"))
FIELDS = {"cross_entropy": (), "policy_gradient": ("advantages",), "ppo": ("advantages", "old_logprobs")}
CLOSE = 1e-5

ALONE = {"device": "cpu", "dtype": "float32", "tokens_per_batch": 60}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(port: int, rank: int) -> dict[str, str]:
    return {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank),
        "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def follower(port: int) -> subprocess.Popen[str]:
    """The command that a launcher gives to every process; this one finds that it is to serve."""
    command = [sys.executable, "-m", "didact.cli.main", "train", "grpo"]
    source = str(Path(didact.__file__).parent.parent)
    env = os.environ | environment(port, 1) | {"PYTHONPATH": os.pathsep.join([source, os.getcwd()])}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


class World:
    """This test as process 0, and a second process that serves it."""

    def __init__(self) -> None:
        port = free_port()
        self.other = follower(port)
        self._before = dict(os.environ)
        os.environ.update(environment(port, 0))

    def end(self, code: int = 0) -> int:
        crew().dismiss(code)
        said = self.other.wait(timeout=60)
        self.forget()
        return said

    def forget(self) -> None:
        if self.other.stderr is not None:
            self.other.stderr.close()
        dist.destroy_process_group()
        crew.cache_clear()
        processes.join.cache_clear()
        os.environ.clear()
        os.environ.update(self._before)


@pytest.fixture(scope="module")
def world():
    made = World()
    yield made
    if made.other.poll() is None:
        assert made.end(75) == 75
    else:
        made.forget()  # the last test killed it


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), num_hidden_layers=3, initializer_range=0.2)


@pytest.fixture(params=["replicas", "slices"])
def two(request, world, model, monkeypatch):
    """two(**settings) → an engine on two processes."""
    if request.param == "slices":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.setenv("FSDP_VERSION", "2")
    make = partial(DistributedEngine.from_pretrained, model, **ALONE)
    make.kind = request.param
    return make


@pytest.fixture
def one(model):
    return partial(LocalEngine.from_pretrained, model, **ALONE)


def some_rows(count, loss=POLICY_GRADIENT, seed=0):
    """Rows of 5 to 37 tokens."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        prompt, completion = (int(n) for n in draw.integers(2, 20, 2))
        ids = draw.integers(4, 250, prompt + completion).tolist()
        fields = {
            "weights": draw.uniform(0.5, 1.5, completion).tolist(),
            "advantages": draw.normal(size=completion).tolist(),
            "old_logprobs": (-5 + draw.normal(size=completion)).tolist(),
        }
        kept = {n: v for n, v in fields.items() if n == "weights" or n in FIELDS[loss.name]}
        made.append(Row.from_completion(ids[:prompt], ids[prompt:], **kept))
    return made


def largest_difference(a: Path, b: Path, name: str = "weights.safetensors") -> float:
    left, right = load_file(a / name), load_file(b / name)
    assert left.keys() == right.keys()
    return max(float((left[k].float() - right[k].float()).abs().max()) for k in left)


def saved(engine, folder: Path) -> Path:
    folder.mkdir()
    engine.save(folder)
    return folder


def trained(engine, calls, step):
    outputs = [engine.forward_backward(rows, loss) for rows, loss in calls]
    return [*outputs, engine.optim_step(step)]


CASES = {
    "cross entropy": (None, FREE, [(5, CROSS_ENTROPY)]),
    "policy gradient, clipped": (None, CLIPPED, [(7, POLICY_GRADIENT)]),
    "ppo after cross entropy": (None, CLIPPED, [(3, CROSS_ENTROPY), (5, PPO)]),
    "one row": (None, FREE, [(1, POLICY_GRADIENT)]),
    "lora": (LORA, CLIPPED, [(5, CROSS_ENTROPY), (1, POLICY_GRADIENT)]),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_step_of_one(two, one, case, tmp_path, record_property):
    lora, step, calls = CASES[case]
    together, alone = two(lora=lora), one(lora=lora)
    assert together.weights_hash() == alone.weights_hash()
    for n in range(2):
        work = [(some_rows(count, loss, seed=10 * n + i), loss) for i, (count, loss) in enumerate(calls)]
        ours, theirs = trained(together, work, step), trained(alone, work, step)
        for a, b in zip(ours, theirs, strict=True):
            assert a.loss == pytest.approx(b.loss, rel=CLOSE, abs=CLOSE)
            assert a.metrics == pytest.approx(b.metrics, rel=1e-4, abs=CLOSE)
            assert list(a.metrics) == list(b.metrics)
    a, b = saved(together, tmp_path / "two"), saved(alone, tmp_path / "one")
    gap = largest_difference(a, b)
    print(f"{two.kind}, {case}: largest difference of a weight after two steps {gap:.2e}")
    assert gap < CLOSE


def test_a_row_in_two_calls_or_on_either_process_adds_up(two, one):
    together, alone = two(), one()
    rows = some_rows(4)
    both = trained(together, [(rows[:3], POLICY_GRADIENT), (rows[3:], POLICY_GRADIENT)], CLIPPED)
    once = trained(alone, [(rows, POLICY_GRADIENT)], CLIPPED)
    assert both[-1].metrics["grad_norm"] == pytest.approx(once[-1].metrics["grad_norm"], rel=CLOSE)
    for a, b in zip(together.logprobs(rows), alone.logprobs(rows), strict=True):
        np.testing.assert_allclose(a, b, atol=CLOSE)


def test_samples_and_scores_are_those_of_one_process(two, one):
    together, alone = two(keep_reference=True), one(keep_reference=True)
    prompts = [tuple(row.input_ids.tolist()[: 2 + i]) for i, row in enumerate(some_rows(5))]
    params = SamplingParams(max_tokens=12, temperature=0.9, top_k=40)
    start = together.snapshot()
    for engine in (together, alone):
        trained(engine, [(some_rows(3), POLICY_GRADIENT)], CLIPPED)
    for seed in (3, [11, 12, 13, 14, 15]):
        ours, theirs = (engine.sample(prompts, 2, params, seed=seed) for engine in (together, alone))
        assert [[s.ids for s in each] for each in ours] == [[s.ids for s in each] for each in theirs]
        assert [[s.stop_reason for s in e] for e in ours] == [[s.stop_reason for s in e] for e in theirs]
        for a, b in zip(chain(*ours), chain(*theirs), strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)
    rows = some_rows(3)
    first = one()
    for weights, expected in ((POLICY, alone), (REFERENCE, first), (start, first)):
        for a, b in zip(together.logprobs(rows, weights=weights), expected.logprobs(rows), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
    for a, b in zip(together.full_kl(rows), alone.full_kl(rows), strict=True):
        np.testing.assert_allclose(a, b, atol=CLOSE)
    assert together.sample([], 2, params, seed=0) == together.logprobs([]) == []
    # The scores swapped other weights in, and left the trained ones as they were.
    for a, b in zip(together.logprobs(rows), alone.logprobs(rows), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_value_head_learns_the_same(two, one):
    critic = ValueHeadSettings(shares_model=False)
    together, alone = two(critic=critic), one(critic=critic)
    rows = [
        Row(row.input_ids, row.target_ids, {**row.fields, "returns": row.fields["weights"]})
        for row in some_rows(3, CROSS_ENTROPY)
    ]
    loss = Loss("value of weights", fn=squared_values)
    for engine in (together, alone):
        engine.forward_backward(rows, loss)
        engine.optim_step(FREE)
    for a, b in zip(together.values(rows), alone.values(rows), strict=True):
        np.testing.assert_allclose(a, b, atol=CLOSE)
        assert np.abs(a).max() > 0
    assert together.weights_hash() != one(critic=critic).weights_hash()
    for a, b in zip(together.logprobs(rows), alone.logprobs(rows), strict=True):
        np.testing.assert_allclose(a, b, atol=CLOSE)  # the model below learned nothing


def squared_values(logprobs_BT, *, weights_BT, returns_BT, values_BT):
    loss = (weights_BT * (values_BT - returns_BT) ** 2).sum()
    return LossOutput(loss, {"squares": float(loss.detach())})


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_checkpoints_pass_from_two_processes_to_one_and_back(two, one, lora, tmp_path):
    together, alone, second = two(lora=lora), one(lora=lora), one(lora=lora)
    trained(together, [(some_rows(3), POLICY_GRADIENT)], CLIPPED)
    folder = saved(together, tmp_path / "after-1")
    alone.load(folder)
    assert alone.weights_hash() == together.weights_hash()
    for engine in (together, alone):
        trained(engine, [(some_rows(5, seed=1), POLICY_GRADIENT)], CLIPPED)
    a, b = saved(together, tmp_path / "two"), saved(alone, tmp_path / "one")
    assert largest_difference(a, b) < CLOSE
    assert largest_difference(a, b, "optimizer.safetensors") < CLOSE
    together.load(b)
    second.load(b)
    assert together.weights_hash() == second.weights_hash()
    assert together.model_hash() == second.model_hash()
    for engine in (together, second):
        trained(engine, [(some_rows(1, seed=2), POLICY_GRADIENT)], CLIPPED)
    assert largest_difference(saved(together, tmp_path / "3"), saved(second, tmp_path / "4")) < CLOSE
    together.save_pretrained(tmp_path / "model")
    rows = some_rows(2)
    reloaded = LocalEngine.from_pretrained(tmp_path / "model", **ALONE)
    for x, y in zip(reloaded.logprobs(rows), together.logprobs(rows), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


def test_the_conformance_probe_passes(two):
    assert all(result.holds for result in probe(two()))


def test_errors_are_raised_here_and_leave_everything_as_it_was(two):
    engine = two()
    rows = some_rows(4)
    before = engine.weights_hash()
    for position in range(4):  # whichever process has the row
        broken = list(rows)
        fields = {**rows[position].fields, "advantages": rows[position].fields["advantages"] * np.nan}
        broken[position] = Row(rows[position].input_ids, rows[position].target_ids, fields)
        with pytest.raises(NonFiniteError, match="the loss is nan"):
            engine.forward_backward(broken, POLICY_GRADIENT)
    with pytest.raises(TrainingGuard, match="no gradient"):
        engine.optim_step(FREE)
    with pytest.raises(CapabilityError, match="no value head"):
        engine.values(rows)
    with pytest.raises(CapabilityError, match="kept no copy"):
        engine.full_kl(rows)
    with pytest.raises(UsageError, match="row 2 has the fields"):
        engine.forward_backward([*rows[:2], *some_rows(1, CROSS_ENTROPY)], POLICY_GRADIENT)
    with pytest.raises(CapabilityError, match="cannot import"):
        engine.forward_backward(rows, Loss("mine", fn=lambda logprobs_BT, weights_BT, advantages_BT: None))
    with pytest.raises(UsageError, match="unknown weights"):
        engine.logprobs(rows, weights=type(POLICY)("snapshot-99"))
    assert engine.weights_hash() == before
    engine.forward_backward(rows, POLICY_GRADIENT)
    assert engine.optim_step(FREE).metrics["grad_norm"] > 0


def test_a_model_that_is_not_there_is_refused_and_the_others_wait_for_the_next(world, model):
    with pytest.raises(UsageError, match="cannot load the model"):
        DistributedEngine.from_pretrained(model / "nowhere", device="cpu")
    assert DistributedEngine.from_pretrained(model, **ALONE).max_length == 1024


def test_snapshots_end_with_their_handles_on_all_processes(two):
    engine = two()
    kept = engine.snapshot()
    name = kept.name
    del kept
    engine.weights_hash()
    assert name not in engine._part.handles
    assert name not in engine._part._snapshots


def test_a_run_on_two_processes_stops_at_a_signal_and_goes_on_alone(two, model, tmp_path, monkeypatch):
    settings = {
        "problems_per_step": 3, "steps": 3, "sampling": {"max_tokens": 4}, "eval": {"problems": 2},
        "settings": {"samples": 2}, "optim": {"lr": 1e-3}, "feedback": {"source": "program"},
    }  # fmt: skip
    train = partial(didact.train, "rltf-fm", model=str(model), task="spell_backward", **settings)

    def stop(record):
        if record["step"] == 1:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="step 1") as stopped:
        train(out=tmp_path / "two", report=stop)
    assert stopped.value.exit_code == 75
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    from didact.training.api import resume

    resume(tmp_path / "two")
    train(out=tmp_path / "one")
    gap = largest_difference(tmp_path / "two" / "model", tmp_path / "one" / "model", "model.safetensors")
    print(f"{two.kind}, a run stopped after one of three steps: {gap:.2e}")
    assert gap < CLOSE
    assert answers(tmp_path / "two") == answers(tmp_path / "one")


def answers(run: Path) -> list[list[int]]:
    lines = (run / "rollouts.jsonl").read_text().splitlines()
    return [turn["completion_ids"] for line in lines for turn in json.loads(line)["turns"]]


# ── ends; each needs processes of its own, so the shared ones have to go first ────────────────────


def test_z_a_killed_process_ends_the_run_with_an_error(world, model):
    engine = DistributedEngine.from_pretrained(model, **ALONE)
    world.other.kill()
    world.other.wait()
    with pytest.raises(processes.ProcessLost, match="has ended"):
        engine.forward_backward(some_rows(3), POLICY_GRADIENT)
    with pytest.raises(processes.ProcessLost):
        engine.weights_hash()
    crew().dismiss(1)  # does not wait for anybody


LAUNCH = (
    "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no"
)


def test_z_accelerate_launches_a_run_that_ends_as_one_process_does(tmp_path, monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)  # this process may be one of two
    chosen = [
        "steps=2", "problems_per_step=16", "settings.samples=4", "sampling.max_tokens=12", "optim.lr=1e-4",
        "eval.problems=0", "model.device=cpu", "task.settings.min_word_len=3", "task.settings.max_word_len=4",
    ]  # fmt: skip
    settings = ["--task", "spell_backward", *chain(*(("--set", each) for each in chosen))]
    command = [sys.executable, "-m", *LAUNCH.split(), "--main_process_port", str(free_port())]
    command += ["-m", "didact.cli.main", "train", "grpo", *settings, "--out", str(tmp_path / "two")]
    env = os.environ | {"PYTHONPATH": str(Path(didact.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done: ") == 1

    from didact.config import load_config

    config = load_config("grpo", None, chosen, task__name="spell_backward")
    from didact.training.api import run_config

    run_config(config, tmp_path / "one")
    gap = largest_difference(tmp_path / "two" / "model", tmp_path / "one" / "model", "model.safetensors")
    print(f"accelerate launch, two steps of grpo: {gap:.2e}")
    assert gap < CLOSE


# ── parts that need one process only ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hands", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 16])
def test_every_item_is_dealt_once_and_hands_are_alike(hands, count):
    sizes = [int(n) for n in np.random.default_rng(count).integers(1, 100, count)]
    dealt = deal(sizes, hands)
    assert sorted(i for hand in dealt for i in hand) == list(range(count))
    lengths = [len(hand) for hand in dealt]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_rows_arrive_as_they_were_sent(count):
    rows = some_rows(count, PPO)
    arrived, idle = rows_from_arrays(rows_to_arrays(rows, some_rows(1, PPO)[0]))
    for a, b in zip(arrived, rows, strict=True):
        np.testing.assert_array_equal(a.input_ids, b.input_ids)
        np.testing.assert_array_equal(a.target_ids, b.target_ids)
        assert a.fields.keys() == b.fields.keys()
        for name, column in b.fields.items():
            np.testing.assert_array_equal(a.fields[name], column)
    assert len(idle) == 1
    assert not idle.fields["weights"].any()
    assert idle.fields.keys() == {"weights", "advantages", "old_logprobs"}
