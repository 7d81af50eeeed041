"""Small starting models for recipes: train, save, report."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent / "tiny_base"))

from alphabet import finished
from pretrain import Schedule, new_model, train

from didact.evaluation.stats import wilson
from didact.rendering.renderer import Renderer


def from_random_weights(
    out: Path, tokenizer: Any, draw: Callable[..., Any], schedule: Schedule, seed: int
) -> dict[str, Any]:
    """Train and save a model.

    Args:
        out: The model's folder.
        tokenizer: Its tokenizer, with a chat template.
        draw: A stream of examples, see `pretrain.Draw`.
        schedule: Number of steps and learning rates.
        seed: Of weights and examples.

    Returns:
        Seed, steps, parameters, vocabulary size, minutes and the version of torch.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    started = time.monotonic()
    renderer = Renderer(tokenizer)
    model = new_model(tokenizer, seed)
    train(model, renderer, draw, schedule, seed, log=lambda line: print(line, flush=True))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {
        "seed": seed, "steps": schedule.steps, "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": len(tokenizer), "minutes": round((time.monotonic() - started) / 60, 1),
        "torch": torch.__version__,
    }  # fmt: skip


def trained_tokenizer(
    texts: Iterable[str], wording: Sequence[str], words: int, before: Sequence[Any] = ()
) -> Any:
    """A transformers tokenizer: bytes, byte pairs inside words, role tokens, phrases.

    Args:
        texts: Corpus for the byte pairs; phrases in it are skipped.
        wording: Phrases, each of which becomes one token.
        words: Vocabulary size of bytes and pairs together.
        before: Pre-tokenizers that run before the split into words.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    def without_wording() -> Iterator[str]:
        for text in texts:
            for phrase in wording:
                text = text.replace(phrase, "\n")
            yield text

    core = Tokenizer(models.BPE())
    pairs = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.pre_tokenizer = pre_tokenizers.Sequence([*before, pairs])
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=words, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(without_wording(), trainer)
    return finished(core, wording)


def fixed_wording(questions: Sequence[str]) -> set[str]:
    """The longest common prefix and the longest common suffix."""
    return {shared_start(questions), shared_start([question[::-1] for question in questions])[::-1]}


def shared_start(texts: Sequence[str]) -> str:
    """The longest common prefix."""
    columns = zip(*texts, strict=False)
    return "".join(c[0] for c in itertools.takewhile(lambda c: len(set(c)) == 1, columns))


def rate(outcomes: Sequence[bool]) -> dict[str, Any]:
    """A proportion of n trials with its 95 % Wilson interval."""
    right, n = int(sum(outcomes)), len(outcomes)
    return {"right": right, "n": n, "ci95": [round(p, 4) for p in wilson(right, n)] if n else None}


def main(doc: str | None, steps: int, make: Callable[[Path, int, int], dict[str, Any]]) -> int:
    """A script's command line; the report `make(out, seed, steps)` is written beside the model."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the model goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=steps)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    report = make(args.out, args.seed, args.steps)
    (args.out / "warm_start.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0
