"""The sycophancy battery, on models whose rates are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from didact.battery.sycophancy import CONDITIONS, NONSENSE, compare, sycophancy
from didact.controls.substitutes import SECOND_TRY
from didact.errors import UsageError
from didact.feedback.program import WRONG, ProgramCritic
from didact.leakage import LeakGuard
from didact.tasks.base import Verdict
from didact.types import Problem
from tests.helpers import ScriptedEngine, context, didact


class Words:
    """Say the word."""

    name = "words"

    def __init__(self, *references: str | None) -> None:
        self.problems = [Problem.ask(f"Say {i}.", id=str(i), reference=r) for i, r in enumerate(references)]

    def train_problem(self, index: int) -> Problem:
        return self.problems[index]

    def eval_problems(self, n: int) -> list[Problem]:
        return self.problems[:n]

    def verify(self, problem: Problem, answer: str) -> Verdict:
        right = answer == problem.reference
        return Verdict(float(right), right)


def last_answer(prompt: str) -> str:
    return prompt.split("Assistant: ")[-1].split("\n")[0]


def last_word(prompt: str) -> str:
    return prompt.split("User: ")[-1].removesuffix("\nAssistant:")


def obedient(prompt: str, j: int) -> str:
    """Does what it is told, letter by letter; a bare "wrong" makes it say something else."""
    answer, words = list(last_answer(prompt)), last_word(prompt)
    for sentence in words.split(". "):
        if sentence.startswith("Character "):
            _, place, _, _, letter = sentence.rstrip(".").split()
            answer[int(place) - 1] = letter
    if words == WRONG:
        return "?"
    return "".join(answer)


def stubborn(prompt: str, j: int) -> str:
    return last_answer(prompt)


TASK = Words("abcd", "bcda", "cdab", "dabc", None)


def measure(answer, task=TASK, **settings):  # type: ignore[no-untyped-def]
    engine = ScriptedEngine(answer)
    ctx = context(engine, LeakGuard(ProgramCritic(), "fail"), task=task)
    return sycophancy(ctx, task.eval_problems(9), **settings), engine


def rates(battery):  # type: ignore[no-untyped-def]
    return {r["condition"]: r["rate"] for r in battery.rates()}


def test_who_obeys_everything_flips_and_fixes_and_takes_over_what_was_asked() -> None:
    battery, _ = measure(obedient)
    assert rates(battery) == {
        "false correction": 1.0, "false verdict": 1.0, "nonsense": 0.0, "again": 0.0,
        "true correction": 1.0, "again, wrong": 0.0,
    }  # fmt: skip
    (record, *_) = battery.rates()
    assert (record["n"], record["followed"]) == (4, 1.0)
    assert record["ci95"][0] < 0.55
    assert record["ci95"][1] == pytest.approx(1.0)


def test_who_obeys_nothing_neither_flips_nor_fixes() -> None:
    battery, _ = measure(stubborn)
    assert set(rates(battery).values()) == {0.0}
    assert {r["measures"] for r in battery.rates()} == {"flip", "fix"}
    assert battery.rates()[0]["followed"] == 0.0


def test_the_conversation_is_question_answer_words() -> None:
    battery, engine = measure(stubborn)
    assert engine.prompts[0].startswith(
        "User: Say 0.\nAssistant: abcd\nUser: The answer is wrong. Character "
    )
    assert engine.prompts[0].endswith("\nAssistant:")
    said = {t.condition: t.said for t in battery.trials if t.problem == "0"}
    assert set(said) == set(CONDITIONS)
    assert said["again"] == said["again, wrong"] == SECOND_TRY
    assert said["false verdict"] == WRONG
    assert said["nonsense"] in NONSENSE


def test_what_is_said_is_false_of_right_answers_and_true_of_wrong_ones() -> None:
    battery, _ = measure(stubborn)
    for trial in battery.trials:
        reference = TASK.problems[int(trial.problem)].reference
        if trial.condition == "false correction":
            assert trial.was == reference
            assert ProgramCritic().text(trial.was, reference) != trial.said
        if trial.condition == "true correction":
            assert trial.was != reference
            assert trial.said == ProgramCritic().text(trial.was, reference)


def test_the_same_seed_gives_the_same_trials_and_another_gives_others() -> None:
    assert measure(stubborn, seed=1)[0] == measure(stubborn, seed=1)[0]
    assert measure(stubborn, seed=1)[0] != measure(stubborn, seed=2)[0]


def test_own_answers_are_criticised_as_they_are() -> None:
    def answer(prompt: str, j: int) -> str:
        if "Assistant: " in prompt:
            return obedient(prompt, j)
        return "abcd" if "Say 0" in prompt else "xxxx"

    battery, _ = measure(answer, Words("abcd", "bcda", "cdab"), answers="own")
    found = {r["condition"]: (r["n"], r["rate"]) for r in battery.rates()}
    assert found["false correction"] == (1, 1.0)
    assert found["true correction"] == (2, 1.0)


def test_a_case_that_does_not_fit_is_left_out_of_all_conditions() -> None:
    engine = ScriptedEngine(stubborn)
    engine.max_length = len("User: Say 0.\nAssistant: abcd\nUser: " + SECOND_TRY + "\nAssistant:") + 4
    ctx = context(engine, ProgramCritic(), task=TASK)
    with pytest.raises(UsageError, match="nothing to ask"):
        sycophancy(ctx, TASK.eval_problems(4))


def test_two_models_are_compared_pair_by_pair() -> None:
    before, after = measure(stubborn)[0], measure(obedient)[0]
    found = compare(before, after)
    assert found["false correction"].mean == 1.0
    assert found["true correction"].mean == 1.0
    assert found["again"].mean == 0.0
    assert found["again"].n == 4


def test_the_command_writes_both_batteries_of_two_models(
    roomy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "battery.json"
    code = didact(
        "eval", "tiny", roomy, "--suite", "sycophancy", "--suite", "plasticity", "--turns", 2, "--json", file,
        "--set", "eval.problems=3", "--set", "sampling.max_tokens=8",
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert code == 0
    assert "true correction: fix" in shown
    assert "minus the first" in shown
    written = json.loads(file.read_text())
    first, second = written["models"]
    assert first["of"] == "tiny"
    assert {r["condition"] for r in first["sycophancy"]["rates"]} == set(CONDITIONS)
    # The same weights and the same questions.
    assert first["sycophancy"] == second["sycophancy"]
    assert {d["mean"] for d in written["differences"][0].values()} == {0.0}
    assert first["plasticity"]["gain"]["n"] >= 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["tiny", "--set", "feedback.source=self"], "uses no reference"),
        (["tiny", "tiny"], "named twice"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert didact("eval", *words, "--suite", "sycophancy", "--set", "eval.problems=2") == 2
    assert named in " ".join(capsys.readouterr().err.split())
