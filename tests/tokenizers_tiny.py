"""Small tokenizers of four families, trained here on a few lines; none is downloaded."""

from __future__ import annotations

from functools import cache

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from didact.spans import text_normalization, tokens

LINES = [
    "The answer is 42 because 6 * 7 = 42.",
    "def mean(numbers):\r\n    return sum(numbers) / len(numbers)",
    "naïve café “quoted” – it’s €5, 12 °C",
    "שלום עולם مرحبا 你好，世界 🙂👍🏽 👩\u200d🚀 e\u0301a\u0323\u0302",
    "  leading   spaces\tand tabs\n\nand lines",
]
SPECIAL = ["<|end|>", "<|user|>", "<|pad|>"]


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens(SPECIAL)
    # One that is special to nobody, and spelled with characters that stand for bytes.
    tokenizer.add_tokens([AddedToken("<think é>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")


def byte_bpe() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(LINES * 3, trainer)
    return _fast(tokenizer)


def unigram() -> PreTrainedTokenizerFast:
    """SentencePiece's unigram with byte fallback, decoded as Llama's."""
    words = {w for line in LINES[:2] for w in line.replace("\r\n", " ").split()}
    pieces = sorted({"▁", *(chr(c) for c in range(33, 127)), *words, *(f"▁{w}" for w in words)})
    vocab = [("<unk>", 0.0), *((f"<0x{b:02X}>", -9.0) for b in range(256))]
    vocab += [(p, -2.0 if len(p) > 1 else -4.0) for p in pieces]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _fast(tokenizer)


def word_piece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=220, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(LINES * 3, trainer)
    return _fast(tokenizer)


def metaspace() -> PreTrainedTokenizerFast:
    """Unigram without bytes, decoded as T5's."""
    pieces = sorted({"▁", *"".join(LINES[:2]).replace("\r\n", ""), "▁the", "▁answer", "is", "▁is"})
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *((p, -2.0) for p in pieces)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _fast(tokenizer)


def one_byte() -> PreTrainedTokenizerFast:
    from tests.models import byte_tokenizer

    return byte_tokenizer()


class Characters:
    """One id a character, special ids, and nothing to look into but `decode`."""

    all_special_ids = (0,)

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(chr(i) for i in ids if i)


class HalfBytes:
    """UTF-8 in pieces of one byte behind a `decode` that nothing else is known of."""

    all_special_ids = (256,)

    def decode(self, ids: list[int], **_: object) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")


FAMILIES = {
    "byte-level BPE": byte_bpe,
    "unigram with byte fallback": unigram,
    "WordPiece": word_piece,
    "bytes": one_byte,
    "metaspace": metaspace,
}


@cache
def tokenizer(family: str) -> PreTrainedTokenizerFast:
    return FAMILIES[family]()


@pytest.fixture(autouse=True)
def empty_tables() -> None:
    """A mutation run forks from a process that has filled the tables of `didact.spans`."""
    tokens._DECODERS.clear()
    text_normalization._normalize_run.cache_clear()
    text_normalization._context_free_forms._known[:] = 0
