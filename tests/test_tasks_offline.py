"""A data file as a task: its answers are the first turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from didact.errors import DataError, UsageError
from didact.rollouts.multi_turn import two_turn
from didact.types import Example, Feedback, Problem, Provenance
from tests.helpers import CountingCritic, ScriptedEngine, context, offline_task


def row(
    i: int, answer: str = "7", *, reference: str | None = "4", text: str = "No.", by: str = "human"
) -> Example:
    feedback = Feedback(
        text=text, source=by, saw_reference=False, score=0.0, provenance=Provenance(author="ann")
    )
    problem = Problem.ask(f"What is {i} + {4 - i}?", id=f"q{i}/{answer}", reference=reference)
    return Example(id=f"{i}/{answer}", problem=problem, completion=answer, feedback=(feedback,))


def save(path: Path, rows: list[Example]) -> Path:
    path.write_text("".join(r.model_dump_json() + "\n" for r in rows), encoding="utf-8")
    return path


def test_given_answers_are_first_turns_without_logprobs(tmp_path: Path) -> None:
    task = offline_task(save(tmp_path / "fb.jsonl", [row(i, a) for i in range(6) for a in ("7", "4")]))
    assert task.offline is task
    problem = task.train_problem(0)
    assert task.answers(problem) == ("7", "4")
    ctx = context(ScriptedEngine(lambda text, j: "4"), CountingCritic(), task=task, offline=task)
    rollouts = two_turn(ctx, [problem], 3)
    assert [r.turns[0].text for r in rollouts] == ["7", "4", "7"]
    assert [r.turns[0].correct for r in rollouts] == [False, True, False]
    assert all(r.turns[0].logprobs is None for r in rollouts)
    assert [len(r.turns) for r in rollouts] == [2, 1, 2], "a right answer needs no revision"
    assert rollouts[0].sampled_tokens == len(rollouts[0].turns[1].completion_ids)


def test_training_and_evaluation_ask_different_questions(tmp_path: Path) -> None:
    task = offline_task(save(tmp_path / "fb.jsonl", [row(i) for i in range(20)]), eval_fraction=0.3)
    trained = {task.train_problem(i).question for i in range(40)}
    asked = {p.question for p in task.eval_problems(100)}
    assert trained
    assert asked
    assert not trained & asked


def test_a_reference_of_any_row_of_a_question_counts(tmp_path: Path) -> None:
    rows = [row(1, "7", reference=None), row(1, "8"), *(row(i) for i in range(2, 4))]
    task = offline_task(save(tmp_path / "fb.jsonl", rows))
    assert all(p.reference == "4" for p in task.all_problems())


def test_only_words_by_the_named_sources_are_trained_on(tmp_path: Path) -> None:
    rows = [row(i, by="judge") for i in range(3)] + [row(i, "8") for i in range(3)]
    file = save(tmp_path / "fb.jsonl", rows)
    assert {a for p in offline_task(file).all_train_problems() for a in offline_task(file).answers(p)} == {
        "7",
        "8",
    }
    people = offline_task(file, critique_sources=["human"])
    assert {a for p in people.all_train_problems() for a in people.answers(p)} == {"8"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(1)], "one prompt"),
        ([row(1), row(1, "8", reference="5"), row(2)], "'4', '5'|'7', '5'|'5'"),
        ([row(i, text="") for i in range(4)], "no answer with a critique in words"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(rows: list[Example], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        offline_task(save(tmp_path / "fb.jsonl", rows))


def test_patterns_are_no_answers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not patterns"):
        offline_task(save(tmp_path / "fb.jsonl", [row(1), row(2)]), verifier="regex")
