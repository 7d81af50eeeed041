"""Dialogues as training rows: the tokens of a whole conversation once, weighted where the student spoke."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from didact.types import Row, Turn


def dialogue_rows(
    turns: Sequence[Turn],
    advantages_H: Sequence[float],
    weight: float,
    *,
    old: bool = False,
    keep_zero: bool = False,
) -> list[Row]:
    """Rows of one dialogue.

    Turns that continue one another token by token share a row; a turn whose prompt was shortened begins a new
    one. Prompts and the teacher's words have weight 0.

    Args:
        turns: The dialogue's answers.
        advantages_H: One advantage a turn; NaN where it is missing.
        weight: Of every token of an answer that counts.
        old: Also give the log-probs that the tokens were sampled with, as `old_logprobs`.
        keep_zero: An advantage of 0 counts too, because the loss has another term.
    """
    credited = [
        (turn, float(advantage))
        for turn, advantage in zip(turns, advantages_H, strict=False)
        # An answer that was given is no sample of π, so its likelihood has no policy gradient.
        if turn.logprobs is not None and not np.isnan(advantage) and (keep_zero or advantage != 0.0)
    ]
    runs: list[list[tuple[Turn, float]]] = []
    for turn, advantage in credited:
        if runs and continues(turn, runs[-1][-1][0]):
            runs[-1].append((turn, advantage))
        else:
            runs.append([(turn, advantage)])
    return [_row(run, weight, old) for run in runs]


def continues(turn: Turn, before: Turn) -> bool:
    """Does a turn's prompt begin with all of an earlier turn, ids by ids?"""
    whole = (*before.prompt_ids, *before.completion_ids)
    return turn.prompt_ids[: len(whole)] == whole


def _row(run: Sequence[tuple[Turn, float]], weight: float, old: bool) -> Row:
    last = run[-1][0]
    ids = np.asarray([*last.prompt_ids, *last.completion_ids], dtype=np.int64)
    names = ("weights", "advantages", *(("old_logprobs",) if old else ()))
    fields = {name: np.zeros(len(ids) - 1, dtype=np.float32) for name in names}
    for turn, advantage in run:
        first = len(turn.prompt_ids) - 1  # predicts the answer's first token
        place = slice(first, first + len(turn.completion_ids))
        fields["weights"][place] = weight
        fields["advantages"][place] = advantage
        if old:
            assert turn.logprobs is not None, "only sampled turns are trained by RL"
            fields["old_logprobs"][place] = turn.logprobs
    return Row(ids[:-1], ids[1:], fields)
