"""`didact data inspect`: statistics and warnings about a data file before training on it.

Data poisoning needs only a phrase of one author beside the labels it wants. So each author's words are
compared with those of all others by the log-likelihood ratio G² (Dunning 1993), and outliers are reported
with the scores that go with them. An outlier is no proof: a house style looks the same.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from didact.data.files import read_examples
from didact.data.pii_and_injection import instructions, personal_data
from didact.data.split import LONG_ANSWER, groups_of, join_near, normalised, prompt_text
from didact.types import Example, Feedback

QUANTILES = {"lowest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "highest": 1.0}
NAMED = 20
"""Maximum number of rows or labels that are listed."""

GOOD = {"right", "correct", "good", "up", "thumbs_up", "thumbs-up", "👍", "pass", "passed", "yes", "true",
        "helpful", "positive", "like", "accept"}  # fmt: skip
BAD = {"wrong", "incorrect", "bad", "poor", "down", "thumbs_down", "thumbs-down", "👎", "fail", "failed",
       "no", "false", "unhelpful", "negative", "dislike", "reject"}  # fmt: skip

WORD = re.compile(r"\w+")
WORDS = 400
"""Maximum number of words of a critique that are read."""
LEAST = 5
"""Minimum number of critiques of an author, or of a burst."""
STRONG = 30.0
"""The G² of an outlier; p < 10⁻⁷ for a single phrase, so that thousands can be tested."""
PHRASES = 5
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
    """The authors of a file's feedback, phrases of one author alone, and repeated texts."""

    authors: tuple[Author, ...]
    """By the number of their feedback, descending."""
    phrases: tuple[Phrase, ...]
    bursts: tuple[BurstReport, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Located:
    """How often something was found, and the first rows with it."""

    count: int
    rows: tuple[int, ...]
    """Rows of the file from 1, at most `NAMED`."""


@dataclass(frozen=True)
class Inspection:
    """Statistics of a data file. Its texts may be hostile; only labels, authors and phrases are kept."""

    file: str
    rows: int
    prompts: int
    """Distinct prompts, case and white space aside."""
    users: int
    feedback: int
    failed_feedback: int
    text_free_feedback: int
    without_feedback: int
    lengths: dict[str, dict[str, int]]
    """Characters of prompts, answers and critiques: quantiles by name."""
    sources: dict[str, int]
    labels: dict[str, int]
    scores: dict[str, float]
    """n, lowest, mean and highest; empty without scores."""
    duplicate_prompts: list[list[int]] = field(default_factory=list)
    """Rows of each cluster of near-duplicate prompts, the largest first."""
    duplicate_answers: list[list[int]] = field(default_factory=list)
    contradictions: list[list[int]] = field(default_factory=list)
    """Rows of one prompt and answer with both good and bad verdicts."""
    personal_data: dict[str, Located] = field(default_factory=dict)
    instructions: dict[str, Located] = field(default_factory=dict)
    """Critiques with possible prompt injection, by kind."""
    influence: Influence | None = None
    warnings: list[str] = field(default_factory=list)


def inspect_file(
    path: Path,
    *,
    near_duplicates: bool = True,
    pii: bool = True,
    injection: bool = True,
    author_cap: float = 0.25,
) -> Inspection:
    """Compute statistics of a data file and look for duplicates, contradictions, personal data and attacks.

    `author_cap` is the share of the feedback above which an author is a warning.
    """
    examples = list(read_examples(path))
    feedback = [(i, f) for i, example in enumerate(examples, start=1) for f in example.feedback]
    prompts = [prompt_text(example.problem) for example in examples]
    answers = [example.completion for example in examples]
    scores = [f.score for _, f in feedback if f.score is not None]
    influence = author_influence([f for _, f in feedback], cap=author_cap)
    attacks = [(i, kind) for i, f in feedback for kind in instructions(f.text)] if injection else []
    personal = (
        (i, kind)
        for i, example in enumerate(examples if pii else (), start=1)
        for text in _texts(example)
        for kind in personal_data(text).elements()
    )
    found = Inspection(
        file=str(path),
        rows=len(examples),
        prompts=len({normalised(prompt) for prompt in prompts}),
        users=len({example.user for example in examples if example.user}),
        feedback=len(feedback),
        failed_feedback=sum(not f.ok for _, f in feedback),
        text_free_feedback=sum(f.ok and not f.text.strip() for _, f in feedback),
        without_feedback=sum(not example.feedback for example in examples),
        lengths={
            "prompt": _quantiles(map(len, prompts)),
            "answer": _quantiles(map(len, answers)),
            "critique": _quantiles(len(f.text) for _, f in feedback if f.text.strip()),
        },
        sources=dict(Counter(f.source for _, f in feedback).most_common()),
        labels=dict(Counter(f.label for _, f in feedback if f.label is not None).most_common(NAMED)),
        scores=_scores(scores),
        duplicate_prompts=_clusters(prompts, 0) if near_duplicates else [],
        duplicate_answers=_clusters(answers, LONG_ANSWER) if near_duplicates else [],
        contradictions=contradictions(examples),
        personal_data=_located(personal),
        instructions=_located(attacks),
        influence=influence,
    )
    found.warnings.extend([*influence.warnings, *_warnings(found)])
    return found


def contradictions(examples: Sequence[Example]) -> list[list[int]]:
    """Rows (from 1) of each answer to one prompt with both good and bad verdicts.

    The verdict is the label if it is a known word, else the score's position in its label's range. Feedback
    on different aspects is not compared.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for f in (f for example in examples for f in example.feedback):
        if f.score is not None:
            low, high = ranges.get(_aspect(f), (f.score, f.score))
            ranges[_aspect(f)] = min(low, f.score), max(high, f.score)
    calls: dict[tuple[str, str, str], dict[bool, set[int]]] = defaultdict(lambda: {True: set(), False: set()})
    for i, example in enumerate(examples, start=1):
        for f in example.feedback:
            good = _is_good(f, ranges)
            if f.ok and good is not None:
                key = normalised(prompt_text(example.problem)), normalised(example.completion), _aspect(f)
                calls[key][good].add(i)
    both = {tuple(sorted(c[True] | c[False])) for c in calls.values() if c[True] and c[False]}
    return [list(rows) for rows in sorted(both)]


def _aspect(f: Feedback) -> str:
    """The aspect of a label, as "correctness" of "correctness: incorrect"; "" for a plain verdict."""
    name, colon, _ = (f.label or "").rpartition(": ")
    if colon:
        return name
    return "" if f.label is None or f.label.casefold() in GOOD | BAD else f.label


def _is_good(f: Feedback, ranges: dict[str, tuple[float, float]]) -> bool | None:
    word = (f.label or "").rpartition(": ")[2].casefold()
    if word in GOOD or word in BAD:
        return word in GOOD
    low, high = ranges.get(_aspect(f), (0.0, 0.0))
    if f.score is None or low == high:
        return None
    place = (f.score - low) / (high - low)
    return True if place >= 0.75 else False if place <= 0.25 else None


def _quantiles(lengths: Iterable[int]) -> dict[str, int]:
    values = np.fromiter(lengths, dtype=np.int64)
    if not values.size:
        return {}
    found = np.quantile(values, list(QUANTILES.values()), method="nearest").tolist()
    return dict(zip(QUANTILES, found, strict=True))


def _scores(scores: list[float]) -> dict[str, float]:
    if not scores:
        return {}
    mean = sum(scores) / len(scores)
    return {"n": len(scores), "lowest": min(scores), "mean": mean, "highest": max(scores)}


def _clusters(texts: list[str], min_chars: int) -> list[list[int]]:
    union = DisjointSet(range(len(texts)))
    join_near(union, texts, min_chars=min_chars)
    found = [[i + 1 for i in group] for group in groups_of(union) if len(group) > 1]
    return sorted(found, key=len, reverse=True)


def _texts(example: Example) -> Iterator[str]:
    yield from (message.content for message in example.problem.messages)
    yield example.completion
    yield example.problem.reference or ""
    yield from (f.text for f in example.feedback)


def _located(hits: Iterable[tuple[int, str]]) -> dict[str, Located]:
    """Counts and rows of (row, kind), the most frequent kind first."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, kind in hits:
        rows[kind].append(row)
    ranked = sorted(rows.items(), key=lambda item: -len(item[1]))
    return {kind: Located(len(found), tuple(dict.fromkeys(found))[:NAMED]) for kind, found in ranked}


def _warnings(found: Inspection) -> list[str]:
    warnings = []
    if found.contradictions:
        warnings.append(
            f"{len(found.contradictions):,} answers are called good by one feedback and bad by another"
        )
    if found.personal_data:
        n = sum(located.count for located in found.personal_data.values())
        warnings.append(f"{n:,} places look like personal data or keys: read them before training or sharing")
    if found.instructions:
        n = len({row for located in found.instructions.values() for row in located.rows})
        warnings.append(
            f"critiques in at least {n:,} rows seem to give a model orders: read them before training"
        )
    if found.failed_feedback:
        warnings.append(f"{found.failed_feedback:,} feedbacks failed; they take no part in training")
    return warnings


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
        for _, gram in sorted(outliers, key=lambda item: (-item[0], -len(item[1])))[:PHRASES]:
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
    many = sorted((fs for fs in by_text.values() if len(fs) >= least), key=len, reverse=True)[:PHRASES]
    return tuple(BurstReport(len(fs), len({f.provenance.author for f in fs}), fs[0].text[:60]) for fs in many)


def _mean(feedback: Iterable[Feedback]) -> float | None:
    scores = [f.score for f in feedback if f.score is not None]
    return sum(scores) / len(scores) if scores else None
