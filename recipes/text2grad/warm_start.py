"""Build the small model that the study starts from, and the files of its code problems.

    python recipes/text2grad/warm_start.py --out runs/text2grad/warm

One model for both tasks, from random weights, supervised on answers with mistakes put in: it knows how an
answer looks, is right about one time in four, and errs in single elements or lines. It also learns to revise
a wrong matrix after a hint, because `ilf` needs that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tiny_base"), str(HERE.parent / "rltf_paper_tasks")]

import programs  # noqa: E402
import puzzles  # noqa: E402
from alphabet import finished  # noqa: E402
from pretrain import Schedule, new_model, train  # noqa: E402

from didact.engines.base import SamplingParams  # noqa: E402
from didact.engines.local import LocalEngine  # noqa: E402
from didact.evaluation.intervals import wilson  # noqa: E402
from didact.feedback.prompts import load_prompt  # noqa: E402
from didact.randomness import derive_seed  # noqa: E402
from didact.rollouts.render import CRITIQUE_REQUEST, REVISION, Renderer, revision_messages  # noqa: E402
from didact.tasks import make_task  # noqa: E402
from didact.tasks.base import Task  # noqa: E402
from didact.tasks.code.load import load  # noqa: E402
from didact.types import Message, Problem  # noqa: E402

MATRIX = puzzles.PUZZLES["binary_matrix"]
NOISE = 0.15
"""How often a cell of a matrix is wrong in a first answer of the warm-up."""
SHARES = {"matrix": 4, "revision": 2, "code": 3}
"""How often each kind of example is drawn (relative weights)."""
WORDS, CORPUS = 600, 3_000
"""Size of the byte-pair vocabulary, bytes included; examples from which it is counted."""
STEPS, DECAY_STEPS = 600, 900
PROBLEMS, OFFSET = 200, 200
"""Measured on evaluation problems that the study does not report."""


def draw(seed: int, start: int, stop: int) -> Iterator[tuple[Sequence[Message], str]]:
    """Examples number `start` to `stop` of the endless stream that `seed` names."""
    for index in range(start, stop):
        rng = random.Random(derive_seed(seed, "text2grad_warm_start", index))
        kind = rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]
        if kind == "code":
            steps, problem = rng.choice(code_problems())
            yield problem.messages, programs.half_taught(steps, rng)
            continue
        problem = puzzles.task("binary_matrix").train_problem(rng.randrange(puzzles.POOL))
        if kind == "matrix":
            yield problem.messages, puzzles.attempt("binary_matrix", problem, rng, NOISE)
        else:
            tried = puzzles.attempt("binary_matrix", problem, rng, rng.uniform(0.1, 0.5))
            said = puzzles.critique("binary_matrix", problem, tried)
            yield revision_messages(problem, tried, said), puzzles.reference("binary_matrix", problem)


@cache
def code_problems() -> list[tuple[programs.Steps, Problem]]:
    """Problems of the warm-up as the task `code` asks them, which nothing else asks."""
    with tempfile.TemporaryDirectory() as folder:
        programs.write(Path(folder), ("warm",))
        read = load(Path(folder) / "warm.jsonl")
    return list(zip(programs.split()["warm"], (row.problem for row in read.rows), strict=True))


def phrases() -> list[str]:
    """The wording that is the same in all prompts of a kind, one token each."""
    found = {CRITIQUE_REQUEST, load_prompt("marks_v1").text, load_prompt("marks_only_v1").text}
    found |= {"The answer is wrong.", "The answer is right.", " is wrong."}
    found |= set(re.split(r"\{\w+\}", REVISION))
    for problems in (
        [puzzles.task("binary_matrix").train_problem(i) for i in range(100)],
        [problem for _, problem in code_problems()[:100]],
    ):
        found |= fixed_wording([problem.question for problem in problems])
    return sorted(text for text in found if " " in text)


def fixed_wording(questions: Sequence[str]) -> set[str]:
    """What all questions begin with, and what they end with."""
    return {shared_start(questions), shared_start([question[::-1] for question in questions])[::-1]}


def shared_start(texts: Sequence[str]) -> str:
    """The longest text that all begin with."""
    columns = zip(*texts, strict=False)
    return "".join(c[0] for c in itertools.takewhile(lambda c: len(set(c)) == 1, columns))


def build_tokenizer(seed: int) -> Any:
    """A transformers tokenizer: bytes, byte pairs, role tokens, phrases."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    wording = phrases()

    def corpus() -> Iterator[str]:
        for messages, answer in draw(seed, 0, CORPUS):
            for text in (*(m.content for m in messages), answer):
                for phrase in wording:
                    text = text.replace(phrase, "\n")
                yield text

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=WORDS, initial_alphabet=alphabet, show_progress=False)
    )
    return finished(core, wording)


def build(out: Path, seed: int, steps: int) -> dict[str, Any]:
    """Train and save the model; how that went."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    started = time.monotonic()
    renderer = Renderer(build_tokenizer(seed))
    model = new_model(renderer.tokenizer, seed)
    schedule = Schedule(steps=steps, decay_steps=DECAY_STEPS)
    train(model, renderer, draw, schedule, seed, log=lambda line: print(line, flush=True))
    model.save_pretrained(out)
    renderer.tokenizer.save_pretrained(out)
    return {
        "seed": seed, "steps": steps, "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": len(renderer.tokenizer), "minutes": round((time.monotonic() - started) / 60, 1),
        "torch": torch.__version__,
    }  # fmt: skip


def tasks(code: Path) -> dict[str, Task]:
    """Both tasks of the study."""
    files = {"path": str(code / "train.jsonl"), "eval_path": str(code / "eval.jsonl")}
    return {"binary_matrix": make_task("binary_matrix", MATRIX), "code": make_task("code", files)}


def measure(model_dir: Path, code: Path) -> list[dict[str, Any]]:
    """How often first answers are right on each task, sampled at temperature 1."""
    engine = LocalEngine.from_pretrained(str(model_dir))
    renderer = Renderer(engine.tokenizer, end_ids=engine.end_ids)
    rows = []
    for name, task in tasks(code).items():
        problems = task.eval_problems(OFFSET + PROBLEMS)[OFFSET:]
        prompts = [renderer.prompt(p.messages) for p in problems]
        samples = [own[0] for own in engine.sample(prompts, 1, SamplingParams(max_tokens=64), seed=0)]
        texts = [renderer.text(sample.ids) for sample in samples]
        right = sum(task.verify(p, text).correct for p, text in zip(problems, texts, strict=True))
        low, high = wilson(right, len(problems))
        rows.append({
            "task": name, "right": right, "n": len(problems), "ci95": [round(low, 4), round(high, 4)],
            "prompt_tokens": max(map(len, prompts)),
            "answer_tokens": sum(len(sample.ids) for sample in samples) / len(samples),
        })  # fmt: skip
        print(json.dumps(rows[-1]), "\n" + texts[0], flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where the model goes, with code/ beside it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    code = args.out.parent / "code"
    programs.write(code)
    made = build(args.out, args.seed, args.steps)
    report = {"build": made, "measured": measure(args.out, code)}
    (args.out / "warm_start.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
