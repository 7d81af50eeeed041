"""Influence of authors on the feedback: their shares, phrases of one author alone, and repeated texts.

Data poisoning needs only a phrase of one author beside the labels it wants. So each author's words are
compared with those of all others by the log-likelihood ratio G² (Dunning 1993), and outliers are reported
with the scores that go with them. An outlier is no proof: a house style looks the same.
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
"""Maximum number of words of a critique that are read."""
LEAST = 5
"""Minimum number of critiques of an author, or of a burst."""
STRONG = 30.0
"""The G² of an outlier; p < 10⁻⁷ for a single phrase, so that thousands can be tested."""
NAMED = 5
"""Maximum number of phrases of an author, and of bursts."""


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
    """A word or bigram that one author uses much more often than the others."""

    author: str
    phrase: str
    critiques: int
    """The author's critiques with it."""
    share: float
    """Of the author's critiques, in [0, 1]."""
    share_of_others: float
    mean_score: float | None
    """Of the author's critiques with it."""
    mean_score_of_others: float | None


@dataclass(frozen=True)
class BurstReport:
    """A text that is repeated on many answers."""

    critiques: int
    authors: int
    start: str
    """Its first characters."""


@dataclass(frozen=True)
class Influence:
    """The authors of a file's feedback."""

    authors: tuple[Author, ...]
    """By the number of their feedback, descending."""
    phrases: tuple[Phrase, ...]
    bursts: tuple[BurstReport, ...]
    warnings: tuple[str, ...]


def author_influence(feedback: Sequence[Feedback], *, cap: float = 0.25) -> Influence:
    """Shares, phrases and bursts. An author above `cap`, and above 1.5 times an equal share, is a warning."""
    by_author: dict[str, list[Feedback]] = defaultdict(list)
    for f in feedback:
        if f.ok:
            by_author[f.provenance.author].append(f)
    total = sum(map(len, by_author.values()))
    ranked = sorted(by_author.items(), key=lambda item: (-len(item[1]), item[0]))
    authors = tuple(Author(name, len(fs), len(fs) / total, _mean(fs)) for name, fs in ranked)
    phrases = _phrases(by_author)
    bursts = _bursts(feedback)
    limit = max(cap, 1.5 / max(1, len(authors)))
    warnings = [
        f"author {a.name!r} wrote {a.share:.0%} of the feedback, more than {limit:.0%}"
        for a in authors
        if len(authors) > 1 and a.share > limit
    ]
    warnings += [
        f"author {name!r} uses phrases that others do not: compare their scores"
        for name in dict.fromkeys(phrase.author for phrase in phrases)
    ]
    if bursts:
        warnings.append(f"{len(bursts):,} critiques are repeated word for word on many answers")
    return Influence(authors, phrases, bursts, tuple(warnings))


def _phrases(by_author: dict[str, list[Feedback]]) -> tuple[Phrase, ...]:
    """The outliers of each author; none with fewer than two authors."""
    texts = {name: fs for name, all_ in by_author.items() if (fs := [f for f in all_ if f.text.strip()])}
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
        n, n_others = len(fs), total - len(fs)
        least = max(3, math.ceil(0.1 * n))
        outliers = []
        for gram, k in counts[name].items():
            k_others = everywhere[gram] - k
            if k >= least and k / n >= 5 * k_others / n_others:
                strength = _g2(k, n, k_others, n_others)
                if strength >= STRONG:
                    outliers.append((strength, gram))
        others_mean = _mean(f for other, fs_ in by_author.items() if other != name for f in fs_)
        for _, gram in sorted(outliers, key=lambda item: (-item[0], -len(item[1])))[:NAMED]:
            with_it = [f for f in fs if gram in _grams(f.text)]
            k, k_others = len(with_it), everywhere[gram] - len(with_it)
            found.append(Phrase(name, gram, k, k / n, k_others / n_others, _mean(with_it), others_mean))
    return tuple(found)


def _grams(text: str) -> set[str]:
    """The words and bigrams of a text."""
    words = WORD.findall(text.casefold())[:WORDS]
    return {*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))}


def _g2(k1: int, n1: int, k2: int, n2: int) -> float:
    """2 · log-likelihood ratio of two binomial rates against one common rate."""

    def log_likelihood(k: int, n: int, p: float) -> float:
        hit = k * math.log(p) if k else 0.0
        return hit + ((n - k) * math.log1p(-p) if n > k else 0.0)

    p = (k1 + k2) / (n1 + n2)
    apart = log_likelihood(k1, n1, k1 / n1) + log_likelihood(k2, n2, k2 / n2)
    return 2 * (apart - log_likelihood(k1, n1, p) - log_likelihood(k2, n2, p))


def _bursts(feedback: Sequence[Feedback]) -> tuple[BurstReport, ...]:
    by_text: dict[str, list[Feedback]] = defaultdict(list)
    for f in feedback:
        if f.ok and len(f.text) >= 20:
            by_text[normalised(f.text)].append(f)
    least = max(LEAST, len(feedback) // 100)
    many = sorted((fs for fs in by_text.values() if len(fs) >= least), key=len, reverse=True)[:NAMED]
    return tuple(BurstReport(len(fs), len({f.provenance.author for f in fs}), fs[0].text[:60]) for fs in many)


def _mean(feedback: Iterable[Feedback]) -> float | None:
    scores = [f.score for f in feedback if f.score is not None]
    return sum(scores) / len(scores) if scores else None
