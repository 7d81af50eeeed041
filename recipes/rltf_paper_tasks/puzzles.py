"""The three puzzles, made small, and the examples for a small model's supervised warm start.

The warm model knows the form of an answer and of a critique, solves some puzzles and can use a hint. It
learns that from three kinds of examples: first answers, revisions of a wrong attempt after a hint,
critiques. First answers are the reference with mistakes put in, because a model that is certain explores
nothing. Problems come from a range of seeds of their own: no evaluation problem is used, and no training
problem of the runs is among them by number.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from didact.feedback.program import RIGHT, WRONG, Level
from didact.feedback.puzzle_critic import PuzzleCritic
from didact.prompts import critique_messages, revision_messages
from didact.rng import derive_seed
from didact.tasks import make_task
from didact.tasks.base import Task
from didact.types import Message, Problem

PUZZLES: dict[str, dict[str, Any]] = {
    "knights_knaves": {"n_people": 2, "depth_constraint": 2, "width_constraint": 2},
    "binary_matrix": {"min_n": 3, "max_n": 4, "p_zero": 0.25},
    "shortest_path": {"min_rows": 3, "max_rows": 4, "min_cols": 3, "max_cols": 4, "p_blocked": 0.3},
}
"""The generators of the RLTF paper, with settings that a small model can start on."""
TASK_SEED = 99
"""Run seed of the warm start's problems; the runs use others."""
POOL = 3_000
"""Different problems per puzzle."""
SHARES = {"knights_knaves": 8, "binary_matrix": 2, "shortest_path": 3}
KINDS = {"answer": 4, "revise": 11, "criticise": 2}
"""Relative sampling weights of puzzles and kinds of example."""
NOISE = {"knights_knaves": 0.3, "binary_matrix": 0.35, "shortest_path": 0.9}
"""Error rates of a person's role, a cell, or a path in first answers of the warm start."""
DIRECTIONS = ("right", "down", "left", "up")


class Example(NamedTuple):
    """Messages, and the target answer."""

    kind: str
    puzzle: str
    messages: tuple[Message, ...]
    answer: str


@cache
def task(name: str) -> Task:
    """A puzzle with the warm start's own training problems."""
    return make_task(name, PUZZLES[name], seed=TASK_SEED)


def draw(seed: int, start: int, stop: int) -> Iterator[tuple[Sequence[Message], str]]:
    """Examples `start` to `stop` of an endless stream."""
    for found in examples(seed, start, stop):
        yield found.messages, found.answer


def examples(seed: int, start: int, stop: int) -> Iterator[Example]:
    """The same, with their kinds."""
    for index in range(start, stop):
        rng = random.Random(derive_seed(seed, "rltf_warm_start", index))
        puzzle = rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]
        kind = rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
        yield _KINDS[kind](kind, puzzle, rng)


def _answer(kind: str, puzzle: str, rng: random.Random) -> Example:
    problem = _problem(puzzle, rng)
    return Example(kind, puzzle, problem.messages, attempt(puzzle, problem, rng, NOISE[puzzle]))


def _revise(kind: str, puzzle: str, rng: random.Random) -> Example:
    problem = _problem(puzzle, rng)
    tried = _wrong(puzzle, problem, rng)
    messages = revision_messages(problem, tried, critique(puzzle, problem, tried))
    return Example(kind, puzzle, messages, reference(puzzle, problem))


def _criticise(kind: str, puzzle: str, rng: random.Random) -> Example:
    problem = _problem(puzzle, rng)
    tried = attempt(puzzle, problem, rng, NOISE[puzzle])
    return Example(kind, puzzle, critique_messages(problem, tried), critique(puzzle, problem, tried))


_KINDS: dict[str, Callable[[str, str, random.Random], Example]] = {
    "answer": _answer, "revise": _revise, "criticise": _criticise,
}  # fmt: skip


def critique(puzzle: str, problem: Problem, answer: str) -> str:
    """The runs' own critique of an answer at level `hint`: where it is wrong, not what is right."""
    if task(puzzle).verify(problem, answer).correct:
        return RIGHT
    return " ".join([WRONG, *PuzzleCritic(task(puzzle), Level.HINT).mistakes(problem, answer)])


def reference(puzzle: str, problem: Problem) -> str:
    """A right answer; of several shortest paths the generator's."""
    return attempt(puzzle, problem, random.Random(0), 0.0)


def attempt(puzzle: str, problem: Problem, rng: random.Random, noise: float) -> str:
    """An answer in the right form, with mistakes at the rate `noise`, in [0, 1]."""
    return _ATTEMPTS[puzzle](problem.metadata, rng, noise)


def _wrong(puzzle: str, problem: Problem, rng: random.Random) -> str:
    """A wrong attempt, with one mistake up to all places wrong."""
    while True:
        tried = attempt(puzzle, problem, rng, rng.uniform(0.05, 1.0))
        if not task(puzzle).verify(problem, tried).correct:
            return tried


def _problem(puzzle: str, rng: random.Random) -> Problem:
    return task(puzzle).train_problem(rng.randrange(POOL))


def _roles(problem: dict[str, Any], rng: random.Random, noise: float) -> str:
    terms = problem["knight_knave_terms"]
    claims = [
        f"{name} is {terms['a_knight'] if honest != (rng.random() < noise) else terms['a_knave']}"
        for name, honest in zip(problem["names"], problem["solution"], strict=True)
    ]
    return ", ".join(claims[:-1]) + f", and {claims[-1]}."


def _distances(problem: dict[str, Any], rng: random.Random, noise: float) -> str:
    def cell(right: int, given: int) -> int:
        """A wrong distance is off by one; a 0 is never wrong."""
        if given == 0 or rng.random() >= noise:
            return right
        return rng.choice([n for n in (right - 1, right + 1) if n > 0])

    rows = zip(problem["solution"], problem["matrix"], strict=True)
    return "\n".join(" ".join(str(cell(*pair)) for pair in zip(*row, strict=True)) for row in rows)


def _path(problem: dict[str, Any], rng: random.Random, noise: float) -> str:
    """The shortest path, or with probability `noise` one that ignores blocked cells or has a wrong step."""
    best = problem["solution"]
    if rng.random() >= noise:
        return " ".join(best) if best else "infeasible"
    how = rng.random()
    if how < 0.1:
        return "infeasible"
    if how < 0.6 or not best:
        return " ".join(_straight(problem["matrix"], rng))
    steps = list(best)
    if how < 0.9:
        steps[rng.randrange(len(steps))] = rng.choice(DIRECTIONS)
    else:
        steps.append(rng.choice(DIRECTIONS))
    return " ".join(steps)


def _straight(grid: Sequence[Sequence[str]], rng: random.Random) -> list[str]:
    """A shortest path of the grid without its blocked cells."""
    cells = {cell: (r, c) for r, row in enumerate(grid) for c, cell in enumerate(row)}
    (top, left), (bottom, right) = cells["*"], cells["#"]
    steps = ["down" if bottom > top else "up"] * abs(bottom - top)
    steps += ["right" if right > left else "left"] * abs(right - left)
    rng.shuffle(steps)
    return steps


_ATTEMPTS: dict[str, Callable[[dict[str, Any], random.Random, float], str]] = {
    "knights_knaves": _roles, "binary_matrix": _distances, "shortest_path": _path,
}  # fmt: skip
