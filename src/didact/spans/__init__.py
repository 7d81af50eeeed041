"""Alignment of quotes with the characters of an answer and with its sampled tokens.

    quotes ─ locate ─▶ Span (characters) ─ token_labels ─▶ δ_t ∈ {−1, 0, 1} of each sampled id
                                             ▲
    sampled ids ─ token_offsets ─────────────┘

Nothing is re-encoded. A quote with no match in the answer, or with several, counts as unaligned and labels
no token.
"""

from didact.spans.labels import credited_by, token_labels
from didact.spans.match import Alignment, MatchPolicy, Quote, QuoteMatch, locate
from didact.spans.report import SpanReport
from didact.spans.tokens import Offsets, token_offsets, turn_offsets

__all__ = [
    "Alignment",
    "MatchPolicy",
    "Offsets",
    "Quote",
    "QuoteMatch",
    "SpanReport",
    "credited_by",
    "locate",
    "token_labels",
    "token_offsets",
    "turn_offsets",
]
