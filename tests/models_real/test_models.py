"""Pretrained models end to end: `make test-models`.

The weights of SmolLM2-135M-Instruct come from a package of the Python index. The thinking model is taught
here, in Qwen3's architecture and with its chat template. Nothing is asserted of how much a model learns in
two steps: only that every part works on real tokenizers, templates and thoughts.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from didact.run_dir import read_jsonl
from tests.models_real.thinker import QUESTION

pytest.importorskip("gguf", reason="`make test-models` installs the packages of the pretrained models")

MODELS = ("smollm2", "thinker")
METHODS = {"rltf-sd": ["samples=4"], "text2grad": [], "rl2f": ["samples=4", "turns=2"]}
END = "<|im_end|>"
"""The end of turn of both templates."""


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers to repeat, which both models do now and then, and two small steps on them."""
    folder = tmp_path_factory.mktemp("data")
    prompts = [{"prompt": QUESTION.format(n), "reference": str(n)} for n in range(10, 100)]
    (folder / "numbers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    settings = {
        "task": {
            "name": "prompts",
            "settings": {"path": str(folder / "numbers.jsonl"), "verifier": "numeric"},
        },
        "model": {"lora": {"rank": 4}, "dtype": "float32"},
        "sampling": {"max_tokens": 24},
        "eval": {"problems": 4},
        "problems_per_step": 4,
        "steps": 2,
        "optim": {"lr": 1e-4},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder / "config.yaml"


def didact(*words: object, cwd: Path) -> str:
    """What `didact …` prints in a process of its own, which must succeed."""
    command = [sys.executable, "-m", "didact.cli.main", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("method", METHODS)
def test_training_and_evaluation(model: Path, config: Path, tmp_path: Path, method: str) -> None:
    own = [word for change in METHODS[method] for word in ("--set", f"settings.{change}")]
    didact("train", method, "--config", config, "--model", model, "--out", "run", *own, cwd=tmp_path)
    run = tmp_path / "run"
    steps = [line for line in read_jsonl(run / "metrics.jsonl") if "lr" in line]
    assert [line["step"] for line in steps] == [1, 2]
    numbers = [v for line in steps for v in line.values() if isinstance(v, float)]
    assert all(map(math.isfinite, numbers))
    didact("eval", "run", "--n", 4, "--json", "eval.json", cwd=tmp_path)
    assert json.loads((tmp_path / "eval.json").read_text())
    rollouts = list(read_jsonl(run / "rollouts.jsonl"))
    turns = [turn for rollout in rollouts for turn in rollout["turns"]]
    assert not any(END in turn["text"] for turn in turns)
    assert any(turn["reward"] for turn in turns)
    if model.name == "thinker":  # a number in the thoughts is no answer, and one after them is
        thought = [turn for turn in turns if turn["text"].startswith("<think>")]
        assert all(turn["answer_from"] for turn in thought)
        assert any(turn["reward"] for turn in thought)
        assert not any("think" in line["text"] for line in read_jsonl(run / "feedback.jsonl"))
