"""The recipe runs all three stages, and goes on where it stopped."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

RECIPE = Path(__file__).parents[1] / "recipes" / "text2grad"
if not RECIPE.exists():
    pytest.skip("the recipes are not beside the tests", allow_module_level=True)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("text2grad_recipe", RECIPE / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_all_stages_run_with_one_command_and_are_not_run_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load()
    from tests.helpers import didact

    calls: list[tuple[str, ...]] = []

    def here(*words: object, allowed: tuple[int, ...] = (0,)) -> None:
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
