"""Episodes of a model in an environment: one growing conversation, rendered anew for each action.

first observation → action → observation → action → …
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

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
from didact.evaluation.stats import clustered_mean, wilson
from didact.rendering.renderer import Renderer
from didact.rng import derive_seed
from didact.rollouts.base import completion_text, conversation
from didact.types import Feedback, Ids, Message, Problem, Provenance, Rollout, Turn

Ending: TypeAlias = Literal["over", "turns", "room"]


@dataclass(frozen=True)
class Episode:
    """One episode.

    Attributes:
        rollout: Actions as turns, each with its reward and, as feedback, the next observation. The problem is
            the first observation; its id is "NAME/SEED".
        total: Sum of the rewards.
        ending: "over": the environment ended it. "turns": the action limit. "room": the conversation filled
            the model's context.
    """

    rollout: Rollout
    total: float
    ending: Ending

    @property
    def solved(self) -> bool:
        """The return reached `SOLVED`."""
        return self.total >= SOLVED


@dataclass
class _Playing:
    """An episode in progress."""

    environment: Environment
    problem: Problem
    seed: int
    turns: list[Turn] = field(default_factory=list)
    feedback: list[Feedback] = field(default_factory=list)
    total: float = 0.0
    ending: Ending | None = None

    def prompt(self, renderer: Renderer) -> Ids:
        steps = zip(self.turns, self.feedback, strict=True)
        return renderer.prompt(conversation(self.problem, [(turn.text, f.text) for turn, f in steps]))


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
    """Play one episode per seed, in a batch.

    Every draw is seeded by (seed, episode, turn), so that an action depends on its own episode alone.

    Args:
        engine: The model.
        renderer: Messages ⇄ ids for its tokenizer.
        make: Makes an environment; called once per episode.
        seeds: Episode seeds.
        name: The environment's name, for the records.
        sampling: How actions are sampled.
        turns: Maximum number of actions, ≥ 1.
        seed: Of the draws.
        weights: The weights to sample from.

    Raises:
        DataError: the environment returns something else than (text, reward, done).
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
    """The episodes in progress with their prompts; one without room for another action ends."""
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


def episode_metrics(episodes: Sequence[Episode], *, seed: int = 0) -> dict[str, Any]:
    """Success rate, return and length of episodes, with 95 % intervals.

    Args:
        episodes: At least one, with different seeds.
        seed: Of the bootstrap.

    Returns:
        `n`; `solved` with a Wilson interval; `return`, the mean sum of rewards, with a bootstrap interval
        (None for a single episode); `turns`, the mean number of actions; `endings`, counts by ending; and
        `solved_by_turn`, the share solved within each number of actions, with Wilson intervals.
    """
    n = len(episodes)
    solved = [e.solved for e in episodes]
    mean = clustered_mean([e.total for e in episodes], [e.rollout.id for e in episodes], seed=seed)
    longest = max(len(e.rollout.turns) for e in episodes)
    by_turn = []
    for turns in range(1, longest + 1):
        count = sum(e.solved and len(e.rollout.turns) <= turns for e in episodes)
        by_turn.append({"turns": turns, "solved": count / n, "ci95": list(wilson(count, n))})
    return {
        "n": n,
        "solved": sum(solved) / n,
        "solved_ci95": list(wilson(sum(solved), n)),
        "return": mean.mean,
        "return_ci95": None if mean.low is None else [mean.low, mean.high],
        "turns": sum(len(e.rollout.turns) for e in episodes) / n,
        "endings": dict(Counter(e.ending for e in episodes)),
        "solved_by_turn": by_turn,
    }
