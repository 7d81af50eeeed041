"""The recipe runs all three stages and goes on where it stopped; its problems, its study and its tables."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from didact.feedback.code import CodeCritic
from didact.feedback_source import FeedbackRequest
from didact.sweep.plan import read_plan
from didact.tasks import make_task
from didact.tasks.code import CodeTask
from didact.types import Turn

RECIPE = Path(__file__).parents[1] / "recipes" / "text2grad"
if not RECIPE.exists():
    pytest.skip("the recipes are not beside the tests", allow_module_level=True)


def load(name: str = "run") -> ModuleType:
    """A script of the recipe, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"text2grad_recipe_{name}", RECIPE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_all_stages_run_with_one_command_and_are_not_run_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load()
    from tests.helpers import didact

    calls: list[tuple[str, ...]] = []

    def here(*words: object, allowed: tuple[int, ...] = (0,), to: Path | None = None) -> None:
        calls.append(tuple(map(str, words)))
        assert didact(*words) in allowed

    monkeypatch.setattr(recipe, "didact", here)
    command = ["--quick", "--task", "spell_backward", "--out", str(tmp_path / "all")]
    recipe.main(command)
    assert [c[:2] for c in calls] == [
        ("critique", "run"), ("reward-model", "train"), ("reward-model", "eval"), ("train", "text2grad"),
    ]  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "all" / "answers.jsonl").read_text().splitlines()]
    assert any(f["spans"] for row in rows for f in row["feedback"])
    card = json.loads((tmp_path / "all" / "reward_model" / "model" / "reward_model.json").read_text())
    assert (card["format"], card["reasoning"]) == ("lines_v1", True)
    said = (tmp_path / "all" / "policy" / "feedback.jsonl").read_text().splitlines()
    assert said
    assert all(json.loads(line)["status"] == "ok" for line in said)
    calls.clear()
    recipe.main(command)
    assert [c[:2] for c in calls] == [("critique", "run"), ("reward-model", "eval")]


# ── the code problems ─────────────────────────────────────────────────────────────────────────────


def test_no_two_purposes_share_a_problem_and_the_files_are_the_same_again(tmp_path: Path) -> None:
    programs = load("programs")
    found = programs.split()
    assert {name: len(set(lists)) for name, lists in found.items()} == programs.COUNTS
    assert len(set().union(*found.values())) == sum(programs.COUNTS.values())
    programs.write(tmp_path / "a")
    programs.write(tmp_path / "b")
    for name in ("train", "eval", "annotate"):
        text = (tmp_path / "a" / f"{name}.jsonl").read_text()
        assert text == (tmp_path / "b" / f"{name}.jsonl").read_text()


def test_references_pass_and_a_foreign_line_is_the_poor_span(tmp_path: Path) -> None:
    programs = load("programs")
    programs.write(tmp_path)
    files = {"path": str(tmp_path / "train.jsonl"), "eval_path": str(tmp_path / "eval.jsonl")}
    task = make_task("code", files)
    assert isinstance(task, CodeTask)
    problem = next(p for p in task.all_train_problems() if "trimmed" in p.question)
    right = f"```python\n{problem.reference}```"
    assert task.verify(problem, right).correct
    wrong = right.replace("s.strip()", "s.trim()")
    assert wrong != right
    turn = Turn(
        prompt_ids=(1,), completion_ids=(2,), logprobs=(0.0,), text=wrong, stop_reason="eos", reward=0.0
    )
    [said] = CodeCritic(task, "hint").critique([FeedbackRequest(problem, turn, 0)])
    assert [(span.quote, span.label) for span in said.spans] == [("s = s.trim()", "poor")]


