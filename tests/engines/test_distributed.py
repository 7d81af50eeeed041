"""One engine on two processes, really two, over loopback: the same numbers as on one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from safetensors.torch import load_file

import didact
from didact.distributed import RankDiedError, on_main_process, process_group
from didact.engines.base import (
    POLICY,
    REFERENCE,
    AdamParams,
    Loss,
    SamplingParams,
    ValueHeadSettings,
    Weights,
)
from didact.engines.local import LocalEngine, LoraSettings
from didact.engines.local.agreement import require_agreement
from didact.engines.local.distributed import DistributedEngine, shard_balanced, unshard
from didact.engines.probe import probe
from didact.errors import CapabilityError, DataError, Interrupted, NonFiniteError, TrainingGuard, UsageError
from didact.jsonl import read_package_yaml, write_atomically
from didact.losses import LossOutput
from didact.types import Row
from tests.engines.two_processes import TwoProcesses, free_port
from tests.models import save_model
from tests.numerics import assert_close

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")

LORA = LoraSettings(rank=4)
CROSS_ENTROPY, POLICY_GRADIENT, PPO = Loss("cross_entropy"), Loss("policy_gradient"), Loss("ppo")
CLIPPED = AdamParams(lr=1e-3, max_grad_norm=0.5)
FREE = AdamParams(lr=1e-3, max_grad_norm=float("inf"))
FIELDS = {"cross_entropy": (), "policy_gradient": ("advantages",), "ppo": ("advantages", "old_logprobs")}
CLOSE = 1e-5
"""The largest difference of a weight from that of one process."""

SETTINGS = {"device": "cpu", "dtype": "float32", "tokens_per_batch": 60}
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
Make = Callable[..., LocalEngine]


@pytest.fixture(scope="module")
def processes():
    made = TwoProcesses()
    yield made
    made.end()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), num_hidden_layers=3, initializer_range=0.2)


@pytest.fixture
def one(model):
    return partial(LocalEngine.from_pretrained, model, **SETTINGS)


@pytest.fixture(params=["replicas", "shards"])
def two(request, processes, model):
    """two(scenario, *args) → what `scenario(make, *args)` returned on both ranks, from rank 0."""
    env = FSDP if request.param == "shards" else {}
    make = partial(DistributedEngine.from_pretrained, model, **SETTINGS)

    def run(scenario, *args):
        return processes.run(scenario, make, *args, env=env)[0]

    run.kind = request.param
    return run


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
    return max((float((left[k].float() - right[k].float()).abs().max()) for k in left), default=0.0)


def saved(engine, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    engine.save(folder)
    return folder


def trained(engine, calls, step):
    outputs = [engine.forward_backward(rows, loss) for rows, loss in calls]
    return [*outputs, engine.optim_step(step)]


# ── steps ─────────────────────────────────────────────────────────────────────────────────────────

CASES = {
    "cross entropy": (None, FREE, [(5, CROSS_ENTROPY)]),
    "policy gradient, clipped": (None, CLIPPED, [(7, POLICY_GRADIENT)]),
    "ppo after cross entropy": (None, CLIPPED, [(3, CROSS_ENTROPY), (5, PPO)]),
    "one row": (None, FREE, [(1, POLICY_GRADIENT)]),
    "entropy bonus": (None, FREE, [(5, replace(PPO, entropy_coef=0.3)), (1, replace(PPO, entropy_coef=0.3))]),
    "lora": (LORA, CLIPPED, [(5, CROSS_ENTROPY), (1, POLICY_GRADIENT)]),
}


def two_steps(make: Make, case: str, folder: Path):
    lora, step, calls = CASES[case]
    engine = make(lora=lora)
    hashes, outputs = [engine.weights_hash()], []
    for n in range(2):
        work = [(some_rows(count, loss, seed=10 * n + i), loss) for i, (count, loss) in enumerate(calls)]
        outputs += trained(engine, work, step)
    saved(engine, folder)
    return hashes, outputs


@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_step_of_one(two, one, case, tmp_path):
    (start, ours), (also, theirs) = (
        two(two_steps, case, tmp_path / "two"),
        two_steps(one, case, tmp_path / "one"),
    )
    assert start == also
    for a, b in zip(ours, theirs, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=CLOSE, abs=CLOSE)
        assert a.metrics == pytest.approx(b.metrics, rel=1e-4, abs=CLOSE)
        assert list(a.metrics) == list(b.metrics)
    gap = largest_difference(tmp_path / "two", tmp_path / "one")
    print(f"{two.kind}, {case}: largest difference of a weight after two steps {gap:.2e}")
    assert gap < CLOSE


def rows_in_calls(make: Make, cut: int | None):
    engine, rows = make(), some_rows(4)
    calls = (
        [(rows[:cut], POLICY_GRADIENT), (rows[cut:], POLICY_GRADIENT)] if cut else [(rows, POLICY_GRADIENT)]
    )
    return trained(engine, calls, CLIPPED)[-1].metrics["grad_norm"], engine.logprobs(rows)


def test_a_row_in_two_calls_or_on_either_process_adds_up(two, one):
    norm, logprobs = two(rows_in_calls, 3)
    expected_norm, expected = rows_in_calls(one, None)
    assert norm == pytest.approx(expected_norm, rel=CLOSE)
    assert_close(logprobs, expected)


def squared_values(logprobs_BT, *, weights_BT, returns_BT, values_BT):
    loss = (weights_BT * (values_BT - returns_BT) ** 2).sum()
    return LossOutput(loss, {"squares": float(loss.detach())})


def value_step(make: Make):
    engine = make(value_head=ValueHeadSettings(shares_model=False))
    rows = [
        Row(row.input_ids, row.target_ids, {**row.fields, "returns": row.fields["weights"]})
        for row in some_rows(3, CROSS_ENTROPY)
    ]
    before = engine.weights_hash()
    trained(engine, [(rows, Loss("value of weights", fn=squared_values))], FREE)
    return before, engine.weights_hash(), engine.values(rows), engine.logprobs(rows)


def test_a_value_head_learns_the_same(two, one):
    before, after, values, logprobs = two(value_step)
    start, _, expected_values, expected_logprobs = value_step(one)
    assert before == start != after
    assert all(np.abs(v).max() > 0 for v in values)
    assert_close(values, expected_values)
    assert_close(logprobs, expected_logprobs)


# ── samples and scores ────────────────────────────────────────────────────────────────────────────


def samples_and_scores(make: Make):
    engine, rows = make(keep_reference=True), some_rows(3)
    prompts = [tuple(row.input_ids.tolist()[: 2 + i]) for i, row in enumerate(some_rows(5))]
    params = SamplingParams(max_tokens=12, temperature=0.9, top_k=40)
    start = engine.snapshot()
    trained(engine, [(some_rows(3), POLICY_GRADIENT)], CLIPPED)
    samples = [engine.sample(prompts, 2, params, seed=seed) for seed in (3, [11, 12, 13, 14, 15])]
    assert engine.sample([], 2, params, seed=0) == engine.logprobs([]) == []
    scores = [engine.logprobs(rows, weights=w) for w in (POLICY, REFERENCE, start)]
    top = engine.top_logprobs(rows, 3, weights=start)
    kl = engine.full_kl(rows)
    return samples, scores, kl, [t.ids for t in top], [t.logprobs for t in top], engine.logprobs(rows)


def test_samples_and_scores_are_those_of_one_process(two, one):
    ours, theirs = two(samples_and_scores), samples_and_scores(one)
    for a, b in zip(chain(*chain(*ours[0])), chain(*chain(*theirs[0])), strict=True):
        assert (a.ids, a.stop_reason) == (b.ids, b.stop_reason)
        assert_close(np.asarray(a.logprobs), np.asarray(b.logprobs))
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert_close(a, b)
    np.testing.assert_array_equal(np.concatenate(ours[1][1]), np.concatenate(ours[1][2]))
    assert_close(ours[2], theirs[2], rel=1e-3)
    for a, b in zip(ours[3], theirs[3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert_close(ours[4], theirs[4])
    assert_close(ours[5], theirs[5])  # the scores swapped other weights in, and back


def all_probes_hold(make: Make):
    return [str(result) for result in probe(make()) if not result.holds]


def test_the_conformance_probe_passes(two):
    assert two(all_probes_hold) == []


# ── checkpoints ───────────────────────────────────────────────────────────────────────────────────


def checked_twice(make: Make, folder: Path) -> list[int]:
    """Each rank with a cache of its own, as on machines of their own, of which rank 0's is filled."""
    engine, passed = make(), []
    cache = folder / str(process_group().rank)
    for _ in range(2):
        require_agreement(engine, cache)
        passed.append(len(list(cache.glob("*"))))
    return passed


