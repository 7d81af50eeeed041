"""A run says once what looks wrong with it, and says the same after it was killed and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import didact
from didact.controls import CONTROLS, parse_control
from didact.errors import NoOpTrainingError
from didact.evaluation.report import write_report
from didact.evaluation.results import Report
from didact.run_dir import RunDir, read_jsonl
from didact.training.monitors import AlarmMonitor, run_alarms
from didact.training.summary import arm_result
from tests.models import save_model


def make_run(path: Path, control: str | None = None) -> RunDir:
    return RunDir.create(path / "run", f"method: rltf-sd\nfeedback: {{control: {json.dumps(control)}}}\n", "")


def watched(run: RunDir, records: list[dict[str, Any]], control: str | None = None) -> list[str]:
    """Watch a run write these lines; what was warned of."""
    warnings: list[str] = []
    watch = AlarmMonitor(run, parse_control(control), lambda record: warnings.append(record["warning"]))
    for record in records:
        run.add_metrics(record)
        watch.add(record)
    return warnings


def step(i: int, **values: Any) -> dict[str, Any]:
    return {"step": i, "grad_norm": 0.5, **values}


def evaluation(i: int, accuracy: float) -> dict[str, Any]:
    return {"step": i, "eval": {"accuracy": accuracy, "n": 200}}


def story() -> list[dict[str, Any]]:
    """Critiques are flat for a while; entropy and length fall for good; an evaluation falls at the end."""
    records = [evaluation(0, 0.6)]
    for i in range(1, 17):
        values = {"correct_first": 0.01 * i, "critiques": 16, "distinct_critiques": 1 if i < 6 else 16}
        values |= {"entropy": 2.0 if i < 8 else 0.01, "length_first": 9.0 if i < 10 else 1.0}
        records.append(step(i, **values))
        if i == 12:
            records.append(evaluation(12, 0.3))
    return records


def lines(run: RunDir) -> list[tuple[int, str]]:
    return [(line["step"], line["key"]) for line in read_jsonl(run.alarms)]


def test_each_kind_is_written_down_and_said_once_at_the_first_line_that_shows_it(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    warnings = watched(run, story())
    found = lines(run)
    assert [key for _, key in found] == ["distinct_critiques", "entropy", "accuracy", "length_first"]
    assert [i for i, _ in found] == sorted(i for i, _ in found)
    assert found[0] == (1, "distinct_critiques")
    assert found[2] == (12, "accuracy")
    assert len(warnings) == 4
    assert warnings[0].startswith("flat feedback at step 1: 1 different critiques")


@pytest.mark.parametrize("looked", [True, False], ids=["after the alarm", "before the alarm"])
@pytest.mark.parametrize("cut", [1, 9, 10, 12, 13, 16])
def test_a_killed_and_resumed_run_raises_the_same_at_the_same_steps(
    cut: int, looked: bool, tmp_path: Path
) -> None:
    records, whole = story(), make_run(tmp_path)
    watch = AlarmMonitor(whole, None, lambda record: None)
    for i, record in enumerate(records):
        whole.add_metrics(record)
        if i == cut and not looked:
            left = whole.metrics.read_bytes(), there(whole.alarms)
        watch.add(record)
        if i == cut and looked:
            left = whole.metrics.read_bytes(), there(whole.alarms)
    # The process died right after this line of metrics; its newest checkpoint is of an earlier step.
    reached = records[cut]["step"]
    for saved in {0, reached - 1, reached}:
        run = make_run(tmp_path / f"{saved}")
        run.metrics.write_bytes(left[0])
        run.alarms.write_bytes(left[1])
        run.rewind(saved)
        kept = list(read_jsonl(run.metrics))
        assert kept == [r for r in records[: cut + 1] if r["step"] <= saved]
        # Of a step that was reached, an evaluation may still be to come.
        watched(run, [r for r in records if r not in kept])
        assert run.alarms.read_bytes() == there(whole.alarms)
        assert run.metrics.read_bytes() == whole.metrics.read_bytes()


def there(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


@pytest.mark.parametrize("control", [None, *CONTROLS])
def test_only_controls_that_say_the_same_by_design_may_be_flat(control: str | None, tmp_path: Path) -> None:
    run = make_run(tmp_path, control)
    watched(run, [step(i, critiques=16, distinct_critiques=1) for i in range(1, 9)], control)
    flat = control in ("verdict", "reference", "second-try")
    expected = [] if flat else ["flat feedback"]
    assert [alarm.name for alarm in run_alarms(run, 8)] == expected
    run.alarms.unlink(missing_ok=True)  # as a run that did not watch itself
    assert [alarm.name for alarm in run_alarms(run, 8)] == expected


def test_what_has_passed_is_told_from_what_stands(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    watched(run, story())
    found = run_alarms(run, 16)
    assert [(a.step, a.key, a.stands) for a in found] == [
        (1, "distinct_critiques", False), (10, "entropy", True), (12, "accuracy", True),
        (13, "length_first", True),
    ]  # fmt: skip
    assert "to 0.01" in found[1].message  # in the numbers of the end, not of the step
    assert [a.key for a in run_alarms(run, 3)] == ["distinct_critiques"]
    assert run_alarms(run, 0) == []


def test_a_run_tells_what_looks_wrong_in_its_result_and_its_report(tmp_path: Path) -> None:
    out, warnings = tmp_path / "run", []
    with pytest.raises(NoOpTrainingError):
        didact.train(
            "grpo", out=out, model=str(save_model(tmp_path / "model")), task="spell_backward", steps=2,
            settings={"samples": 2}, problems_per_step=1, sampling={"max_tokens": 2}, eval={"problems": 2},
            warn=lambda record: warnings.append(record["warning"]),
        )  # fmt: skip
    (alarm,) = json.loads((out / "result.json").read_text())["alarms"]
    assert (alarm["name"], alarm["step"], alarm["stands"]) == ("no-op", 2, True)
    assert warnings == [f"no-op at step 2: {alarm['message']}"]
    arm = arm_result(out)
    assert [a.name for a in arm.alarms] == ["no-op"]
    assert arm_result(out, step=0).alarms == []
    page = write_report(tmp_path / "report.html", Report("t", "t", 2, 0, [arm], "s", baseline="grpo"))
    assert "no-op at step 2: nothing was trained in 2 steps" in page.read_text(encoding="utf-8")
