"""One thread, no network, and the same hypothesis examples on every run."""

import json
import os
import shutil
from pathlib import Path

# Before any import of torch, numpy or transformers, which read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import pytest
from hypothesis import settings

settings.register_profile("didact", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("didact")


@pytest.fixture(autouse=True, scope="session")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Models that passed the agreement check are remembered for these tests, not in the home directory."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with a longer context: it reads a judge's or a teacher's prompt byte by byte."""
    from didact.build.engines import tiny_model

    folder = tmp_path_factory.mktemp("models") / "roomy"
    shutil.copytree(tiny_model(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    written = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**written, "model_max_length": 2048}))
    return folder