def test_ranks_check_their_model_together_or_not_at_all(processes, two, tmp_path):
    assert two(checked_twice, tmp_path) == [1, 1]
    assert not (tmp_path / "1").exists()


def averaged(make: Make, lora, folder: Path):
    """Two steps with a moving average, saved after each."""
    engine = make(lora=lora)
    engine.snapshot("average")
    for n in range(2):
        trained(engine, [(some_rows(3 + n, seed=n), POLICY_GRADIENT)], CLIPPED)
        engine.update_snapshot("average", 0.5)
        saved(engine, folder / f"step-{n + 1}")
    engine.save_pretrained(folder / "model")
    return engine.weights_hash(), engine.logprobs(some_rows(2), weights=Weights("average"))


def one_more_step(make: Make, lora, start: Path, end: Path):
    engine = make(lora=lora)
    engine.load(start)
    loaded = engine.weights_hash(), engine.model_hash(), engine.snapshot_names
    trained(engine, [(some_rows(4, seed=1), POLICY_GRADIENT)], CLIPPED)
    engine.update_snapshot("average", 0.5)
    saved(engine, end)
    return loaded


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_checkpoints_pass_from_two_processes_to_one_and_back(two, one, lora, tmp_path):
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    ours, logprobs = two(averaged, lora, tmp_path / "two")
    _, expected = averaged(one, lora, tmp_path / "one")
    assert_close(logprobs, expected)
    alone = one_more_step(one, lora, tmp_path / "two" / "step-1", tmp_path / "went-on-alone")
    for name in ("weights", "optimizer", "snapshots"):
        file = f"{name}.safetensors"
        assert largest_difference(tmp_path / "two" / "step-2", tmp_path / "one" / "step-2", file) < CLOSE
        assert largest_difference(tmp_path / "two" / "step-2", tmp_path / "went-on-alone", file) < CLOSE
    again = two(one_more_step, lora, tmp_path / "two" / "step-1", tmp_path / "went-on-together")
    assert again == alone
    assert alone[2] == {"average"}
    assert largest_difference(tmp_path / "two" / "step-2", tmp_path / "went-on-together") == 0
    reloaded = LocalEngine.from_pretrained(tmp_path / "two" / "model", **SETTINGS)
    plain = one(lora=lora)
    plain.load(tmp_path / "two" / "step-2")
    assert ours == plain.weights_hash()
    assert_close(reloaded.logprobs(some_rows(2)), plain.logprobs(some_rows(2)))


