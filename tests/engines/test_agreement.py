"""A run begins only on a model that samples what it scores."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconMambaConfig,
    Gemma2Config,
    GPT2Config,
    JambaConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Qwen3Config,
    RecurrentGemmaConfig,
    RwkvConfig,
    xLSTMConfig,
)
from transformers.models.minimax import MiniMaxConfig

import didact as library
from didact.build.engines import make_engine
from didact.config import ModelConfig
from didact.engines.local import LocalEngine, agreement
from didact.engines.local.agreement import disagreement, require_agreement
from didact.engines.local.kv_cache import PrefixCache
from didact.errors import CapabilityError, NonFiniteError
from tests.helpers import didact
from tests.models import byte_tokenizer, save_model

SMALL = {"vocab_size": 262, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "head_dim": 8}
JAMBA = {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}
AGREES = {
    "llama": LlamaConfig(**SMALL, **HEADS),
    "gpt2": GPT2Config(vocab_size=262, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2),
    "qwen3": Qwen3Config(**SMALL, **HEADS, tie_word_embeddings=True),
    "mistral": MistralConfig(**SMALL, **HEADS, sliding_window=4),
    "gemma2": Gemma2Config(**SMALL, **HEADS, sliding_window=4, query_pre_attn_scalar=8),
    "opt": OPTConfig(**{**SMALL, "init_std": 0.2}, ffn_dim=48, num_attention_heads=4, word_embed_proj_dim=32),
    "mamba": MambaConfig(**SMALL),
    "mamba2": Mamba2Config(**SMALL, num_heads=8, head_dim=8, n_groups=1, state_size=8),
    "falcon_mamba": FalconMambaConfig(**SMALL),
    "jamba": JambaConfig(**SMALL, **HEADS, **JAMBA),
}
REFUSED = {
    "rwkv": RwkvConfig(vocab_size=262, hidden_size=32, num_hidden_layers=2),
    "minimax": MiniMaxConfig(**SMALL, **HEADS, layer_types=["linear_attention", "full_attention"]),
    "xlstm": xLSTMConfig(vocab_size=262, hidden_size=64, num_blocks=2, num_heads=4),
    "recurrent_gemma": RecurrentGemmaConfig(**SMALL, **HEADS, lru_width=32),
}


def model_of(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def engine_of(config, **settings) -> LocalEngine:
    return LocalEngine(model_of(config), byte_tokenizer(), device="cpu", dtype="float32", **settings)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No model has passed before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "didact" / "agreement"


@pytest.mark.parametrize("kind", AGREES)
def test_sampled_log_probs_are_those_of_whole_rows(kind, tmp_path):
    engine = engine_of(AGREES[kind])
    assert disagreement(engine) < 1e-4
    require_agreement(engine, tmp_path / "passed")
    [passed] = (tmp_path / "passed").iterdir()
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


def test_other_weights_of_the_same_config_are_checked(own_cache):
    for change in (0.0, 0.01):
        engine = engine_of(AGREES["llama"])
        with torch.no_grad():
            engine.model.lm_head.weight.add_(change)
        require_agreement(engine)
    assert len(list(own_cache.iterdir())) == 2


@pytest.mark.parametrize("place", ["a file", "no folder", "relative", "no home", "a folder in its place"])
def test_a_cache_that_cannot_be_used_is_no_fault(tmp_path, monkeypatch, own_cache, place):
    engine = engine_of(AGREES["llama"])
    monkeypatch.chdir(tmp_path)
    if place == "a file":
        (tmp_path / "cache").write_text("")
    elif place == "a folder in its place":
        require_agreement(engine)
        [file] = own_cache.iterdir()
        file.unlink()
        file.mkdir()
    elif place == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", no_home)
    else:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing" if place == "no folder" else "here")
    for _ in range(2):
        require_agreement(engine)
    assert not (tmp_path / "here").exists()


def no_home():
    raise RuntimeError("no home")


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
    model_of(REFUSED["rwkv"]).save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    named = [str(model)] if command[0] == "eval" else ["--model", str(model)]
    assert didact(*command, *named) == 2
    assert "'rwkv'" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_an_engine_that_is_given_is_checked(tmp_path, monkeypatch):
    from didact.build.engines import EngineContext, build_engine

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    at = EngineContext(model=ModelConfig())
    good = engine_of(AGREES["llama"])
    assert build_engine(good, at) is good
    with pytest.raises(CapabilityError, match="rwkv"):
        build_engine(engine_of(REFUSED["rwkv"]), at)


# ── faults ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def without_cache(monkeypatch):
    """A model that fills its cache and never reads it, so that each new token is its first."""
    whole = LlamaForCausalLM.forward

    def forward(self, input_ids, past_key_values=None, **kwargs):
        found = whole(self, input_ids, past_key_values=past_key_values, **kwargs)
        return whole(self, input_ids) if past_key_values and input_ids.shape[1] == 1 else found

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)


@pytest.fixture
def without_mask(monkeypatch):
    """A model to which left padding is text."""
    whole = LlamaForCausalLM.forward

    def forward(self, *args, attention_mask=None, **kwargs):
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)


@pytest.fixture
def halved_between_turns(monkeypatch):
    """A cache that is wrong only in the second turn."""
    whole = PrefixCache.fill

    def fill(self, cache, prompts):
        filled = whole(self, cache, prompts)
        for layer in cache.layers if filled else ():
            layer.values.mul_(0.5)
        return filled

    monkeypatch.setattr(PrefixCache, "fill", fill)


@pytest.mark.parametrize("dtype", agreement.TOLERANCES)
@pytest.mark.parametrize("fault", ["without_cache", "without_mask", "halved_between_turns"])
def test_each_fault_is_found(fault, dtype, request, own_cache):
    engine = LocalEngine(model_of(AGREES["llama"]), byte_tokenizer(), device="cpu", dtype=dtype)
    request.getfixturevalue(fault)
    with pytest.raises(CapabilityError, match="nats"):
        require_agreement(engine)
    assert not own_cache.exists()


@pytest.fixture
def checked(monkeypatch):
    """The engines that were sampled by the check."""
    engines = []
    whole = agreement.disagreement
    monkeypatch.setattr(agreement, "disagreement", lambda engine: engines.append(engine) or whole(engine))
    return engines


def test_a_folder_is_checked_once_and_a_changed_one_again(tmp_path, checked):
    path = save_model(tmp_path / "model")
    for _ in range(2):
        make_engine(ModelConfig(path=str(path)))
    assert len(checked) == 1
    config = path / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-03'))
    make_engine(ModelConfig(path=str(path)))
    assert len(checked) == 2


def test_a_run_that_was_checked_equals_one_that_was_not(tmp_path, checked):
    quick = {
        "steps": 2, "problems_per_step": 2, "eval": {"problems": 2}, "sampling": {"max_tokens": 4},
        "task": "spell_backward", "optim": {"lr": 1e-3},
    }  # fmt: skip
    runs = [library.train("sft", out=tmp_path / name, **quick) for name in ("first", "second")]
    assert len(checked) == 1
    for file in ("metrics", "evaluations", "config"):
        one, other = (getattr(run, file).read_bytes() for run in runs)
        assert one == other
