"""Scores of a judge in an evaluation: by turn, raw and at equal lengths.

Beside the share of answers that a judge calls good, its mean score is reported, in [0, 1] (of a rubric from 1
to 10, (score − 1) / 9). Judges prefer longer texts and revisions tend to be longer, so every turn's score is
also given at the mean length of first answers (`feedback.length_control`).
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
        standing: The W answers after k = 0, 1, … critiques, all with a score; empty without critiques.
        critic: Name of the critic in the keys.

    Returns:
        `score` and `length` (characters) of first answers, `score_after_FEEDBACK` of the final ones, 95 %
        bootstrap intervals over problems, and `scores`, a record for each number of critiques. No interval
        and no length control with fewer than two answers.
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