# ── errors ────────────────────────────────────────────────────────────────────────────────────────


def expect(kind, call, *args, **kwargs):
    with pytest.raises(kind) as raised:
        call(*args, **kwargs)
    assert type(raised.value) is kind


def failing_calls(make: Make):
    engine, rows = make(), some_rows(4)
    before = engine.weights_hash()
    for position in range(4):  # whichever rank has the row
        broken = list(rows)
        fields = {**rows[position].fields, "advantages": rows[position].fields["advantages"] * np.nan}
        broken[position] = Row(rows[position].input_ids, rows[position].target_ids, fields)
        expect(NonFiniteError, engine.forward_backward, broken, POLICY_GRADIENT)
    expect(TrainingGuard, engine.optim_step, FREE)
    expect(CapabilityError, engine.values, rows)
    expect(CapabilityError, engine.full_kl, rows)
    expect(UsageError, engine.forward_backward, [*rows[:2], *some_rows(1, CROSS_ENTROPY)], POLICY_GRADIENT)
    expect(UsageError, engine.logprobs, rows, weights=Weights("nowhere"))
    assert engine.weights_hash() == before
    engine.forward_backward(rows, POLICY_GRADIENT)
    assert engine.optim_step(FREE).metrics["grad_norm"] > 0


def test_errors_are_raised_on_every_rank_and_leave_everything_as_it_was(two):
    two(failing_calls)


def different_rows(make: Make):
    make().logprobs(some_rows(4, seed=process_group().rank))


def test_ranks_that_prepared_different_rows_stop(two):
    with pytest.raises(TrainingGuard):
        two(different_rows)


def missing_model(make: Make, path: Path):
    DistributedEngine.from_pretrained(path, device="cpu")


def test_a_model_that_is_not_there_is_refused_on_every_rank(two, model):
    with pytest.raises(UsageError, match="nowhere"):
        two(missing_model, model / "nowhere")


CALLS: list[int] = []


@on_main_process
def counted(value):
    CALLS.append(value)
    return len(CALLS)


@on_main_process
def counted_then_failed():
    counted(0)
    raise DataError("no such row")


def imported_on_one_rank() -> list[int]:
    """Modules are imported at different moments on each rank."""
    group = process_group()
    if not group.is_main:
        assert read_package_yaml("didact", "components.yaml")
    return group.gather_results(lambda: group.rank)


def test_reading_a_packages_file_is_no_collective(processes):
    assert processes.run(imported_on_one_rank) == [[0, 1]] * 2


def written(file: Path) -> int:
    write_atomically(file, "")
    return file.stat().st_ino


