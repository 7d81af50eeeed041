"""`engine: vllm` in a run's settings: trained here, sampled on a stand-in server."""

import pytest

from didact.build.components import build
from didact.build.engines import tiny_model
from didact.config import parse_config
from didact.engines.local import LocalEngine, LoraSettings
from didact.errors import CapabilityError, UsageError
from didact.run_dir import read_jsonl
from didact.training.api import run_config
from tests.vllm_server import VllmServer

RANK = 4


@pytest.fixture
def server():
    model = LocalEngine.from_pretrained(str(tiny_model()), lora=LoraSettings(rank=RANK), device="cpu")
    with VllmServer(model, max_model_len=1024) as running:
        yield running


def values(server, tmp_path, **engine):
    return {
        "method": "rltf-fm",
        "settings": {"samples": 2},
        "model": {"path": "tiny", "lora": {"rank": RANK}},
        "engine": {
            "name": "vllm",
            "settings": {"base_url": server.url, "shared_dir": str(tmp_path / "shared"), **engine},
        },
        "task": {"name": "spell_backward", "settings": {"min_word_len": 6, "max_word_len": 7}},
        "problems_per_step": 2,
        "sampling": {"max_tokens": 8},
        "steps": 2,
        "eval": {"problems": 2},
    }


def test_a_run_samples_on_the_server_from_the_weights_in_training(server, tmp_path):
    config = parse_config(values(server, tmp_path))
    run = run_config(config, tmp_path / "run")
    assert [row["step"] for row in read_jsonl(run.metrics) if "sampled_tokens" in row][-1] == 2
    loads = server.count("/v1/load_lora_adapter")
    # Before the first step, after it, and after the second, for the evaluation at the end.
    assert loads >= 2
    assert server.count("/v1/completions") >= 2 * 2 + 2 * 2
    assert list((tmp_path / "shared").iterdir())


def test_an_adapter_needs_a_directory_that_both_see(server, tmp_path):
    with pytest.raises(UsageError, match=r"engine\.settings\.shared_dir"):
        build(parse_config(values(server, tmp_path, shared_dir=None)))


def test_all_weights_need_a_gpu_to_go_from(server, tmp_path):
    given = values(server, tmp_path)
    given["model"].pop("lora")
    with pytest.raises(CapabilityError, match=r"model\.lora"):
        build(parse_config(given))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("local", {"shared_dir": "/dev/shm/x"}),
        ("tinker", {"shared_dir": "/dev/shm/x"}),
        ("vllm", {"rank": 4}),
        ("local", {"timeout": 5.0}),
    ],
)
def test_settings_of_another_engine_are_refused(name, settings):
    with pytest.raises(UsageError, match=f"'{name}'.*'{next(iter(settings))}'"):
        build(parse_config({"method": "grpo", "engine": {"name": name, "settings": settings}}))
