"""Text2Grad in three stages on the bundled model: annotate, train a reward model, train the policy.

    python recipes/text2grad/run.py --task spell_backward --out runs/text2grad
    python recipes/text2grad/run.py --quick --out /tmp/quick                   # a minute, learns nothing

Every stage is a command, printed before it runs. A stage with a result is skipped, so that an interrupted run
goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from didact.build.engines import tiny_model
from didact.data.files import create_jsonl
from didact.engines.base import SamplingParams
from didact.engines.local import LocalEngine
from didact.rendering.renderer import Renderer
from didact.rng import derive_seed
from didact.tasks import make_task
from didact.types import Example


@dataclass(frozen=True)
class Asked:
    """A task, short enough that question, answer and marks fit the model."""

    settings: Mapping[str, object]
    answer: int = 16
    """Most tokens in an answer."""
    annotated: Mapping[str, object] | None = None
    """Source of the annotated answers' problems, if not `settings`."""


CODE = "runs/text2grad/code"
"""The folder of warm_start.py's code problems."""
TASKS = {
    "spell_backward": Asked({"min_word_len": 3, "max_word_len": 5}),
    "caesar_cipher": Asked({"min_words": 1, "max_words": 1}),
    "binary_matrix": Asked({"min_n": 3, "max_n": 4, "p_zero": 0.25}, answer=32),
    "code": Asked(
        {"path": f"{CODE}/train.jsonl", "eval_path": f"{CODE}/eval.jsonl"},
        answer=64,
        annotated={"path": f"{CODE}/annotate.jsonl", "eval_path": f"{CODE}/eval.jsonl"},
    ),
}
"""The last two are for the model of warm_start.py."""


@dataclass(frozen=True)
class Budget:
    """The size of each stage."""

    questions: int = 1500
    samples: int = 2
    reward_steps: int = 400
    rl_steps: int = 100
    evaluated: int = 100
    draws: int = 8


QUICK = Budget(questions=12, samples=1, reward_steps=1, rl_steps=1, evaluated=2, draws=1)
REPLY = 192
"""Most tokens in a reward model's reply."""


