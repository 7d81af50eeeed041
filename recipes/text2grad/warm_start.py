"""Train the small model that the study starts from, and write the files of its code problems.

    python recipes/text2grad/warm_start.py --out runs/text2grad/warm

One model for both tasks, from random weights, supervised on answers with mistakes put in: it knows the form
of an answer, is right about one time in four, and errs in single elements or lines. It also learns to revise
a wrong matrix after a hint, because `ilf` needs that.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / other) for other in (".", "tiny_base", "rltf_paper_tasks"))]

import programs  # noqa: E402
import puzzles  # noqa: E402
from pretrain import Schedule  # noqa: E402
from warm_models import fixed_wording, from_random_weights, main, rate, trained_tokenizer  # noqa: E402

from didact.engines.base import SamplingParams  # noqa: E402
from didact.engines.local import LocalEngine  # noqa: E402
from didact.prompts import (  # noqa: E402
    CRITIQUE_REQUEST,
    REVISION,
    load_prompt,
    revision_messages,
)
from didact.rendering.renderer import Renderer  # noqa: E402
from didact.rng import derive_seed  # noqa: E402
from didact.tasks import make_task  # noqa: E402
from didact.tasks.base import Task  # noqa: E402
from didact.tasks.code.load import load  # noqa: E402
from didact.types import Message, Problem  # noqa: E402

MATRIX = puzzles.PUZZLES["binary_matrix"]
NOISE = 0.15
"""Error rate of a matrix's cells in first answers of the warm start."""
SHARES = {"matrix": 4, "revision": 2, "code": 3}
"""Relative sampling weights of the kinds of example."""
WORDS, CORPUS = 600, 3_000
"""Size of the byte-pair vocabulary, bytes included; examples in the tokenizer's corpus."""
STEPS, DECAY_STEPS = 600, 900
PROBLEMS, OFFSET = 200, 200
"""Measured on evaluation problems that the study does not report."""


def draw(seed: int, start: int, stop: int) -> Iterator[tuple[Sequence[Message], str]]:
    """Examples `start` to `stop` of an endless stream."""
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
            critique = puzzles.critique("binary_matrix", problem, tried)
            yield revision_messages(problem, tried, critique), puzzles.reference("binary_matrix", problem)


@cache
def code_problems() -> list[tuple[programs.Steps, Problem]]:
    """Problems of the warm start as the task `code` renders them; they are used nowhere else."""
    with tempfile.TemporaryDirectory() as folder:
        programs.write(Path(folder), ("warm",))
        read = load(Path(folder) / "warm.jsonl")
    return list(zip(programs.split()["warm"], (loaded.problem for loaded in read.problems), strict=True))


def phrases() -> list[str]:
    """The wording that all prompts of a kind share, one token each."""
    found = {CRITIQUE_REQUEST, load_prompt("marks_v1").text, load_prompt("marks_only_v1").text}
    found |= {"The answer is wrong.", "The answer is right.", " is wrong."}
    found |= set(re.split(r"\{\w+\}", REVISION))
    for problems in (
        [puzzles.task("binary_matrix").train_problem(i) for i in range(100)],
        [problem for _, problem in code_problems()[:100]],
    ):
        found |= fixed_wording([problem.question for problem in problems])
    return sorted(text for text in found if " " in text)


def build_tokenizer(seed: int) -> Any:
    """Bytes, byte pairs, role tokens, phrases."""
    texts = (text for messages, answer in draw(seed, 0, CORPUS) for text in (*_contents(messages), answer))
    return trained_tokenizer(texts, phrases(), WORDS)


def _contents(messages: Sequence[Message]) -> list[str]:
    return [message.content for message in messages]


def build(out: Path, seed: int, steps: int) -> dict[str, Any]:
    """Train and save the model; returns the report."""
    schedule = Schedule(steps=steps, decay_steps=DECAY_STEPS)
    return from_random_weights(out, build_tokenizer(seed), draw, schedule, seed)


def tasks(code: Path) -> dict[str, Task]:
    """Both tasks of the study."""
    files = {"path": str(code / "train.jsonl"), "eval_path": str(code / "eval.jsonl")}
    return {"binary_matrix": make_task("binary_matrix", MATRIX), "code": make_task("code", files)}


def measure(model_dir: Path, code: Path) -> list[dict[str, Any]]:
    """Accuracy of first answers on each task, sampled at temperature 1."""
    engine = LocalEngine.from_pretrained(str(model_dir))
    renderer = Renderer(engine.tokenizer, end_ids=engine.end_ids)
    rows = []
    for name, task in tasks(code).items():
        problems = task.eval_problems(OFFSET + PROBLEMS)[OFFSET:]
        prompts = [renderer.prompt(p.messages) for p in problems]
        samples = [own[0] for own in engine.sample(prompts, 1, SamplingParams(max_tokens=64), seed=0)]
        texts = [renderer.text(sample.ids) for sample in samples]
        right = [task.verify(p, text).correct for p, text in zip(problems, texts, strict=True)]
        rows.append({
            "task": name, **rate(right),
            "prompt_tokens": max(map(len, prompts)),
            "answer_tokens": sum(len(sample.ids) for sample in samples) / len(samples),
        })  # fmt: skip
        print(json.dumps(rows[-1]), "\n" + texts[0], flush=True)
    return rows


def make(out: Path, seed: int, steps: int) -> dict[str, Any]:
    """Write the code problems beside the model, train it and measure it."""
    code = out.parent / "code"
    programs.write(code)
    return {"build": build(out, seed, steps), "measured": measure(out, code)}


if __name__ == "__main__":
    sys.exit(main(__doc__, STEPS, make))
