"""The context of a step, and what all rollouts share: sample answers and verify them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias

from didact.engines.base import POLICY, Engine, Sample, SamplingParams, Weights, fits_context
from didact.errors import DataError, UsageError
from didact.feedback_source import FeedbackSource
from didact.rendering.renderer import Renderer
from didact.rng import derive_seed
from didact.tasks.base import OfflineAnswers, Task, verify_turns
from didact.types import Ids, Message, Problem, Rollout, Turn

MethodState: TypeAlias = dict[str, Any]
"""Floats and numpy arrays by name."""


@dataclass(frozen=True)
class StepContext:
    """What one step of a method may use.

    Attributes:
        engine, renderer, task: The run's.
        feedback: Criticises answers; None if no source is configured.
        sampling: Sampling parameters of the policy.
        seed: Every draw of the step derives from it.
        step: Number of steps done; part of the rollouts' ids.
        progress: Share of the run that is done, in [0, 1]; ramps follow it.
        offline: Answers of a dataset, which replace sampled first answers; None if they are sampled.
        method_state: The method's state between steps, as an adaptive coefficient or running statistics:
            floats and numpy arrays, part of a checkpoint. A 0-d float64 array is restored as a float.
        metrics: The method's own numbers for this step's line of metrics.jsonl.
    """

    engine: Engine
    renderer: Renderer
    task: Task
    feedback: FeedbackSource | None
    sampling: SamplingParams
    seed: int
    step: int = 0
    progress: float = 0.0
    weights: Weights = POLICY
    offline: OfflineAnswers | None = None
    method_state: MethodState = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def fits(self, prompt_ids: Ids) -> bool:
        """Does a prompt leave room for an answer of `max_tokens`?"""
        return fits_context(self.engine, len(prompt_ids) + self.sampling.max_tokens)

    def with_temperature(self, temperature: float) -> StepContext:
        """The same context with this temperature, and without top-p and top-k, as for evaluation."""
        sampling = dataclasses.replace(self.sampling, temperature=temperature, top_p=1.0, top_k=0)
        return dataclasses.replace(self, sampling=sampling)

    @property
    def feedback_source(self) -> FeedbackSource:
        """The feedback source.

        Raises:
            UsageError: none is configured.
        """
        if self.feedback is None:
            raise UsageError(
                "this method learns from critiques, but no feedback source is configured: "
                "set `feedback.source`, for example to `program`"
            )
        return self.feedback


def sample_fitting(
    engine: Engine,
    prompts: Sequence[Ids],
    params: SamplingParams,
    *,
    seeds: Sequence[int],
    weights: Weights = POLICY,
) -> list[Sample | None]:
    """One completion for each prompt; None where the context has no room for `max_tokens` more tokens."""
    fit = [i for i, prompt in enumerate(prompts) if fits_context(engine, len(prompt) + params.max_tokens)]
    found: list[Sample | None] = [None] * len(prompts)
    if fit:
        samples = engine.sample(
            [prompts[i] for i in fit], 1, params, seed=[seeds[i] for i in fit], weights=weights
        )
        for i, (sample,) in zip(fit, samples, strict=True):
            found[i] = sample
    return found


def completion_text(renderer: Renderer, sampling: SamplingParams, sample: Sample) -> str:
    """The text of a completion, up to its stop string."""
    text = renderer.text(sample.ids)
    if sample.stop_reason == "stop":
        ends = [place for stop in sampling.stop if (place := text.find(stop)) >= 0]
        text = text[: min(ends, default=len(text))]
    return text


def problem_prompt(renderer: Renderer, problem: Problem) -> Ids:
    """The ids of a problem's messages.

    Raises:
        DataError: naming the problem, whose messages the chat template does not render.
    """
    try:
        return renderer.prompt(problem.messages)
    except DataError as error:
        raise DataError(f"problem {problem.id!r}, {problem.question[:40]!r}: {error}") from None


def dataset_turn(ctx: StepContext, problem: Problem, prompt_ids: Ids, text: str) -> Turn:
    """An answer of a dataset as a turn: verified, without log-probs."""
    turn = Turn(
        prompt_ids=prompt_ids,
        completion_ids=ctx.renderer.answer(text),
        logprobs=None,
        text=text,
        stop_reason="eos",
    )
    return _verified(ctx, [(problem, turn)])[0]


def sampled_turn(renderer: Renderer, prompt_ids: Ids, sample: Sample, text: str) -> Turn:
    """A sampled answer as a turn, not verified. Its ids keep a stop string."""
    return Turn(
        prompt_ids=prompt_ids,
        completion_ids=sample.ids,
        logprobs=sample.logprobs,
        text=text,
        answer_from=renderer.answer_from(sample.ids, text),
        stop_reason=sample.stop_reason,
    )


def sample_turns(
    ctx: StepContext, problems: Sequence[Problem], prompts: Sequence[Ids], n: int, *, seed: int
) -> list[list[Turn]]:
    """n turns for each prompt, verified against the original problems."""
    if not prompts:
        return []
    samples = ctx.engine.sample(prompts, n, ctx.sampling, seed=seed, weights=ctx.weights)
    turns = [
        (problem, sampled_turn(ctx.renderer, prompt, s, completion_text(ctx.renderer, ctx.sampling, s)))
        for problem, prompt, group in zip(problems, prompts, samples, strict=True)
        for s in group
    ]
    verified = iter(_verified(ctx, turns))
    return [list(islice(verified, len(group))) for group in samples]


def _verified(ctx: StepContext, turns: Sequence[tuple[Problem, Turn]]) -> list[Turn]:
    return [
        turn.model_copy(update={"reward": verdict.reward, "correct": verdict.correct})
        for (_, turn), verdict in zip(turns, verify_turns(ctx.task, turns), strict=True)
    ]


def single_turn(ctx: StepContext, problems: Sequence[Problem], n: int) -> list[Rollout]:
    """n ≥ 1 sampled answers to each problem, grouped by problem."""
    prompts = [problem_prompt(ctx.renderer, problem) for problem in problems]
    turns = sample_turns(ctx, problems, prompts, n, seed=derive_seed(ctx.seed, "turn", 0))
    return _grouped(ctx, problems, turns)


def first_turns(ctx: StepContext, problems: Sequence[Problem], n: int) -> list[Rollout]:
    """`single_turn`, or with `ctx.offline` the dataset's answers to each problem, repeated up to n."""
    if ctx.offline is None:
        return single_turn(ctx, problems, n)
    turns = []
    for problem in problems:
        prompt, texts = problem_prompt(ctx.renderer, problem), ctx.offline.answers(problem)
        turns.append([dataset_turn(ctx, problem, prompt, texts[j % len(texts)]) for j in range(n)])
    return _grouped(ctx, problems, turns)


