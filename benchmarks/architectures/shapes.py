"""A small model of every causal architecture of transformers, with random weights, made from its config."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 260
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "d_model": 64, "n_embd": 64, "dim": 64, "embed_dim": 64,
    "word_embed_proj_dim": 64, "embedding_size": 64,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "decoder_layers": 2,
    "encoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "num_key_value_heads": 2, "num_kv_heads": 2, "head_dim": 16,
    "kv_channels": 16, "intermediate_size": 96, "n_inner": 96, "ffn_dim": 96, "d_ff": 96,
    "decoder_ffn_dim": 96, "encoder_ffn_dim": 96,
    "ffn_hidden_size": 96, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "max_position_embeddings": 256, "n_positions": 256, "n_ctx": 256, "max_seq_len": 256,
    "initializer_range": 0.2, "init_std": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
    "decoder_start_token_id": 1, "sep_token_id": 1, "is_decoder": True, "attention_dropout": 0.0,
    "rotary_dim": 8, "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
    "v_head_dim": 16, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
"""The sizes by the names that configs have for them."""
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16},
    "gemma3n_text": {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": VOCABULARY},
    "gemma4_text": {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": VOCABULARY},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "nemotron_h": {"layers_block_type": ["mamba", "attention"], "mamba_num_heads": 8, "mamba_head_dim": 16},
    "qwen4_exp_text": {"linear_num_key_heads": 2, "linear_num_value_heads": 4},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 64},
    "dots1": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16},
    "zaya": {"num_experts_per_tok": 1},
}
"""What one architecture needs besides."""
MOST_WEIGHTS = 20_000_000
"""Larger models are left out: most wrap several modalities, and their text model has a type of its own."""


class TooLarge(ValueError):
    """The sizes of this type's config have other names, or belong to configs inside it."""


def architectures() -> list[str]:
    """The model types that transformers has a causal language model of."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def small_model(kind: str) -> Any:
    """A random model of this type with about 10⁵ weights.

    Raises:
        Exception: the library's own, where a small config of this type needs other settings than `SMALL`.
    """
    config_class = CONFIG_MAPPING[kind]
    default = config_class()
    known = {**default.to_dict(), **dict.fromkeys(default.attribute_map)}
    values = {k: v for k, v in {**SMALL, **OWN.get(kind, {})}.items() if k in known or k in OWN.get(kind, {})}
    for name in ("layer_types", "layers_block_type", "mlp_layer_types"):
        if known.get(name) and name not in OWN.get(kind, {}):
            values[name] = [*dict.fromkeys(known[name])][:2] * 2
            values[name] = values[name][:2]
    if "qk_rope_head_dim" in known:  # multi-head latent attention
        values |= {
            "head_dim": values["qk_rope_head_dim"],
            "num_key_value_heads": values["num_attention_heads"],
        }
    config = config_class(**values)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_WEIGHTS:
        raise TooLarge(f"{size / 1e6:.0f} million weights from the small config")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
