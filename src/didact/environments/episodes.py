"""A model plays: an episode is one growing conversation in which the environment is the teacher.

    environment's first text → move → what the environment says → move → …

Every prompt is rendered from the texts so far. What the model sampled is kept as it was in each turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from didact.engines.base import (
    POLICY,
    Engine,
    Sample,
    SamplingParams,
    Weights,
    fits_context,
    reuse_prefix_cache,
)
from didact.environments.base import SOLVED, Environment
from didact.errors import DataError
from didact.rendering.renderer import Renderer
from didact.rng import derive_seed
from didact.rollouts.base import completion_text
from didact.rollouts.conversation import conversation
from didact.types import Feedback, Ids, Message, Problem, Provenance, Rollout, Turn

Ending: TypeAlias = Literal["over", "turns", "room"]


@dataclass(frozen=True)
class Episode:
    """One episode.

    Attributes:
        rollout: Its moves as turns, each with its step's reward and, as feedback, what the environment said.
            The problem is the environment's first text; its id is "NAME/SEED".
        total: The sum of its rewards.
        ending: "over" where the environment said so, "turns" where there were no more, "room" where the
            conversation left the model none for another move.
    """

    rollout: Rollout
    total: float
    ending: Ending

    @property
    def solved(self) -> bool:
        """Was all achieved?"""
        return self.total >= SOLVED


@dataclass
class _Playing:
    """An episode that goes on."""

    environment: Environment
    problem: Problem
    seed: int
    turns: list[Turn] = field(default_factory=list)
    feedback: list[Feedback] = field(default_factory=list)
    total: float = 0.0
    ending: Ending | None = None

    def prompt(self, renderer: Renderer) -> Ids:
        said = zip(self.turns, self.feedback, strict=True)
        return renderer.prompt(conversation(self.problem, [(turn.text, f.text) for turn, f in said]))


def play(
    engine: Engine,
    renderer: Renderer,
    make: Callable[[], Environment],
    seeds: Sequence[int],
    *,
    name: str,
    sampling: SamplingParams,
    turns: int,
    seed: int = 0,
    weights: Weights = POLICY,
) -> list[Episode]:
    """Play one episode a seed, side by side.

    A move depends on its own episode alone: every draw is seeded by (seed, episode, turn).

    Args:
        engine: Who plays.
        renderer: Messages ⇄ ids for its tokenizer.
        make: Makes an environment; it is called once an episode.
        seeds: Which episodes.
        name: The environment's, for the records.
        sampling: How moves are sampled.
        turns: Moves an episode at most, ≥ 1.
        seed: Which moves, where they are drawn.
        weights: Which weights play.

    Raises:
        DataError: the environment answers something else than (text, reward, done).
    """
    playing = []
    for episode in seeds:
        environment = make()
        first = environment.reset(episode)
        problem = Problem(id=f"{name}/{episode}", messages=(Message(role="user", content=first),))
        playing.append(_Playing(environment, problem, episode))
    with reuse_prefix_cache(engine):
        for h in range(turns):
            able = _with_room(playing, engine, renderer, sampling.max_tokens)
            if not able:
                break
            draws = [derive_seed(seed, "play", p.seed, h) for p, _ in able]
            moves = engine.sample([prompt for _, prompt in able], 1, sampling, seed=draws, weights=weights)
            for (p, prompt), (sample,) in zip(able, moves, strict=True):
                _move(p, prompt, sample, completion_text(renderer, sampling, sample), name)
    return [_episode(p) for p in playing]


def _with_room(
    playing: Sequence[_Playing], engine: Engine, renderer: Renderer, max_tokens: int
) -> list[tuple[_Playing, Ids]]:
    """The episodes that go on, with their prompts; one without room for another move ends."""
    able = []
    for p in playing:
        if p.ending is not None:
            continue
        prompt = p.prompt(renderer)
        if fits_context(engine, len(prompt) + max_tokens):
            able.append((p, prompt))
        else:
            p.ending = "room"
    return able


def _move(p: _Playing, prompt: Ids, sample: Sample, text: str, name: str) -> None:
    answer = p.environment.step(text)
    try:
        said, reward, done = answer
        if not isinstance(said, str):
            raise TypeError
        reward = float(reward)
    except (TypeError, ValueError):
        raise DataError(
            f"environment {name!r} answered {answer!r}: `step` has to return (text, reward, done)"
        ) from None
    p.total += reward
    p.turns.append(
        Turn(
            prompt_ids=prompt,
            completion_ids=sample.ids,
            logprobs=sample.logprobs,
            text=text,
            stop_reason=sample.stop_reason,
            reward=reward,
            correct=bool(done) and p.total >= SOLVED,
        )
    )
    p.feedback.append(
        Feedback(
            turn=len(p.turns) - 1,
            text=said,
            source="program",
            saw_reference=True,
            provenance=Provenance(author=f"environment:{name}"),
        )
    )
    if done:
        p.ending = "over"


def _episode(p: _Playing) -> Episode:
    if not p.turns:
        raise DataError(
            f"episode {p.problem.id!r} leaves the model no room for a single move: lower --max-tokens, or "
            "take a model with a longer context"
        )
    rollout = Rollout(
        id=p.problem.id,
        group=p.problem.id,
        problem=p.problem,
        turns=tuple(p.turns),
        feedback=tuple(p.feedback),
    )
    return Episode(rollout, p.total, p.ending or "turns")
