"""A server's completion, cut where LocalEngine would have stopped."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from didact.engines.base import Sample, SamplingParams
from didact.engines.local.sampling import Sampler
from didact.engines.tinker.protocol import Floats, Sequenced, ServerError


def cut(
    drawn: Sequenced, params: SamplingParams, tokenizer: Any, end_ids: Set[int], *, server: str
) -> Sample:
    """The completion up to its end id, its first stop string or `max_tokens`.

    Servers take stop ids or stop strings, not both, so strings are looked for here.

    Raises:
        ServerError: it ended before all that, so an end id is missing from it.
    """
    judge = Sampler(None, tokenizer, end_ids, 0)
    for end in range(1, len(drawn.ids) + 1):
        reason = judge.why_stop(drawn.ids[:end], params)
        if reason is not None:
            return Sample(drawn.ids[:end], drawn.logprobs[:end], reason)
    raise ServerError(
        f"{server} ended a completion after {len(drawn.ids)} of {params.max_tokens} tokens without the id "
        "that ends it: what was sampled cannot be trained on as it was sampled"
    )


def with_logprobs(groups: Sequence[Sequence[Sample]], scored: Sequence[Floats]) -> list[list[Sample]]:
    """The samples with the log-probs of their last tokens as a forward pass gave them, row by row."""
    rows = iter(scored)
    return [
        [s._replace(logprobs=tuple(map(float, next(rows)[-len(s.ids) :]))) for s in group] for group in groups
    ]