def _grouped(ctx: StepContext, problems: Sequence[Problem], turns: Sequence[Sequence[Turn]]) -> list[Rollout]:
    rollouts = []
    for i, (problem, answers) in enumerate(zip(problems, turns, strict=True)):
        group = f"{ctx.step}/{i}/{problem.id}"
        rollouts += [
            Rollout(id=f"{group}/{j}", group=group, problem=problem, turns=(turn,))
            for j, turn in enumerate(answers)
        ]
    return rollouts


def add_answers(ctx: StepContext, rollouts: list[Rollout], prompts: Mapping[int, Ids], *, seed: int) -> None:
    """Answer these prompts, by index in `rollouts`, with one more turn of theirs, in place."""
    problems = [rollouts[i].problem for i in prompts]
    answers = sample_turns(ctx, problems, list(prompts.values()), 1, seed=seed)
    for i, (turn,) in zip(prompts, answers, strict=True):
        rollouts[i] = rollouts[i].model_copy(update={"turns": (*rollouts[i].turns, turn)})


def conversation(problem: Problem, exchanges: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """A problem's messages, then each answer and its critique, up to the next answer.

    >>> [m.role for m in conversation(Problem.ask("2 + 2?", id="p"), [("5", "Too many.")])]
    ['user', 'assistant', 'user']
    """
    return (
        *problem.messages,
        *(
            message
            for answer, critique in exchanges
            for message in (Message(role="assistant", content=answer), Message(role="user", content=critique))
        ),
    )
