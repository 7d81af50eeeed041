"""What is saved reproduces what was trained, and broken folders are refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from didact.engines.base import AdamParams, Loss
from didact.engines.local import LocalEngine, LoraSettings
from didact.errors import DataError, DidactError, UsageError
from didact.types import Row
from tests.models import save_model

ROW = Row.from_completion(tuple(range(40, 60)), tuple(range(70, 90)))
LORA = LoraSettings(rank=4)


def engine_of(folder: Path, **settings) -> LocalEngine:
    return LocalEngine.from_pretrained(folder, device="cpu", dtype="float32", **settings)


def trained(folder: Path, **settings) -> LocalEngine:
    """An engine after a few large steps, so that what is lost is seen."""
    engine = engine_of(folder, lora=LORA, **settings)
    for _ in range(6):
        engine.forward_backward([ROW], Loss("cross_entropy"))
        engine.optim_step(AdamParams(lr=0.05))
    return engine


def scores(engine: LocalEngine) -> np.ndarray:
    return engine.logprobs([ROW])[0]


def plain_scores(model, row: Row = ROW) -> np.ndarray:
    with torch.inference_mode():
        logits = model(torch.tensor(row.input_ids)[None]).logits[0].log_softmax(-1)
    return logits[np.arange(len(row)), row.target_ids].numpy()


def assert_same(found, expected) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_model(tmp_path / "base", tie_word_embeddings=True)


def test_an_adapter_on_an_adapter_is_saved_whole(base: Path, tmp_path: Path) -> None:
    trained(base).save_pretrained(tmp_path / "first")
    second = trained(tmp_path / "first")
    before = scores(second)
    assert np.abs(before - scores(engine_of(tmp_path / "first"))).max() > 0.1
    second.save_pretrained(tmp_path / "second")
    assert_same(scores(engine_of(tmp_path / "second")), before)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "second", dtype=torch.float32)
    assert_same(plain_scores(plain)[-20:], before[-20:])
    assert_same(scores(second), before)  # saving changed nothing
    second.forward_backward([ROW], Loss("cross_entropy"))
    second.optim_step(AdamParams(lr=0.05))
    second.save_pretrained(tmp_path / "third")
    assert_same(scores(engine_of(tmp_path / "third")), scores(second))


def test_an_adapter_on_a_model_stays_an_adapter(base: Path, tmp_path: Path) -> None:
    engine = trained(base)
    engine.save_pretrained(tmp_path / "adapter")
    assert_same(scores(engine_of(tmp_path / "adapter")), scores(engine))
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert_same(plain_scores(plain)[-20:], scores(engine)[-20:])


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["q_proj", "lm_head"]])
def test_a_target_that_shares_its_tensor_is_refused(base: Path, targets: list[str]) -> None:
    with pytest.raises(UsageError, match=r"embed_tokens.*lm_head|lm_head.*embed_tokens"):
        engine_of(base, lora=LoraSettings(rank=2, target_modules=targets))


def test_an_untied_output_layer_may_be_a_target(tmp_path: Path) -> None:
    base = save_model(tmp_path / "untied", tie_word_embeddings=False)
    engine = engine_of(base, lora=LoraSettings(rank=2, target_modules=["lm_head", "embed_tokens"]))
    engine.forward_backward([ROW], Loss("cross_entropy"))
    engine.optim_step(AdamParams(lr=0.05))
    engine.save_pretrained(tmp_path / "adapter")
    assert_same(scores(engine_of(tmp_path / "adapter")), scores(engine))


def peft_adapter(base: Path, folder: Path, *, added: int = 0, **settings) -> np.ndarray:
    """Save an adapter made by plain peft, with random weights and tokens of its own; returns its scores."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if added:
        tokenizer.add_tokens([f"<new{i}>" for i in range(added)])
        model.resize_token_embeddings(len(tokenizer))
    config = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, **settings)
    torch.manual_seed(1)
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return plain_scores(model.eval())


@pytest.mark.filterwarnings("ignore:.*(tie|embedding):UserWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["lm_head"]},
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ],
    ids=str,
)
def test_an_adapter_of_a_tied_module_loads_as_in_peft(base: Path, tmp_path: Path, settings: dict) -> None:
    expected = peft_adapter(base, tmp_path / "adapter", **settings)
    engine = engine_of(tmp_path / "adapter")
    assert_same(scores(engine), expected[-len(scores(engine)) :])
    engine.save_pretrained(tmp_path / "full")
    assert_same(scores(engine_of(tmp_path / "full")), scores(engine))


@pytest.mark.filterwarnings("ignore:.*(tie|embedding):UserWarning")
@pytest.mark.parametrize("saved", ["auto", ["embed_tokens", "lm_head"]], ids=["saved as changed", "trained"])
def test_an_adapter_with_added_tokens_resizes_the_embeddings(base: Path, tmp_path: Path, saved) -> None:
    settings = {} if saved == "auto" else {"modules_to_save": saved}
    expected = peft_adapter(base, tmp_path / "adapter", added=5, target_modules=["q_proj"], **settings)
    engine = engine_of(tmp_path / "adapter")
    assert_same(scores(engine), expected[-len(scores(engine)) :])
    assert len(engine.tokenizer) == engine.model.get_input_embeddings().weight.shape[0]


def test_added_tokens_without_rows_are_refused(base: Path, tmp_path: Path) -> None:
    trained(base).save_pretrained(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "adapter")
    with pytest.raises(DataError, match=r"tokenizer.*adapter"):
        engine_of(tmp_path / "adapter")


def cut(name: str, size: int):
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:size])

    return damage


def index(content: object):
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "model.safetensors.index.json").write_text(text)

    return damage


def config(**changes: object):
    def damage(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, **changes}))

    return damage


def other_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name][:3]}, folder / "model.safetensors", {"format": "pt"})


DAMAGES = {
    "weights: empty": cut("model.safetensors", 0),
    "weights: header cut": cut("model.safetensors", 40),
    "weights: tail cut": cut("model.safetensors", 9000),
    "weights: a tensor's shape": other_shape,
    "index: no JSON": index("{"),
    "index: no map": index({}),
    "index: a file that is not there": index(
        {"metadata": {}, "weight_map": {"a": "model-00002-of-00002.safetensors"}}
    ),
    "config: no JSON": cut("config.json", 20),
    "config: unknown type": config(model_type="nothing_known"),
    "config: type missing": config(model_type=None, architectures=None),
    "config: size no number": config(hidden_size="many"),
    "tokenizer: no JSON": cut("tokenizer.json", 30),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_folder_is_refused(base: Path, damage: str) -> None:
    DAMAGES[damage](base)
    with pytest.raises(DidactError, match=str(base)) as refused:
        engine_of(base)
    assert refused.value.exit_code in (2, 3)
