"""Which architectures of transformers sample what they score, and which are refused by name.

    python benchmarks/architectures/run.py            all of them, about three minutes on one core
    python benchmarks/architectures/run.py llama rwkv

A small random model of each causal language model in transformers is made from its config and given to the
check that begins every run (`didact.engines.local.agreement`). Writes results.md here when all are run.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from shapes import TooLarge, architectures, small_model

from didact.engines.local import LocalEngine
from didact.engines.local.agreement import TOLERANCES, disagreement, require_agreement
from didact.errors import CapabilityError

HERE = Path(__file__).parent
AGREES, DIFFERS, FAILS, NO_MODEL = (
    "agrees",
    "refused: differs",
    "refused: cannot be sampled",
    "no small model",
)


class Ids:
    """A tokenizer as far as sampling needs one."""

    eos_token_id = 1


class Result(NamedTuple):
    """One architecture."""

    kind: str
    outcome: str
    detail: str


def examine(kind: str) -> Result:
    """Make the model and check it as a run would."""
    try:
        model = small_model(kind)
    except TooLarge as error:
        return Result(kind, NO_MODEL, str(error))
    except Exception as error:
        return Result(kind, NO_MODEL, reason(error))
    engine = LocalEngine(model, Ids(), device="cpu", dtype="float32")
    with tempfile.TemporaryDirectory() as cache:
        try:
            require_agreement(engine, Path(cache))
        except CapabilityError as error:
            if error.__cause__ is not None:
                return Result(kind, FAILS, reason(error.__cause__))
            return Result(kind, DIFFERS, f"{disagreement(engine):.2g} nats")
    return Result(kind, AGREES, f"{disagreement(engine):.1g} nats")


def reason(error: BaseException) -> str:
    """An exception in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:110].replace("|", "/")


def table(results: list[Result], minutes: float) -> str:
    """The results as Markdown."""
    counts = Counter(r.outcome for r in results)
    heads = ", ".join(f"{n} {outcome}" for outcome, n in counts.most_common())
    lines = [
        "# Architectures", "",
        f"Written by `python benchmarks/architectures/run.py`: {len(results)} causal language models of "
        f"transformers {version('transformers')} with torch {torch.__version__}, from config, float32, one "
        f"thread, {minutes:.0f} min on {platform.machine()}. Allowed are {TOLERANCES['float32']:g} nats.", "",
        f"**{heads}.**", "",
        "| architecture | outcome | largest difference, or the reason |", "|---|---|---|",
        *(f"| {r.kind} | {r.outcome} | {r.detail} |" for r in results),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Examine the named architectures, or all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kinds", nargs="*")
    kinds = parser.parse_args().kinds
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    begun, results = time.monotonic(), []
    for kind in kinds or architectures():
        results.append(examine(kind))
        print(*results[-1], sep="\t", file=sys.stderr, flush=True)
    if not kinds:
        (HERE / "results.md").write_text(table(results, (time.monotonic() - begun) / 60))


if __name__ == "__main__":
    main()