def test_a_half_taught_answer_errs_as_often_as_it_says() -> None:
    programs = load("programs")
    rng, seen = random.Random(0), Counter[str]()
    foreign, right = ({getattr(step, name) for step in programs.STEPS} for name in ("foreign", "right"))
    assert not foreign & right
    for steps in programs.split()["train"]:
        lines = programs.half_taught(steps, rng).split("\n")[2:-2]
        for i, line in zip(steps, lines, strict=True):
            said = line.removeprefix("    s = ")
            seen[
                "foreign" if said in foreign else "right" if said == programs.STEPS[i].right else "other"
            ] += 1
    assert abs(seen["foreign"] / seen.total() - programs.FOREIGN) < 0.02
    assert abs(seen["other"] / seen.total() - programs.MISTAKEN) < 0.02


# ── the study ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["matrix", "code"])
def test_the_study_compares_equal_numbers_of_answers_and_one_kl(name: str) -> None:
    plan = read_plan(RECIPE / f"{name}.yaml")
    assert plan.file.seeds == [0, 1, 2, 3, 4]
    assert plan.baseline == "grpo"
    coefficients = set()
    for cell in plan.cells:
        config = cell.config
        samples = config.settings.get("samples", 4)
        turns = 2 if config.method == "ilf" else 1
        assert samples * turns == 4
        coefficients |= {config.settings["kl_coef"]} if "kl_coef" in config.settings else set()
    assert len(coefficients) == 1
    # The numbers in the head of a table are those of the sweep.
    [task] = plan.file.tasks
    assert config.problems_per_step * 4 * config.eval.every == load("table").EVERY[task]


def test_the_table_is_written_from_results_and_says_what_is_missing(tmp_path: Path) -> None:
    table = load("table")
    arm = {
        "seeds": [0, 1], "final": {"value": 0.5, "low": 0.25, "high": 0.75}, "p_holm": None,
        "area": {"value": 0.4, "low": 0.3, "high": 0.5}, "difference": None,
    }  # fmt: skip
    runs = [
        {"task": "code", "arm": name, "seed": seed, "seconds": 30.0, "curve": curve, "area": area}
        for name, seed, area, curve in (
            ("grpo", 0, 0.3, [[0, 0.1], [9, 0.3], [18, 0.5]]),
            ("grpo", 1, 0.4, [[0, 0.1], [9, 0.5], [18, 0.5]]),
            ("direct", 1, 0.41, [[0, 0.1]]), ("direct", 0, 0.33, [[0, 0.1]]),
            ("sft", 0, 0.5, [[0, 0.5]]), ("sft", 1, 0.5, [[0, 0.5]]),
        )
    ]  # fmt: skip
    better = {"arm": "sft", **arm, "difference": [0.031, -0.002, 0.064], "p_holm": 0.5}
    task = {"task": "code", "n_eval": 100, "base_accuracy": 0.1, "arms": [{"arm": "grpo", **arm}, better]}
    results = {
        "baseline": "grpo", "tasks": [task], "cells": runs, "missing": {"x": "not finished"},
        "details": {"machine": "an abacus"}, "notes": [],
    }  # fmt: skip
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "study_code.json").write_text(json.dumps(results))
    readme = tmp_path / "README.md"
    marks = "<!-- study_code: table.py writes from here -->", "<!-- study_code: to here -->"
    readme.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n")
    assert table.main(tmp_path, table.TABLES, []) == 0
    said = readme.read_text()
    assert said.startswith("before\n")
    assert said.endswith("\nafter\n")
    assert "old" not in said
    assert "after 128 answers | after 256 answers" in said
    cells = ["`grpo`", "2", "40.0 [30.0, 50.0]", "50.0 [25.0, 75.0]", "40.0 [30.0, 50.0]", "–", "–"]
    assert f"| {' | '.join(cells)} | -2.0 [-14.7, +10.7] |" in said
    assert "| `sft` | 2 | – | 50.0 [25.0, 75.0] | – | +3.1 [-0.2, +6.4] | 0.500 | – |" in said
    assert "machine: an abacus." in said
    assert "1 runs are missing." in said
    assert table.main(tmp_path, table.TABLES, [str(tmp_path / "elsewhere")]) == 2
