"""Near-duplicate texts by MinHash and locality-sensitive hashing.

The similarity is the Jaccard index of the sets of 5-character shingles, J(A, B) = |A ∩ B| / |A ∪ B|, with
case and white space normalised. MinHash signatures (Broder 1997) are cut into bands; texts that agree in a
whole band are candidates, verified exactly. With 16 bands of 5 rows, a pair of J = 0.8 is a candidate with
probability 1 − (1 − 0.8⁵)¹⁶ = 0.998. Equal texts always are.

Clusters are transitive: two members may be less similar than the threshold.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from didact.rng import generator

SHINGLE = 5
BANDS, ROWS = 16, 5
KEPT = 2048
"""Maximum number of shingles of one text: those of the smallest hashes, a sketch of long texts."""
MET = 4
"""Maximum number of members of a bucket that a text is compared with, so that time is linear."""

Hashes = NDArray[np.uint64]


class UnionFind:
    """Disjoint sets of the numbers 0 … n − 1."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, i: int) -> int:
        """The representative of i's set: its smallest member."""
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        """Merge the sets of i and j."""
        a, b = self.find(i), self.find(j)
        self._parent[max(a, b)] = min(a, b)

    def join_equal(self, keys: Sequence[Hashable | None]) -> None:
        """Merge the sets of numbers with equal keys; None is no key."""
        first: dict[Hashable, int] = {}
        for i, key in enumerate(keys):
            if key is not None:
                self.join(first.setdefault(key, i), i)

    def groups(self) -> list[list[int]]:
        """All sets, sorted, in the order of their first members."""
        found: dict[int, list[int]] = defaultdict(list)
        for i in range(len(self._parent)):
            found[self.find(i)].append(i)
        return list(found.values())


def normalised(text: str) -> str:
    """Text with case, width and white space normalised.

    >>> normalised("Où  est\\nLE colis ?")
    'où est le colis ?'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def similarity(a: str, b: str) -> float:
    """Jaccard index of two texts' shingles, in [0, 1]; exact up to `KEPT` shingles."""
    return _jaccard(_shingles(normalised(a)), _shingles(normalised(b)))


def join_near(union: UnionFind, texts: Sequence[str], *, threshold: float = 0.8, min_chars: int = 0) -> None:
    """Merge the sets of equal and near-duplicate texts of at least `min_chars` characters.

    `threshold` is the minimum similarity, in (0, 1]. Members of one set are not compared.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        plain = normalised(text)
        if plain and len(plain) >= min_chars:
            places[plain].append(i)
            union.join(places[plain][0], i)
    if threshold >= 1 or len(places) < 2:
        return
    _join_similar(union, [(plain, same[0]) for plain, same in places.items()], threshold)


def _join_similar(union: UnionFind, items: list[tuple[str, int]], threshold: float) -> None:
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
                if (k, other) in unlike or union.find(i) == union.find(j):
                    continue
                # The signatures' agreement estimates J, within 0.15 in 999 of 1000 pairs of J = 0.8.
                agree = np.count_nonzero(signatures[k] == signatures[other]) / (BANDS * ROWS)
                # Shingles are computed again rather than stored: few pairs get this far.
                a, b = items[k][0], items[other][0]
                if agree >= threshold - 0.15 and _jaccard(_shingles(a), _shingles(b)) >= threshold:
                    union.join(i, j)
                else:
                    unlike.add((k, other))
            if len(met) < MET and not any(union.find(items[k][1]) == union.find(items[o][1]) for o in met):
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
