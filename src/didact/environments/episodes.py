"""Episodes of a model in an environment: one growing conversation, rendered anew for each action.

first observation → action → observation → action → …
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from didact.engines.base import Engine, SamplingParams, fits_context, reuse_prefix_cache
from didact.environments.base import SOLVED, Environment
from didact.errors import DataError
from didact.evaluation.stats import clustered_mean, share
from didact.rendering.renderer import Renderer
from didact.rng import derive_seed
from didact.rollouts.base import completion_text, conversation, sampled_turn
from didact.types import Feedback, Ids, Message, Problem, Provenance, Rollout, Turn

Ending: TypeAlias = Literal["over", "turns", "room"]


@dataclass
class Episode:
    """One episode, in progress or ended."""

    environment: Environment
    problem: Problem
    """The first observation; its id is "NAME/SEED"."""
    seed: int
    turns: list[Turn] = field(default_factory=list)
    """Actions, each with its reward."""
    feedback: list[Feedback] = field(default_factory=list)
    """The observation after each action."""
    total: float = 0.0
    """Sum of the rewards."""
    ending: Ending | None = None
    """"over": the environment ended it. "turns": the action limit. "room": the conversation filled the
    model's context. None: in progress."""

    @property
    def solved(self) -> bool:
        """The return reached `SOLVED`."""
        return self.total >= SOLVED

    @property
    def rollout(self) -> Rollout:
        """Actions as turns, and the next observation of each as feedback."""
        turns, feedback = tuple(self.turns), tuple(self.feedback)
        name = self.problem.id
        return Rollout(id=name, group=name, problem=self.problem, turns=turns, feedback=feedback)


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
) -> list[Episode]:
    """Play one episode per seed, in a batch.

    Every draw is seeded by (seed, episode, turn), so that an action depends on its own episode alone.

    Args:
        renderer: Messages ⇄ ids for its tokenizer.
        make: Makes an environment; called once per episode.
        seeds: Episode seeds.
        sampling: How actions are sampled.
        turns: Maximum number of actions, ≥ 1.

    Raises:
        DataError: the environment returns something else than (text, reward, done), or a first observation
            leaves no room for an action.
    """
    playing = []
    for episode in seeds:
        environment = make()
        first = environment.reset(episode)
        problem = Problem(id=f"{name}/{episode}", messages=(Message(role="user", content=first),))
        playing.append(Episode(environment, problem, episode))
    with reuse_prefix_cache(engine):
        for h in range(turns):
            able = _with_room(playing, engine, renderer, sampling.max_tokens)
            if not able:
                break
            draws = [derive_seed(seed, "play", p.seed, h) for p, _ in able]
            moves = engine.sample([prompt for _, prompt in able], 1, sampling, seed=draws)
            for (p, prompt), (sample,) in zip(able, moves, strict=True):
                _move(
                    p,
                    sampled_turn(renderer, prompt, sample, completion_text(renderer, sampling, sample)),
                    name,
                )
    for p in playing:
        p.ending = p.ending or "turns"
    return playing


def _with_room(
    playing: Sequence[Episode], engine: Engine, renderer: Renderer, max_tokens: int
) -> list[tuple[Episode, Ids]]:
    """The episodes in progress with their prompts; one without room for another action ends.

    Raises:
        DataError: there is no room for the first action.
    """
    able = []
    for p in playing:
        if p.ending is not None:
            continue
        said = [(turn.answer, answer.text) for turn, answer in zip(p.turns, p.feedback, strict=True)]
        prompt = renderer.prompt(conversation(p.problem, said))
        if fits_context(engine, len(prompt) + max_tokens):
            able.append((p, prompt))
        elif p.turns:
            p.ending = "room"
        else:
            raise DataError(
                f"episode {p.problem.id!r} leaves the model no room for a single move: lower --max-tokens, "
                "or take a model with a longer context"
            )
    return able


def _move(p: Episode, turn: Turn, name: str) -> None:
    answer = p.environment.step(turn.answer)
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
    correct = bool(done) and p.total >= SOLVED
    p.turns.append(turn.model_copy(update={"reward": reward, "correct": correct}))
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


def episode_metrics(episodes: Sequence[Episode], *, seed: int = 0) -> dict[str, Any]:
    """Success rate, return and length of episodes, with 95 % intervals.

    Args:
        episodes: At least one, with different seeds.

    Returns:
        `n`; `solved` with a Wilson interval; `return`, the mean sum of rewards, with a bootstrap interval
        (None for a single episode); `turns`, the mean number of actions; `endings`, counts by ending; and
        `solved_by_turn`, the share solved within each number of actions, with Wilson intervals.
    """
    lengths = np.array([len(e.turns) for e in episodes])
    solved = np.array([e.solved for e in episodes])
    mean = clustered_mean([e.total for e in episodes], [e.problem.id for e in episodes], seed=seed)
    return {
        "n": len(episodes),
        **share("solved", solved),
        "return": mean.value,
        "return_ci95": mean.ci95,
        "turns": float(lengths.mean()),
        "endings": dict(Counter(e.ending for e in episodes)),
        "solved_by_turn": [
            {"turns": turns, **share("solved", solved & (lengths <= turns), "ci95")}
            for turns in range(1, int(lengths.max()) + 1)
        ],
    }
