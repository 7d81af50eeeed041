"""Scores of a judge in an evaluation: by turn, raw and at equal lengths.

A judge has no right and wrong, so beside the share of answers that it calls good stands its mean score, in
[0, 1] (of a rubric from 1 to 10, (score − 1) / 9). Judges like longer texts, and revisions tend to be longer:
every turn's score is also told at the mean length of first answers, see `feedback.length_control`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from didact.feedback.length_control import mean_interval, score_at
from didact.types import Turn

RESAMPLES = 500
"""Of each bootstrap."""


def score_metrics(
    firsts: Sequence[Turn], standing: Sequence[Sequence[Turn]], critic: str = "feedback"
) -> dict[str, Any]:
    """An evaluation's scores, as a part of its record.

    Args:
        firsts: The V first answers that have a score.
        standing: For k = 0, 1, … critiques the answers that stand then, W of the same problems each, all
            of them with a score; empty where there were no critiques.
        critic: Who criticised: names the score after it.

    Returns:
        `score` and `length` (characters) of first answers, `score_after_FEEDBACK` of those that stand at the
        end, 95 % bootstrap intervals over problems, and `scores`, a record for each number of critiques. No
        interval and no length control with fewer than two answers.
    """
    lengths = [len(turn.text) for turn in firsts]
    at = float(np.mean(lengths))
    first = _record(firsts, at)
    rounds = [_record(turns, at) for turns in standing] or [first]
    values: dict[str, Any] = {"score": first["score"], "length": at}
    if "ci95" in first:
        values["score_ci95"] = first["ci95"]
    if standing:
        values[f"score_after_{critic}"] = rounds[-1]["score"]
        if "ci95" in rounds[-1]:
            values[f"score_after_{critic}_ci95"] = rounds[-1]["ci95"]
    return {**values, "scores": [{"round": k, **record} for k, record in enumerate(rounds)]}


def _record(turns: Sequence[Turn], at: float) -> dict[str, Any]:
    scores = [turn.reward for turn in turns if turn.reward is not None]
    lengths = [len(turn.text) for turn in turns if turn.reward is not None]
    plain = {"n": len(scores), "score": float(np.mean(scores)), "length": float(np.mean(lengths))}
    if len(scores) < 2:
        return plain
    found = score_at(scores, lengths, at, n_resamples=RESAMPLES)
    return {
        **plain,
        "ci95": list(mean_interval(scores, n_resamples=RESAMPLES)),
        "at_equal_length": found.controlled,
        "at_equal_length_ci95": [found.low, found.high],
        "length_effect": found.length_effect,
        "extrapolated": found.extrapolated,
    }