def test_a_file_is_written_once(processes, tmp_path):
    first, second = processes.run(written, tmp_path / "file")
    assert first == second


def main_only(make: Make):
    CALLS.clear()
    results = [counted(n) for n in range(3)]
    with pytest.raises(DataError, match="no such row"):
        counted_then_failed()
    return results, len(CALLS)


def test_a_main_process_function_runs_once_and_every_rank_gets_its_result_or_error(processes):
    assert processes.run(main_only, None) == [([1, 2, 3], 4), ([1, 2, 3], 0)]


# ── runs ──────────────────────────────────────────────────────────────────────────────────────────

RUN = {
    "problems_per_step": 3, "steps": 3, "sampling": {"max_tokens": 4}, "eval": {"problems": 2},
    "settings": {"samples": 2}, "optim": {"lr": 1e-3}, "feedback": {"source": "program"},
}  # fmt: skip


def train_run(make: Make, model: Path, out: Path, stop_after: int | None = None):
    def stop(record):
        if record["step"] == stop_after:
            signal.raise_signal(signal.SIGTERM)

    didact.train("rltf-fm", model=str(model), task="spell_backward", out=out, report=stop, **RUN)


def test_a_run_on_two_processes_stops_at_a_signal_and_goes_on_alone(two, model, tmp_path, monkeypatch):
    with pytest.raises(Interrupted, match="step 1") as stopped:
        two(train_run, model, tmp_path / "two", 1)
    assert stopped.value.exit_code == 75
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr("didact.distributed._current", didact.distributed._SINGLE)
    didact.resume(tmp_path / "two")
    train_run(None, model, tmp_path / "one")
    gap = largest_difference(tmp_path / "two" / "model", tmp_path / "one" / "model", "model.safetensors")
    print(f"{two.kind}, a run stopped after one of three steps: {gap:.2e}")
    assert gap < CLOSE
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    for file in ("rollouts.jsonl", "feedback.jsonl", "metrics.jsonl"):
        assert lines(tmp_path / "two", file) == lines(tmp_path / "one", file)


def lines(run: Path, file: str) -> int:
    return len((run / file).read_text().splitlines())


def answers(run: Path) -> list[list[int]]:
    records = (run / "rollouts.jsonl").read_text().splitlines()
    return [turn["completion_ids"] for line in records for turn in json.loads(line)["turns"]]


class FailingCritic:
    """A source whose server is there on the first call only; asked by rank 0 alone."""

    def __init__(self, inner) -> None:
        self.inner, self.calls = inner, 0

    @on_main_process
    def critique(self, requests):
        self.calls += 1
        if self.calls > 1:
            raise UsageError("the server refuses the key")
        return self.inner.critique(requests)


def failing_critic(make: Make, model: Path, out: Path):
    from didact.feedback.program import ProgramCritic

    settings = {**RUN, "feedback": FailingCritic(ProgramCritic()), "eval": {"problems": 0}}
    didact.train("rltf-fm", model=str(model), task="spell_backward", out=out, **settings)


def test_a_critic_that_fails_stops_every_rank_resumably(two, model, tmp_path):
    with pytest.raises(UsageError, match="refuses the key"):
        two(failing_critic, model, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]


# ── ends; the processes above are gone after it ───────────────────────────────────────────────────


def test_z_a_killed_process_ends_the_run_with_an_error(processes, model):
    [engine, _] = processes.run(kept_engine, model)
    processes.kill()
    for _ in range(2):
        with pytest.raises(RankDiedError):
            ENGINES[engine].forward_backward(some_rows(3), POLICY_GRADIENT)


ENGINES: list[LocalEngine] = []


def kept_engine(model: Path) -> int:
    ENGINES.append(DistributedEngine.from_pretrained(model, **SETTINGS))
    return len(ENGINES) - 1


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
    assert lines(tmp_path / "two", "metrics.jsonl") == 2

    from didact.config import load_config
    from didact.training.api import run_config

    config = load_config("grpo", None, chosen, task__name="spell_backward")
    monkeypatch.setattr("didact.distributed._current", didact.distributed._SINGLE)
    run_config(config, tmp_path / "one")
    gap = largest_difference(tmp_path / "two" / "model", tmp_path / "one" / "model", "model.safetensors")
    print(f"accelerate launch, two steps of grpo: {gap:.2e}")
    assert gap < CLOSE


# ── parts that need one process only ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 16])
def test_every_item_is_in_one_share_and_shares_are_balanced(ranks, count):
    sizes = [int(n) for n in np.random.default_rng(count).integers(1, 100, count)]
    shares = shard_balanced(sizes, ranks)
    assert unshard(shares, shares) == list(range(count))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
