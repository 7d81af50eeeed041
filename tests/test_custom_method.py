"""Own components, as objects and as file.py:Class: trained, killed, resumed, from an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import didact
from didact.errors import CheckpointError, UsageError
from didact.run_dir import read_jsonl

RECIPE = Path(__file__).parent.parent / "recipes" / "custom_method.py"
SHORT = ["--set", "steps=4", "--set", "checkpoint_every=1", "--set", "eval.problems=8"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with the recipe and nothing else."""
    shutil.copy(RECIPE, tmp_path)
    return tmp_path


def didact_train(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`didact train …` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "didact.cli.main", "train", *arguments],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def named(out: str) -> list[str]:
    """The command of the recipe's first lines, shortened."""
    return [
        "custom_method.py:Revise", "--task", "custom_method.py:Backward",
        "--feedback", "custom_method.py:Letters", "--set", "sampling.max_tokens=12",
        "--set", "optim.lr=1e-3", *SHORT, "--out", out,
    ]  # fmt: skip


def objects() -> dict[str, Any]:
    """Instances of the recipe's classes."""
    return {
        kind: didact.load_class(f"{RECIPE}:{name}", kind)()
        for kind, name in {"method": "Revise", "task": "Backward", "feedback": "Letters"}.items()
    }


SETTINGS: dict[str, Any] = {
    "sampling": {"max_tokens": 12},
    "optim": {"lr": 1e-3},
    "steps": 4,
    "checkpoint_every": 1,
    "eval": {"problems": 8},
}


def test_the_recipe_is_short_and_imports_didact_alone() -> None:
    text = RECIPE.read_text()
    assert text.count("\n") <= 60
    assert "from didact" not in text
    minimal = (RECIPE.parent / "minimal_loop.py").read_text()
    assert "from didact." not in minimal


def test_the_plain_model_learns_what_the_critic_names(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "custom_method.py", "runs/objects"],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    accuracy = [
        r["eval"]["accuracy"] for r in read_jsonl(folder / "runs/objects/metrics.jsonl") if "eval" in r
    ]
    assert accuracy[0] < 0.05
    assert accuracy[-1] > 0.5


def test_names_and_objects_give_the_same_run_bit_for_bit(folder: Path) -> None:
    done = didact_train(folder, *named("named"))
    assert done.returncode == 0, done.stderr
    run = didact.train(out=folder / "objects", **objects(), **SETTINGS)
    assert (folder / "named/metrics.jsonl").read_bytes() == run.metrics.read_bytes()
    weights = [
        json.loads((folder / name / "result.json").read_text())["weights"] for name in ("named", "objects")
    ]
    assert weights[0] == weights[1]


def test_a_killed_run_of_own_components_goes_on_bit_for_bit(folder: Path) -> None:
    assert didact_train(folder, *named("whole")).returncode == 0
    text = (folder / "custom_method.py").read_text()
    kill = "        import os\n        if ctx.step == 2 and 'KILL' in os.environ: os.kill(os.getpid(), 9)\n"
    line = "        return didact.two_turn"
    assert text.count(line) == 1
    (folder / "custom_method.py").write_text(text.replace(line, kill + line))
    assert didact_train(folder, *named("killed"), KILL="1").returncode == -signal.SIGKILL
    done = didact_train(folder, "--resume", "killed")
    assert done.returncode == 0, done.stderr
    assert (folder / "killed/metrics.jsonl").read_bytes() == (folder / "whole/metrics.jsonl").read_bytes()


def test_a_run_does_not_go_on_with_other_code(folder: Path) -> None:
    text = (folder / "custom_method.py").read_text()
    line = "        return didact.two_turn"
    broken = text.replace(line, "        assert ctx.step < 2\n" + line)
    (folder / "custom_method.py").write_text(broken)
    assert didact_train(folder, *named("run")).returncode == 1
    (folder / "custom_method.py").write_text(text)
    done = didact_train(folder, "--resume", "run")
    assert done.returncode == CheckpointError.exit_code
    assert "custom_method.py" in done.stderr


def test_a_run_of_objects_needs_them_again(tmp_path: Path) -> None:
    class Stops(Exception):
        pass

    def stop(record: dict[str, Any]) -> None:
        if record.get("step") == 2 and "eval" not in record:
            raise Stops

    given = objects()
    with pytest.raises(Stops):
        didact.train(out=tmp_path / "run", report=stop, **given, **SETTINGS)
    with pytest.raises(UsageError, match="Letters"):
        didact.resume(tmp_path / "run", method=given["method"], task=given["task"])
    with pytest.raises(UsageError, match="ProgramCritic"):
        didact.resume(tmp_path / "run", **{**given, "feedback": didact.ProgramCritic("reveal")})
    run = didact.resume(tmp_path / "run", **given)
    whole = didact.train(out=tmp_path / "whole", **given, **SETTINGS)
    assert run.metrics.read_bytes() == whole.metrics.read_bytes()


def test_a_method_object_of_an_importable_class_is_resumed_by_its_name(tmp_path: Path) -> None:
    method = didact.RLTF(samples=2, lambda_fm=0.0, lambda_sd=0.3)
    run = didact.train(out=tmp_path / "run", **{**objects(), **SETTINGS, "method": method})
    config = run.config.read_text()
    assert "method: didact.methods.rltf:RLTF" in config
    assert "lambda_sd: 0.3" in config


def test_an_engine_object_is_trained(tmp_path: Path) -> None:
    engine = didact.LocalEngine.from_pretrained(str(didact.tiny_model()))
    before = engine.weights_hash()
    didact.train(out=tmp_path / "run", engine=engine, **objects(), **SETTINGS)
    assert engine.weights_hash() != before


@pytest.mark.parametrize(
    ("kind", "component", "named"),
    [
        ("task", object(), "train_problem"),
        ("feedback", object(), "critique"),
        ("engine", object(), "sample"),
        ("method", object(), "collect"),
    ],
)
def test_an_object_that_lacks_a_method_is_refused_before_anything_is_written(
    tmp_path: Path, kind: str, component: object, named: str
) -> None:
    values = {**objects(), kind: component}
    with pytest.raises(UsageError, match=named):
        didact.train(out=tmp_path / "run", **values, **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_run_without_out_is_named_by_the_classes(folder: Path) -> None:
    arguments = [word for word in named("x") if word not in ("--out", "x")]
    done = didact_train(folder, *arguments, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "runs/Revise-Backward-" in done.stdout
