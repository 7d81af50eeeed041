"""The tiny model's tokenizer: one token per byte and one per fixed phrase of the prompts.

Bytes keep a payload exact and countable: a letter of a word is one token at every position. The fixed
wording of the prompts would then take hundreds of tokens, so each template segment that contains white space
is one added token. No single-word payload can match one, because a word has no white space, and decoding is
exact; any other text still falls back to bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from didact.feedback.program import RIGHT, WRONG
from didact.prompts import CRITIQUE_REQUEST, REVISION

END, PAD = "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
QUESTIONS = (
    "Spell this word backward (example: sun -> nus): {payload}",
    "State the final answer to the following arithmetic problem: {payload} =",
    "Decrypt this Caesar cipher text: {payload}. Provide only the decrypted text as your final answer.",
)
"""Question texts of the generators in the mixture; `examples.py` checks them against reasoning-gym."""
MOST_PLACES = 16
"""Most places named in a critique (ProgramCritic's own limit)."""
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def phrases() -> list[str]:
    """Every fixed wording with white space, as it occurs between payloads.

    The full stop that ends a sentence of a critique belongs to the next phrase, so that a mistake takes two
    tokens: place and character.
    """
    found = [CRITIQUE_REQUEST, RIGHT, WRONG.removesuffix("."), " + ", " - ", ". It should have "]
    for template in (REVISION, *QUESTIONS):
        found += re.split(r"\{\w+\}", template)
    for unit in ("character", "word"):
        found += [f" {unit}{plural}, not " for plural in ("", "s")]
        found += [f". {unit.capitalize()} {i + 1} should be " for i in range(MOST_PLACES)]
    return sorted({p for p in found if any(c.isspace() for c in p)})


def build_tokenizer() -> Any:
    """A transformers tokenizer: 256 bytes, role tokens, phrases; no merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return finished(core, phrases())


def finished(core: Any, wording: Sequence[str]) -> Any:
    """A transformers tokenizer of byte-level pieces, with the role tokens and one token per phrase."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (PAD, END, *ROLES)])
    core.add_tokens([AddedToken(p, special=False, normalized=False) for p in wording])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False,
        additional_special_tokens=list(ROLES), model_max_length=512,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
