"""`didact data split`: a train/test split without shared prompts, near-duplicates or users.

Rows that must stay together form groups: equal or near-duplicate prompts, near-duplicate long answers,
and, by user, all rows of one user. Groups are ranked by a hash of their prompts and the seed, and go to the
test side in that order until it has its share. The split does not depend on the order of rows.

Near-duplicate texts are found by MinHash and locality-sensitive hashing. Their similarity is the Jaccard
index of the sets of 5-character shingles, J(A, B) = |A ∩ B| / |A ∪ B|, with case and white space normalised.
MinHash signatures (Broder 1997) are cut into bands; texts that agree in a whole band are candidates,
verified exactly. With 16 bands of 5 rows, a pair of J = 0.8 is a candidate with probability 1 − (1 − 0.8⁵)¹⁶
= 0.998. Equal texts always are.

Clusters are transitive: two members may be less similar than the threshold.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from didact.data.files import beside, create_jsonl, read_examples, refuse_existing
from didact.errors import DataError, UsageError
from didact.rng import derive_seed, generator
from didact.types import Example, Problem

LONG_ANSWER = 80
"""Minimum length of answers to compare, in characters; shorter ones, as "Yes.", are alike by chance."""

SHINGLE = 5
BANDS, ROWS = 16, 5
KEPT = 2048
"""Maximum number of shingles of one text: those of the smallest hashes, a sketch of long texts."""
MET = 4
"""Maximum number of members of a bucket that a text is compared with, so that time is linear."""

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class SplitReport:
    """The counts of a split."""

    train: Path
    test: Path
    train_rows: int
    test_rows: int
    train_groups: int
    test_groups: int
    largest_group: int
    without_user: int
    """Rows without a user in a split by user; they are grouped by prompt alone."""

    def render(self) -> str:
        total = self.train_rows + self.test_rows
        lines = [
            f"train: {self.train_rows:,} rows in {self.train_groups:,} groups → {self.train}",
            f"test:  {self.test_rows:,} rows in {self.test_groups:,} groups → {self.test} "
            f"({self.test_rows / total:.1%})",
            f"  the largest group that stays together has {self.largest_group:,} rows",
        ]
        if self.without_user:
            lines.append(f"  {self.without_user:,} rows name no user; they are kept together by their prompt")
        return "\n".join(lines)


def split_file(
    path: Path,
    *,
    by: Literal["problem", "user"] = "problem",
    test: float = 0.1,
    seed: int = 0,
    folder: Path | None = None,
    threshold: float = 0.8,
) -> SplitReport:
    """Split a data file into NAME.train.jsonl and NAME.test.jsonl, beside it or in `folder`.

    `by` "problem" keeps prompts on one side, "user" prompts and users. `test` is the test side's share of the
    rows, in (0, 1), and `threshold` the minimum similarity of near-duplicates, in (0, 1]; 1 compares for
    equality. Nothing is written over an existing file, or if no such split exists.
    """
    if not 0 < test < 1:
        raise UsageError(f"--test must lie between 0 and 1, not {test}")
    if not 0 < threshold <= 1:
        raise UsageError(f"--threshold must lie in (0, 1], not {threshold}")
    files = beside(path, "train", folder), beside(path, "test", folder)
    refuse_existing(*files)
    examples = list(read_examples(path))
    if by == "user" and not any(example.user for example in examples):
        raise DataError(f"{path}: no row names a user, so it cannot be split by user; use --by problem")
    groups = group_rows(examples, by=by, threshold=threshold)
    chosen = choose_test(examples, groups, test=test, seed=seed, where=str(path), by=by)
    with create_jsonl(files[0]) as train_file, create_jsonl(files[1]) as test_file:
        for i, example in enumerate(examples):
            (test_file if i in chosen else train_file).add(example)
    in_test = sum(group[0] in chosen for group in groups)
    without = sum(not example.user for example in examples) if by == "user" else 0
    return SplitReport(
        *files,
        len(examples) - len(chosen),
        len(chosen),
        len(groups) - in_test,
        in_test,
        max(map(len, groups)),
        without,
    )


def prompt_text(problem: Problem) -> str:
    """The conversation as one text, for comparing prompts.

    System messages are left out: a long one that all prompts share would make all of them near-duplicates.
    """
    return "\n".join(m.content for m in problem.messages if m.role != "system")


def group_rows(examples: list[Example], *, by: str, threshold: float = 0.8) -> list[list[int]]:
    """Groups of indices of rows that must stay on one side."""
    union = DisjointSet(range(len(examples)))
    if by == "user":
        _join_equal(union, [example.user or None for example in examples])
    _join_equal(union, [example.problem.id for example in examples])
    join_near(union, [prompt_text(example.problem) for example in examples], threshold=threshold)
    answers = [example.completion for example in examples]
    join_near(union, answers, threshold=threshold, min_chars=LONG_ANSWER)
    return groups_of(union)


def choose_test(
    examples: list[Example], groups: list[list[int]], *, test: float, seed: int, where: str, by: str
) -> set[int]:
    """Indices of the test side: whole groups in the order of their hashes, up to the share.

    DataError if there is only one group, or the share cannot be met even roughly.
    """
    n, target = len(examples), test * len(examples)
    if len(groups) < 2:
        raise DataError(f"{where} cannot be split: {_why_one_group(examples, by)}. Nothing was written.")

    def place(group: list[int]) -> int:
        keys = (normalised(prompt_text(examples[i].problem)) for i in group)
        return derive_seed(seed, "data-split", min(keys))

    ranked = sorted(groups, key=place)
    chosen: list[list[int]] = []
    left: list[list[int]] = []
    size = 0
    for i, group in enumerate(ranked):
        train_has_one = left or i < len(ranked) - 1
        if train_has_one and size + len(group) <= round(target):
            chosen.append(group)
            size += len(group)
        else:
            left.append(group)
    nearest = min(left, key=lambda group: abs(size + len(group) - target))  # the first of equals
    if not chosen or (len(left) > 1 and abs(size + len(nearest) - target) < abs(size - target)):
        chosen.append(nearest)
        size += len(nearest)
    if abs(size - target) > 0.5 * target + 1:
        raise DataError(
            f"{where}: a test side of {test:.0%} is impossible: the {n:,} rows form {len(groups):,} groups "
            f"that must stay together; the best is {size / n:.0%}. Take --test {size / n:.2f}, or add rows. "
            "Nothing was written."
        )
    return {i for group in chosen for i in group}


def _why_one_group(examples: list[Example], by: str) -> str:
    if len(examples) == 1:
        return "it has one row only"
    users = Counter(example.user for example in examples)
    if by == "user" and len(users) == 1:
        return f"all {len(examples):,} rows are of one user; use --by problem"
    if len({normalised(prompt_text(example.problem)) for example in examples}) == 1:
        return f"all {len(examples):,} rows have one prompt"
    also = " or users" if by == "user" else ""
    return (
        f"all {len(examples):,} rows hang together by equal or near-duplicate prompts, answers{also}; "
        "raise --threshold, or add other rows"
    )


def _join_equal(union: DisjointSet, keys: Sequence[Hashable | None]) -> None:
    """Merge the sets of indices with equal keys; None is no key."""
    first: dict[Hashable, int] = {}
    for i, key in enumerate(keys):
        if key is not None:
            union.merge(first.setdefault(key, i), i)


def groups_of(union: DisjointSet) -> list[list[int]]:
    """All sets, sorted, in the order of their first members."""
    return [sorted(group) for group in union.subsets()]


def normalised(text: str) -> str:
    """Text with case, width and white space normalised.

    >>> normalised("Où  est\\nLE colis ?")
    'où est le colis ?'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def join_near(
    union: DisjointSet, texts: Sequence[str], *, threshold: float = 0.8, min_chars: int = 0
) -> None:
    """Merge the sets of equal and near-duplicate texts of at least `min_chars` characters.

    `threshold` is the minimum similarity, in (0, 1]. Members of one set are not compared.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        plain = normalised(text)
        if plain and len(plain) >= min_chars:
            places[plain].append(i)
            union.merge(places[plain][0], i)
    if threshold >= 1 or len(places) < 2:
        return
    _join_similar(union, [(plain, same[0]) for plain, same in places.items()], threshold)


def _join_similar(union: DisjointSet, items: list[tuple[str, int]], threshold: float) -> None:
    draw = generator(0, "minhash").integers(1, 2**63, size=BANDS * ROWS, dtype=np.int64)
    multipliers = draw.astype(np.uint64) * np.uint64(2) + np.uint64(1)
    signatures = np.stack([_signature(plain, multipliers) for plain, _ in items])
    unlike: set[tuple[int, int]] = set()
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * ROWS : (band + 1) * ROWS])
        buckets: dict[bytes, list[int]] = {}
        for k, row in enumerate(part):
            met = buckets.setdefault(row.tobytes(), [])
            for other in met:
                i, j = items[k][1], items[other][1]
                if (k, other) in unlike or union.connected(i, j):
                    continue
                # The signatures' agreement estimates J, within 0.15 in 999 of 1000 pairs of J = 0.8.
                agree = np.count_nonzero(signatures[k] == signatures[other]) / (BANDS * ROWS)
                # Shingles are computed again rather than stored: few pairs get this far.
                a, b = items[k][0], items[other][0]
                if agree >= threshold - 0.15 and _jaccard(_shingles(a), _shingles(b)) >= threshold:
                    union.merge(i, j)
                else:
                    unlike.add((k, other))
            if len(met) < MET and not any(union.connected(items[k][1], items[o][1]) for o in met):
                met.append(k)


@lru_cache(maxsize=1024)  # members of crowded buckets are compared repeatedly
def _shingles(plain: str) -> Hashes:
    """Sorted distinct hashes of a normalised text's shingles, at most `KEPT`."""
    return np.unique(_hashes(plain))[:KEPT]


