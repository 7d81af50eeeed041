"""Relative costs of the parts of a training step: the ratios behind cost_model.py.

    python benchmarks/scaling/measure.py --threads 1 --out benchmarks/scaling/measured.json

One Qwen3-shaped model with random weights in a LocalEngine. The parts alternate, so that other load slows
all alike, and medians of CPU seconds are compared. A whole step, of other lengths than the parts, then shows
how far the sum of the parts is from the whole.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from didact.engines.base import AdamParams, Loss, SamplingParams
from didact.engines.local import LocalEngine, LoraSettings
from didact.types import Row

MODEL = {
    "vocab_size": 4096,
    "hidden_size": 384,
    "intermediate_size": 1152,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
PROMPT, NEW, PROMPTS, N = 64, 64, 4, 2
"""Of the parts: tokens of a prompt and of a completion, prompts, and samples of each."""
STEP = (32, 96, 3, 3)
"""Of the whole step, the same four."""
ADAM = AdamParams(lr=1e-6)
LOSS = Loss("policy_gradient")
Arm = Callable[[], None]


def make_engine(lora: bool) -> LocalEngine:
    torch.manual_seed(0)
    config = Qwen3Config(
        **MODEL,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    tokenizer = SimpleNamespace(eos_token_id=None)
    settings = LoraSettings(rank=16) if lora else None
    return LocalEngine(Qwen3ForCausalLM(config), tokenizer, device="cpu", lora=settings)


def made_up(prompt: int, new: int, prompts: int, n: int) -> tuple[list[tuple[int, ...]], list[Row]]:
    """Prompts, and rows as if n answers of each were trained."""
    rng = np.random.default_rng(0)
    asked = [tuple(rng.integers(1, 4096, prompt).tolist()) for _ in range(prompts)]
    rows = [
        Row.from_completion(p, rng.integers(1, 4096, new).tolist(), advantages=1.0)
        for p in asked
        for _ in range(n)
    ]
    return asked, rows


def arms(engine: LocalEngine, adapter: LocalEngine) -> dict[str, Arm]:
    """One call of each part."""
    asked, rows = made_up(PROMPT, NEW, PROMPTS, N)

    def step() -> None:
        engine.forward_backward(rows[:1], LOSS)
        engine.optim_step(ADAM)

    return {
        "sample": lambda: drop(engine.sample(asked, N, SamplingParams(max_tokens=NEW), seed=0)),
        "score": lambda: drop(engine.logprobs(rows)),
        "train": lambda: drop(engine.forward_backward(rows, LOSS)),
        "train_lora": lambda: drop(adapter.forward_backward(rows, LOSS)),
        "one_row_and_optimizer": step,
        "one_row": lambda: drop(engine.forward_backward(rows[:1], LOSS)),
    }


def drop(_: object) -> None:
    """Discard a result."""


def whole_step(engine: LocalEngine) -> Arm:
    """Sample, score, train and step, with the rows that were sampled."""
    _, new, _, n = STEP
    asked, _ = made_up(*STEP)

    def run() -> None:
        answers = engine.sample(asked, n, SamplingParams(max_tokens=new), seed=0)
        rows = [
            Row.from_completion(p, s.ids, advantages=1.0, old_logprobs=s.logprobs)
            for p, own in zip(asked, answers, strict=True)
            for s in own
        ]
        engine.logprobs(rows)
        engine.forward_backward(rows, LOSS)
        engine.optim_step(ADAM)

    return run


def cpu_seconds(timed: dict[str, Arm], repeats: int) -> dict[str, float]:
    """Medians of CPU seconds, arm by arm in turn; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(repeats + 1):
        for name, run in timed.items():
            start = time.process_time()
            run()
            if repeat:
                found[name].append(time.process_time() - start)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def measure(repeats: int) -> dict[str, Any]:
    """The input of cost_model.py, and the machine it was measured on."""
    engine, adapter = make_engine(lora=False), make_engine(lora=True)
    seconds = cpu_seconds({**arms(engine, adapter), "step": whole_step(engine)}, repeats)
    parameters = sum(p.numel() for p in engine.model.parameters())
    row_tokens, new_tokens = PROMPTS * N * (PROMPT + NEW), PROMPTS * N * NEW
    rates = {
        "sample": new_tokens / seconds["sample"],
        "score": row_tokens / seconds["score"],
        "train": row_tokens / seconds["train"],
        "train_lora": row_tokens / seconds["train_lora"],
    }
    optimizer = seconds["one_row_and_optimizer"] - seconds["one_row"]
    prompt, new, prompts, n = STEP
    tokens = prompts * n * (prompt + new)
    predicted = (
        prompts * n * new / rates["sample"] + tokens / rates["score"] + tokens / rates["train"] + optimizer
    )
    return {
        "model": {**MODEL, "parameters": parameters},
        "tokens_per_cpu_second": {name: round(rate) for name, rate in rates.items()},
        "optimizer_ns_per_parameter": round(optimizer / parameters * 1e9, 2),
        "ratios": {
            "score_over_train": round(rates["score"] / rates["train"], 3),
            "lora_over_train": round(rates["train_lora"] / rates["train"], 3),
            "sample_over_train": round(rates["sample"] / rates["train"], 3),
        },
        "check": {
            "step_cpu_seconds": round(seconds["step"], 3),
            "sum_of_parts": round(predicted, 3),
            "sum_over_step": round(predicted / seconds["step"], 3),
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    settings = {"threads": options.threads, "repeats": options.repeats, "torch": torch.__version__}
    text = json.dumps({"settings": settings, **measure(options.repeats)}, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
