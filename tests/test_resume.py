"""A killed run goes on bit for bit. Real processes, really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import didact
from didact.errors import Interrupted
from didact.run_dir import read_jsonl
from didact.tasks.base import Verdict
from didact.training.signals import StopSignal
from tests.models import save_model

SETTINGS = {
    "settings": {"samples": 2, "lambda_fm": 1.0},
    "problems_per_step": 2,
    "steps": 5,
    "checkpoint_every": 2,
    "sampling": {"max_tokens": 4},
    "eval": {"problems": 2, "every": 2},
    "optim": {"lr": 1e-3, "schedule": "linear"},
}
COMPARED = ("metrics.jsonl", "rollouts.jsonl", "feedback.jsonl", "evaluations.jsonl", "result.json")

# Trains, and kills itself (no handler can see it) when the named function is called the n-th time.
DRIVER = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
import didact
from didact.engines.local import LocalEngine
from didact.training import checkpoint, loop

out, model, settings, point, count = sys.argv[1:]
left = int(count)

def deadly(function):
    def wrapper(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapper

homes = {
    "sample": (LocalEngine, "sample"),
    "forward_backward": (LocalEngine, "forward_backward"),
    "optim_step": (LocalEngine, "optim_step"),
    "save": (checkpoint, "_sha256"),
    "rename": (checkpoint, "sync"),
    "prune": (checkpoint.shutil, "rmtree"),
    "log": (loop.RunDir, "add_metrics"),
}
home, name = homes[point]
setattr(home, name, deadly(getattr(home, name)))
didact.train("rltf", out=out, model=model, task="spell_backward", **json.loads(settings))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def train(out: Path, model: Path, **changes: object) -> Path:
    didact.train("rltf", out=out, model=str(model), task="spell_backward", **{**SETTINGS, **changes})
    return out


@pytest.fixture(scope="module")
def uninterrupted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("whole") / "run", model)


def assert_same_run(a: Path, b: Path) -> None:
    for name in COMPARED:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    for file in sorted((a / "checkpoints" / "step-000005").iterdir()):
        assert file.read_bytes() == (b / "checkpoints" / "step-000005" / file.name).read_bytes(), file.name
    weights = "model/model.safetensors"
    assert (a / weights).read_bytes() == (b / weights).read_bytes()


# Each step samples twice, has one term and one optimizer step; the n-th calls fall into steps 3 to 5.
@pytest.mark.parametrize(
    ("point", "count"),
    [
        ("sample", 12),
        ("forward_backward", 4),
        ("optim_step", 4),
        ("save", 6),
        ("rename", 12),
        ("prune", 1),
        ("log", 7),
    ],
)
def test_a_run_killed_anywhere_and_resumed_equals_the_uninterrupted_one(
    point: str, count: int, model: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = [str(out), str(model), json.dumps(SETTINGS), point, str(count)]
    killed = subprocess.run([sys.executable, "-c", DRIVER, *arguments], capture_output=True, env=one_thread())
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (out / "result.json").exists()
    didact.resume(out)
    assert_same_run(out, uninterrupted)


def test_another_seed_is_another_run(model: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """The comparison above can fail."""
    other = train(tmp_path / "run", model, seed=1)
    with pytest.raises(AssertionError):
        assert_same_run(other, uninterrupted)


def test_sigterm_saves_exits_75_and_the_run_can_be_resumed(
    model: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out, config = tmp_path / "run", tmp_path / "config.json"
    config.write_text(json.dumps(SETTINGS))  # JSON is YAML
    command = [
        sys.executable, "-m", "didact.cli.main", "train", "rltf", "--config", str(config),
        "--model", str(model), "--task", "spell_backward", "--out", str(out),
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=one_thread()) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("step 0"):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        message = process.stderr.read()
    assert process.returncode == 75, message
    assert "SIGTERM" in message
    assert f"--resume {out}" in message
    assert list((out / "checkpoints").glob("step-*"))
    resumed = subprocess.run(
        [*command[:4], "--resume", str(out)], capture_output=True, text=True, env=one_thread()
    )
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(out, uninterrupted)


def test_a_torn_newest_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(
    model: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = [str(out), str(model), json.dumps(SETTINGS), "log", "9"]
    subprocess.run(
        [sys.executable, "-c", DRIVER, *arguments], check=False, capture_output=True, env=one_thread()
    )
    newest = max((out / "checkpoints").glob("step-*"))
    weights = next(newest.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    warnings: list[str] = []
    didact.resume(out, warn=lambda record: warnings.append(record["warning"]))
    assert len(warnings) == 1
    assert newest.name in warnings[0]
    assert_same_run(out, uninterrupted)


def test_a_finished_run_is_not_resumed(uninterrupted: Path) -> None:
    with pytest.raises(didact.DidactError, match="has ended"):
        didact.resume(uninterrupted)


def test_every_checkpoint_torn_is_an_error_that_touches_nothing(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [str(out), str(model), json.dumps(SETTINGS), "log", "7"]
    subprocess.run(
        [sys.executable, "-c", DRIVER, *arguments], check=False, capture_output=True, env=one_thread()
    )
    for manifest in (out / "checkpoints").glob("step-*/manifest.json"):
        manifest.unlink()
    lines = list(read_jsonl(out / "rollouts.jsonl"))
    with pytest.raises(didact.DidactError, match="no checkpoint is whole"):
        didact.resume(out)
    assert list(read_jsonl(out / "rollouts.jsonl")) == lines


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


class SignallingTask:
    """Sends SIGTERM to its own process while a third party's scorer would be running."""

    def __init__(self, task, calls: int) -> None:  # type: ignore[no-untyped-def]
        self.task, self.left, self.name = task, calls, task.name

    def __getattr__(self, name: str) -> object:
        return getattr(self.task, name)

    def verify(self, problem, answer):  # type: ignore[no-untyped-def]
        self.left -= 1
        try:
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return self.task.verify(problem, answer)
        except Exception:  # as a third party's scorer does
            return Verdict(0.0, False)

    def verify_many(self, asked):  # type: ignore[no-untyped-def]
        return [self.verify(problem, answer) for problem, answer in asked]


def test_a_signal_that_a_verifier_swallows_still_ends_the_run_resumably(
    model: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from didact.build import components as setup
    from didact.training import api

    real = setup.run_task
    monkeypatch.setattr(setup, "run_task", lambda *a, **k: SignallingTask(real(*a, **k), 30))
    with pytest.raises(Interrupted, match="SIGTERM"):
        train(tmp_path / "run", model)
    monkeypatch.setattr(setup, "run_task", real)
    api.resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_second_signal_right_after_the_first_does_not_cut_the_saving_short() -> None:
    with StopSignal() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted), stop.interruptible():
            pass


def test_a_second_signal_later_ends_the_process() -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        stop._since -= 60
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGINT)
