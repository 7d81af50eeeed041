"""The cost model: what it must not get wrong, and that the page shows what it prints."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "scaling"
PAGE = ROOT / "docs" / "scaling.md"
if not FOLDER.exists():
    pytest.skip("not a source tree", allow_module_level=True)


@pytest.fixture(scope="module")
def model():
    spec = importlib.util.spec_from_file_location("cost_model", FOLDER / "cost_model.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["cost_model"] = module
    spec.loader.exec_module(module)
    return module


def run(model, *arguments):
    said = []
    model.main([*arguments, "--json"], said.append)
    return json.loads(said[0])


def test_the_shape_has_the_published_number_of_weights(model):
    qwen = model.MODELS["qwen3-4b"]
    assert qwen.parameters == pytest.approx(4.02e9, rel=0.005)
    assert qwen.body == pytest.approx(3.6e9, rel=0.02)  # "non-embedding" on the model's card
    assert model.MODELS["qwen3-0.6b"].parameters == pytest.approx(0.6e9, rel=0.02)


def test_tokens_are_counted_by_hand(model):
    grpo = run(model, "--problems", "2", "--samples", "3", "--prompt", "10", "--completion", "5")["work"]
    assert (grpo["sampled"], grpo["trained"], grpo["targets"]) == (30, 90, 30)
    arguments = (
        "--problems",
        "1",
        "--samples",
        "2",
        "--prompt",
        "10",
        "--completion",
        "5",
        "--critique",
        "3",
    )
    rltf = run(model, "--method", "rltf", *arguments)["work"]
    # y0|x0: 15, y1|x1: 18 + 5, y1|x0: 15, c0|x0,y0: 18, of two dialogues
    assert (rltf["sampled"], rltf["trained"]) == (20, 2 * (15 + 23 + 15 + 18))
    assert rltf["targets"] == 2 * (5 + 5 + 5 + 3)


def test_more_gpus_help_and_nothing_is_negative(model):
    found = run(model)["plans"]
    seconds = [plan["seconds"][1] for plan in found]
    one, vllm, seven, local8, server8 = seconds
    assert one > vllm > seven > 0
    assert one > local8 > server8 > 0
    for plan in found:
        low, median, high = plan["seconds"]
        assert 0 < low < median < high
        assert all(0 <= share <= 1 for share in plan["shares"].values())
        assert sum(plan["shares"].values()) == pytest.approx(1, abs=0.1)


def test_sync_counts_the_bytes_of_what_is_sent(model):
    plans = {plan["plan"]: plan for plan in run(model)["plans"]}
    whole = plans["8 GPUs, vLLM and FSDP in turn (a Tinker server), all weights"]
    assert whole["sync_megabytes"] == pytest.approx(8050, rel=0.01)  # 4.02 B weights in bfloat16
    adapter = plans["1 GPU trains a LoRA, 1 GPU vLLM"]
    assert adapter["sync_megabytes"] == pytest.approx(4 * 33.0, rel=0.01)  # 33.0 M weights in float32


def test_all_weights_do_not_fit_one_gpu(model):
    qwen = model.MODELS["qwen3-4b"]
    gpu = model.HARDWARE["h100"]
    assert model.memory_bytes(model.Plan("", 1, 0, False), qwen) > 0.7 * gpu.capacity
    assert model.memory_bytes(model.Plan("", 1, 0, True), qwen) < 0.2 * gpu.capacity


@pytest.mark.parametrize(("method", "arguments"), [("grpo", ["--kl"]), ("rltf", ["--method", "rltf"])])
def test_the_page_shows_what_the_command_prints(model, method, arguments):
    said = []
    model.main(arguments, said.append)
    shown = re.search(
        rf"<!-- table: {method} -->\n(.*?)<!-- end", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert shown
    assert shown[1].strip() == said[-1].strip()


def test_the_page_tells_the_measured_ratios():
    measured = json.loads((FOLDER / "measured.json").read_text())
    page = PAGE.read_text(encoding="utf-8")
    for ratio in ("score_over_train", "lora_over_train"):
        assert f"{measured['ratios'][ratio]:.2f} times" in page
    assert 0.7 < measured["check"]["sum_over_step"] < 1.3
