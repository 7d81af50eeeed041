"""The three puzzles, made small, and the examples on which a small model is warmed up for them.

The warm model knows how an answer and a critique look, answers some puzzles and can use a hint. It does
so from three kinds of examples: first answers, revisions of a wrong attempt after a hint, critiques.
First answers are the reference with mistakes put in, because a model that is sure of itself explores
nothing. Problems come from a seed range of their own: no evaluation problem is asked, and none of the
problems that the runs train on is among them by number.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from didact.feedback.program import RIGHT, WRONG, Level
from didact.feedback.puzzle_critic import PuzzleCritic
from didact.rendering.renderer import critique_messages, revision_messages
from didact.rng import derive_seed
from didact.tasks.procedural import BoxedProceduralTask
from didact.types import Message, Problem

PUZZLES: dict[str, dict[str, Any]] = {
    "knights_knaves": {"n_people": 2, "depth_constraint": 2, "width_constraint": 2},
    "binary_matrix": {"min_n": 3, "max_n": 4, "p_zero": 0.25},
    "shortest_path": {"min_rows": 3, "max_rows": 4, "min_cols": 3, "max_cols": 4, "p_blocked": 0.3},
}
"""The generators of the RLTF paper and the settings that a small model can start on."""
TASK_SEED = 99
"""The run seed whose training problems the warm-up takes: seeds of runs are others."""
POOL = 3_000
"""Different problems a puzzle."""
SHARES = {"knights_knaves": 8, "binary_matrix": 2, "shortest_path": 3}
KINDS = {"answer": 4, "revise": 11, "criticise": 2}
"""How often each puzzle and each kind of example is drawn (relative weights)."""
NOISE = {"knights_knaves": 0.3, "binary_matrix": 0.35, "shortest_path": 0.9}
"""How often a person's role, a cell, or a path is wrong in a first answer of the warm-up."""
DIRECTIONS = ("right", "down", "left", "up")


class Example(NamedTuple):
    """What the model reads, and the answer that it is trained to give."""

    kind: str
    puzzle: str
    messages: tuple[Message, ...]
    answer: str


@cache
def task(name: str) -> BoxedProceduralTask:
    """A puzzle with the warm-up's own training problems."""
    return BoxedProceduralTask(name, PUZZLES[name], seed=TASK_SEED)


def draw(seed: int, start: int, stop: int) -> Iterator[tuple[Sequence[Message], str]]:
    """Examples number `start` to `stop` of the endless stream that `seed` names."""
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
    """What the runs' own critic says of an answer, at level `hint`: where, never what."""
    if task(puzzle).verify(problem, answer).correct:
        return RIGHT
    return " ".join([WRONG, *PuzzleCritic(task(puzzle), Level.HINT).mistakes(problem, answer)])


def reference(puzzle: str, problem: Problem) -> str:
    """A right answer; of several shortest paths the generator's."""
    return attempt(puzzle, problem, random.Random(0), 0.0)


def attempt(puzzle: str, problem: Problem, rng: random.Random, noise: float) -> str:
    """An answer in the right form, with mistakes that come by `noise`, in [0, 1]."""
    return _ATTEMPTS[puzzle](problem.metadata, rng, noise)


def _wrong(puzzle: str, problem: Problem, rng: random.Random) -> str:
    """An attempt that is not right: from one mistake to nothing but mistakes."""
    while True:
        tried = attempt(puzzle, problem, rng, rng.uniform(0.05, 1.0))
        if not task(puzzle).verify(problem, tried).correct:
            return tried


def _problem(puzzle: str, rng: random.Random) -> Problem:
    return task(puzzle).train_problem(rng.randrange(POOL))


def _roles(problem: dict[str, Any], rng: random.Random, noise: float) -> str:
    terms = problem["knight_knave_terms"]
    said = [
        f"{name} is {terms['a_knight'] if honest != (rng.random() < noise) else terms['a_knave']}"
        for name, honest in zip(problem["names"], problem["solution"], strict=True)
    ]
    return ", ".join(said[:-1]) + f", and {said[-1]}."


def _distances(problem: dict[str, Any], rng: random.Random, noise: float) -> str:
    def cell(right: int, given: int) -> int:
        """A mistaken distance is off by one; nobody overlooks a 0."""
        if given == 0 or rng.random() >= noise:
            return right
        return rng.choice([n for n in (right - 1, right + 1) if n > 0])

    rows = zip(problem["solution"], problem["matrix"], strict=True)
    return "\n".join(" ".join(str(cell(*pair)) for pair in zip(*row, strict=True)) for row in rows)


def _path(problem: dict[str, Any], rng: random.Random, noise: float) -> str:
    """The shortest path, or with probability `noise` one that minds no blocked cell, or has a wrong step."""
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
