"""A run begins only on a model that samples what it scores."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconMambaConfig,
    GPT2Config,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    RwkvConfig,
    xLSTMConfig,
)
from transformers.models.minimax import MiniMaxConfig

from didact.config import ModelConfig
from didact.engines.local import LocalEngine, agreement
from didact.engines.local.agreement import disagreement, require_agreement
from didact.errors import CapabilityError, NonFiniteError
from tests.helpers import didact
from tests.models import byte_tokenizer

SMALL = {"vocab_size": 262, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "head_dim": 8}
AGREES = {
    "llama": LlamaConfig(**SMALL, **HEADS),
    "gpt2": GPT2Config(vocab_size=262, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2),
}
REFUSED = {
    "mamba": MambaConfig(**SMALL),
    "mamba2": Mamba2Config(**SMALL, num_heads=8, head_dim=8, n_groups=1, state_size=8),
    "falcon_mamba": FalconMambaConfig(**SMALL),
    "rwkv": RwkvConfig(vocab_size=262, hidden_size=32, num_hidden_layers=2),
    "minimax": MiniMaxConfig(**SMALL, **HEADS, layer_types=["linear_attention", "full_attention"]),
    "xlstm": xLSTMConfig(vocab_size=262, hidden_size=64, num_blocks=2, num_heads=4),
}


def model_of(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def engine_of(config, **settings) -> LocalEngine:
    return LocalEngine(model_of(config), byte_tokenizer(), device="cpu", dtype="float32", **settings)


@pytest.mark.parametrize("kind", AGREES)
def test_key_value_caches_agree(kind, tmp_path):
    engine = engine_of(AGREES[kind])
    assert disagreement(engine) < 1e-4
    require_agreement(engine, tmp_path)
    [passed] = tmp_path.iterdir()
    assert passed.read_text().startswith(kind)


@pytest.mark.parametrize("kind", REFUSED)
def test_other_states_are_refused_by_name(kind, tmp_path):
    with pytest.raises(CapabilityError, match=f"'{kind}'"):
        require_agreement(engine_of(REFUSED[kind]), tmp_path)
    assert not any(tmp_path.iterdir())


def test_bfloat16_agrees_within_its_own_tolerance():
    engine = LocalEngine(model_of(AGREES["llama"]), byte_tokenizer(), device="cpu", dtype="bfloat16")
    assert disagreement(engine) < agreement.TOLERANCES["bfloat16"]


def test_a_config_is_checked_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(agreement, "disagreement", lambda engine: calls.append(engine) or 0.0)
    for _ in range(2):
        require_agreement(engine_of(AGREES["llama"]), tmp_path)
    require_agreement(engine_of(LlamaConfig(**SMALL, **HEADS, rope_parameters={"rope_theta": 5e3})), tmp_path)
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_is_no_fault(tmp_path):
    (tmp_path / "file").write_text("")
    require_agreement(engine_of(AGREES["llama"]), tmp_path / "file" / "below")


def test_the_limit_is_by_tolerance(tmp_path, monkeypatch):
    for gap, fails in ((9e-4, False), (1.1e-3, True), (float("nan"), True)):
        monkeypatch.setattr(agreement, "disagreement", lambda engine, gap=gap: gap)
        engine = engine_of(AGREES["gpt2"])
        if fails:
            with pytest.raises(CapabilityError, match="gpt2"):
                require_agreement(engine, tmp_path / str(gap))
        else:
            require_agreement(engine, tmp_path / str(gap))


def test_broken_weights_are_named_as_such(tmp_path):
    engine = engine_of(AGREES["llama"])
    next(engine.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        require_agreement(engine, tmp_path)


def test_the_check_leaves_no_trace():
    engine = engine_of(AGREES["llama"])
    state, weights = torch.get_rng_state(), engine.weights_hash()
    disagreement(engine)
    assert torch.equal(torch.get_rng_state(), state)
    assert engine.weights_hash() == weights
    assert all(p.grad is None for p in engine.model.parameters())


def test_a_short_context_is_checked_too(tmp_path):
    for positions in (2, 5, 30, 43, 44):
        engine = engine_of(LlamaConfig(**SMALL, **HEADS, max_position_embeddings=positions))
        assert disagreement(engine) < 1e-4


@pytest.mark.parametrize("command", [["train", "grpo", "--out", "run"], ["eval"], ["doctor"]])
def test_commands_refuse_such_a_model(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    model_of(REFUSED["mamba"]).save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    named = [str(model)] if command[0] == "eval" else ["--model", str(model)]
    assert didact(*command, *named) == 2
    assert "'mamba'" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_an_engine_that_is_given_is_checked(tmp_path, monkeypatch):
    from didact.build.engines import EngineContext, build_engine

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    at = EngineContext(model=ModelConfig())
    good = engine_of(AGREES["llama"])
    assert build_engine(good, at) is good
    with pytest.raises(CapabilityError, match="mamba"):
        build_engine(engine_of(REFUSED["mamba"]), at)
