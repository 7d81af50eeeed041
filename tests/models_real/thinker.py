"""A model of Qwen3's architecture and chat template, taught to think in tags before it answers."""

from __future__ import annotations

import random
from pathlib import Path

from tests.models import byte_level, save_model

TEMPLATE = """\
{%- if messages[0].role == 'system' -%}
<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif -%}
{%- set last = namespace(user=-1) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% elif message.role == 'assistant' -%}
{%- set content = message.content -%}
{%- if '</think>' in content and loop.index0 < last.user -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
<|im_start|>assistant
{{ content }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
"""Thoughts of turns before the last question are dropped, as Qwen3's template does."""

TAGS = ("<think>", "</think>")
QUESTION = "Repeat this number and nothing else: {}"


def teach_thinking(folder: Path, steps: int = 1500) -> Path:
    """A model of two layers that thinks and answers `QUESTION`, half of the time with the asked number."""
    from didact.engines.base import AdamParams, Loss
    from didact.engines.local import LocalEngine
    from didact.types import Row

    tokenizer = byte_level(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.add_tokens(list(TAGS))
    tokenizer.chat_template = TEMPLATE
    save_model(
        folder, vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, initializer_range=0.05,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    engine = LocalEngine.from_pretrained(str(folder), device="cpu", dtype="float32")
    draw = random.Random(0)
    for _ in range(steps):
        rows = []
        for _ in range(8):
            asked = draw.randrange(10, 100)
            number = asked if draw.random() < 0.5 else draw.randrange(10, 100)
            thought = f"<think>\n{asked}\n</think>\n\n" if draw.random() < 0.9 else ""
            messages = [{"role": "user", "content": QUESTION.format(asked)}]
            start = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            answer = [*tokenizer.encode(f"{thought}{number}"), tokenizer.eos_token_id]
            rows.append(Row.from_completion(tuple(start), tuple(answer)))
        engine.forward_backward(rows, Loss("cross_entropy"))
        engine.optim_step(AdamParams(lr=2e-3))
    engine.save_pretrained(folder)
    return folder
