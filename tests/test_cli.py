"""The command line, as somebody would type it."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from didact.cli.compare import results_table
from didact.evaluation.results import ArmResult
from didact.training.summary import arm_result
from tests.helpers import didact
from tests.models import save_model

QUICK = [
    "--set", "steps=2", "--set", "problems_per_step=2", "--set", "sampling.max_tokens=4",
    "--set", "eval.problems=4", "--set", "optim.lr=1e-3",
]  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"prompt": f"What is {i} + {i}?", "reference": str(2 * i)} for i in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def own_run(llama: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RLTF with both terms on an own JSONL file and an own model."""
    out = tmp_path_factory.mktemp("runs") / "own"
    path = f"task.settings.path={data}"
    assert (
        didact("train", "rltf", "--model", llama, "--task", "prompts", "--set", path, *QUICK, "--out", out)
        == 0
    )
    return out


def test_a_run_directory_explains_itself(own_run: Path) -> None:
    assert {p.name for p in own_run.iterdir()} == {
        "README.md", "checkpoints", "config.yaml", "evaluations.jsonl", "feedback.jsonl", "inputs.json",
        "metrics.jsonl", "model", "result.json", "rollouts.jsonl", "timing.jsonl",
    }  # fmt: skip
    assert "didact train rltf" in (own_run / "README.md").read_text()
    steps = [json.loads(line) for line in (own_run / "metrics.jsonl").read_text().splitlines()]
    assert [(s["step"], "eval" in s) for s in steps] == [(0, True), (1, False), (2, False), (2, True)]
    assert steps[1]["loss/fm"] > 0
    assert steps[1]["grad_norm"] > 0