def _hashes(plain: str) -> Hashes:
    """Hashes of a normalised text's shingles, in order."""
    codes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if len(codes) <= SHINGLE:
        digest = hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return np.frombuffer(digest, dtype=np.uint64)
    hashes = np.zeros(len(codes) - SHINGLE + 1, dtype=np.uint64)
    for i in range(SHINGLE):
        hashes = hashes * np.uint64(0x100000001B3) + codes[i : len(codes) - SHINGLE + 1 + i]
    # splitmix64's finaliser: neighbouring shingles must not have neighbouring hashes.
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _signature(plain: str, multipliers: Hashes) -> NDArray[np.uint32]:
    """Per hash function, the smallest value over the shingles (multiply-shift, upper 32 bits)."""
    hashes = _hashes(plain)
    # Duplicates do not change the minimum, so only long texts are sorted.
    product = np.multiply.outer(multipliers, hashes if len(hashes) <= KEPT else _shingles(plain))
    lowest: NDArray[np.uint64] = product.min(axis=1)
    return (lowest >> np.uint64(32)).astype(np.uint32)


def _jaccard(a: Hashes, b: Hashes) -> float:
    if bounds := [hashes[-1] for hashes in (a, b) if len(hashes) == KEPT]:  # sketches
        limit = min(bounds)
        a, b = a[a <= limit], b[b <= limit]
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)
