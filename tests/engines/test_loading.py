"""What is saved reproduces what was trained, and broken folders are refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from didact.engines.base import AdamParams, Loss
from didact.engines.local import LocalEngine, LoraSettings
from didact.errors import UsageError
from didact.types import Row
from tests.engines.test_agreement import AGREES, model_of
from tests.helpers import didact
from tests.models import byte_tokenizer, save_model

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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "opt", "jamba"])
def test_an_adapter_on_an_adapter_of_any_architecture(tmp_path: Path, kind: str, dtype: str) -> None:
    model_of(AGREES[kind]).save_pretrained(tmp_path / "0")
    byte_tokenizer().save_pretrained(tmp_path / "0")
    for n in (0, 1):
        engine = LocalEngine.from_pretrained(tmp_path / str(n), device="cpu", dtype=dtype, lora=LORA)
        for _ in range(3):
            engine.forward_backward([ROW], Loss("cross_entropy"))
            engine.optim_step(AdamParams(lr=0.02))
        engine.save_pretrained(tmp_path / str(n + 1))
    gaps = np.abs(scores(engine_of(tmp_path / "2")) - scores(engine))
    assert gaps.mean() < {"float32": 1e-4, "bfloat16": 0.1}[dtype]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "2")
    assert plain.dtype == torch.float32
    assert_same(plain_scores(plain)[-20:], scores(engine_of(tmp_path / "2"))[-20:])


def test_an_adapter_on_a_model_stays_an_adapter(base: Path, tmp_path: Path) -> None:
    engine = trained(base)
    engine.save_pretrained(tmp_path / "adapter")
    assert_same(scores(engine_of(tmp_path / "adapter")), scores(engine))
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert_same(plain_scores(plain)[-20:], scores(engine)[-20:])


@pytest.mark.filterwarnings("ignore:.*(tie|embedding):UserWarning")
def test_an_adapter_whose_base_is_an_adapter_has_both(base: Path, tmp_path: Path) -> None:
    trained(base).save_pretrained(tmp_path / "first")
    engine_of(tmp_path / "first").save_pretrained(tmp_path / "merged")
    expected = peft_adapter(tmp_path / "merged", tmp_path / "second", target_modules=["q_proj"])
    edit(tmp_path / "second" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "first"))
    engine = engine_of(tmp_path / "second")
    assert_same(scores(engine), expected[-len(scores(engine)) :])
    for other in (base, tmp_path / "first"):
        assert np.abs(scores(engine) - scores(engine_of(other))).max() > 0.01


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(base: Path, tmp_path: Path) -> None:
    engine = trained(base)
    engine._adapter.save_pretrained(tmp_path / "adapter")
    again = engine_of(tmp_path / "adapter")
    assert again.tokenizer.get_vocab() == engine.tokenizer.get_vocab()
    assert_same(scores(again), scores(engine))


def test_a_target_that_shares_its_memory_is_refused(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    first, second = (layer.self_attn.q_proj for layer in model.model.layers)
    second.weight = torch.nn.Parameter(first.weight.detach())
    lora = LoraSettings(rank=2, target_modules=["q_proj"])
    with pytest.raises(UsageError, match=r"layers\.0.*layers\.1"):
        LocalEngine(model, AutoTokenizer.from_pretrained(base), lora=lora, device="cpu")


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
    with pytest.raises(UsageError, match=r"tokenizer.*adapter"):
        engine_of(tmp_path / "adapter")


def edit(file: Path, **changes: object) -> None:
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, **changes}))


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        [file] = folder.glob("*.safetensors")
        save_file(change(load_file(file)), file, {"format": "pt"})

    return damage


UP = "model.layers.0.mlp.up_proj.weight"


def cast(dtype: torch.dtype):
    return tensors(lambda t: {**t, UP: t[UP].to(dtype)})


def renamed(old: str, new: str):
    return tensors(lambda t: {name.replace(old, new): tensor for name, tensor in t.items()})


def cut(name: str, size: int):
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:size])

    return damage


def write(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


def index(content: object):
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "model.safetensors.index.json").write_text(text)

    return damage


def config(**changes: object):
    return lambda folder: edit(folder / "config.json", **changes)


DAMAGES = {
    "weights: empty": cut("model.safetensors", 0),
    "weights: header cut": cut("model.safetensors", 40),
    "weights: tail cut": cut("model.safetensors", 9000),
    "weights: header of 4 EiB": write("model.safetensors", (2**62).to_bytes(8, "little") + b"{}"),
    "weights: header no object": write("model.safetensors", (2).to_bytes(8, "little") + b"[]"),
    "weights: a tensor's shape": tensors(lambda t: {**t, UP: t[UP][:3]}),
    "weights: whole numbers": cast(torch.int32),
    "weights: bytes": cast(torch.int8),
    "weights: true and false": cast(torch.bool),
    "weights: complex": cast(torch.complex64),
    "weights: a layer missing": renamed("layers.1.", "layers.7."),
    "weights: one layer more": tensors(lambda t: {**t, UP.replace("0", "2"): t[UP].clone()}),
    "weights: of nothing": tensors(lambda t: {}),
    "index: no JSON": index("{"),
    "index: no map": index({}),
    "index: a file that is not there": index(
        {"metadata": {}, "weight_map": {"a": "model-00002-of-00002.safetensors"}}
    ),
    "index: files by number": index({"metadata": {}, "weight_map": {"a": 3}}),
    "config: no JSON": cut("config.json", 20),
    "config: no text": write("config.json", b"\xff\xfe\x00"),
    "config: a list": write("config.json", b"[]"),
    "config: fewer layers": config(num_hidden_layers=1, layer_types=["full_attention"]),
    "config: more layers": config(num_hidden_layers=3, layer_types=["full_attention"] * 3),
    "config: layers and their types": config(num_hidden_layers=3),
    "config: other heads": config(num_attention_heads=3),
    "generation config: no JSON": cut("generation_config.json", 10),
    "config: unknown type": config(model_type="nothing_known"),
    "config: type missing": config(model_type=None, architectures=None),
    "config: size no number": config(hidden_size="many"),
    "tokenizer: no JSON": cut("tokenizer.json", 30),
    "tokenizer: no model": write("tokenizer.json", b"{}"),
    "tokenizer config: no JSON": cut("tokenizer_config.json", 30),
}
ADAPTER_DAMAGES = {
    "config: no JSON": cut("adapter_config.json", 30),
    "config: no base": lambda folder: edit(folder / "adapter_config.json", base_model_name_or_path=None),
    "config: a base that is not there": lambda folder: edit(
        folder / "adapter_config.json", base_model_name_or_path="/nowhere/base"
    ),
    "config: itself": lambda folder: edit(
        folder / "adapter_config.json", base_model_name_or_path=str(folder)
    ),
    "config: another kind": lambda folder: edit(folder / "adapter_config.json", peft_type="NOTHING"),
    "config: another rank": lambda folder: edit(folder / "adapter_config.json", r=2),
    "weights: header cut": cut("adapter_model.safetensors", 50),
    "weights: a layer missing": tensors(lambda t: {n: v for n, v in t.items() if "layers.1." not in n}),
    "weights: a layer more": tensors(
        lambda t: {**t, **{n.replace("layers.1.", "layers.2."): v.clone() for n, v in t.items()}}
    ),
    "weights: another model's": renamed("self_attn", "attention"),
    "weights: of nothing": tensors(lambda t: {}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_folder_is_refused(base: Path, damage: str) -> None:
    DAMAGES[damage](base)
    with pytest.raises(UsageError, match=str(base)) as refused:
        engine_of(base)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("damage", ADAPTER_DAMAGES)
def test_a_broken_adapter_is_refused(base: Path, tmp_path: Path, damage: str) -> None:
    trained(base).save_pretrained(tmp_path / "adapter")
    ADAPTER_DAMAGES[damage](tmp_path / "adapter")
    with pytest.raises(UsageError, match=str(tmp_path / "adapter")):
        engine_of(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (cut("model-00002-of-00002.safetensors", 40), "model-00002-of-00002.safetensors"),
        (
            lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(),
            "model-00002-of-00002.safetensors",
        ),
        (cut("model.safetensors.index.json", 40), "model.safetensors.index.json"),
        (cut("generation_config.json", 10), "generation_config.json"),
        (cut("tokenizer.json", 100), "tokenizer.json"),
    ],
)
def test_a_broken_file_is_named(
    base: Path, tmp_path: Path, damage: Callable[[Path], None], file: str
) -> None:
    folder = tmp_path / "shards"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder, max_shard_size="100KB")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    damage(folder)
    with pytest.raises(UsageError, match=file):
        engine_of(folder)


def test_commands_end_with_2_for_a_broken_folder(base: Path, tmp_path: Path, capsys) -> None:
    cut("model.safetensors", 40)(base)
    for words in (["train", "grpo", "--out", tmp_path / "run", "--model"], ["eval"], ["doctor", "--model"]):
        assert didact(*words, base) == 2
        shown = capsys.readouterr().err
        assert "model.safetensors" in shown
        assert "Traceback" not in shown
    assert not (tmp_path / "run").exists()
