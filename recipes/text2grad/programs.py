"""A family of small code problems, as files for the task `code`.

    Change s: upper case, backwards, twice.        def change(s):
                                                       s = s.upper()
                                                       s = s[::-1]
                                                       s = s * 2
                                                       return s

Three or four of twelve steps on a text, a line each. A typical mistake is a method of another language
(`s.trim()`): it raises in exactly that line, which a critic that runs programs can mark. A valid step in the
wrong place gives a wrong value and marks no line.

Problems of the warm start, of training, of evaluation and of the reward model's annotated answers have no
list of steps in common.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from didact.rng import derive_seed


class Step(NamedTuple):
    """The wording, the line of Python, and the methods of other languages."""

    asked: str
    right: str
    foreign: str


STEPS = (
    Step("upper case", "s.upper()", "s.toUpperCase()"),
    Step("lower case", "s.lower()", "s.toLowerCase()"),
    Step("trimmed", "s.strip()", "s.trim()"),
    Step("capitalised", "s.capitalize()", "s.ucfirst()"),
    Step("case swapped", "s.swapcase()", "s.swapCase()"),
    Step("title case", "s.title()", "s.toTitle()"),
    Step("backwards", "s[::-1]", "s.reverse()"),
    Step("first letter off", "s[1:]", "s.substring(1)"),
    Step("last letter off", "s[:-1]", "s.chop()"),
    Step("twice", "s * 2", "s.repeat(2)"),
    Step("a dot added", 's + "."', 's.concat(".")'),
    Step("padded to nine", "s.zfill(9)", "s.padStart(9)"),
)
INPUTS = (" one Two", "aBc dEf ", "xY")
"""Arguments of the tests."""
COUNTS = {"warm": 4_000, "train": 1_200, "eval": 400, "annotate": 600}
FOREIGN, MISTAKEN = 0.25, 0.05
"""Probabilities that a line of a half-trained answer is of another language, or of another step."""

Steps = tuple[int, ...]


def split(seed: int = 0) -> dict[str, list[Steps]]:
    """Lists of steps by purpose, disjoint."""
    indices = range(len(STEPS))
    every = [*itertools.permutations(indices, 3), *itertools.permutations(indices, 4)]
    # One in six has three steps; of all lists, one in ten has.
    rng = random.Random(derive_seed(seed, "text2grad-programs"))
    rng.shuffle(every)
    short, long = ([s for s in every if len(s) == n] for n in (3, 4))
    found: dict[str, list[Steps]] = {}
    for name, count in COUNTS.items():
        few = count // 6
        found[name] = [*(short.pop() for _ in range(few)), *(long.pop() for _ in range(count - few))]
        rng.shuffle(found[name])
    return found


def statement(steps: Steps) -> str:
    """The problem's statement."""
    return f"Change s: {', '.join(STEPS[i].asked for i in steps)}."


def program(lines: Iterable[str]) -> str:
    """A program of these lines."""
    return "def change(s):\n" + "".join(f"    s = {line}\n" for line in lines) + "    return s\n"


def answer(lines: Iterable[str]) -> str:
    """The same as an answer."""
    return f"```python\n{program(lines)}```"


def row(name: str, number: int, steps: Steps) -> dict[str, Any]:
    """One problem of the task `code`, in its native format."""
    right = program(STEPS[i].right for i in steps)
    return {
        "id": f"{name}-{number}", "prompt": statement(steps), "signature": "def change(s):",
        "tests": [f"change({given!r}) == {result(steps, given)!r}" for given in INPUTS], "reference": right,
    }  # fmt: skip


def result(steps: Steps, given: str) -> str:
    """The right program's output for a text."""
    for i in steps:
        given = eval(STEPS[i].right, {"__builtins__": {}}, {"s": given})  # our own lines
    return given


def half_taught(steps: Steps, rng: random.Random) -> str:
    """An answer in the right form, with some lines wrong."""
    lines = []
    for i in steps:
        draw = rng.random()
        if draw < FOREIGN:
            lines.append(STEPS[i].foreign)
        elif draw < FOREIGN + MISTAKEN:
            lines.append(rng.choice(STEPS).right)
        else:
            lines.append(STEPS[i].right)
    return answer(lines)


def write(folder: Path, names: Sequence[str] = ("train", "eval", "annotate")) -> None:
    """Write NAME.jsonl for each purpose: values for `task.settings.path` and `eval_path`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lists in split().items():
        if name in names:
            rows = [json.dumps(row(name, i, steps)) for i, steps in enumerate(lists)]
            (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
