"""Tiny models with random weights and a byte-level tokenizer, made here: no network."""

import numpy as np
import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from didact.engines.local import LocalEngine
from didact.types import Row
from tests.models import byte_level

WINDOW = 8
SIZE = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
SHAPES = {
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZE, tie_word_embeddings=True)),
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZE)),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(**SIZE, sliding_window=WINDOW, layer_types=LAYERS, query_pre_attn_scalar=8),
    ),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZE, sliding_window=WINDOW)),
}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    reserved = ("<pad>", "<eos>", "<unused2>", "<unused3>")
    return byte_level(*reserved, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture
def make_model():
    """make_model(shape, **config) → a model whose random weights depend on nothing but its shape."""

    def make(shape="qwen3", **changes):
        kind, config = SHAPES[shape]
        config = type(config).from_dict(config.to_dict() | changes)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return kind(config).eval()

    return make


@pytest.fixture
def make_engine(make_model, tokenizer):
    """make_engine(shape, **arguments of LocalEngine)."""

    def make(shape="qwen3", model=None, **kwargs):
        kwargs = {"device": "cpu", "dtype": "float32"} | kwargs
        return LocalEngine(make_model(shape) if model is None else model, tokenizer, **kwargs)

    return make


@pytest.fixture(params=list(SHAPES))
def shape(request):
    return request.param


@pytest.fixture
def rows():
    """Eight rows of 6 to 34 tokens with every field that a built-in loss may need."""
    draw = np.random.default_rng(0)
    made = []
    for length in (6, 34, 11, 20, 9, 27, 13, 8):
        ids = draw.integers(4, 260, length).tolist()
        completion = length // 2
        fields = {
            "weights": draw.uniform(0.5, 1.5, completion).tolist(),
            "advantages": draw.normal(size=completion).tolist(),
            "old_logprobs": (-5 + draw.normal(size=completion)).tolist(),
        }
        made.append(Row.from_completion(ids[: length - completion], ids[length - completion :], **fields))
    return made


@pytest.fixture
def gradients():
    """gradients(engine) → the waiting gradient of every trained tensor, as one vector."""

    def flat(engine):
        parameters = [p for p in engine.model.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in parameters)
        return torch.cat([p.grad.flatten() for p in parameters])

    return flat
