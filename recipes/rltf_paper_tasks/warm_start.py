"""Train the small model that the sweep starts from, from random weights, and measure it.

    python recipes/rltf_paper_tasks/warm_start.py --out runs/warm_start

Its tokenizer has one token per fixed phrase of the prompts and one per word of the puzzles, so that the
longest prompt has about 200 tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "tiny_base")]

from pretrain import Schedule  # noqa: E402
from puzzles import POOL, PUZZLES, draw, examples, task  # noqa: E402
from warm_models import fixed_wording, from_random_weights, main, rate, trained_tokenizer  # noqa: E402

from didact.engines.base import SamplingParams  # noqa: E402
from didact.engines.local import LocalEngine  # noqa: E402
from didact.evaluation.evaluate import evaluate  # noqa: E402
from didact.feedback.program import Level  # noqa: E402
from didact.feedback.puzzle_critic import PuzzleCritic  # noqa: E402
from didact.prompts import CRITIQUE_REQUEST, REVISION  # noqa: E402
from didact.rendering.renderer import Renderer  # noqa: E402
from didact.rollouts.base import StepContext  # noqa: E402

WORDS = 900
"""Size of the byte-pair vocabulary, bytes included."""
CORPUS = 6_000
"""Examples in the tokenizer's corpus."""
STEPS, DECAY_STEPS = 900, 1_200
PROBLEMS, OFFSET = 200, 500
"""Measured on evaluation problems that the sweep does not use."""
LONGEST_ANSWER = 48


def phrases() -> list[str]:
    """The wording that all prompts of a kind share."""
    found = {CRITIQUE_REQUEST, "The answer is wrong.", "The answer is right."}
    for part in ("{question}", "{attempt}", "{critique}"):
        assert part in REVISION
    head, rest = REVISION.split("{question}")
    middle, rest = rest.split("{attempt}")
    after, tail = rest.split("{critique}")
    found |= {head, middle, after, tail}
    for name in PUZZLES:
        found |= fixed_wording([task(name).train_problem(i).question for i in range(200)])
    found |= {
        "s always tell the truth, and ", "s always lie. You meet 2 inhabitants: ",
        ' (Format your answer like: "', " if and only if ", "it is not the case that ",
    }  # fmt: skip
    return sorted(text for text in found if " " in text)


def names() -> list[str]:
    """All names in the puzzles."""
    islands = (task("knights_knaves").train_problem(i).metadata["names"] for i in range(POOL))
    return sorted({name for island in islands for name in island})


def build_tokenizer(seed: int) -> Any:
    """Bytes, byte pairs inside words, role tokens, phrases."""
    from tokenizers import Regex, pre_tokenizers

    # A name is the same token with and without a space before it, so that it can be found again.
    people = Regex("|".join(rf"\b{name}\b" for name in names()))
    split = pre_tokenizers.Split(people, "isolated")
    texts = (
        text
        for example in examples(seed, 0, CORPUS)
        for text in (*(message.content for message in example.messages), example.answer)
    )
    return trained_tokenizer(texts, phrases(), WORDS, before=[split])


def build(out: Path, seed: int, steps: int) -> dict[str, Any]:
    """Train and save the model; returns the report."""
    schedule = Schedule(steps=steps, decay_steps=DECAY_STEPS)
    return from_random_weights(out, build_tokenizer(seed), draw, schedule, seed)


def measure(model_dir: Path) -> list[dict[str, Any]]:
    """First answers and answers after a hint on each puzzle, sampled at temperature 1."""
    torch.set_num_threads(1)
    engine = LocalEngine.from_pretrained(str(model_dir))
    rows = []
    for name in PUZZLES:
        puzzle = task(name)
        sampling = SamplingParams(max_tokens=LONGEST_ANSWER)
        critic = PuzzleCritic(puzzle, Level.HINT)
        ctx = StepContext(engine, Renderer(engine.tokenizer), puzzle, critic, sampling, seed=0)
        found = evaluate(ctx, puzzle.eval_problems(OFFSET + PROBLEMS)[OFFSET:], temperature=1.0)
        revised = [r.turns[1].correct for r in found.rollouts if len(r.turns) > 1]
        first = found.first.tolist()
        rows.append({
            "task": name, "prompt_tokens": max(len(r.turns[-1].prompt_ids) for r in found.rollouts),
            "first": rate(first), "revised": rate(revised),
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def make(out: Path, seed: int, steps: int) -> dict[str, Any]:
    """Train the model and measure it."""
    return {"build": build(out, seed, steps), "measured": measure(out)}


if __name__ == "__main__":
    sys.exit(main(__doc__, STEPS, make))
