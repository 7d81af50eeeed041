"""Settings: from a file, from the command line, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from didact.config import OptimConfig, RunConfig, load_config, parse_config, read_yaml
from didact.errors import DataError, UsageError
from didact.methods import make_method
from didact.registry import SOURCES


def test_later_words_win_over_earlier_ones(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("steps: 7\noptim: {lr: 1e-3, warmup_steps: 2}\n")
    config = load_config("grpo", file, ["optim.lr=1e-4", "settings.samples=4"], seed=3, task__name=None)
    assert (config.steps, config.seed, config.optim.lr, config.optim.warmup_steps) == (7, 3, 1e-4, 2)
    assert config.settings == {"samples": 4}
    assert config.task.name == "spell_backward"


def test_a_config_survives_its_own_file(tmp_path: Path) -> None:
    config = load_config("rltf-sd", None, ["model.lora={rank: 4}", "sampling.stop=['a: b', '#']"])
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert parse_config(read_yaml(file)) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rate=1", "no setting 'optim.learning_rate'"),
        ("stepz=1", "did you mean 'steps'"),
        ("model.lora.rnk=3", "no setting 'model.lora.rnk': did you mean 'rank'"),
        ("steps=many", "steps = 'many'"),
        ("steps=0", "steps = 0: Input should be greater than or equal to 1"),
        ("optim.lr=nan", "optim.lr"),
        ("seed=100", "seed = 100"),
        ("feedback.leaks=hide", "feedback.leaks = 'hide'"),
        ("feedback.level=hint", "no setting 'feedback.level'"),
        ("steps", "write it as key=value"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_right_one(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config("grpo", None, [override])


def test_a_file_for_another_method_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("method: sft\n")
    with pytest.raises(UsageError, match="'sft', not 'grpo'"):
        load_config("grpo", file)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [1", "not valid YAML"), (b"\xff\xfe", "not valid YAML"), (b"- 1", "must hold `key: value`")],
)
def test_a_broken_file_is_a_data_error(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_yaml(file)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no config file"):
        read_yaml(tmp_path / "none.yaml")


def test_the_learning_rate_follows_its_schedule() -> None:
    rates = {
        schedule: [OptimConfig(lr=1.0, schedule=schedule).at(9, p).lr for p in (0.0, 0.5, 1.0)]
        for schedule in ("constant", "linear", "cosine")
    }
    assert rates["constant"] == [1.0, 1.0, 1.0]
    assert rates["linear"] == [1.0, 0.5, 0.0]
    assert rates["cosine"] == pytest.approx([1.0, 0.5, 0.0])
    warm = OptimConfig(lr=1.0, warmup_steps=3)
    assert [warm.at(s, 0.0).lr for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_every_default_is_written_out() -> None:
    text = RunConfig(method="grpo").to_yaml()
    assert all(f"{name}:" in text for name in RunConfig.model_fields)


def test_another_task_starts_without_the_files_task_settings(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("task: {name: prompts, settings: {path: a.jsonl}}\n")
    assert load_config("grpo", file, task__name="gcd").task.settings == {}
    assert load_config("grpo", file, task__name="prompts").task.settings == {"path": "a.jsonl"}
    assert load_config("grpo", file, ["task.settings.x=1"], task__name="gcd").task.settings == {"x": 1}


def test_a_torn_value_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"model\.lora=.* YAML"):
        load_config("grpo", None, ["model.lora={rank: 16"])


def test_a_directory_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_yaml(tmp_path)


RECIPES = sorted((Path(__file__).parent.parent / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_recipe_can_be_loaded(file: Path) -> None:
    values = read_yaml(file)
    if "method" in values:
        config = parse_config(values)
        make_method(config.method, config.settings)
        SOURCES.make(config.feedback.source, config.feedback.settings)


@pytest.mark.parametrize(
    "overrides",
    [
        ["feedback.control=mixed", "feedback.control.share=0.3"],
        ["feedback.control.share=0.3", "feedback.control=mixed"],
        ["feedback.control.name=mixed", "feedback.control.share=0.3"],
        ["feedback.control={name: mixed, share: 0.3}"],
    ],
)
def test_a_bare_name_and_the_settings_beside_it_come_in_any_order(overrides):
    control = load_config("rltf-sd", overrides=overrides).feedback.control
    assert (control.name, control.share) == ("mixed", 0.3)


def test_the_least_length_of_an_answer_is_within_the_greatest() -> None:
    assert (
        load_config("grpo", overrides=["sampling.min_tokens=8", "sampling.max_tokens=8"]).sampling.min_tokens
        == 8
    )
    with pytest.raises(UsageError, match="min_tokens"):
        load_config("grpo", overrides=["sampling.min_tokens=9", "sampling.max_tokens=8"])
