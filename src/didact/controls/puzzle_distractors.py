"""False solutions to the three puzzles of `puzzle_critic`, each made so that what the critic says who goes
by it is false from the first word to the last.

    knights_knaves   the roles as the answer gives them, but one that is right is turned round
    binary_matrix    the matrix as the answer gives it, but one cell that is right is changed
    shortest_path    of a right answer: one step fewer than a shortest path has

Where an answer leaves no room for such a lie, as a path through a wall, there is no false solution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from didact.feedback.puzzle_critic import role_of

Solution = Any
"""What stands under "solution" in a puzzle's metadata."""


def _knights(puzzle: Mapping[str, Any], answer: str, right: bool, rng: np.random.Generator) -> Solution:
    terms = puzzle["knight_knave_terms"]
    found = [role_of(name, terms, answer) for name in puzzle["names"]]
    said = [None if role is None else role[1].lower() == terms["knight"].lower() for role in found]
    if None in said:
        return None
    same = [i for i, honest in enumerate(puzzle["solution"]) if said[i] == bool(honest)]
    if not same:
        return None
    turned = int(rng.choice(same))
    return [honest != (i == turned) for i, honest in enumerate(said)]


def _matrix(puzzle: Mapping[str, Any], answer: str, right: bool, rng: np.random.Generator) -> Solution:
    rows = [line.split() for line in answer.strip().splitlines()]
    if not all(cell.isdigit() for row in rows for cell in row):
        return None
    wanted = puzzle["solution"]
    same = [
        (r, c)
        for r, row in enumerate(wanted)
        for c, number in enumerate(row)
        if r < len(rows) and c < len(rows[r]) and rows[r][c] == str(number)
    ]
    if not same:
        return None
    r, c = same[int(rng.integers(len(same)))]
    numbers = sorted({int(n) for row in wanted for n in row} - {int(rows[r][c])})
    rows[r][c] = str(rng.choice(numbers) if numbers else int(rows[r][c]) + 1)
    return rows


def _path(puzzle: Mapping[str, Any], answer: str, right: bool, rng: np.random.Generator) -> Solution:
    if not right:
        return None  # what the critic says of a wrong path goes by the grid, which is as it is
    best = list(puzzle["solution"])
    if not best:
        return [str(rng.choice(["right", "down", "left", "up"]))]
    gone = int(rng.integers(len(best)))
    return best[:gone] + best[gone + 1 :]


PUZZLE_DECOYS: dict[str, Callable[[Mapping[str, Any], str, bool, np.random.Generator], Solution]] = {
    "knights_knaves": _knights,
    "binary_matrix": _matrix,
    "shortest_path": _path,
}
"""(metadata, final answer, is it right, draws) -> a false solution, or None where there is none."""
