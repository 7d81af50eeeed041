"""Who shapes the feedback: shares of authors, phrases that one author alone uses, and floods.

A poisoner needs little: a phrase of his own beside the labels he wishes for. So each author's words are
held against those of all others (likelihood ratio G², Dunning 1993), and a phrase that stands out is
told with the scores that go with it. The report accuses nobody: a house style looks the same.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from didact.data.near_duplicates import normalised
from didact.types import Feedback

WORD = re.compile(r"\w+")
WORDS = 400
"""Words of one critique that are looked at."""
LEAST = 5
"""Critiques that an author, or a flood, must have to be judged at all."""
STRONG = 30.0
"""The G² from which a phrase stands out; p < 10⁻⁷ for a single one, so thousands may be tried."""
NAMED = 5


@dataclass(frozen=True)
class Author:
    """What one author wrote."""

    name: str
    feedback: int
    share: float
    """Of all feedback, in [0, 1]."""
    mean_score: float | None


@dataclass(frozen=True)
class Phrase:
    """A word or pair of words that one author uses much more than the others do."""

    author: str
    phrase: str
    critiques: int
    """Of the author's, that have it."""
    share: float
    """Of the author's critiques, in [0, 1]."""
    share_of_others: float
    mean_score: float | None
    """Of the author's critiques that have it."""
    mean_score_of_others: float | None


@dataclass(frozen=True)
class BurstReport:
    """One text said again and again."""

    critiques: int
    authors: int
    start: str
    """Its first characters."""


@dataclass(frozen=True)
class Influence:
    """Who shapes the feedback of a file."""

    authors: tuple[Author, ...]
    """Those with most feedback first."""
    phrases: tuple[Phrase, ...]
    floods: tuple[BurstReport, ...]
    warnings: tuple[str, ...]


def author_influence(feedback: Sequence[Feedback], *, cap: float = 0.25) -> Influence:
    """Shares, phrases and floods.

    Args:
        feedback: All feedback of a file.
        cap: Warn of an author with more than this share. Among few authors a fair share is more, so the
            warning waits for half as much again as that.
    """
    by_author: dict[str, list[Feedback]] = defaultdict(list)
    for f in feedback:
        if f.ok:
            by_author[f.provenance.author].append(f)
    total = sum(map(len, by_author.values()))
    ranked = sorted(by_author.items(), key=lambda item: (-len(item[1]), item[0]))
    authors = tuple(Author(name, len(fs), len(fs) / total, _mean(fs)) for name, fs in ranked)
    phrases = _phrases(by_author)
    floods = _floods(feedback)
    warnings = []
    if len(authors) > 1:
        limit = max(cap, 1.5 / len(authors))
        warnings = [
            f"author {a.name!r} wrote {a.share:.0%} of the feedback, more than {limit:.0%}"
            for a in authors
            if a.share > limit
        ]
    suspects = dict.fromkeys(phrase.author for phrase in phrases)
    warnings += [
        f"author {name!r} uses phrases that others do not: compare their scores" for name in suspects
    ]
    if floods:
        warnings.append(f"{len(floods):,} critiques are repeated word for word on many answers")
    return Influence(authors, phrases, floods, tuple(warnings))


def _phrases(by_author: dict[str, list[Feedback]]) -> tuple[Phrase, ...]:
    """The phrases that stand out, by author; needs at least two authors."""
    texts = {name: [f for f in fs if f.text.strip()] for name, fs in by_author.items()}
    texts = {name: fs for name, fs in texts.items() if fs}
    if len(texts) < 2:
        return ()
    counts = {name: Counter(g for f in fs for g in _grams(f.text)) for name, fs in texts.items()}
    everywhere: Counter[str] = Counter()
    for count in counts.values():
        everywhere.update(count)
    total = sum(map(len, texts.values()))
    found: list[Phrase] = []
    for name, fs in texts.items():
        if len(fs) < LEAST:
            continue
        least = max(3, math.ceil(0.1 * len(fs)))
        strong = []
        for gram, mine in counts[name].items():
            others, rest = everywhere[gram] - mine, total - len(fs)
            if mine < least or mine / len(fs) < 5 * others / rest:
                continue
            strength = _g2(mine, len(fs), others, rest)
            if strength >= STRONG:
                strong.append((strength, gram))
        others_scores = _mean(f for other, fs_ in by_author.items() if other != name for f in fs_)
        for _, gram in sorted(strong, key=lambda item: (-item[0], -len(item[1])))[:NAMED]:
            having = [f for f in fs if gram in _grams(f.text)]
            rest_share = (everywhere[gram] - len(having)) / (total - len(fs))
            found.append(
                Phrase(
                    name, gram, len(having), len(having) / len(fs), rest_share, _mean(having), others_scores
                )
            )
    return tuple(found)


def _grams(text: str) -> set[str]:
    """Words and pairs of neighbouring words."""
    words = WORD.findall(text.casefold())[:WORDS]
    return {*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))}


def _g2(k1: int, n1: int, k2: int, n2: int) -> float:
    """2 · log of the likelihood ratio of two shares against one common share."""

    def log_likelihood(k: int, n: int, p: float) -> float:
        hit = k * math.log(p) if k else 0.0
        return hit + ((n - k) * math.log1p(-p) if n > k else 0.0)

    p = (k1 + k2) / (n1 + n2)
    apart = log_likelihood(k1, n1, k1 / n1) + log_likelihood(k2, n2, k2 / n2)
    return 2 * (apart - log_likelihood(k1, n1, p) - log_likelihood(k2, n2, p))


def _floods(feedback: Sequence[Feedback]) -> tuple[BurstReport, ...]:
    places: dict[str, list[Feedback]] = defaultdict(list)
    for f in feedback:
        if f.ok and len(f.text) >= 20:
            places[normalised(f.text)].append(f)
    least = max(LEAST, len(feedback) // 100)
    many = sorted((fs for fs in places.values() if len(fs) >= least), key=len, reverse=True)[:NAMED]
    return tuple(BurstReport(len(fs), len({f.provenance.author for f in fs}), fs[0].text[:60]) for fs in many)


def _mean(feedback: Iterable[Feedback]) -> float | None:
    scores = [f.score for f in feedback if f.score is not None]
    return sum(scores) / len(scores) if scores else None
