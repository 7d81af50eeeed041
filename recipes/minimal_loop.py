"""RLTF-SD in one file: train the plain answer on the answer that a critique made better.

    python recipes/minimal_loop.py --steps 100

Read it from top to bottom. Everything that the method does is here; the library only holds the
weights (LocalEngine), asks the questions (reasoning-gym), writes the critiques (ProgramCritic) and
knows the chat template (Renderer). `didact train rltf-sd` is the same loop with checkpoints, other
methods and other tasks.

    ĝ = 1/M Σ [A₀ ∇ log π(y₀|x₀) + A₁ ∇ log π(y₁|x₁)] + λ/M Σ (r₁ − mean r₀) ∇ log π(y₁|x₀)

Paper: arXiv:2602.02482. x₀ question, y₀ answer, x₁ question with y₀ and its critique, y₁ revision.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from didact import (
    AdamParams,
    LocalEngine,
    Loss,
    Problem,
    ProgramCritic,
    Renderer,
    Row,
    Sample,
    SamplingParams,
    derive_seed,
    make_task,
    revision_messages,
    tiny_model,
)

PROBLEMS, SAMPLES = 32, 2  # dialogues a step: M = PROBLEMS × SAMPLES
GAMMA = 0.1  # what a right second answer counts for the first one
LAMBDA_SD = 0.3  # strength of self-distillation; the paper has 0.1
ADAM = AdamParams(lr=1e-3, max_grad_norm=1.0)  # for a tiny model, all of it trained
SAMPLING = SamplingParams(max_tokens=12)
GREEDY = SamplingParams(max_tokens=12, temperature=0.0)


class Dialogue(NamedTuple):
    """One question, answered once or twice."""

    x0: tuple[int, ...]
    y0: Sample
    r0: float
    x1: tuple[int, ...] | None
    y1: Sample | None
    r1: float


def main() -> None:
    """Train, and show first-turn accuracy on problems that are never trained on."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args()

    task = make_task("spell_backward", {"min_word_len": 6, "max_word_len": 7}, seed=args.seed)
    engine = LocalEngine.from_pretrained(tiny_model())
    render = Renderer(engine.tokenizer)
    critic = ProgramCritic("reveal")

    def answers(prompts: list[tuple[int, ...]], n: int, seed: int) -> list[list[Sample]]:
        return engine.sample(prompts, n, SAMPLING, seed=seed) if prompts else []

    def right(problem: Problem, sample: Sample) -> bool:
        return task.verify(problem, render.text(sample.ids)).correct

    def accuracy() -> float:
        """Greedy first answers; no critique is anywhere near."""
        problems = task.eval_problems(200)
        prompts = [render.prompt(p.messages) for p in problems]
        samples = engine.sample(prompts, 1, GREEDY, seed=0)
        return sum(right(p, s[0]) for p, s in zip(problems, samples, strict=True)) / len(problems)

    def collect(problem: Problem, x0: tuple[int, ...], y0s: list[Sample], seed: int) -> list[Dialogue]:
        """A group: first answers, and a second one wherever the first is wrong."""
        wrong = [y0 for y0 in y0s if not right(problem, y0)]
        attempts = [render.text(y0.ids).strip() for y0 in wrong]
        critiques = [critic.text(attempt, problem.reference or "") for attempt in attempts]
        x1s = [
            render.prompt(revision_messages(problem, attempt, critique))
            for attempt, critique in zip(attempts, critiques, strict=True)
        ]
        y1s = [samples[0] for samples in answers(x1s, 1, seed)]
        group = [Dialogue(x0, y0, 1.0, None, None, 0.0) for y0 in y0s if right(problem, y0)]
        group += [
            Dialogue(x0, y0, 0.0, x1, y1, float(right(problem, y1)))
            for y0, x1, y1 in zip(wrong, x1s, y1s, strict=True)
        ]
        return group

    def rows(group: list[Dialogue]) -> list[Row]:
        """The three terms of the update, as weighted rows."""
        weight = 1 / (PROBLEMS * SAMPLES)
        second = [d.r1 for d in group if d.y1]
        mean_r0 = sum(d.r0 for d in group) / len(group)
        mean_return = sum(d.r0 + GAMMA * d.r1 for d in group) / len(group)
        mean_r1 = sum(second) / len(second) if second else 0.0
        found = []
        for d in group:
            terms = [(d.x0, d.y0, d.r0 + GAMMA * d.r1 - mean_return, weight)]
            if d.x1 and d.y1:
                terms.append((d.x1, d.y1, d.r1 - mean_r1, weight))
                terms.append((d.x0, d.y1, d.r1 - mean_r0, weight * LAMBDA_SD))  # self-distillation
            found += [
                Row.from_completion(prompt, sample.ids, weights=w, advantages=advantage)
                for prompt, sample, advantage, w in terms
                if advantage
            ]
        return found

    print(f"before: {accuracy():.1%} of first answers are right")
    for step in range(args.steps):
        problems = [task.train_problem(step * PROBLEMS + i) for i in range(PROBLEMS)]
        x0s = [render.prompt(p.messages) for p in problems]
        y0s = answers(x0s, SAMPLES, derive_seed(args.seed, step, "first"))
        groups = [
            collect(problem, x0, group, derive_seed(args.seed, step, "second", i))
            for i, (problem, x0, group) in enumerate(zip(problems, x0s, y0s, strict=True))
        ]
        batch = [row for group in groups for row in rows(group)]
        if batch:
            engine.forward_backward(batch, Loss("policy_gradient"))
            engine.optim_step(ADAM)
        dialogues = [d for group in groups for d in group]
        first = sum(d.r0 for d in dialogues) / len(dialogues)
        revised = [d.r1 for d in dialogues if d.y1]
        after = f", {sum(revised) / len(revised):.1%} after a critique" if revised else ""
        print(f"step {step + 1}: {first:.1%} of first answers right{after}")
    print(f"after: {accuracy():.1%} of first answers are right")


if __name__ == "__main__":
    main()
