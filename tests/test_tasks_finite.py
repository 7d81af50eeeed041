"""Tasks from files: what is kept for evaluation, and in which order the rest comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from didact.types import Example, Feedback, Problem, Provenance
from tests.helpers import code_task, math_task, offline_task, prompts_task, writing_task

IDS = "abcdefghij"
SAID = Feedback(text="No.", source="human", saw_reference=False, provenance=Provenance(author="ann"))


def prompt_row(i: str) -> dict[str, Any]:
    return {"id": i, "prompt": f"What is {i}?", "reference": i}


def math_row(i: str) -> dict[str, Any]:
    return {"id": i, "problem": f"What is {i}?", "answer": "1"}


def code_row(i: str) -> dict[str, Any]:
    return {
        "id": i, "prompt": f"Return {i}.", "signature": f"def {i}(x)",
        "tests": [f"assert {i}(1) == 1"], "reference": f"def {i}(x):\n    return x\n",
    }  # fmt: skip


def answered_row(i: str) -> dict[str, Any]:
    problem = Problem.ask(f"What is {i}?", id=i, reference=i)
    return Example(id=f"{i}/0", problem=problem, completion="7", feedback=(SAID,)).model_dump(mode="json")


KINDS: dict[str, tuple[Callable[..., Any], Callable[[str], dict[str, Any]]]] = {
    "prompts": (prompts_task, prompt_row),
    "writing": (writing_task, prompt_row),
    "math": (math_task, math_row),
    "code": (partial(code_task, unsafe_local_exec=True), code_row),
    "offline": (offline_task, answered_row),
}


def file_of(rows: Iterable[dict[str, Any]], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def ids(problems: Iterable[Problem]) -> str:
    return "".join(problem.id for problem in problems)


@pytest.mark.parametrize(
    ("kind", "held_out", "passes"),
    [
        ("prompts", "hefg", ["jdciba", "abdjci"]),
        ("writing", "hefg", ["jdciba", "abdjci"]),
        ("math", "adjg", ["hiefcb", "cebfih"]),
        ("code", "ghe", ["dbjfaci", "fbdjiac"]),
        ("offline", "abh", ["fcgiedj", "dgcijef"]),
    ],
)
def test_split_and_order_are_those_of_earlier_versions(
    kind: str, held_out: str, passes: list[str], tmp_path: Path
) -> None:
    """A resumed run and a repeated one must meet the same problems in the same order."""
    make, row = KINDS[kind]
    task = make(file_of(map(row, IDS), tmp_path / "rows.jsonl"), eval_fraction=0.3, seed=7)
    n = len(task.all_train_problems())
    assert ids(task.eval_problems(99)) == held_out
    assert [ids(task.train_problem(e * n + i) for i in range(n)) for e in range(2)] == passes
    assert ids(task.all_problems()) == ids(task.all_train_problems()) + held_out
    assert sorted(ids(task.all_problems())) == list(IDS)
    assert task.files == (tmp_path / "rows.jsonl",)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_file_is_for_evaluation_only(kind: str, tmp_path: Path) -> None:
    make, row = KINDS[kind]
    train = file_of(map(row, IDS[:3]), tmp_path / "train.jsonl")
    held_out = file_of(map(row, IDS[5:]), tmp_path / "eval.jsonl")
    task = make(train, eval_path=held_out)
    assert ids(task.all_train_problems()) == IDS[:3]
    assert ids(task.eval_problems(2)) == IDS[5:7]
    assert task.files == (train, held_out)
