"""A critic by program for the three puzzles of the RLTF paper.

A word-by-word comparison (`program`) would be wrong here: people may be named in any order, there may be
several shortest paths, and a matrix has rows. This critic parses the answer:

    knights_knaves   people with the wrong role, or with none
    binary_matrix    wrong rows and columns, or missing ones
    shortest_path    the step that leaves the grid or meets a blocked cell; or the wrong end or length

Levels as in `program`: `verdict`, `hint` (where) and `reveal` (also the right element).

Wrong roles, cells and steps are poor spans with the sentence that names them; right roles and cells are good
spans. In a path only the step that fails has a span, because the steps before it may be wrong too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from didact.errors import UsageError, did_you_mean
from didact.feedback.program import Diagnosis, Level, Mistake, Place, program_feedback, runs
from didact.feedback_source import FeedbackRequest
from didact.tasks.math.answers import BOX
from didact.tasks.reasoning_gym import ReasoningGymTask
from didact.types import Feedback, Problem, Span

MAX_MISTAKES = 16
NO_BOX = r"There is no final answer in a \boxed{}."
_STEPS = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}


class PuzzleCritic:
    """Writes critiques from a puzzle's own solution.

    Args:
        task: The puzzle; it also extracts the final answer from a text.
        level: How much a critique reveals; `direction` equals `hint`.

    Raises:
        UsageError: the task is not one of the three puzzles.
    """

    def __init__(
        self, task: ReasoningGymTask, level: Level | str = Level.REVEAL, *, spans: bool = True
    ) -> None:
        if task.name not in MISTAKES:
            raise UsageError(
                f"there is no puzzle critic for {task.name!r}: {did_you_mean(task.name, MISTAKES)}"
            )
        self.task, self.level, self.with_spans = task, Level(level), spans

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback per request, in order."""
        return [self._one(request) for request in requests]

    def _one(self, request: FeedbackRequest) -> Feedback:
        found = None if request.turn.correct else self._read(request.problem, request.turn.answer)
        return program_feedback(request, f"puzzle:{self.level}", found, with_spans=self.with_spans)

    def mistakes(self, problem: Problem, answer: str) -> list[str]:
        """Sentences about the mistakes of an answer; none at level `verdict`."""
        return [mistake.sentence for mistake in self._read(problem, answer).mistakes]

    def spans(self, problem: Problem, answer: str) -> tuple[Span, ...]:
        """The spans of a wrong answer, poor ones with their sentence of `mistakes`.

        There are none at level `verdict`, or if the place of the final answer is uncertain.
        """
        return self._read(problem, answer).spans(answer)

    def _read(self, problem: Problem, answer: str) -> Diagnosis:
        if self.level is Level.VERDICT:
            return Diagnosis()
        final = self.task.final_answer(answer)
        if final is None:
            return Diagnosis([Mistake(NO_BOX)])
        found = MISTAKES[self.task.name](problem.metadata, final, self.level is Level.REVEAL)
        start = _place_of(final, answer, self.task.boxed)
        mistakes = [Mistake(m.sentence, _moved(m.places, start)) for m in found.mistakes[:MAX_MISTAKES]]
        return Diagnosis(mistakes, _moved(found.right, start))


def _place_of(final: str, answer: str, in_box: bool) -> int | None:
    """The start of the final answer; None if it is uncertain."""
    if not in_box:
        return len(answer) - len(answer.lstrip())
    inside = max((box.end() for box in BOX.finditer(answer)), default=len(answer))
    start = inside + len(answer[inside:]) - len(answer[inside:].lstrip())
    return start if answer.startswith(final, start) else None


def _moved(places: Sequence[Place], by: int | None) -> list[Place]:
    """Places in the final answer as places in the whole one; none if it is uncertain."""
    return [] if by is None else [(start + by, end + by) for start, end in places]


def _knights(puzzle: Mapping[str, Any], answer: str, reveal: bool) -> Diagnosis:
    terms = puzzle["knight_knave_terms"]
    found, right = [], []
    for name, honest in zip(puzzle["names"], puzzle["solution"], strict=True):
        role = role_of(name, terms, answer)
        places = [role.span()] if role else []
        wanted = terms["knight"] if honest else terms["knave"]
        if role and role[1].lower() == wanted.lower():
            right += places
            continue
        if reveal:
            sentence = f"{name} is {terms['a_knight'] if honest else terms['a_knave']}."
        else:
            sentence = f"The role of {name} is wrong." if role else f"The role of {name} is missing."
        found.append(Mistake(sentence, places))
    if found:
        return Diagnosis(found, right)
    form = f'Write it as "{puzzle["names"][0]} is {terms["a_knight"]}", for every person once.'
    return Diagnosis([Mistake(form)])


