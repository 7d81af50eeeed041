"""Sampling speed: LocalEngine.sample against model.generate on the same work.

    python benchmarks/sampling.py --threads 1

Both get one model with random weights, the same prompts and the same number of new tokens without an
end-of-turn id. The arms alternate, so that other load slows both alike, and medians are compared.
Prints JSON: tokens per second of each arm, and the ratios ours / generate by wall and by CPU time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from didact.engines.base import SamplingParams
from didact.engines.local import LocalEngine

SIZES = {
    "0.8M": {
        "vocab_size": 330,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
    },
    "12M": {
        "vocab_size": 4096,
        "hidden_size": 384,
        "intermediate_size": 1152,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 64,
    },
}


def make_model(size: str) -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        **SIZES[size],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return Qwen3ForCausalLM(config).eval()


def generate_arm(model: Any, prompts: list[tuple[int, ...]], n: int, new: int) -> Callable[[], None]:
    longest = max(map(len, prompts))
    ids_PT = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=model.device)
    mask_PT = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)

    def run() -> None:
        out = model.generate(
            ids_PT,
            attention_mask=mask_PT,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            num_return_sequences=n,
            max_new_tokens=new,
            min_new_tokens=new,
        )
        assert out.shape == (len(prompts) * n, longest + new)

    return run


def our_arm(engine: LocalEngine, prompts: list[tuple[int, ...]], n: int, new: int) -> Callable[[], None]:
    def run() -> None:
        samples = engine.sample(prompts, n, SamplingParams(max_tokens=new), seed=0)
        assert all(len(s.ids) == new for group in samples for s in group)

    return run


def compare(size: str, options: argparse.Namespace) -> dict[str, Any]:
    """Interleaved medians for one model."""
    model = make_model(size)
    engine = LocalEngine(model, SimpleNamespace(eos_token_id=None), device=options.device)
    lengths = np.random.default_rng(0).integers(options.prompt // 2, options.prompt + 1, options.prompts)
    prompts = [tuple(range(1, 1 + int(length))) for length in lengths]
    arms = {
        "generate": generate_arm(model, prompts, options.n, options.new),
        "didact": our_arm(engine, prompts, options.n, options.new),
    }
    wall: dict[str, list[float]] = {name: [] for name in arms}
    cpu: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(options.repeats + 1):  # the first one warms up
        for name, run in arms.items():
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            run()
            if repeat:
                wall[name].append(time.perf_counter() - wall_start)
                cpu[name].append(time.process_time() - cpu_start)
    median_wall = {name: statistics.median(times) for name, times in wall.items()}
    median_cpu = {name: statistics.median(times) for name, times in cpu.items()}
    tokens = options.prompts * options.n * options.new
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": tokens,
        "tokens_per_second": {name: round(tokens / t) for name, t in median_wall.items()},
        "times_as_fast_wall": round(median_wall["generate"] / median_wall["didact"], 3),
        "times_as_fast_cpu": round(median_cpu["generate"] / median_cpu["didact"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument(
        "--prompt", type=int, default=48, help="tokens of the longest prompt; the shortest: half"
    )
    parser.add_argument("--n", type=int, default=8, help="samples a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens a sample")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {size: compare(size, options) for size in options.sizes}
    print(json.dumps({"settings": vars(options), "torch": torch.__version__, "results": results}, indent=2))


if __name__ == "__main__":
    main()
