"""Build the bundled tiny model from random weights, and measure it.

    python recipes/tiny_base/build.py --out DIR

Writes the model and its tokenizer to DIR, and `gate.json` and the table of the README beside this file.
Exit status 4: the model was built, but does not pass the gate.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from alphabet import build_tokenizer
from examples import examples, violation
from gate import gate, write_report
from pretrain import Schedule, new_model, train

from didact.rendering.renderer import Renderer
from didact.types import Message

LARGEST_ASSET = 6_000_000


def build(out: Path, seed: int, steps: int, threads: int) -> int:
    """Train, save, measure; returns the exit status."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    started = time.monotonic()
    renderer = Renderer(build_tokenizer())
    model = new_model(renderer.tokenizer, seed)
    size = sum(p.numel() for p in model.parameters())
    print(f"{size:,} parameters, {len(renderer.tokenizer)} tokens, seed {seed}", flush=True)
    schedule = Schedule(steps=steps)
    train(model, renderer, checked, schedule, seed, log=lambda line: print(line, flush=True))
    minutes = (time.monotonic() - started) / 60
    model.save_pretrained(out)
    renderer.tokenizer.save_pretrained(out)
    bytes_on_disk = sum(f.stat().st_size for f in out.iterdir())
    print(f"saved {out}: {bytes_on_disk:,} bytes after {minutes:.1f} minutes", flush=True)

    report = gate(out)
    if bytes_on_disk > LARGEST_ASSET:
        report["faults"].append(f"{out} holds {bytes_on_disk:,} bytes, more than {LARGEST_ASSET:,}")
    report["passed"] = not report["faults"]
    report["build"] = {
        "seed": seed, "steps": steps, "parameters": size, "bytes": bytes_on_disk,
        "minutes": round(minutes, 1), "threads": threads, "torch": torch.__version__,
    }  # fmt: skip
    write_report(report)
    for fault in report["faults"]:
        print("gate:", fault, file=sys.stderr)
    return 0 if report["passed"] else 4


def checked(seed: int, start: int, stop: int) -> Iterator[tuple[Sequence[Message], str]]:
    """The stream of examples, each looked at on its way in."""
    for example in examples(seed, start, stop):
        if why := violation(example):
            raise AssertionError(f"an example of kind {example.kind!r} {why}: {example}")
        yield example.messages, example.answer


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where the model goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Schedule.steps)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    return build(args.out, args.seed, args.steps, args.threads)


if __name__ == "__main__":
    sys.exit(main())