def role_of(name: str, terms: Mapping[str, str], answer: str) -> re.Match[str] | None:
    """The last statement of a person's role in an answer; group 1 is the role."""
    pattern = rf"\b{re.escape(name)}\s+is\s+an?\s+({terms['knight']}|{terms['knave']})\b"
    stated = list(re.finditer(pattern, answer, re.IGNORECASE))
    return stated[-1] if stated else None


def _matrix(puzzle: Mapping[str, Any], answer: str, reveal: bool) -> Diagnosis:
    wanted = puzzle["solution"]
    rows = _cells(answer)
    places = [[cell.span() for cell in row] for row in rows]
    if odd := [cell.span() for row in rows for cell in row if not cell[0].isdigit()]:
        return Diagnosis([Mistake("Write only numbers with spaces between them, one row a line.", odd)])
    found: list[Mistake] = []
    right: list[Place] = []
    if len(rows) != len(wanted):
        surplus = [place for row in places[len(wanted) :] for place in runs(row, range(len(row)))]
        found.append(Mistake(f"There should be {len(wanted)} rows, not {len(rows)}.", surplus))
    for r, want in enumerate(wanted):
        got = [cell[0] for cell in rows[r]] if r < len(rows) else []
        at = places[r] if r < len(rows) else []
        if r < len(rows) and len(got) != len(want):
            sentence = f"Row {r + 1} should have {len(want)} numbers, not {len(got)}."
            found.append(Mistake(sentence, runs(at, range(len(want), len(got)))))
        same = [c for c, number in enumerate(want) if c < len(got) and got[c] == str(number)]
        right += runs(at, same)
        for c, number in enumerate(want):
            if c in same:
                continue
            if reveal:
                found.append(Mistake(f"Row {r + 1}, column {c + 1} should be {number}.", at[c : c + 1]))
            elif c < len(got):
                found.append(Mistake(f"Row {r + 1}, column {c + 1} is wrong.", at[c : c + 1]))
    if found:
        return Diagnosis(found, right)
    return Diagnosis([Mistake("Write one row a line, with single spaces between the numbers.")])


def _cells(answer: str) -> list[list[re.Match[str]]]:
    """The cells of each row."""
    rows, at = [], len(answer) - len(answer.lstrip())
    for line in answer.strip().splitlines(keepends=True):
        rows.append(list(re.compile(r"\S+").finditer(answer, at, at + len(line))))
        at += len(line)
    return rows


def _path(puzzle: Mapping[str, Any], answer: str, reveal: bool) -> Diagnosis:
    best = puzzle["solution"]
    steps = answer.split()
    places = [m.span() for m in re.finditer(r"\S+", answer)]
    everything = runs(places, range(len(places)))
    shown = [Mistake(f"A shortest path is: {' '.join(best)}.")] if reveal and best else []
    if not best:
        sentence = "There is no path: the answer is infeasible." if reveal else "No open cells lead there."
        return Diagnosis([Mistake(sentence, everything)])
    if steps == ["infeasible"]:
        return Diagnosis([Mistake("There is a path.", everything), *shown])
    if unknown := [i for i, step in enumerate(steps) if step not in _STEPS]:
        sentence = f"{steps[unknown[0]][:20]!r} is no direction: write only right, down, left and up."
        return Diagnosis([Mistake(sentence, [places[unknown[0]]]), *shown])
    sentence, failed = _walked(puzzle["matrix"], steps, len(best))
    return Diagnosis([Mistake(sentence, [] if failed is None else [places[failed]]), *shown])


def _walked(grid: Sequence[Sequence[str]], steps: Sequence[str], shortest: int) -> tuple[str, int | None]:
    """The first mistake of a path, and the index of the step that fails, if one does."""
    r, c = _place(grid, "*")
    for number, step in enumerate(steps, start=1):
        r, c = r + _STEPS[step][0], c + _STEPS[step][1]
        if not (0 <= r < len(grid) and 0 <= c < len(grid[0])):
            return f"Step {number} ({step}) leaves the grid.", number - 1
        if grid[r][c] == "X":
            return f"Step {number} ({step}) goes into a blocked cell.", number - 1
    if grid[r][c] != "#":
        down, right = (end - at for end, at in zip(_place(grid, "#"), (r, c), strict=True))
        where = [f"{abs(n)} {more if n > 0 else less}" for n, more, less in
                 ((down, "down", "up"), (right, "right", "left")) if n]  # fmt: skip
        return f"The path ends before the destination, which is {' and '.join(where)} of there.", None
    return f"The path has {len(steps)} steps, but there is a shorter one of {shortest}.", None


def _place(grid: Sequence[Sequence[str]], cell: str) -> tuple[int, int]:
    return next((r, c) for r, row in enumerate(grid) for c, found in enumerate(row) if found == cell)


MISTAKES: dict[str, Callable[[Mapping[str, Any], str, bool], Diagnosis]] = {
    "knights_knaves": _knights,
    "binary_matrix": _matrix,
    "shortest_path": _path,
}
"""The parser of an answer by generator: (metadata, answer, reveal) -> Diagnosis."""
