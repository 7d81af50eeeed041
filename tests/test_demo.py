"""The demo's machinery, with arms of two steps on a random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from didact.cli import demo as demo_module
from didact.config import RunConfig, parse_config
from didact.errors import UsageError
from didact.evaluation.evaluate import evaluate
from tests.helpers import CountingCritic, ScriptedEngine, context
from tests.models import save_model
from tests.test_cli import didact

ARMS = ("grpo", "rltf-sd", "rltf-fm", "rltf-sd-shuffled")


@pytest.fixture(scope="module")
def quick_arms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunConfig]:
    model = save_model(tmp_path_factory.mktemp("model"))
    shared = {
        "model": {"path": str(model)}, "steps": 2, "problems_per_step": 2,
        "settings": {"samples": 2}, "sampling": {"max_tokens": 4}, "eval": {"problems": 4},
    }  # fmt: skip
    arms = {name: {**shared, "method": name} for name in ARMS[:3]}
    arms[ARMS[3]] = {**shared, "method": "rltf-sd", "feedback": {"control": "shuffled"}}
    return {name: parse_config(arm) for name, arm in arms.items()}


@pytest.mark.slow
def test_the_demo_compares_all_arms_and_takes_up_what_is_finished(
    quick_arms: dict[str, RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(demo_module, "demo_configs", lambda task, seed: quick_arms)
    out, file = tmp_path / "demo", tmp_path / "json" / "demo.json"
    assert didact("demo", "--out", out, "--json", file) == 0
    found = json.loads(file.read_text())
    assert (found["task"], found["n_eval"], found["seed"]) == ("spell_backward", 4, 0)
    assert [arm["method"] for arm in found["results"]] == ["base", *ARMS]
    assert all(
        set(arm) == {
            "method", "accuracy", "ci95", "accuracy_after_feedback", "accuracy_after_own_critique",
            "own_critique_ci95", "reward", "seconds", "sampled_tokens", "steps",
        }
        for arm in found["results"]
    )  # fmt: skip
    assert [arm["steps"] for arm in found["results"]] == [0, 2, 2, 2, 2]
    assert found["seconds"] > 0
    html = (out / "report.html").read_text()
    assert "Spell this word backward" in html
    assert "<script" not in html
    assert (out / "curves.png").stat().st_size > 1000
    before = (out / "rltf-sd" / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert didact("demo", "--out", out) == 0
    assert (out / "rltf-sd" / "metrics.jsonl").read_bytes() == before


def test_a_directory_of_another_demo_is_refused(quick_arms: dict[str, RunConfig], tmp_path: Path) -> None:
    (tmp_path / "grpo").mkdir()
    (tmp_path / "grpo" / "config.yaml").write_text("method: sft\n")
    with pytest.raises(UsageError, match=r"--out"):
        demo_module._train_all(quick_arms, tmp_path, 1, Console())


def test_every_arm_of_the_real_demo_has_the_same_budget_and_model() -> None:
    arms = demo_module.demo_configs("spell_backward", 3)
    assert set(arms) == set(ARMS)
    for name in (
        "model",
        "task",
        "sampling",
        "optim",
        "eval",
        "max_sampled_tokens",
        "seed",
        "problems_per_step",
    ):
        assert len({repr(getattr(arm, name)) for arm in arms.values()}) == 1, name
    assert {arm.settings["samples"] for arm in arms.values()} == {2}
    control = arms["rltf-sd-shuffled"].feedback.control
    assert control is not None
    assert control.name == "shuffled"
    sd, shuffled = arms["rltf-sd"], arms["rltf-sd-shuffled"]
    same = {"feedback": sd.feedback}
    assert shuffled.model_copy(update=same) == sd  # the control differs by the named thing alone


def test_the_demo_takes_any_generator() -> None:
    arms = demo_module.demo_configs("gcd", 0)
    assert {arm.task.name for arm in arms.values()} == {"gcd"}


def test_an_evaluation_of_the_demo_never_shows_a_critique_to_a_first_answer() -> None:
    engine = ScriptedEngine(lambda text, j: "b")
    found = evaluate(context(engine, CountingCritic()), [context().task.eval_problems(1)[0]])
    critique = [ord(c) for c in "wrong 0"]
    first, second = (r.prompt_ids for r in found.rollouts[0].turns)
    assert not contains(first, critique)
    assert contains(second, critique)


def contains(ids: tuple[int, ...], part: list[int]) -> bool:
    return any(list(ids[i : i + len(part)]) == part for i in range(len(ids)))


@pytest.mark.parametrize("task", ["spell_backward", "chain_sum", "caesar_cipher", "count_bits", "gcd"])
def test_every_arm_asks_the_task_that_was_named(task: str) -> None:
    arms = demo_module.demo_configs(task, seed=3)
    assert {arm.task.name for arm in arms.values()} == {task}
    assert {arm.seed for arm in arms.values()} == {3}
    assert len({arm.max_sampled_tokens for arm in arms.values()}) == 1