def test_the_trained_model_loads_with_plain_transformers(own_run: Path, llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(own_run / "model")
    tokenizer = AutoTokenizer.from_pretrained(own_run / "model")
    before = AutoModelForCausalLM.from_pretrained(llama)
    assert not torch.equal(model.model.norm.weight, before.model.norm.weight)
    assert tokenizer.chat_template
    model.generate(**tokenizer("2 + 2", return_tensors="pt"), max_new_tokens=2)


def test_lora_trains_an_adapter_that_loads_with_plain_peft(llama: Path, data: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    out = tmp_path / "lora"
    words = ["--set", f"task.settings.path={data}", "--set", "model.lora={rank: 4}", *QUICK, "--out", out]
    assert didact("train", "rltf", "--model", llama, "--task", "prompts", *words) == 0
    base = AutoModelForCausalLM.from_pretrained(llama)
    ids = torch.tensor([[5, 6, 7]])
    plain = base(ids).logits
    adapted = PeftModel.from_pretrained(base, out / "model")(ids).logits
    assert not torch.allclose(plain, adapted)
    assert didact("eval", out, "--set", "eval.problems=2") == 0


def test_eval_of_a_run_repeats_its_last_evaluation(own_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "eval.json"
    assert didact("eval", own_run, "--json", file) == 0
    found, kept = json.loads(file.read_text()), json.loads((own_run / "result.json").read_text())["eval"]
    assert {key: found[key] for key in kept} == kept
    assert kept["reward_ci95"][0] <= kept["reward"] <= kept["reward_ci95"][1]
    assert arm_result(own_run).to_json()["reward"] == kept["reward"]


def test_eval_takes_a_model_folder(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--task", "spell_backward", "--set", "eval.problems=2", "--set", "sampling.max_tokens=3"]
    assert didact("eval", llama, *words) == 0
    assert "on 2 problems" in capsys.readouterr().out


def test_a_table_shows_mean_rewards_that_are_no_shares_of_right_answers() -> None:
    def printed(reward: float) -> str:
        arm = ArmResult("a", 0.25, (0.1, 0.5), 0.5, (0.2, 0.8), 1.0, 7, 0, 2, reward=reward)
        console = Console(width=100, file=io.StringIO(), color_system=None)
        console.print(results_table([arm], "a"))
        return str(console.file.getvalue())

    assert "reward" not in printed(0.25)
    assert "0.400" in printed(0.4)


def test_compare_pairs_runs_by_problem(
    own_run: Path, llama: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "sft"
    words = ["--model", llama, "--task", "prompts", "--set", f"task.settings.path={data}", *QUICK]
    assert didact("train", "sft", *words, "--out", other) == 0
    html = tmp_path / "report.html"
    assert didact("compare", own_run, other, "--html", html) == 0
    printed = capsys.readouterr().out
    assert "sft" in printed
    assert "reward" not in printed  # each is 0 or 1, so that the mean is the share of right answers
    assert "What is" in html.read_text()
    assert didact("train", "sft", *words, "--set", "eval.problems=2", "--out", tmp_path / "less") == 0
    assert didact("compare", own_run, tmp_path / "less") == 3
    assert "different problems" in capsys.readouterr().err


def test_a_dry_run_shows_what_differs_then_every_setting_and_writes_nothing(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert didact("train", "rltf-sd", "--model", llama, *QUICK, "--out", out, "--dry-run") == 0
    shown = capsys.readouterr().out
    changed, everything = yaml.safe_load_all(shown)
    assert everything["settings"]["lambda_sd"] == 0.1
    assert changed == {
        "method": "rltf-sd",
        "model": {"path": str(llama)},
        "sampling": {"max_tokens": 4},
        "optim": {"lr": 1e-3},
        "eval": {"problems": 4},
        "problems_per_step": 2,
        "steps": 2,
    }
    assert "Spell this word backward" in shown
    assert not out.exists()


def test_data_names_ones_own_prompts(
    llama: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "grpo", "--data", data, "--model", llama, "--out", tmp_path / "run", "--dry-run"]
    assert didact(*words) == 0
    assert "What is " in capsys.readouterr().out
    assert didact(*words, "--task", "gcd") == 2
    error = capsys.readouterr().err
    assert "--task" in error
    assert "--data" in error


def test_eval_takes_a_number_of_problems_a_temperature_and_a_seed(llama: Path, tmp_path: Path) -> None:
    def found(*words: object) -> dict[str, object]:
        file = tmp_path / "eval.json"
        plain = ["--protocol", "single", "--task", "gcd", "--set", "sampling.max_tokens=8"]
        dialogue = ["--protocol", "resample", *plain[2:], "--turns", 1]
        assert didact("eval", llama, *plain, "--json", file, *words) == 0
        assert json.loads(file.read_text())["n"] == 3
        assert didact("eval", llama, *dialogue, "--json", file, *words) == 0
        record: dict[str, object] = json.loads(file.read_text())
        return record

    sampled = found("--n", 3, "--temperature", 1.5, "--seed", 1)
    assert sampled["temperature"] == 1.5
    assert sampled == found("--n", 3, "--temperature", 1.5, "--seed", 1)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--env", "guess-word", "--suite", "plasticity"], "--env"),
        (["--env", "guess-word", "--rounds", 2], "--rounds"),
        (["--suite", "plasticity", "--first", 3], "--first"),
        (["--suite", "plasticity", "--turns", 1], "--turns 1"),
        (["another"], "--suite"),
    ],
)
def test_options_of_another_kind_of_evaluation_are_refused(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert didact("eval", "tiny", *words) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train"], 2, "which method"),
        (["train", "rltf-ds"], 2, "did you mean 'rltf-sd'"),
        (["train", "grpo", "--set", "stpes=1"], 2, "did you mean 'steps'"),
        (["train", "grpo", "--set", "settings.sampels=1"], 2, "did you mean 'samples'"),
        (["train", "grpo", "--task", "spel_backward"], 2, "did you mean 'spell_backward'"),
        (["train", "grpo", "--task", "prompts"], 2, "path"),
        (["train", "grpo", "--config", "recipe:tiny_bas"], 2, "did you mean 'tiny_base'"),
        (["train", "grpo", "--resume", "x"], 2, "give nothing else beside it"),
        (["train", "--resume", "nowhere"], 2, "not a run directory"),
        (["train", "grpo", "--config", "/"], 2, "cannot be read"),
        (["train", "grpo", "--set", "model.lora={rank: 16"], 2, "not valid YAML"),
        (["train", "grpo", "--set", "model.device=foo"], 2, "no device 'foo'"),
        (["train", "grpo", "--set", "model.device=meta"], 2, "no device 'meta'"),
        (["train", "grpo", "--set", "model.lora.target_modules=[foo]"], 2, "all-linear, or some of"),
        (["train", "sft", "--task", "rush_hour"], 3, "sft learns"),
        (["train", "rltf", "--task", "rush_hour"], 3, "could criticise nothing"),
        (["compare", "nowhere"], 2, "at least two"),
        (["compare", "nowhere", "neither"], 2, "not a run directory"),
        (["eval", "tiny", "--set", "eval.problems=0"], 2, "eval.problems is 0"),
        (["demo", "--task", "no_such"], 2, "unknown task"),
        (["recipes", "show", "none"], 2, "unknown recipe"),
        (["fly"], 2, "No such command"),
    ],
)
def test_wrong_words_end_with_2_and_a_cure(
    words: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert didact(*words) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.jsonl"),
        (b'{"prompt": "a", "reference": "b"}\n', "one"),
        (b'{"prompt": "a", "reference": "b"}\n{"prompt": "c", "refe', "row 2"),
        (b'{"prompt": "a", "reference": "b"}\n{"promt": "c", "reference": "d"}\n', "row 2"),
        (b'{"prompt": "\xff"}\n', "UTF-8"),
    ],
)
def test_bad_data_ends_with_3_and_writes_nothing(
    content: bytes, message: str, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "bad.jsonl", tmp_path / "run"
    file.write_bytes(content)
    words = ["--task", "prompts", "--set", f"task.settings.path={file}", "--model", llama, "--out", out]
    assert didact("train", "grpo", *words) == 3
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_another_runs_directory_is_refused_before_anything_is_loaded(
    own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (own_run / "config.yaml").read_bytes()
    assert didact("train", "grpo", "--model", "/no/such/model", "--out", own_run) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (own_run / "config.yaml").read_bytes() == before


def test_a_missing_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert didact("train", "grpo", "--model", tmp_path / "none", "--out", tmp_path / "run") == 2
    assert "none" in capsys.readouterr().err


def test_a_run_in_which_no_weight_changed_ends_with_4_and_is_kept(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert didact("train", "grpo", "--model", llama, *QUICK, "--out", out) == 4
    assert "no weight changed" in capsys.readouterr().err
    assert json.loads((out / "result.json").read_text())["updates"] == 0


def test_a_loss_that_is_not_finite_stops_before_the_step_with_4(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = [*QUICK, "--set", "steps=5", "--set", "optim.lr=1e30", "--set", "eval.problems=0"]
    assert didact("train", "sft", "--model", llama, *words, "--out", out) == 4
    assert "nan" in capsys.readouterr().err.lower()
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert 1 <= len(steps) < 5  # the broken step is not among those that were done
    assert not (out / "result.json").exists()


def test_the_minimal_loop_runs_as_it_stands() -> None:
    script = Path(__file__).parent.parent / "recipes" / "minimal_loop.py"
    assert len(script.read_text().splitlines()) <= 200
    ran = subprocess.run(
        [sys.executable, script, "--steps", "1"], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "step 1:" in ran.stdout
    assert "after:" in ran.stdout


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert didact("recipes", "list") == 0
    assert "tiny_base" in capsys.readouterr().out
    assert didact("recipes", "show", "own_data") == 0
    assert "name: prompts" in capsys.readouterr().out


def test_doctor_probes_the_engine(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert didact("doctor", "--model", llama) == 0
    shown = capsys.readouterr().out
    assert "torch" in shown
    assert "holds" in shown
    assert "FAILS" not in shown


def test_no_secret_is_shown_or_kept(
    own_run: Path, llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-51c2")
    didact("doctor", "--model", llama)
    assert "canary-51c2" not in capsys.readouterr().out


def test_help_needs_no_torch() -> None:
    blocked = "import sys; sys.modules['torch'] = None; sys.argv = ['didact', '--help']"
    code = f"{blocked}; import didact.cli.main as cli; cli.main()"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "Train language models" in shown.stdout


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("grpo", {"verifier": "none"}, "eval.problems=0"),
        ("rltf", {"reference_column": "label", "verifier": {"name": "regex", "pattern": "x"}}, "criticise"),
        ("sft", {"reference_column": "label", "verifier": {"name": "regex", "pattern": "x"}}, "sft learns"),
    ],
)
def test_a_file_that_the_method_cannot_learn_from_is_refused_before_anything_is_written(
    method: str, settings: dict[str, object], message: str, data: Path, llama: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["--task", "prompts", "--model", llama, "--out", tmp_path / "run"]
    given = json.dumps({"path": str(data), **settings})
    assert didact("train", method, *words, "--set", f"task.settings={given}") in (2, 3)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_verifier_that_always_raises_is_reported_with_its_exception(
    data: Path, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checks.py").write_text("def right(answer, row):\n    return row['nothing']\n")
    given = json.dumps({"path": str(data), "verifier": f"{tmp_path}/checks.py:right"})
    words = ["--task", "prompts", "--model", llama, "--set", f"task.settings={given}"]
    assert didact("train", "grpo", *words, "--out", tmp_path / "run") == 3
    assert "KeyError: 'nothing'" in capsys.readouterr().err


def test_a_row_that_leaves_no_room_for_an_answer_is_named(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "long.jsonl", tmp_path / "run"
    rows = [{"prompt": f"What is {i}?" + " long" * 250 * (i == 3), "reference": "1"} for i in range(9)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--task", "prompts", "--set", f"task.settings.path={file}", "--model", llama, *QUICK]
    assert didact("train", "grpo", *words, "--out", out) == 3
    assert "'long/4' has a prompt of 12" in capsys.readouterr().err
    assert not out.exists()


def test_no_update_because_every_critique_failed_is_not_blamed_on_equal_rewards(
    llama: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from didact.build import components as setup
    from tests.helpers import CountingCritic

    monkeypatch.setattr(setup, "make_critic", lambda *_, **__: CountingCritic(fails=range(10**6)))
    words = ["--model", llama, *QUICK, "--out", tmp_path / "run"]
    assert didact("train", "rltf", *words) == 4
    said = capsys.readouterr().err
    assert "critiques that were asked for failed" in said
    assert "same reward" not in said


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 75), (errno.EROFS, 75), (errno.EACCES, 1)])
def test_a_full_disk_is_one_line_and_resumable(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError(number, "the disk says no", "runs/x")

    monkeypatch.setattr("didact.cli.main.app", fail)
    assert didact() == code
    said = capsys.readouterr().err
    assert said.startswith("didact: ")
    assert said.count("\n") == 1
    assert ("--resume" in said) == (code == 75)


def test_eval_of_a_run_on_another_task_drops_the_old_tasks_settings(own_run: Path) -> None:
    assert didact("eval", own_run, "--task", "spell_backward", "--set", "eval.problems=2") == 0
