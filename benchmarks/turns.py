"""Dialogues in one growing conversation: with and without the prefix cache.

    python benchmarks/turns.py --threads 1

A model with random weights answers, gets feedback, and answers again. The arms alternate, so that other load
slows both alike, and medians are compared. Prints JSON: seconds of each arm, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from sampling import SIZES, make_model

from didact.engines.base import SamplingParams, reuse_prefix_cache
from didact.engines.local import LocalEngine


def dialogues(engine: LocalEngine, turns: int, options: argparse.Namespace, *, keep: bool) -> float:
    """Seconds for `options.dialogues` dialogues of a number of turns."""
    prompts = [(*range(1, 1 + options.question), d) for d in range(options.dialogues)]
    critique = tuple(range(200, 200 + options.critique))
    begun = time.perf_counter()
    with reuse_prefix_cache(engine) if keep else nullcontext():
        for h in range(turns):
            groups = engine.sample(prompts, 1, SamplingParams(max_tokens=options.answer), seed=h)
            prompts = [(*p, *sample.ids, *critique) for p, (sample,) in zip(prompts, groups, strict=True)]
    return time.perf_counter() - begun


def compare(size: str, turns: int, options: argparse.Namespace) -> dict[str, Any]:
    """Interleaved medians for one model and one number of turns."""
    engine = LocalEngine(make_model(size), SimpleNamespace(eos_token_id=None), device=options.device)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(options.repeats + 1):  # the first one warms up
        for keep, times in seconds.items():
            taken = dialogues(engine, turns, options, keep=keep)
            if repeat:
                times.append(taken)
    anew, kept = (statistics.median(times) for times in seconds.values())
    found = {"size": size, "turns": turns, "anew_s": round(anew, 3), "kept_s": round(kept, 3)}
    return {**found, "times_as_fast": round(anew / kept, 2)}


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--turns", nargs="+", type=int, default=[4, 10])
    parser.add_argument("--dialogues", type=int, default=32)
    parser.add_argument("--question", type=int, default=60, help="tokens of a question")
    parser.add_argument("--answer", type=int, default=8, help="tokens of an answer")
    parser.add_argument("--critique", type=int, default=32, help="tokens of a critique")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for size in options.sizes:
        for turns in options.turns:
            print(json.dumps(compare(size, turns, options)), flush=True)


if __name__ == "__main__":
    main()
