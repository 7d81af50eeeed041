"""What a rollout needs, and the step that all rollouts share: sample answers and verify them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from didact.engines.base import POLICY, Engine, Sample, SamplingParams, Weights, fits_context
from didact.errors import UsageError
from didact.feedback_source import FeedbackSource
from didact.rendering.renderer import Renderer
from didact.tasks.base import Task, Verdict, verify_all
from didact.tasks.offline import OfflineAnswers
from didact.types import Ids, Problem, Rollout, Turn

MethodState: TypeAlias = dict[str, Any]
"""Floats and numpy arrays by name."""


@dataclass(frozen=True)
class StepContext:
    """Everything that one step of a method may use.

    Attributes:
        engine: Where the weights live.
        renderer: Messages ⇄ ids for the engine's tokenizer.
        task: Verifies answers.
        feedback: Criticises answers; None where no source was configured.
        sampling: How the policy is sampled.
        seed: This step's own seed; every draw of the step derives from it.
        step: Steps done so far; names the rollouts.
        progress: The share of the run that is done, in [0, 1]; ramps follow it.
        weights: Which weights are sampled.
        recorded: Answers that were given already; where they are known, first turns are not sampled.
        method_state: The method's own state between steps, as an adaptive coefficient or running statistics:
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
    recorded: OfflineAnswers | None = None
    method_state: MethodState = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def fits(self, prompt_ids: Ids) -> bool:
        """Does a prompt leave room for an answer of `max_tokens`?"""
        return fits_context(self.engine, len(prompt_ids) + self.sampling.max_tokens)

    def with_temperature(self, temperature: float) -> StepContext:
        """The same for an evaluation: the whole distribution at a temperature, without top-p and top-k."""
        sampling = dataclasses.replace(self.sampling, temperature=temperature, top_p=1.0, top_k=0)
        return dataclasses.replace(self, sampling=sampling)

    @property
    def critic(self) -> FeedbackSource:
        """The feedback source, for those who cannot do without.

        Raises:
            UsageError: none was configured.
        """
        if self.feedback is None:
            raise UsageError(
                "this method learns from critiques, but no feedback source is configured: "
                "set `feedback.source`, for example to `program`"
            )
        return self.feedback


def answer_text(ctx: StepContext, sample: Sample) -> str:
    """A sampled completion's text. It ends before the stop string, which is no part of the answer."""
    return completion_text(ctx.renderer, ctx.sampling, sample)


def completion_text(renderer: Renderer, sampling: SamplingParams, sample: Sample) -> str:
    """The same for a renderer and the settings that it was sampled with."""
    text = renderer.text(sample.ids)
    if sample.stop_reason == "stop":
        ends = [place for stop in sampling.stop if (place := text.find(stop)) >= 0]
        text = text[: min(ends, default=len(text))]
    return text


def sampled_turn(prompt_ids: Ids, sample: Sample, text: str, verdict: Verdict) -> Turn:
    """A sampled and verified completion as a turn; its ids keep the stop string."""
    return Turn(
        prompt_ids=prompt_ids,
        completion_ids=sample.ids,
        logprobs=sample.logprobs,
        text=text,
        stop_reason=sample.stop_reason,
        reward=verdict.reward,
        correct=verdict.correct,
    )


def dataset_turn(ctx: StepContext, problem: Problem, prompt_ids: Ids, text: str) -> Turn:
    """An answer that was given, not sampled, as a turn: no log-probs, verified all the same."""
    verdict = ctx.task.verify(problem, text)
    return Turn(
        prompt_ids=prompt_ids,
        completion_ids=ctx.renderer.answer(text),
        logprobs=None,
        text=text,
        stop_reason="eos",
        reward=verdict.reward,
        correct=verdict.correct,
    )


def sample_turns(
    ctx: StepContext, problems: Sequence[Problem], prompts: Sequence[Ids], n: int, *, seed: int
) -> list[list[Turn]]:
    """n turns for each prompt, verified against the original problems."""
    if not prompts:
        return []
    samples = ctx.engine.sample(prompts, n, ctx.sampling, seed=seed, weights=ctx.weights)
    texts = [[answer_text(ctx, sample) for sample in completions] for completions in samples]
    asked = [(problem, text) for problem, own in zip(problems, texts, strict=True) for text in own]
    verdicts = iter(verify_all(ctx.task, asked))
    return [
        [sampled_turn(prompt, s, text, next(verdicts)) for s, text in zip(completions, own, strict=True)]
        for prompt, completions, own in zip(prompts, samples, texts, strict=True)
    ]


def add_answers(ctx: StepContext, rollouts: list[Rollout], prompts: Mapping[int, Ids], *, seed: int) -> None:
    """Sample one more turn for some of the rollouts, in place.

    Args:
        ctx: This step's context.
        rollouts: All of them.
        prompts: By its place in `rollouts`, the prompt of each that is to be answered.
        seed: Of the draws.
    """
    problems = [rollouts[i].problem for i in prompts]
    answers = sample_turns(ctx, problems, list(prompts.values()), 1, seed=seed)
    for i, (turn,) in zip(prompts, answers, strict=True):
        rollouts[i] = rollouts[i].model_copy(update={"turns": (*rollouts[i].turns, turn)})
