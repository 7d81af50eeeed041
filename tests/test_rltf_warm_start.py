"""What the small model for the RLTF paper's puzzles is shown."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from didact.config import parse_config, read_yaml
from tests.helpers import generator_task

RECIPE = Path(__file__).parent.parent / "recipes" / "rltf_paper_tasks"
if not RECIPE.is_dir():
    pytest.skip("the recipes are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(RECIPE))

import puzzles  # noqa: E402  # the recipe's own module


@pytest.fixture(scope="module", autouse=True)
def small_pool():
    """Fewer problems, because a puzzle of people takes its time to make."""
    before, puzzles.POOL = puzzles.POOL, 60
    yield
    puzzles.POOL = before


def test_no_evaluation_problem_is_asked_and_every_revision_is_right():
    held_out = {p.question for name in puzzles.PUZZLES for p in puzzles.task(name).eval_problems(1_000)}
    problems = {
        p.question: (name, p)
        for name in puzzles.PUZZLES
        for p in (puzzles.task(name).train_problem(i) for i in range(puzzles.POOL))
    }
    seen = dict.fromkeys(puzzles.KINDS, 0)
    for example in puzzles.examples(3, 0, 400):
        text = "\n".join(m.content for m in example.messages)
        assert not any(question in text for question in held_out)
        seen[example.kind] += 1
        asked = [(name, p) for question, (name, p) in problems.items() if question in text]
        assert [name for name, _ in asked] == [example.puzzle]
        if example.kind == "revise":
            assert puzzles.task(example.puzzle).verify(asked[0][1], example.answer).correct
    assert all(seen.values())


@pytest.mark.parametrize("name", puzzles.PUZZLES)
def test_mistakes_come_by_noise(name):
    task = puzzles.task(name)
    rng = random.Random(0)

    def right(noise):
        problems = [task.train_problem(i) for i in range(40)]
        return sum(task.verify(p, puzzles.attempt(name, p, rng, noise)).correct for p in problems)

    assert right(0.0) == 40
    assert right(1.0) < right(0.2) < 40


def test_a_hint_tells_where_and_never_what():
    task = puzzles.task("binary_matrix")
    problem = task.train_problem(0)
    wrong = puzzles.reference("binary_matrix", problem).replace("1", "9", 1)
    said = puzzles.critique("binary_matrix", problem, wrong)
    assert "is wrong" in said
    assert "should be" not in said
    assert "9" not in said


def test_the_stream_is_the_same_wherever_it_is_entered():
    assert list(puzzles.examples(5, 0, 40))[30:] == list(puzzles.examples(5, 30, 40))


@pytest.mark.parametrize("file", ["sweep.yaml", "quick.yaml", "ablation.yaml"])
def test_the_sweeps_ask_the_puzzles_that_the_model_was_warmed_up_on(file):
    for name, own in read_yaml(RECIPE / file)["tasks"].items():
        assert own["task"]["settings"] == puzzles.PUZZLES[name]
        generator_task(name, own["task"]["settings"])
        parse_config({"method": "grpo", "task": {"name": name, **own["task"]}})
