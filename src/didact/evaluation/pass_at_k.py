"""Several answers a problem: mean@K, mean reward and pass@k.

    mean@K   the share of right ones among a problem's K answers, averaged over problems
    pass@k   1 − C(n − c, k) / C(n, k) of a problem with n answers, c of them right, averaged over problems:
             unbiased for the chance that one of k answers is right (Chen et al. 2021, arXiv:2107.03374)

A problem's answers are not independent, so every interval is over problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from didact.errors import UsageError
from didact.evaluation.stats import over_problems
from didact.types import Rollout


def pass_at_k(n: int, right: int, k: int) -> float:
    """The probability that k of n answers, drawn without replacement, hold one of the `right` ones.

    Raises:
        ValueError: not 1 ≤ k ≤ n, or not 0 ≤ right ≤ n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not (1 <= k <= n and 0 <= right <= n):
        raise ValueError(f"pass@{k} of {right} right among {n} answers")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def sampled_metrics(rollouts: Sequence[Rollout], samples: int) -> dict[str, Any]:
    """A record of K single answers a problem, with 95 % intervals over problems.

    An answer without a verdict is left out, and a problem without enough others of a pass@k.

    Args:
        rollouts: Grouped by problem.
        samples: K ≥ 1.

    Returns:
        `accuracy` (mean@K) and `reward` of the `n` problems with a verdict, `unverified`, a number of
        answers, and `pass_at`, a record each for k = 1, 2, 4, … and K.

    Raises:
        UsageError: no answer was verified.
    """
    known: dict[str, list[tuple[float, bool]]] = {}
    for turn, group in ((rollout.turns[0], rollout.group) for rollout in rollouts):
        if turn.reward is not None:
            known.setdefault(group, []).append((turn.reward, turn.correct))
    if not known:
        raise UsageError("nothing verified any answer: give the task a verifier that works")
    counts = [(len(answers), sum(right for _, right in answers)) for answers in known.values()]
    pass_at = []
    for k in sorted({*(2**i for i in range(samples.bit_length())), samples}):
        enough = [pass_at_k(n, right, k) for n, right in counts if n >= k]
        if enough:
            pass_at.append({"k": k, "n": len(enough), **over_problems("pass", enough, "ci95")})
    rewards = [sum(reward for reward, _ in answers) / len(answers) for answers in known.values()]
    return {
        "n": len(known),
        "samples": samples,
        "unverified": len(rollouts) - sum(n for n, _ in counts),
        **over_problems("accuracy", [right / n for n, right in counts], "ci95"),
        **over_problems("reward", rewards),
        "pass_at": pass_at,
    }
