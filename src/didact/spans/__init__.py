"""Quoted phrases ⇄ characters of an answer ⇄ its sampled tokens.

    quotes ─ locate ─▶ Span (characters) ─ token_labels ─▶ δ_t ∈ {−1, 0, 1}, one a sampled id
                                             ▲
    sampled ids ─ token_offsets ─────────────┘

Pure and without a model. Nothing is re-encoded, and nothing is guessed: a quote that stands in the
answer nowhere, or at several places, is counted as unaligned and labels no token.
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
