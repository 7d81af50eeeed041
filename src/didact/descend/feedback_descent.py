r"""Feedback Descent: improve an instruction from critiques, and no weight.

Paper: "Feedback Descent: Open-Ended Text Optimization via Pairwise Comparison" (Lee, Boen & Finn 2025,
arXiv:2511.07919), the prompt-only baseline of RLTF (arXiv:2602.02482, Table 1), which ran 5 rounds of it.
With x* the best instruction so far, R the feedback since it was found and M the policy, a round is:

    answers    the policy answers a batch of training problems under x*; wrong ones are criticised, into R
    proposal   x ~ M(x*, R): the policy reads x*, R and what was rejected, and writes x
    comparison x and x* answer the same validation problems with the same draws; x is kept, and R emptied, if
               its mean reward over the problems that have both is larger

Validation problems are training problems that no batch holds. Evaluation problems are never looked at. The
departures from the paper are in docs/algorithms/rltf.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from didact.engines.base import SamplingParams, fits_context
from didact.errors import UsageError
from didact.llm.chat import ChatReply, ChatRequest, ask
from didact.methods.base import LossTerm, Method
from didact.prompts import conversation_text, load_prompt, shorten
from didact.rollouts.base import StepContext, single_turn
from didact.rollouts.engine_chat import EngineChat
from didact.rollouts.multi_turn import criticise
from didact.rollouts.system_prompt import InstructedRenderer, Place
from didact.tasks.base import Task
from didact.types import Message, Problem, Record, Rollout

NAME = "feedback-descent"
LESSON_CHARS = 1_000
"""A question, answer or critique longer than this is cut in the middle where it is shown."""
SHOWN_REJECTED = 4
"""Number of latest rejected proposals in the prompt."""
Positive = Annotated[int, Field(ge=1)]


class Lesson(Record):
    """A wrong answer and its critique."""

    question: str
    answer: str
    critique: str


class DescentState(Record):
    """State after a round: everything that the next one needs."""

    round: int = 0
    best: str
    scores: tuple[float | None, ...]
    """Its rewards on the validation problems, in order; None where nothing verified the answer."""
    lessons: tuple[Lesson, ...] = ()
    """Feedback since it was found."""
    rejected: tuple[str, ...] = ()
    """What was tried since then."""
    sampled_tokens: int = 0
    """Tokens that the policy generated: answers and proposals."""
    feedback_tokens: int = 0
    """Tokens that critics and judges generated."""


class Proposal(NamedTuple):
    """What came of one proposal."""

    text: str | None
    """The instruction; None where there is none that could be tried."""
    error: str | None
    """Why there is none."""
    tokens: int
    """Tokens that the policy generated for it."""


class Comparison(NamedTuple):
    """Two instructions on the validation problems that have a reward under both."""

    best: float | None
    """Mean reward under the best one so far; None where there is no such problem."""
    candidate: float | None
    n: int

    @property
    def better(self) -> bool:
        """Is the candidate better?"""
        return self.best is not None and self.candidate is not None and self.candidate > self.best


class Round(NamedTuple):
    """One round."""

    standing: DescentState
    """After it."""
    proposal: Proposal
    comparison: Comparison | None
    """None where no instruction could be tried."""
    rollouts: list[Rollout]
    """The answers that were criticised."""

    def metrics(self) -> dict[str, float]:
        """As a part of a line of metrics.jsonl."""
        values: dict[str, float] = {
            "proposal_tokens": self.proposal.tokens,
            "kept": float(self.comparison is not None and self.comparison.better),
        }
        if self.comparison is not None and self.comparison.best is not None:
            assert self.comparison.candidate is not None
            values |= {
                "validation_best": self.comparison.best,
                "validation_candidate": self.comparison.candidate,
                "validation_n": self.comparison.n,
            }
        return values


class FeedbackDescent(Method):
    """Settings of a descent; its rounds are the run's steps, its batches `problems_per_step`.

    Args:
        train: Training problems whose answers are criticised; batches go round them.
        validation: Other training problems, on which instructions are compared.
        start: The instruction to begin with; none by default.
        prompt_tokens: No instruction is longer.
        temperature: Of proposals; answers are sampled as in training.
        shown: Number of latest critiques in the prompt; fewer if the context is too short.
        place: Position of the instruction; see `rollouts.system_prompt`.
    """

    train: Positive = 64
    validation: Positive = 64
    start: str = ""
    prompt_tokens: Positive = 256
    temperature: Annotated[float, Field(ge=0)] = 0.7
    shown: Positive = 8
    place: Place = "system"

    @property
    def needs_feedback(self) -> bool:
        return True

    @property
    def trains_weights(self) -> bool:
        return False

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        """One answer a problem, and a critique of each that is wrong."""
        rollouts = single_turn(ctx, problems, 1)
        criticise(ctx, rollouts, 0, early_stop=True)
        return rollouts

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[LossTerm]:
        """Nothing: no weight is trained."""
        return []

    def split(self, task: Task) -> tuple[list[Problem], list[Problem]]:
        """The problems to learn from and those to compare on, disjoint, from the training side alone.

        Raises:
            UsageError: the task has too few.
        """
        wanted, found = self.train + self.validation, dict[tuple[Message, ...], Problem]()
        for index in range(10 * wanted):
            problem = task.train_problem(index)
            found.setdefault(problem.messages, problem)
            if len(found) == wanted:
                break
        if len(found) < wanted:
            raise UsageError(
                f"task {task.name!r} has {len(found)} different training problems, fewer than "
                f"settings.train + settings.validation = {self.train} + {self.validation}: lower them"
            )
        problems = list(found.values())
        return problems[self.validation :], problems[: self.validation]

    def under(self, ctx: StepContext, instruction: str) -> StepContext:
        """The context in which every prompt begins with an instruction."""
        renderer = InstructedRenderer(ctx.renderer, instruction, self.place)
        return dataclasses.replace(ctx, renderer=renderer)

    def begin(self, ctx: StepContext, validation: Sequence[Problem]) -> DescentState:
        """Answer the validation problems under the first instruction.

        Args:
            ctx: Seeded for validation: the same in every round, so that instructions meet the same draws.
            validation: Of `split`.

        Raises:
            UsageError: nothing verified any answer.
        """
        rollouts = single_turn(self.under(ctx, self.start), validation, 1)
        scores = tuple(r.turns[0].reward for r in rollouts)
        if all(score is None for score in scores):
            raise UsageError(
                f"nothing verified any answer to {len(scores)} validation problems, so instructions cannot "
                "be compared: give the task a verifier that works, or a judge (reward.source)"
            )
        return DescentState(best=self.start, scores=scores, sampled_tokens=_sampled(rollouts))

    def round(
        self,
        ctx: StepContext,
        validating: StepContext,
        standing: DescentState,
        batch: Sequence[Problem],
        validation: Sequence[Problem],
    ) -> Round:
        """One round; see the top of this file.

        Args:
            validating: Seeded as in `begin`.
            standing: After the round before.
            batch: Training problems.
            validation: Of `split`.
        """
        rollouts = self.collect(self.under(ctx, standing.best), batch)
        standing = _with(
            standing,
            round=standing.round + 1,
            lessons=(*standing.lessons, *lessons(rollouts)),
            sampled_tokens=standing.sampled_tokens + _sampled(rollouts),
            feedback_tokens=standing.feedback_tokens + sum(r.feedback_tokens for r in rollouts),
        )
        if not standing.lessons:
            return Round(standing, Proposal(None, "no wrong answer was criticised yet", 0), None, rollouts)
        proposal = self.propose(ctx, standing)
        spent = standing.sampled_tokens + proposal.tokens
        if proposal.text is None:
            return Round(_with(standing, sampled_tokens=spent), proposal, None, rollouts)
        tried = single_turn(self.under(validating, proposal.text), validation, 1)
        scores = tuple(r.turns[0].reward for r in tried)
        standing = _with(standing, sampled_tokens=spent + _sampled(tried))
        comparison = compare(standing.scores, scores)
        if comparison.better:
            standing = _with(standing, best=proposal.text, scores=scores, lessons=(), rejected=())
        else:
            standing = _with(standing, rejected=(*standing.rejected, proposal.text))
        return Round(standing, proposal, comparison, rollouts)

    def propose(self, ctx: StepContext, standing: DescentState) -> Proposal:
        """Have the policy write another instruction.

        It is refused where it is cut off, blank, no other than the best one or one that was tried since.
        """
        params = SamplingParams(max_tokens=self.prompt_tokens, temperature=self.temperature)
        chat = EngineChat(ctx.engine, ctx.renderer, params=params, weights=ctx.weights, seed=ctx.seed)
        reply: ChatReply = ask(chat, [ChatRequest(self._request(ctx, standing))])[0]
        text = reply.text.strip()
        error = reply.error
        if error is None and not text:
            error = "the proposal is blank"
        elif error is None and len(ctx.renderer.answer(text)) > self.prompt_tokens:
            error = f"the proposal is longer than prompt_tokens = {self.prompt_tokens}"
        elif error is None and text in (standing.best.strip(), *standing.rejected):
            error = "the proposal was tried before"
        return Proposal(None if error else text, error, reply.tokens)

    def _request(self, ctx: StepContext, standing: DescentState) -> tuple[Message, ...]:
        """The request with as many of the latest critiques as fit, at least one."""
        shown = self.shown
        while True:
            request = _request(standing, shown)
            length = len(ctx.renderer.prompt(request)) + self.prompt_tokens
            if shown == 1 or fits_context(ctx.engine, length):
                return request
            shown //= 2


def compare(best: Sequence[float | None], candidate: Sequence[float | None]) -> Comparison:
    """Two lists of rewards of the same problems in the same order.

    >>> compare([0.0, 1.0, None], [1.0, 1.0, 0.0])
    Comparison(best=0.5, candidate=1.0, n=2)
    """
    pairs = [(a, b) for a, b in zip(best, candidate, strict=True) if a is not None and b is not None]
    if not pairs:
        return Comparison(None, None, 0)
    a, b = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
    return Comparison(a, b, len(pairs))


def lessons(rollouts: Sequence[Rollout]) -> tuple[Lesson, ...]:
    """The criticised answers among some rollouts; what a critic failed at is no lesson."""
    return tuple(
        Lesson(
            question=conversation_text(r.problem),
            answer=r.turns[0].answer.strip(),
            critique=said.text.strip(),
        )
        for r in rollouts
        if (said := r.feedback_on(0)) is not None
    )


def _sampled(rollouts: Sequence[Rollout]) -> int:
    return sum(r.sampled_tokens for r in rollouts)


def _with(standing: DescentState, **changes: Any) -> DescentState:
    return standing.model_copy(update=changes)


def _request(standing: DescentState, shown: int) -> tuple[Message, ...]:
    values = {
        "instruction": standing.best.strip() or "(none yet)",
        "lessons": "\n\n".join(map(_lesson, standing.lessons[-shown:])),
        "rejected": "\n\n---\n\n".join(standing.rejected[-min(shown, SHOWN_REJECTED) :]) or "(nothing yet)",
    }
    return (Message(role="user", content=load_prompt("descent_v1").fenced(**values)),)


def _lesson(lesson: Lesson) -> str:
    parts = {"Problem": lesson.question, "Answer": lesson.answer, "Critique": lesson.critique}
    return "\n\n".join(f"{name}: {shorten(text, LESSON_CHARS)}" for name, text in parts.items())
