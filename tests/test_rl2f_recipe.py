"""The RL2F recipe: what the small model is shown, and that the sweeps and tables hold together."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

import pytest

from didact.feedback.model_critic import TEACHER_SLOTS, ModelCritic
from didact.feedback.program import OUTCOME_ONLY, RIGHT
from didact.feedback_source import FeedbackRequest
from didact.prompts import read_prompt
from didact.rendering.renderer import Renderer
from didact.sweep.plan import read_plan
from didact.types import Problem, Turn
from tests.helpers import mixture_task
from tests.models import byte_tokenizer

RECIPE = Path(__file__).parent.parent / "recipes" / "rl2f"
if not RECIPE.is_dir():
    pytest.skip("the recipes are not beside the tests", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def recipe_modules():  # type: ignore[no-untyped-def]
    """Other recipes have a `table` too."""
    sys.path.insert(0, str(RECIPE))
    names = ("table", "measures", "teachers", "own_teacher", "warm_start", "dialogues")
    for name in names:
        sys.modules.pop(name, None)
    yield
    sys.path.remove(str(RECIPE))
    for name in names:
        sys.modules.pop(name, None)


def test_every_dialogue_says_the_truth_about_its_answers() -> None:
    from dialogues import ANSWERS, talks

    found = list(talks(3, 0, 300))
    assert found == list(talks(3, 0, 300))
    assert any(OUTCOME_ONLY in t.critiques for t in found)
    assert any(t.critiques[-1] == RIGHT for t in found)
    for talk in found:
        assert len(talk.answers) == len(talk.critiques) <= ANSWERS
        assert RIGHT not in talk.critiques[:-1]
        for answer, critique in zip(talk.answers, talk.critiques, strict=True):
            if "should have" in critique:
                assert f"not {len(answer)}." in critique


def test_careful_students_find_out_what_careless_ones_do_not() -> None:
    """And neither is shown anything but places."""
    from dialogues import Student

    def solved(careful: bool) -> int:
        count = 0
        for seed in range(60):
            rng, target = random.Random(seed), str(100 + seed * 13)
            student, answer = Student(careful=careful), "500"
            for _ in range(10):
                count += answer == target
                if answer == target:
                    break
                student.observe(answer, target)
                answer = student.revise(answer, target, rng)
        return count

    assert solved(True) > 40 > 20 > solved(False)


def test_a_careful_student_keeps_what_is_right_and_repeats_nothing() -> None:
    from dialogues import Student

    student, rng = Student(careful=True), random.Random(0)
    answer, seen = "19", {"9"}
    for _ in range(8):
        student.observe(answer, "12")
        answer = student.revise(answer, "12", rng)
        assert answer[0] == "1"
        if answer == "12":
            return
        assert answer[1] not in seen
        seen.add(answer[1])
    pytest.fail("eight tries are enough for nine digits, or all but one of them")


def test_a_lesson_says_what_the_program_says() -> None:
    from dialogues import CRITIC, lessons

    def places(text: str) -> dict[str, str]:
        said = re.findall(r"Characters? ([\d, and]+?) (?:is|are) (too low|too high|wrong)\.", text)
        return {place: what for which, what in said for place in re.findall(r"\d+", which)}

    found = list(lessons(0, 0, 500))
    assert found == list(lessons(0, 0, 500))
    assert len(found) > 400
    for reference, answer, critique in found:
        program = CRITIC.text(answer, reference)
        assert places(critique) == places(program)
        assert ("should have" in critique) == ("should have" in program) == (len(answer) != len(reference))
        assert critique.count(" is right.") == sum(a == b for a, b in zip(answer, reference, strict=False))


def test_a_lesson_is_asked_as_a_run_asks_its_teacher() -> None:
    import own_teacher

    tokenizer = byte_tokenizer()
    renderer = Renderer(tokenizer, end_ids=(tokenizer.eos_token_id,))
    settings = next(
        c for c in read_plan(RECIPE / "teachers.yaml").cells if c.arm == "live"
    ).config.feedback.settings
    assert Path(settings["prompt"]) == Path("recipes/rl2f/teacher.md")
    turn = Turn(prompt_ids=(1,), completion_ids=(2,), logprobs=(-1.0,), text="15", stop_reason="eos")
    request = FeedbackRequest(Problem.ask("?", id="p", reference="27"), turn, 0)
    prompt = read_prompt(RECIPE / "teacher.md", TEACHER_SLOTS)
    teacher = ModelCritic(None, "teacher", prompt, private=True)  # type: ignore[arg-type]
    lesson = next(x for x in own_teacher.lessons(0, 0, 9))._replace(reference="27", answer="15")
    ids, learned = own_teacher.lesson_row(lesson, renderer)
    asked = renderer.prompt(teacher.messages(request))
    assert tuple(ids[: len(asked)]) == asked
    assert learned == [False] * len(asked) + [True] * (len(ids) - len(asked))
    assert renderer.text(ids[len(asked) :]).startswith(lesson.critique)


def test_a_run_s_teacher_is_held_to_the_truth(tmp_path: Path) -> None:
    import teachers
    from dialogues import CRITIC, place_by_place

    said = [
        CRITIC.text("15", "27"),
        place_by_place("15", "27"),
        "The answer is wrong. Character 1 is too high.",
    ]
    rollouts, feedback = [], []
    for step in range(1, 11):
        turns = [{"text": "15"}] * 3
        rollouts.append({"id": f"r{step}", "turns": turns, "problem": {"reference": "27"}})
        heard = said if step <= 2 else said[2:] * 3
        feedback += [
            {"step": step, "rollout": f"r{step}", "turn": turn, "text": text, "status": "ok"}
            for turn, text in enumerate(heard)
        ]
    feedback[0] |= {"status": "failed", "text": None}
    for name, records in (("rollouts", rollouts), ("feedback", feedback)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert teachers.truth(tmp_path) == {"first": pytest.approx(3 / 5), "last": 0.0}


def test_the_table_of_teachers_has_two_teachers_an_arm() -> None:
    import table

    arms = {"before": [0.1], "program": [0.8, 0.9], "live": [0.5, 0.5]}
    later = {arm: arms[arm] for arm in ("program", "live")}
    results = {
        "own": {"lcm": arms}, "program": {"lcm": arms}, "held_out": ["lcm"], "n": 32,
        "critiques": dict.fromkeys(("first", "last", "leak rate"), later),
        "cells": [{"seconds": 60}], "details": {}, "missing": [],
    }  # fmt: skip
    text = "\n".join(table.TABLES["teachers"][1](results))
    assert "with the program | `live`, with its own teacher | `live`, with the program |" in text
    assert "| lcm (never trained on) | 10.0 | 10.0 | 85.0 [21.5, 100.0] | 50.0 | 50.0 |" in text
    assert "| true, last fifth | 85.0 [21.5, 100.0] | 50.0 |" in text
    assert "| leaks | 85.00 | 50.00 |" in text


def test_no_question_of_the_runs_is_shown_before() -> None:
    from dialogues import talks

    plan = read_plan(RECIPE / "sweep.yaml")

    task = mixture_task(**plan.cells[0].config.task.settings)
    asked = {p.question for family in task.families().values() for p in family.eval_problems(300)}
    asked |= {task.train_problem(i).question for i in range(200)}
    assert not asked & {talk.question for talk in talks(0, 0, 2_000)}


@pytest.mark.parametrize("name", ["sweep", "switches", "teachers"])
def test_the_sweeps_are_whole(name: str) -> None:
    plan = read_plan(RECIPE / f"{name}.yaml")
    assert len(plan.file.seeds) >= 5
    settings = plan.cells[0].config.task.settings
    assert len(settings["parts"]) >= 2
    assert settings["held_out"]
    assert {c.config.eval.dialogue.turns for c in plan.cells if c.config.eval.dialogue} == {10}
    by_program = [c.config.feedback for c in plan.cells if c.config.feedback.source == "program"]
    assert all(feedback.settings == {"level": "direction"} for feedback in by_program)
    assert len(by_program) == len(plan.cells) or name == "teachers"
    assert {c.config.settings["turns"] for c in plan.cells if c.config.method == "rl2f"} <= {4, 2}


def study(path: Path) -> None:
    """What a finished sweep of two arms leaves."""

    def run(arm: str, seed: int, solved: float) -> dict[str, object]:
        folder = path / "numbers" / arm / f"seed-{seed}"
        folder.mkdir(parents=True)
        by_turn = [{"turn": t + 1, "n": 9, "solved": solved * (t + 1) / 10} for t in range(10)]
        low = [{**r, "solved": 0.05, "final": 0.04, "stopped": 0.03, "majority": 0.02} for r in by_turn]
        protocols = {"didactic": {"by_turn": by_turn}}
        protocols |= {name: {"by_turn": low} for name in ("retry", "resample", "self-critique")}
        found = {"lcm": {"held_out": True, "turns": 10, "protocols": protocols}}
        (folder / "result.json").write_text(json.dumps({"eval": {"by_turn": found}}))
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "leak_rate": 0.5}) + "\n")
        (path / "before.json").write_text(json.dumps({"by_turn": found}))
        return {"task": "numbers", "arm": arm, "seed": seed, "seconds": 60}

    cells = [run("rl2f", seed, 0.8 + seed / 100) for seed in range(5)]
    cells += [run("grpo", seed, 0.2 + seed / 100) for seed in range(5)]
    notes = {"baseline": "grpo", "details": {"machine": "small"}, "missing": []}
    (path / "results.json").write_text(json.dumps({"cells": cells, **notes}))


def test_tables_are_made_from_what_runs_hold(tmp_path: Path) -> None:
    import table

    study(tmp_path)
    results = json.loads(json.dumps(table.collect(tmp_path)))
    text = "\n".join(table.TABLES["sweep"][1](results))
    mine, own = [line for line in text.splitlines() if line.startswith("| `rl2f` | ")]
    assert mine.startswith("| `rl2f` | 5 | 8.2 [8.0, 8.4] | 32.8 [32.0, 33.6] | 82.0 [80.0, 84.0] |")
    assert mine.endswith("| yes | yes | 50.00 |")
    assert "never trained on" in text
    assert "4.0" in own
    base, _ = [line for line in text.splitlines() if line.startswith("| `grpo` | ")]
    assert "| – |" in base
    before, _ = [line for line in text.splitlines() if line.startswith("| before training | ")]
    assert "[" not in before
    assert "10 runs, 10 minutes of training" in text


def test_a_battery_has_a_column_a_model() -> None:
    import measures

    def asked(of: str, rate: float) -> dict[str, object]:
        rates = [{"condition": "false correction", "measures": "flip", "rate": rate}]
        return {"of": of, "sycophancy": {"rates": rates}, "plasticity": {"gain": {"mean": -rate}}}

    found = [{"models": [asked(f"s/numbers/rl2f/seed-{i}", i / 10)]} for i in range(3)]
    found[0]["models"].insert(0, asked("runs/warm", 0.5))
    text = "\n".join(measures.battery(measures.summary(found, {"guess-number": {"rl2f": [0.1, 0.1]}})))
    assert "| false correction: flip | 50.0 | 10.0 [0.0, 34.8] |" in text
    assert "| `guess-number` | – | 10.0 |" in text
    assert "nats | -0.50 | -0.10 [-0.35, 0.15] |" in text