def main(words: list[str] | None = None) -> None:
    """Run the stages that are left."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--task", choices=sorted(TASKS), default="spell_backward")
    arguments.add_argument("--out", type=Path, required=True, help="A folder for all stages.")
    arguments.add_argument("--credit", default="critic_free", help="direct, gae or critic_free.")
    arguments.add_argument("--no-reasoning", action="store_true", help="Passages without a critique.")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--model", default="tiny", help="tiny (bundled), or the one of warm_start.py.")
    arguments.add_argument("--questions", type=int, help="How many questions are annotated.")
    arguments.add_argument("--reward-steps", type=int, help="Steps of the reward model's training.")
    arguments.add_argument("--no-policy", action="store_true", help="Stop when the reward model is measured.")
    arguments.add_argument("--quick", action="store_true", help="The smallest budgets, to see it run.")
    args = arguments.parse_args(words)
    budget = QUICK if args.quick else Budget()
    given = {"questions": args.questions, "reward_steps": args.reward_steps}
    budget = replace(budget, **{key: value for key, value in given.items() if value is not None})
    out, task, seed, model = args.out, args.task, str(args.seed), args.model
    asked = TASKS[task]
    out.mkdir(parents=True, exist_ok=True)
    answers, reward, policy = out / "answers.jsonl", out / "reward_model", out / "policy"
    if not answers.exists():
        sample_answers(answers, task, budget, args.seed, model)
    # Again after a stop: answers that have a critique are passed over.
    # `hint` states where an answer is wrong and not what would be right, and is short enough to be learnt.
    chosen = settings(feedback__settings__level="hint", **task_settings(asked.annotated or asked.settings))
    by = ["--feedback", "program", "--task", task]
    didact("critique", "run", answers, "--spans", *by, *chosen, "--batch-size", "512")
    bare = ["--no-reasoning"] if args.no_reasoning else []
    stage(
        reward,
        ["reward-model", "train", answers, "--model", model, "--format", "lines_v1", *bare, "--seed", seed,
         *settings(steps=budget.reward_steps, sampling__max_tokens=REPLY, optim__lr=1e-3,
                   optim__schedule="linear", problems_per_step=4 if args.quick else 32,
                   eval__problems=budget.evaluated)],
    )  # fmt: skip
    measured = ["--n", budget.evaluated, "--draws", budget.draws]
    didact("reward-model", "eval", reward, *measured, to=reward / "measured.json")
    if args.no_policy:
        return
    stage(
        policy,
        ["train", "text2grad", "--model", model, "--task", task, "--seed", seed,
         "--feedback", "reward-model", "--judge-model", reward,
         *settings(steps=budget.rl_steps, settings__credit=args.credit, settings__samples=4,
                   sampling__max_tokens=asked.answer, optim__lr=1e-4,
                   problems_per_step=2 if args.quick else 16, eval__problems=budget.evaluated,
                   eval__feedback="false", **task_settings(asked.settings))],
        # With one step of training a reward model may mark nothing, and then no weight changes.
        allowed=(0, 4) if args.quick else (0,),
    )  # fmt: skip
    print(f"done: {out}. The policy is in {policy / 'model'}")


def sample_answers(file: Path, task_name: str, budget: Budget, seed: int, model: str) -> None:
    """The model's answers to training questions, without feedback."""
    engine = LocalEngine.from_pretrained(str(tiny_model()) if model == "tiny" else model)
    renderer = Renderer(engine.tokenizer, end_ids=engine.end_ids)
    asked = TASKS[task_name]
    task = make_task(task_name, dict(asked.annotated or asked.settings), seed=seed)
    problems = [task.train_problem(i) for i in range(budget.questions)]
    samples = engine.sample(
        [renderer.prompt(p.messages) for p in problems],
        budget.samples,
        SamplingParams(max_tokens=asked.answer),
        seed=derive_seed(seed, "text2grad-answers"),
    )
    seen = set()
    with create_jsonl(file) as out:
        for problem, own in zip(problems, samples, strict=True):
            for sample in own:
                text = renderer.text(sample.ids)
                if text.strip() and (problem.question, text) not in seen:
                    seen.add((problem.question, text))
                    out.add(Example(id=str(len(seen)), problem=problem, completion=text))


def task_settings(values: Mapping[str, object]) -> dict[str, object]:
    """The task's own settings, in the form of `settings`."""
    return {f"task__settings__{key}": value for key, value in values.items()}


def settings(**values: object) -> list[str]:
    """`--set a.b=c` for every keyword a__b=c."""
    return [w for key, value in values.items() for w in ("--set", f"{key.replace('__', '.')}={value}")]


def stage(run: Path, words: list[object], *, allowed: tuple[int, ...] = (0,)) -> None:
    """Start or resume a run; skip one that has ended."""
    if (run / "result.json").exists():
        print(f"{run} has ended already", flush=True)
    elif (run / "config.yaml").exists():
        didact("train", "--resume", run, allowed=allowed)
    else:
        didact(*words, "--out", run, allowed=allowed)


def didact(*words: object, allowed: tuple[int, ...] = (0,), to: Path | None = None) -> None:
    """Print and run a command; exit with its code unless it is allowed.

    With `to`, its output is JSON and is stored there as well.
    """
    command = [str(word) for word in words] + ["--json"] * (to is not None)
    print("$", *["didact", *command], flush=True)
    call = [sys.executable, "-m", "didact.cli.main", *command]
    done = subprocess.run(call, check=False, stdout=None if to is None else subprocess.PIPE)
    if done.returncode not in allowed:
        sys.exit(done.returncode)
    if to is not None:
        to.write_bytes(done.stdout)
        print(done.stdout.decode(), flush=True)


if __name__ == "__main__":
    main()
