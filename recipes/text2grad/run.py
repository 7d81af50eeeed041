"""Text2Grad in three stages on the bundled model: annotate, train a reward model, learn from it.

    python recipes/text2grad/run.py --task spell_backward --out runs/text2grad
    python recipes/text2grad/run.py --quick --out /tmp/quick                   # a minute, learns nothing

Every stage is a command that could be typed by hand, and is printed before it runs. A stage whose result is
there already is passed over, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from didact.data.files import JsonlWriter
from didact.engines.base import SamplingParams
from didact.engines.local import LocalEngine
from didact.randomness import derive_seed
from didact.rollouts.render import Renderer
from didact.tasks import make_task
from didact.training.setup import tiny_model
from didact.types import Example

TASKS = {
    "spell_backward": {"min_word_len": 3, "max_word_len": 5},
    "caesar_cipher": {"min_words": 1, "max_words": 1},
}
"""What is asked, short enough that question, answer and marks fit the bundled model."""


@dataclass(frozen=True)
class Budget:
    """How much each stage may do."""

    questions: int = 1500
    samples: int = 2
    reward_steps: int = 400
    rl_steps: int = 100
    evaluated: int = 100
    draws: int = 8


QUICK = Budget(questions=12, samples=1, reward_steps=1, rl_steps=1, evaluated=2, draws=1)
REPLY, ANSWER = 192, 16
"""Tokens of a reward model's reply, and of an answer."""


def main(words: list[str] | None = None) -> None:
    """All stages, or those that are left."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--task", choices=sorted(TASKS), default="spell_backward")
    arguments.add_argument("--out", type=Path, required=True, help="A folder for all stages.")
    arguments.add_argument("--credit", default="critic_free", help="direct, gae or critic_free.")
    arguments.add_argument("--no-reasoning", action="store_true", help="Passages without a critique.")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--quick", action="store_true", help="The smallest budgets, to see it run.")
    args = arguments.parse_args(words)
    budget = QUICK if args.quick else Budget()
    out, task, seed = args.out, args.task, str(args.seed)
    out.mkdir(parents=True, exist_ok=True)
    answers, reward, policy = out / "answers.jsonl", out / "reward_model", out / "policy"
    if not answers.exists():
        sample_answers(answers, task, budget, args.seed)
    # Again after a stop: answers that have a critique are passed over.
    # `hint` says where an answer is wrong and not what would be right, and is short enough to be learnt.
    told = settings(feedback__settings__level="hint")
    didact("critique", "run", answers, "--spans", "--feedback", "program", *told, "--batch-size", "512")
    bare = ["--no-reasoning"] if args.no_reasoning else []
    stage(
        reward,
        ["reward-model", "train", answers, "--model", "tiny", "--format", "lines_v1", *bare, "--seed", seed,
         *settings(steps=budget.reward_steps, sampling__max_tokens=REPLY, optim__lr=1e-3,
                   optim__schedule="linear", problems_per_step=4 if args.quick else 32,
                   eval__problems=budget.evaluated)],
    )  # fmt: skip
    didact("reward-model", "eval", reward, "--n", budget.evaluated, "--draws", budget.draws)
    own = {f"task__settings__{key}": value for key, value in TASKS[task].items()}
    stage(
        policy,
        ["train", "text2grad", "--model", "tiny", "--task", task, "--seed", seed,
         "--feedback", "reward-model", "--judge-model", reward,
         *settings(steps=budget.rl_steps, settings__credit=args.credit, settings__samples=4,
                   sampling__max_tokens=ANSWER, optim__lr=1e-4, problems_per_step=2 if args.quick else 16,
                   eval__problems=budget.evaluated, eval__feedback="false", **own)],
        # With one step of training a reward model may mark nothing, and then no weight changes.
        allowed=(0, 4) if args.quick else (0,),
    )  # fmt: skip
    print(f"done: {out}. The policy is in {policy / 'model'}")


def sample_answers(file: Path, task_name: str, budget: Budget, seed: int) -> None:
    """Answers of the bundled model to training questions, before anybody has said a word about them."""
    engine = LocalEngine.from_pretrained(tiny_model())
    renderer = Renderer(engine.tokenizer, end_ids=engine.end_ids)
    task = make_task(task_name, TASKS[task_name], seed=seed)
    problems = [task.train_problem(i) for i in range(budget.questions)]
    samples = engine.sample(
        [renderer.prompt(p.messages) for p in problems],
        budget.samples,
        SamplingParams(max_tokens=ANSWER),
        seed=derive_seed(seed, "text2grad-answers"),
    )
    seen = set()
    with JsonlWriter(file) as out:
        for problem, own in zip(problems, samples, strict=True):
            for sample in own:
                text = renderer.text(sample.ids)
                if text.strip() and (problem.question, text) not in seen:
                    seen.add((problem.question, text))
                    out.add(Example(id=str(len(seen)), problem=problem, completion=text))


def settings(**values: object) -> list[str]:
    """`--set a.b=c` for every keyword a__b=c."""
    return [w for key, value in values.items() for w in ("--set", f"{key.replace('__', '.')}={value}")]


def stage(run: Path, words: list[object], *, allowed: tuple[int, ...] = (0,)) -> None:
    """A run that is begun, gone on with, or passed over because it has ended."""
    if (run / "result.json").exists():
        print(f"{run} has ended already", flush=True)
    elif (run / "config.yaml").exists():
        didact("train", "--resume", run, allowed=allowed)
    else:
        didact(*words, "--out", run, allowed=allowed)


def didact(*words: object, allowed: tuple[int, ...] = (0,)) -> None:
    """Run and print a command; end with its exit code where that is none of the allowed ones."""
    command = [str(word) for word in words]
    print("$", *["didact", *command], flush=True)
    code = subprocess.run([sys.executable, "-m", "didact.cli.main", *command], check=False).returncode
    if code not in allowed:
        sys.exit(code)


if __name__ == "__main__":
    main()
