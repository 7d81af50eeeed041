"""A reward model on annotated answers that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from didact.errors import DataError
from didact.evaluation.span_metrics import AnnotatedSpans, measure
from didact.rendering.renderer import Renderer
from didact.reward_model.source import Marked, RewardModel
from didact.reward_model.task import Annotated
from didact.spans import Offsets, token_labels, token_offsets
from didact.types import Floats, Span


def evaluate_reward_model(
    model: RewardModel,
    items: Sequence[Annotated],
    renderer: Renderer,
    *,
    draws: Sequence[RewardModel] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """The numbers of `span_metrics.measure`, tokens being those of the reward model's own tokenizer.

    Args:
        model: What is measured, greedy.
        items: Annotated answers.
        renderer: Its tokenizer.
        draws: The same model, each with a seed of its own and above temperature 0, for calibration.
        seed: Fixes the bootstrap.

    Returns:
        Also `repaired`, replies that had to be mended; `too_long`, answers that it cannot be asked about,
        which count as failures; `quotes` and those `unplaced`.

    Raises:
        DataError: there are no answers.
    """
    before = dict(model.seen)
    asked = [(item.problem, item.answer) for item in items]
    marked = model.mark(asked)
    drawn = [each.mark(asked) for each in draws]
    cases = []
    for i, item in enumerate(items):
        offsets = _offsets(item.answer, renderer)
        own = marked[i]
        cases.append(
            AnnotatedSpans(
                gold_T=_labels(item.feedback.spans, offsets, item.answer),
                found_T=None if own.reading is None else _labels(own.spans, offsets, item.answer),
                drawn_KT=_votes([d[i] for d in drawn], offsets, item.answer) if drawn else None,
            )
        )
    counts = {n: model.seen[n] - before.get(n, 0) for n in ("repaired", "too_long", "quotes", "unplaced")}
    return {**measure(cases, seed=seed), **counts}


def _offsets(answer: str, renderer: Renderer) -> Offsets:
    """Where the answer's tokens stand; its characters, where the tokenizer does not give it back."""
    try:
        return token_offsets(renderer.answer(answer)[:-1], renderer.tokenizer, answer)
    except DataError:
        first = np.arange(len(answer))
        return np.stack([first, first + 1], axis=1)


def _labels(spans: Sequence[Span], offsets: Offsets, answer: str) -> Floats:
    return token_labels(spans, offsets, answer)


def _votes(marked: Sequence[Marked], offsets: Offsets, answer: str) -> Any:
    return np.stack([_labels(m.spans, offsets, answer) for m in marked])
