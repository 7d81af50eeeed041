"""Approximate substring search: the nearest matches of a quote within a share of edits.

A match with k edits contains one of k + 1 pieces of the quote unchanged, displaced by at most k. Only the
windows around such pieces are searched, by Myers' bit-parallel edit distance (J. ACM 46, 1999) with Python
integers as bit vectors. The search is exact: no match within the bound is missed.
"""

from __future__ import annotations

from itertools import pairwise, repeat

MAX_LENGTH = 2000
"""Longer quotes are not searched."""
MAX_BEST = 32
"""With more equally near matches than this, none is returned."""


def nearest(quote: str, text: str, share: float) -> list[tuple[int, int]] | None:
    """The offsets of the substrings nearest to a quote, or None if all are beyond the bound.

    With more than `MAX_BEST` there are no offsets. Substrings with other digits than the quote do not count:
    another number is another statement.

    Args:
        share: The bound on edits as a share of the quote's length, in [0, 1).

    >>> nearest("the quick brown fox", "That the quikc brown fox", 0.11)
    [(5, 24)]
    """
    allowed = int(share * len(quote) + 1e-9)
    if not quote or allowed < 1 or len(quote) > MAX_LENGTH:
        return None
    ends: dict[int, int] = {}
    for start, end in _windows(quote, text, allowed):
        # Windows are disjoint, so that each end is in one of them.
        distances = enumerate(_distances(quote, text[start:end], free=True), start=start + 1)
        ends |= {at: edits for at, edits in distances if edits <= allowed}
    digits = _digits(quote)
    for edits in sorted(set(ends.values())):
        best = sorted(at for at, found in ends.items() if found == edits)
        if len(best) > MAX_BEST:
            return []
        found = [(_start(quote, text, at, edits), at) for at in best]
        same = [place for place in found if _digits(text[slice(*place)]) == digits]
        if same:
            return _apart(same, len(quote), allowed)
    return None


def levenshtein(one: str, other: str) -> int:
    """Levenshtein distance.

    >>> levenshtein("kitten", "sitting"), levenshtein("", "abc"), levenshtein("same", "same")
    (3, 3, 0)
    """
    if not one or not other:
        return len(one) + len(other)
    return _distances(one, other, free=False)[-1]


def _apart(places: list[tuple[int, int]], length: int, allowed: int) -> list[tuple[int, int]]:
    """One of each group of overlapping matches: the one nearest to the quote's length, or the first."""
    groups: list[list[tuple[int, int]]] = []
    for place in sorted(places):
        if groups and place[0] - groups[-1][0][0] <= 2 * allowed and place[0] < groups[-1][-1][1]:
            groups[-1].append(place)
        else:
            groups.append([place])
    return [min(group, key=lambda p: (abs(p[1] - p[0] - length), p)) for group in groups]


def _windows(quote: str, text: str, allowed: int) -> list[tuple[int, int]]:
    """The windows around the quote's pieces in the text, overlapping ones merged."""
    size, count = len(quote), allowed + 1
    cuts = [size * i // count for i in range(count + 1)]
    found: list[tuple[int, int]] = []
    for first, last in pairwise(cuts):
        piece = quote[first:last]
        at = text.find(piece)
        while at >= 0:
            begin = at - first
            found.append((max(0, begin - allowed), min(len(text), begin + size + allowed)))
            at = text.find(piece, at + 1)
    joined: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _start(quote: str, text: str, end: int, edits: int) -> int:
    """The start of the match that ends there; of several, the one nearest to the quote's length."""
    backward = text[max(0, end - len(quote) - edits) : end][::-1]
    distances = enumerate(_distances(quote[::-1], backward, free=False), start=1)
    begins = [at for at, found in distances if found == edits]
    return end - min(begins, key=lambda at: (abs(at - len(quote)), at))


def _distances(quote: str, text: str, *, free: bool) -> list[int]:
    """The edit distance of the quote to text[start:i + 1] for each i.

    `free` minimises over start; otherwise start is 0.
    """
    size = len(quote)
    mask, top = (1 << size) - 1, 1 << (size - 1)
    rows: dict[str, int] = {}
    for i, c in enumerate(quote):
        rows[c] = rows.get(c, 0) | 1 << i
    up, down, edits = mask, 0, size
    border = 0 if free else 1
    found: list[int] = []
    for equal in map(rows.get, text, repeat(0)):
        vertical = equal | down
        across = (((equal & up) + up) ^ up) | equal
        more = down | ~(across | up)
        less = up & across
        if more & top:
            edits += 1
        elif less & top:
            edits -= 1
        more = more << 1 | border
        less <<= 1
        up = (less | ~(vertical | more)) & mask
        down = more & vertical & mask
        found.append(edits)
    return found


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())
