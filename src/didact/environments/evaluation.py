"""What a model's episodes in an environment come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from didact.environments.episodes import Episode
from didact.evaluation.stats import clustered_mean, wilson


def episode_metrics(episodes: Sequence[Episode], *, seed: int = 0) -> dict[str, Any]:
    """Solved episodes, returns and lengths, with 95 % intervals over episodes.

    Args:
        episodes: At least one, of different seeds.
        seed: Fixes the bootstrap.

    Returns:
        `n`; `solved` with a Wilson interval; `return`, the mean sum of rewards, with a bootstrap interval
        (None for a single episode); `turns`, the mean number of moves; `endings`, how many ended how; and
        `solved_by_turn`, the share that was solved after so many moves or fewer, each with a Wilson interval.
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
