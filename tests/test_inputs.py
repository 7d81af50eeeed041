"""A run goes on from the inputs that it started from, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import didact
from didact.errors import CheckpointError
from didact.training import checkpoint
from tests.models import save_model

QUICK = {
    "problems_per_step": 2, "steps": 2, "checkpoint_every": 1, "sampling": {"max_tokens": 3},
    "eval": {"problems": 0}, "optim": {"lr": 1e-3},
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "sums.jsonl"
    rows = [{"prompt": f"{i} + {i}?", "reference": str(2 * i)} for i in range(12)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def unfinished(out: Path, model: Path, data: Path, **changes: object) -> Path:
    """A run that was cut off after its last checkpoint."""
    task = {"name": "prompts", "settings": {"path": str(data)}}
    section = {"path": str(model), **changes}
    didact.train("sft", out=out, model=section, task=task, **QUICK)
    (out / "result.json").unlink()
    return out


def test_an_unchanged_run_goes_on(model: Path, data: Path, tmp_path: Path) -> None:
    didact.resume(unfinished(tmp_path / "run", model, data))


def test_an_edited_data_file_is_refused_by_name(model: Path, data: Path, tmp_path: Path) -> None:
    run = unfinished(tmp_path / "run", model, data)
    before = (run / "metrics.jsonl").read_bytes()
    data.write_text(data.read_text().replace("22", "23"))
    with pytest.raises(CheckpointError, match=r"sums\.jsonl \(\w{12} → \w{12}\)"):
        didact.resume(run)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_another_base_under_an_adapter_is_refused(model: Path, data: Path, tmp_path: Path) -> None:
    run = unfinished(tmp_path / "run", model, data, lora={"rank": 2})
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 0.5
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model \(\w{12} → \w{12}\)"):
        didact.resume(run)


def edited(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        (
            "config.json",
            lambda c: c.update(rope_parameters={"rope_type": "default", "rope_theta": 5e3}),
            "model",
        ),
        ("config.json", lambda c: c.update(rms_norm_eps=1e-3), "model"),
        ("config.json", lambda c: c.update(hidden_act="gelu"), "model"),
        ("tokenizer.json", lambda t: t["model"]["merges"].append(["a", "b"]), "tokenizer"),
        ("tokenizer.json", lambda t: t.update(normalizer={"type": "Lowercase"}), "tokenizer"),
        ("generation_config.json", lambda g: g.update(eos_token_id=[5, 6]), "tokenizer"),
        ("tokenizer_config.json", lambda t: t.update(bos_token="<|user|>"), "tokenizer"),
    ],
    ids=["rope theta", "norm eps", "activation", "merges", "normalizer", "ends", "special tokens"],
)
def test_an_edited_model_folder_is_refused(
    model: Path, data: Path, tmp_path: Path, file: str, change: Callable[..., object], named: str
) -> None:
    """The weights and the vocabulary stay as they are."""
    if file == "tokenizer.json":  # the merged token has to be in the vocabulary
        edited(model / file, lambda t: t["model"]["vocab"].update({"ab": len(t["model"]["vocab"])}))
    run = unfinished(tmp_path / "run", model, data)
    edited(model / file, change)
    with pytest.raises(CheckpointError, match=rf"{named} \(\w{{12}} → \w{{12}}\)"):
        didact.resume(run)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_another_teacher_is_refused(roomy: Path, data: Path, tmp_path: Path, file: str) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(roomy, teacher)
    feedback = {"source": "teacher", "settings": {"model": str(teacher), "max_tokens": 3}}
    task = {"name": "prompts", "settings": {"path": str(data)}}
    out = tmp_path / "run"
    didact.train("sft", out=out, model=str(roomy), task=task, feedback=feedback, **QUICK)
    (out / "result.json").unlink()
    if file == "config.json":
        edited(teacher / file, lambda c: c.update(rms_norm_eps=1e-3))
    elif file == "tokenizer.json":
        edited(teacher / file, lambda t: t.update(normalizer={"type": "Lowercase"}))
    else:
        weights = load_file(teacher / file)
        weights["model.norm.weight"] = weights["model.norm.weight"] + 0.5
        save_file(weights, teacher / file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=str(teacher)):
        didact.resume(out)


def test_every_difference_is_named(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = unfinished(tmp_path / "run", model, data)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    monkeypatch.setattr(checkpoint, "__version__", "9.9")
    with pytest.raises(CheckpointError) as refused:
        didact.resume(run)
    assert f"torch threads ({threads} → {threads + 1})" in str(refused.value)
    assert "→ 9.9)" in str(refused.value)
    assert refused.value.exit_code == 3


def test_a_run_killed_before_its_inputs_were_written_starts_over(
    model: Path, data: Path, tmp_path: Path
) -> None:
    run = unfinished(tmp_path / "run", model, data)
    (run / "inputs.json").unlink()
    with pytest.raises(CheckpointError, match=r"inputs\.json cannot be read"):
        didact.resume(run)
    fresh = tmp_path / "fresh"
    (fresh / "checkpoints").mkdir(parents=True)
    (fresh / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    didact.resume(fresh)
    assert (fresh / "inputs.json").exists()
