"""Sweeps: equal arms, cells that are never done twice, numbers worked out by hand, and a safe page."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
import yaml

from didact.cli.sweep import sweep
from didact.controls import CONTROLS, parse_control
from didact.errors import DataError, DidactError, Interrupted, UsageError
from didact.evaluation.alarms import Alarm
from didact.evaluation.results import CurvePoint
from didact.evaluation.stats import Estimate
from didact.run_dir import RunDir
from didact.sweep import run as run_module
from didact.sweep.collect import cell_result, collect, mean_curve, read_off
from didact.sweep.plan import Cell, Plan, merged, read_plan
from didact.sweep.report import summary, write_sweep_report
from didact.sweep.results import COLUMNS, SweepResults
from didact.sweep.run import CellState, check_settings, train_command
from didact.types import Feedback, Problem, Provenance, Rollout, Turn
from tests.models import save_model
from tests.test_report import ALLOWED_TAGS, HOSTILE, Page

SHARED: dict[str, Any] = {
    "settings": {"samples": 2}, "steps": 40, "max_sampled_tokens": 100, "eval": {"problems": 4},
}  # fmt: skip


def plan(**changes: Any) -> Plan:
    values = {
        "shared": SHARED,
        "tasks": {"easy": {"task": {"name": "spell_backward"}}},
        "methods": {"grpo": {}, "rltf-sd": None},
        "seeds": [0, 1],
        **changes,
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.yaml"
        file.write_text(yaml.safe_dump(values, sort_keys=False))
        return read_plan(file)


# ── the plan ──────────────────────────────────────────────────────────────────────────────────────


def test_a_plan_is_methods_times_tasks_times_seeds() -> None:
    found = plan(tasks={"easy": {"task": {"name": "spell_backward"}}, "gcd": {}})
    assert [cell.name for cell in found.cells] == [
        f"{task}/{arm}/seed-{seed}"
        for task in ("easy", "gcd")
        for arm in ("grpo", "rltf-sd")
        for seed in (0, 1)
    ]
    assert {(c.config.task.name, c.config.method, c.config.seed) for c in found.cells} == {
        (task, arm, seed)
        for task in ("spell_backward", "gcd")
        for arm in ("grpo", "rltf-sd")
        for seed in (0, 1)
    }
    assert found.baseline == "grpo"


def test_nearer_settings_win() -> None:
    found = plan(
        shared={**SHARED, "optim": {"lr": 1e-3, "eps": 1e-6}},
        tasks={"easy": {"task": {"name": "gcd"}, "optim": {"lr": 2e-3}}},
        methods={
            "grpo": {"optim": {"warmup_steps": 3}},
            "mine": {"method": "rltf", "settings": {"gamma": 0}},
        },
    )
    grpo, mine = found.cells[0].config, found.cells[2].config
    assert (grpo.optim.lr, grpo.optim.eps, grpo.optim.warmup_steps) == (2e-3, 1e-6, 3)
    assert (mine.method, mine.settings, mine.optim.warmup_steps) == ("rltf", {"samples": 2, "gamma": 0}, 0)


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_differs_from_its_method_by_the_named_thing_alone(control: str) -> None:
    found = plan(controls=list(CONTROLS))
    cells = {cell.name: cell.config for cell in found.cells}
    method, arm = cells["easy/rltf-sd/seed-1"], cells[f"easy/rltf-sd-{control}/seed-1"]
    assert arm.feedback.control == parse_control(control)
    assert method.feedback.control is None
    mine, theirs = arm.model_dump(), method.model_dump()
    mine["feedback"]["control"] = None
    assert mine == theirs
    assert f"easy/grpo-{control}/seed-1" not in cells  # it reads no critique


def test_controls_may_be_named_for_one_method_and_replaced_on_the_command_line(tmp_path: Path) -> None:
    methods = {"rltf-sd": {"controls": ["verdict"]}, "rltf-fm": {}}
    found = plan(methods=methods, controls=["shuffled"])
    assert [a.name for a in found.arms] == ["rltf-sd", "rltf-sd-verdict", "rltf-fm", "rltf-fm-shuffled"]
    assert [(a.control, a.of) for a in found.arms[:2]] == [(None, None), ("verdict", "rltf-sd")]
    file = tmp_path / "sweep.yaml"
    file.write_text(
        yaml.safe_dump(
            {"tasks": {"gcd": None}, "methods": methods, "seeds": [0], "shared": SHARED}, sort_keys=False
        )
    )
    names = [a.name for a in read_plan(file, controls=["second-try"]).arms]
    assert names == ["rltf-sd", "rltf-sd-second-try", "rltf-fm", "rltf-fm-second-try"]
    assert [a.name for a in read_plan(file, controls=[]).arms] == ["rltf-sd", "rltf-fm"]


@pytest.mark.parametrize(("key", "value"), [("steps", 41), ("max_sampled_tokens", 200)])
def test_arms_with_different_budgets_are_refused_unless_the_file_says_so(key: str, value: int) -> None:
    methods = {"grpo": {}, "rltf-sd": {key: value}}
    with pytest.raises(UsageError, match=rf"{key} = .*rltf-sd.* {value}"):
        plan(methods=methods)
    assert plan(methods=methods, unequal_budgets=True).cells[-1].config.model_dump()[key] == value


def test_tasks_may_have_different_budgets() -> None:
    found = plan(tasks={"a": {"task": {"name": "gcd"}, "steps": 7}, "b": {"task": {"name": "gcd"}}})
    assert {(c.task, c.config.steps) for c in found.cells} == {("a", 7), ("b", 40)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": {"grpo": {}, "rltf-sd": {"eval": {"problems": 5}}}}, "differ in `eval`"),
        ({"methods": {"grpo": {}, "rltf-sd": {"task": {"name": "gcd"}}}}, "differ in `task`"),
        ({"methods": {"grpo": {"eval": {"problems": 0}}}}, "eval.problems is 0"),
        ({"methods": {"grpo": {"controls": ["shuffled"]}}}, "grpo reads no critique"),
        ({"methods": {"rltf-sd": {"controls": ["shufled"]}}}, "did you mean 'shuffled'"),
        ({"methods": {"rltf-sd": {"controls": ["verdict", "verdict"]}}}, "named 'rltf-sd-verdict'"),
        ({"methods": {"rltf-sd": {"feedback": {"control": "verdict"}, "controls": ["shuffled"]}}}, "itself"),
        ({"methods": {"grop": {}}}, "did you mean 'grpo'"),
        ({"methods": {"grpo": {"settings": {"sampels": 2}}}}, "sampels"),
        ({"methods": {"grpo": {"optimm": {}}}}, "did you mean 'optim'"),
        ({"methods": {"grpo": {"seed": 3}}}, "seed belongs at the top"),
        ({"methods": {"../grpo": {}}}, "names a directory"),
        ({"tasks": {"a/b": {}}}, "names a directory"),
        ({"tasks": {"..": {}}}, "names a directory"),
        ({"baseline": "grop"}, "did you mean 'grpo'"),
        ({"seeds": [1, 1]}, "twice"),
    ],
)
def test_a_plan_that_compares_nothing_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        plan(**changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methds: {}", "did you mean 'methods'"),
        ("methods: {grpo: {}}\ntasks: {gcd: {}}\nseeds: [100]", "seeds.0 = 100"),
        ("methods: {}\ntasks: {gcd: {}}\nseeds: [0]", "methods"),
        ("methods: {grpo: {}}\ntasks: {gcd: {}}\nseeds: [0]\ncontrols: [nonsense]", "controls.0"),
    ],
)
def test_a_file_with_a_wrong_word_names_it(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UsageError, match=re.escape(words)):
        read_plan(tmp_path / "s.yaml")


def test_cells_are_chosen_by_name() -> None:
    found = plan(tasks={"easy": {"task": {"name": "gcd"}}, "hard": {"task": {"name": "gcd"}}})
    assert [c.name for c in found.chosen(["*/grpo/seed-1", "hard/rltf-sd/seed-0"])] == [
        "easy/grpo/seed-1", "hard/grpo/seed-1", "hard/rltf-sd/seed-0",
    ]  # fmt: skip
    assert found.chosen([]) == found.cells
    with pytest.raises(UsageError, match="'easy/grpo/seed-0'"):
        found.chosen(["easy/grpo/sed-0"])


def test_merging_changes_neither_side() -> None:
    below, above = {"a": {"b": 1}, "c": [1]}, {"a": {"d": 2}, "c": [2]}
    assert merged(below, above) == {"a": {"b": 1, "d": 2}, "c": [2]}
    assert below == {"a": {"b": 1}, "c": [1]}


# ── running cells ─────────────────────────────────────────────────────────────────────────────────

CELL = """\
import os, signal, sys
path, does, log = sys.argv[1:4]
def tell(word):
    with open(log, "a") as handle:
        handle.write(f"{word} {os.path.relpath(path, os.path.dirname(log))}\\n")
def save(*_):
    tell("saved")
    sys.exit(75)
tell("start")
if does == "block":
    signal.signal(signal.SIGTERM, save)
    tell("blocks")
    signal.pause()
if does == "fail":
    print("it went wrong")
    sys.exit(3)
os.makedirs(path, exist_ok=True)
with open(path + "/result.json", "w") as handle:
    handle.write("{}")
tell("end")
sys.exit(4 if does == "no-op" else 0)
"""


class Launcher:
    """Runs a few lines of Python in place of `didact train`, and notes what was launched."""

    def __init__(self, out: Path, does: dict[str, str] | None = None) -> None:
        self.log = out / "log"
        self.does = does or {}
        self.launched: list[str] = []
        out.mkdir(parents=True, exist_ok=True)

    def __call__(self, cell: Cell, path: Path) -> Sequence[str]:
        self.launched.append(cell.name)
        does = self.does.get(cell.name, "finish")
        return [sys.executable, "-S", "-c", CELL, str(path), does, str(self.log)]

    @property
    def told(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def run_cells(cells: Sequence[Cell], out: Path, *, launch: Launcher, **options: Any) -> dict[str, CellState]:
    """Run cells by another command than `didact train`."""
    with mock.patch.object(run_module, "train_command", launch):
        return run_module.run_cells(cells, out, **options)


def test_cells_run_in_order_one_after_another_with_one_worker(tmp_path: Path) -> None:
    cells = plan().cells
    launcher = Launcher(tmp_path)
    states = run_cells(cells, tmp_path, workers=1, launch=launcher)
    assert {s.status for s in states.values()} == {"finished"}
    assert launcher.told == [f"{word} {cell.name}" for cell in cells for word in ("start", "end")]


def test_at_most_so_many_workers_run_at_a_time(tmp_path: Path) -> None:
    most = []
    run_cells(
        plan().cells, tmp_path, workers=3, launch=Launcher(tmp_path),
        watch=lambda states: most.append(sum(s.status == "running" for s in states.values())),
    )  # fmt: skip
    assert max(most) == 3


def test_finished_cells_are_never_redone(tmp_path: Path) -> None:
    cells = plan().cells
    run_cells(cells[:2], tmp_path, workers=2, launch=Launcher(tmp_path))
    again = Launcher(tmp_path)
    states = run_cells(cells, tmp_path, workers=2, launch=again)
    assert again.launched == [cell.name for cell in cells[2:]]
    assert {s.status for s in states.values()} == {"finished"}
    nothing = Launcher(tmp_path)
    run_cells(cells, tmp_path, workers=2, launch=nothing)
    assert nothing.launched == []


def test_a_failed_cell_is_named_with_its_last_words_and_the_others_go_on(tmp_path: Path) -> None:
    cells = plan().cells
    bad = cells[0].name
    states = run_cells(cells, tmp_path, workers=1, launch=Launcher(tmp_path, {bad: "fail"}))
    assert states[bad].status == "failed"
    assert states[bad].code == 3
    assert "it went wrong" in states[bad].reason
    assert str(tmp_path / f"{bad}.log") in states[bad].reason
    assert [s.status for s in states.values()].count("finished") == 3
    again = Launcher(tmp_path)
    assert run_cells(cells, tmp_path, workers=1, launch=again)[bad].status == "finished"
    assert again.launched == [bad]


def test_a_run_in_which_no_weight_changed_is_a_result(tmp_path: Path) -> None:
    cells = plan().cells[:1]
    states = run_cells(cells, tmp_path, workers=1, launch=Launcher(tmp_path, {cells[0].name: "no-op"}))
    assert states[cells[0].name] == CellState("finished")


def test_half_a_result_is_no_result(tmp_path: Path) -> None:
    (cell, *_) = plan().cells
    (tmp_path / cell.name).mkdir(parents=True)
    (tmp_path / cell.name / "result.json").write_text('{"steps": ')
    launcher = Launcher(tmp_path)
    run_cells([cell], tmp_path, workers=1, launch=launcher)
    assert launcher.launched == [cell.name]


def test_a_torn_cell_is_resumed_and_a_new_one_is_begun(tmp_path: Path) -> None:
    (cell, *_) = plan().cells
    path = tmp_path / cell.name
    path.parent.mkdir(parents=True)
    begun = train_command(cell, path)
    assert begun[-5:] == ["grpo", "--config", f"{path}.yaml", "--out", str(path)]
    assert yaml.safe_load(Path(f"{path}.yaml").read_text()) == cell.config.model_dump(mode="json")
    RunDir.create(path, cell.config.to_yaml(), "didact train")
    assert train_command(cell, path)[-2:] == ["--resume", str(path)]


def test_a_directory_with_other_settings_stops_the_sweep_before_anything_starts(tmp_path: Path) -> None:
    cells = plan().cells
    RunDir.create(tmp_path / cells[-1].name, "method: sft\n", "didact train")
    launcher = Launcher(tmp_path)
    with pytest.raises(UsageError, match=r"easy/rltf-sd/seed-1.*--out"):
        run_cells(cells, tmp_path, workers=2, launch=launcher)
    assert launcher.launched == []


def test_a_cell_of_a_version_with_fewer_settings_is_still_the_same_cell(tmp_path: Path) -> None:
    (cell, *_) = plan().cells
    values = yaml.safe_load(cell.config.to_yaml())
    del values["inspect"], values["optim"]["schedule"]
    RunDir.create(tmp_path / cell.name, yaml.safe_dump(values), "didact train")
    check_settings(cell, tmp_path)
    values["optim"]["lr"] *= 2
    (tmp_path / cell.name / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UsageError, match="other settings"):
        check_settings(cell, tmp_path)


def test_a_signal_lets_running_cells_save_and_the_same_command_goes_on(tmp_path: Path) -> None:
    cells = plan().cells
    slow = cells[1].name
    launcher = Launcher(tmp_path, {slow: "block"})
    before = signal.getsignal(signal.SIGTERM)

    def watch(states: dict[str, CellState]) -> None:
        if f"blocks {slow}" in launcher.told and f"saved {slow}" not in launcher.told:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"SIGTERM .*1 of 4"):
        run_cells(cells, tmp_path, workers=1, launch=launcher, watch=watch)
    assert launcher.told[-1] == f"saved {slow}"
    assert signal.getsignal(signal.SIGTERM) == before, "the caller's handler is back"
    again = Launcher(tmp_path)
    run_cells(cells, tmp_path, workers=1, launch=again)
    assert again.launched == [c.name for c in cells[1:]]


DRIVER = """\
import sys
from pathlib import Path
from didact.sweep.plan import Cell
from didact.sweep import run
from didact.config import RunConfig
out, log, code = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
cell = Cell("easy/grpo/seed-0", "easy", "grpo", 0, RunConfig(method="grpo"))
run.train_command = lambda cell, path: [sys.executable, "-S", "-c", code, str(path), "block", str(log)]
run.run_cells(
    [cell], out, workers=1,
    watch=lambda states: print(*log.read_text().split(), flush=True) if log.exists() else None,
)
"""


def test_after_the_death_of_a_sweep_its_orphan_is_left_alone_until_it_ends(tmp_path: Path) -> None:
    (cell, *_) = plan().cells
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), str(tmp_path / "log"), CELL],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    with driver, driver.stdout:
        for line in driver.stdout:
            if f"blocks {cell.name}" in line:
                break
        driver.kill()
    lock = (tmp_path / f"{cell.name}.lock").open("rb")
    with lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    launcher, seen = Launcher(tmp_path), []

    def watch(states: dict[str, CellState]) -> None:
        seen.append(states[cell.name].status)
        if seen == ["elsewhere"]:
            end_orphan(tmp_path / cell.name)

    states = run_cells([cell], tmp_path, workers=1, launch=launcher, watch=watch)
    assert seen[0] == "elsewhere"
    assert states[cell.name].status == "finished"
    assert launcher.told.count(f"saved {cell.name}") == 1
    assert launcher.told.index(f"saved {cell.name}") < launcher.told.index(f"end {cell.name}")


def end_orphan(path: Path) -> None:
    """Ask the one process that works for this run directory to end."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(path).encode() in words:
            os.kill(int(folder.name), signal.SIGTERM)


# ── what they show ────────────────────────────────────────────────────────────────────────────────


def answered(right: Sequence[bool], text: str = "sun") -> list[Rollout]:
    def turn(correct: bool) -> Turn:
        return Turn(
            prompt_ids=(1,), completion_ids=(2, 3), logprobs=(-0.1, -0.1), text=text, stop_reason="eos",
            reward=float(correct),
        )  # fmt: skip

    said = Feedback(text=text, source="judge", saw_reference=False, provenance=Provenance(author=text))
    return [
        Rollout(
            id=f"r/{i}", group=f"r/{i}", problem=Problem.ask(f"question {i} {text}", id=str(i)),
            turns=(turn(correct), turn(True)), feedback=(said,),
        )
        for i, correct in enumerate(right)
    ]  # fmt: skip


def finished(out: Path, cell: Cell, right: Sequence[bool], *, text: str = "sun", distinct: int = 8) -> RunDir:
    """A run directory as training leaves it: 0 right at first, `right` after two steps and 120 tokens."""
    run = RunDir.create(out / cell.name, cell.config.to_yaml(), "didact train")
    ends = {0: [False] * len(right), 2: right}
    for step, verdicts in ends.items():
        rollouts = answered(verdicts, text)
        run.add_evaluation(rollouts, step)
        accuracy = sum(verdicts) / len(verdicts)
        values = {"n": len(verdicts), "accuracy": accuracy, "ci95": [0, 1], "accuracy_after_feedback": 1.0}
        if step == 0:
            run.add_metrics({"step": 0, "sampled_tokens": 0, "eval": values})
            for i in (1, 2):
                said = [
                    r.model_copy(
                        update={
                            "id": f"{i}/{j}",
                            "feedback": (r.feedback[0].model_copy(update={"text": f"c{j % distinct}"}),),
                        }
                    )
                    for j, r in enumerate(answered([False] * 8, text))
                ]
                run.add_rollouts(said, i)
                run.add_timing({"step": i, "seconds": 1.5})
                run.add_metrics(
                    {
                        "step": i, "sampled_tokens": 60 * i, "feedback_tokens": 7 * i, "grad_norm": 0.1,
                        "leak_rate": 0.25 * i, "feedback_cost_usd": 0.5, "reward_cost_usd": 0.25,
                        "mentions_critique": 0.0, "critiques": 8, "distinct_critiques": distinct,
                    }
                )  # fmt: skip
        else:
            run.add_metrics({"step": 2, "sampled_tokens": 120, "eval": values})
    run.result.write_text("{}")
    return run


RIGHT = {
    ("grpo", 0): [True, False, False, False], ("grpo", 1): [False, False, False, False],
    ("rltf-sd", 0): [True, True, True, False], ("rltf-sd", 1): [True, True, True, True],
}  # fmt: skip


def results(out: Path, **changes: Any) -> SweepResults:
    found = plan(**changes)
    for cell in found.cells:
        if (cell.arm, cell.seed) in RIGHT:
            finished(out, cell, RIGHT[cell.arm, cell.seed])
    return collect(found, out)


def test_the_table_holds_the_numbers_of_the_runs(tmp_path: Path) -> None:
    found = results(tmp_path)
    (task,) = found.tasks
    assert (task.n_eval, task.base_accuracy, task.budget) == (4, 0.0, "100 sampled policy tokens")
    grpo, sd = task.arms
    assert (grpo.final.value, sd.final.value) == (0.125, 0.875)
    assert (sd.final.low, sd.final.high, sd.final.n) == (0.75, 1.0, 2)
    # A straight line from 0 to 0.875 at 120 tokens, cut at the budget of 100: 0.875 · 100/120 / 2.
    assert sd.area.value == pytest.approx(0.875 * 100 / 120 / 2)
    assert sd.improvement is not None
    assert sd.improvement.value == 1.0
    assert sd.p == pytest.approx(1 / 3)
    assert sd.p_holm == sd.p
    # Problem by problem over both seeds: right in 2, 2, 2, 1 of 2 against 1, 0, 0, 0.
    assert sd.difference is not None
    assert sd.difference[0] == pytest.approx((0.5 + 1 + 1 + 0.5) / 4)
    assert (grpo.improvement, grpo.difference, grpo.p) == (None, None, None)
    assert (sd.sampled_tokens, sd.feedback_tokens, sd.cost_usd, sd.seconds) == (120, 14, 1.5, 3.0)
    assert sd.leak_rate == pytest.approx(0.375)
    assert sd.after_feedback == Estimate(1.0, 1.0, 1.0, 2)
    assert found.missing == {}
    assert found.comparisons == 1
    assert any("2 seeds an arm" in note for note in found.notes)
    assert any("can be below 0.33" in note for note in found.notes)
    assert "rltf-sd ends highest: 87.5 % [75–100 %]" in summary(found)


def test_a_run_that_samples_nothing_has_its_end_in_place_of_a_curve(tmp_path: Path) -> None:
    cell = plan().cells[0]
    unbounded = cell.config.model_copy(update={"max_sampled_tokens": None})
    run = finished(tmp_path, cell, [True, False, False, False])
    records = [{**json.loads(line), "sampled_tokens": 0} for line in run.metrics.read_text().splitlines()]
    run.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = cell_result(replace(cell, config=unbounded), tmp_path)
    assert (found.accuracy, found.area, found.sampled_tokens) == (0.25, 0.25, 0)


def test_what_is_not_finished_is_named_and_left_out(tmp_path: Path) -> None:
    found = plan(methods={"grpo": {}, "rltf-sd": {}, "rltf-fm": {}})
    finished(tmp_path, found.cells[0], [True] * 4)
    finished(tmp_path, found.cells[3], [False] * 4)
    states = {found.cells[2].name: CellState("failed", "exit code 4: loss is not finite", 4)}
    seen = collect(found, tmp_path, states=states)
    assert list(seen.missing) == [found.cells[i].name for i in (1, 2, 4, 5)]
    assert seen.missing[found.cells[2].name] == "exit code 4: loss is not finite"
    assert [(arm.arm, arm.seeds) for arm in seen.tasks[0].arms] == [("grpo", (0,)), ("rltf-sd", (1,))]
    sd = seen.tasks[0].arms[1]
    assert (sd.difference, sd.p) == (None, None)  # no seed that both have, and one run each
    assert collect(found, tmp_path / "empty").tasks == []
    assert summary(collect(found, tmp_path / "empty")) == "No run has finished yet."


def test_runs_on_different_problems_are_not_compared(tmp_path: Path) -> None:
    found = plan()
    finished(tmp_path, found.cells[0], [True] * 4)
    finished(tmp_path, found.cells[2], [True] * 4, text="moon")
    with pytest.raises(DataError, match="different problems"):
        collect(found, tmp_path)


def test_critiques_that_are_all_alike_raise_an_alarm_unless_that_is_the_control(tmp_path: Path) -> None:
    found = plan(controls=["verdict", "reference", "second-try", "shuffled"], seeds=[0])
    for cell in found.cells:
        finished(tmp_path, cell, [True] * 4, distinct=1 if cell.arm.startswith("rltf-sd") else 8)
    seen = collect(found, tmp_path).alarms
    assert [(name, alarm.name) for name, alarm in seen] == [
        ("easy/rltf-sd/seed-0", "flat feedback"),
        ("easy/rltf-sd-shuffled/seed-0", "flat feedback"),
    ]


def test_a_run_that_did_not_spend_its_tokens_says_so(tmp_path: Path) -> None:
    assert not any("ended by `steps`" in note for note in results(tmp_path / "a").notes)
    more = results(tmp_path / "b", shared={**SHARED, "max_sampled_tokens": 1000})
    assert any("4 runs ended by `steps`" in note for note in more.notes)


def test_over_several_tasks_all_comparisons_are_corrected_together(tmp_path: Path) -> None:
    task = {"task": {"name": "gcd"}}
    found = results(tmp_path, tasks={"a": task, "b": task})
    assert found.comparisons == 2
    assert [arm.p_holm for task in found.tasks for arm in task.arms[1:]] == pytest.approx([2 / 3, 2 / 3])
    assert [(arm, final.value, final.n) for arm, final, _ in found.pooled] == [
        ("grpo", 0.125, 4), ("rltf-sd", 0.875, 4),
    ]  # fmt: skip
    assert found.pooled[1][2] is not None
    assert found.pooled[1][2].value == 1.0


def test_curves_that_were_measured_elsewhere_are_read_off_between_their_points() -> None:
    def curve(*points: tuple[int, float]) -> list[CurvePoint]:
        return [CurvePoint(i, at, 0.0, height, (0.0, 1.0)) for i, (at, height) in enumerate(points)]

    found = mean_curve([curve((0, 0.0), (50, 0.5), (120, 1.0)), curve((0, 0.2), (100, 0.4)), []])
    assert [(p.sampled_tokens, p.accuracy) for p in found] == [
        (0, pytest.approx(0.1)),
        (50, pytest.approx((0.5 + 0.3) / 2)),
        (100, pytest.approx((0.5 + 0.5 * 50 / 70 + 0.4) / 2)),
    ]
    assert found[1].ci95 == (pytest.approx(0.3), pytest.approx(0.5))
    assert mean_curve([[]]) == []


def test_between_two_evaluations_a_curve_is_a_line() -> None:
    curve = [CurvePoint(step, 10 * step, 0.0, acc, (0, 1)) for step, acc in ((0, 0.1), (25, 0.6), (40, 0.3))]
    assert read_off(curve, "step", 25) == 0.6
    assert read_off(curve, "step", 10) == pytest.approx(0.3)
    assert read_off(curve, "sampled_tokens", 300) == pytest.approx(0.5)


def test_runs_that_end_apart_are_also_compared_at_equal_steps(tmp_path: Path) -> None:
    (task,) = results(tmp_path).tasks
    assert task.equal_steps is None  # all of them end at step 2
    assert [arm.at_equal_steps for arm in task.arms] == [None, None]
    html = write_sweep_report(tmp_path / "report.html", results(tmp_path / "again")).read_text()
    assert "At equal steps:" not in html
    for seed in (0, 1):  # one sampled answer a problem leaves tokens for another step
        run = RunDir(tmp_path / f"easy/rltf-sd/seed-{seed}")
        run.add_metrics({"step": 4, "sampled_tokens": 125, "feedback_tokens": 0})
        run.add_metrics({"step": 4, "sampled_tokens": 125, "eval": {"n": 4, "accuracy": 1.0, "ci95": [0, 1]}})
        run.add_timing({"step": 4, "seconds": 1.5})
        run.add_evaluation(answered([True] * 4), 4)
    run = RunDir(tmp_path / "easy/grpo/seed-1")
    run.add_metrics({"step": 3, "sampled_tokens": 125, "feedback_tokens": 0})
    run.add_metrics({"step": 3, "sampled_tokens": 125, "eval": {"n": 4, "accuracy": 0.5, "ci95": [0, 1]}})
    run.add_timing({"step": 3, "seconds": 1.5})
    run.add_evaluation(answered([True, True, False, False]), 3)
    found = collect(plan(), tmp_path)
    (task,) = found.tasks
    grpo, sd = task.arms
    assert task.equal_steps == 2
    assert (grpo.final.value, sd.final.value) == (0.375, 1.0)
    assert grpo.at_equal_steps == Estimate(0.125, 0.0, 0.25, 2)
    assert sd.at_equal_steps == Estimate(0.875, 0.75, 1.0, 2)
    assert "At equal steps: 2" in write_sweep_report(tmp_path / "report.html", found).read_text()


def test_a_control_is_compared_with_its_method(tmp_path: Path) -> None:
    chosen = plan(methods={"grpo": {}, "rltf-sd": {"controls": ["shuffled"]}})
    right = {**RIGHT, ("rltf-sd-shuffled", 0): [True, True, False, False],
             ("rltf-sd-shuffled", 1): [True, True, True, False]}  # fmt: skip
    for cell in chosen.cells:
        finished(tmp_path, cell, right[cell.arm, cell.seed])
    found = collect(chosen, tmp_path)
    grpo, sd, shuffled = found.tasks[0].arms
    assert (grpo.to_method, sd.to_method) == (None, None)
    # Right in 2, 2, 1, 0 of 2 where the method is in 2, 2, 2, 1.
    assert shuffled.to_method is not None
    assert shuffled.to_method[0] == pytest.approx((0 + 0 - 0.5 - 0.5) / 4)
    assert shuffled.difference is not None
    assert shuffled.difference[0] == pytest.approx((0.5 + 1 + 0.5 + 0) / 4)
    html = write_sweep_report(tmp_path / "report.html", found).read_text()
    assert "Control against its method" in html
    assert "−25.0<small>" in html


def test_results_are_json_and_the_same_runs_give_the_same(tmp_path: Path) -> None:
    found = results(tmp_path)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.dumps(collect(plan(), tmp_path).to_json()) == text
    read = json.loads(text)
    assert read["tasks"][0]["arms"][1]["final"]["value"] == 0.875
    assert read["cells"][0]["curve"] == [[0, 0.0], [120, 0.25]]
    assert set(read["definitions"]) == set(COLUMNS)


# ── the page ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", HOSTILE)
def test_the_page_shows_hostile_text_and_executes_none(text: str, tmp_path: Path) -> None:
    found = results(tmp_path)
    (task,) = found.tasks
    rollouts = answered([False], text)
    arms = [replace(arm, shown=replace(arm.shown, rollouts=rollouts)) for arm in task.arms]
    alarm = Alarm("flat feedback", 1, text, "distinct_critiques")
    hostile = replace(
        found, title=text, tasks=[replace(task, task=text, arms=arms)], missing={text: text},
        notes=[text], details={text: text}, cells=[replace(cell, alarms=[alarm]) for cell in found.cells],
    )  # fmt: skip
    html = write_sweep_report(tmp_path / "page" / "report.html", hostile).read_text(encoding="utf-8")
    calm = replace(hostile, missing={"a": "b"}, tasks=[replace(task, arms=arms)])
    plain = write_sweep_report(tmp_path / "calm.html", calm).read_text(encoding="utf-8")
    page, other = Page(html), Page(plain)
    assert page.open == []
    # Below the curves: a wide name may move the axes' ticks.
    below = [p.tags[p.tags.index("figcaption") :] for p in (page, other)]
    assert below[0] == below[1]
    assert set(page.tags) <= ALLOWED_TAGS
    assert html.count("<style") == plain.count("<style")
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not [
        v for _, n, v in page.attributes if n in ("href", "src", "xlink:href") and not v.startswith("#")
    ]
    assert "\u202e" not in html
    assert "\x1b" not in html


def test_the_page_is_self_contained_and_every_id_is_there_once(tmp_path: Path) -> None:
    task = {"task": {"name": "gcd"}}
    found = results(tmp_path, tasks={"a": task, "b": task})
    html = write_sweep_report(tmp_path / "report.html", found).read_text(encoding="utf-8")
    ids = re.findall(r'\sid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]*)', html):
        assert target in ids
    assert "://" not in html
    assert html.count("<svg role=") == 2
    for word in ("rltf-sd", "87.5 %", "75–100 %", "Chance of beating", "14", "37.5 %"):
        assert word in html


# ── the command ───────────────────────────────────────────────────────────────────────────────────


def run_sweep(*words: object) -> None:
    """`didact sweep …`, errors and all."""
    app = typer.Typer()
    app.command()(sweep)
    app([str(word) for word in words], standalone_mode=False)


def sweep_yaml(folder: Path, model: Path, **changes: Any) -> Path:
    values = {
        "title": "Two arms",
        "shared": {
            "model": {"path": str(model)}, "steps": 2, "problems_per_step": 2, "settings": {"samples": 2},
            "sampling": {"max_tokens": 4}, "eval": {"problems": 4}, "optim": {"lr": 1e-3},
        },
        "tasks": {"spell": {"task": {"name": "spell_backward"}}},
        "methods": {"rltf-sd": {"controls": ["second-try"]}},
        "seeds": [0],
        **changes,
    }  # fmt: skip
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


@pytest.mark.slow
def test_a_sweep_runs_and_is_taken_up_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    file, out = sweep_yaml(tmp_path, save_model(tmp_path / "model")), tmp_path / "out"
    run_sweep(file, "--out", out, "--workers", 2)
    found = json.loads((out / "results.json").read_text())
    assert [cell["path"] for cell in found["cells"]] == [
        "spell/rltf-sd/seed-0",
        "spell/rltf-sd-second-try/seed-0",
    ]
    assert found["missing"] == {}
    assert (out / "report.html").stat().st_size > 10_000
    said = (out / "spell/rltf-sd-second-try/seed-0/feedback.jsonl").read_text().splitlines()
    assert {json.loads(line)["text"] for line in said} == {"Please answer once more."}
    metrics = out / "spell/rltf-sd/seed-0/metrics.jsonl"
    before = (metrics.read_bytes(), metrics.stat().st_mtime_ns)
    capsys.readouterr()
    run_sweep(file, "--out", out)
    assert capsys.readouterr().out.count("taken up: it was finished") == 2
    assert (metrics.read_bytes(), metrics.stat().st_mtime_ns) == before


def test_a_dry_run_shows_the_cells_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sweep_yaml(tmp_path, tmp_path)
    run_sweep(file, "--out", tmp_path / "out", "--dry-run", "--controls", "verdict,shuffled")
    told = capsys.readouterr().out
    for arm in ("rltf-sd", "rltf-sd-verdict", "rltf-sd-shuffled"):
        assert re.search(rf"^spell/{arm}/seed-0 +2 steps$", told, re.MULTILINE)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="did you mean 'shuffled'"):
        run_sweep(file, "--controls", "shufled", "--dry-run")
    with pytest.raises(UsageError, match="did you mean 'spell_backward'"):
        run_sweep(
            sweep_yaml(tmp_path, tmp_path, tasks={"spell": {"task": {"name": "spel_backward"}}}), "--dry-run"
        )


def test_a_sweep_with_failed_cells_reports_the_rest_and_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(cell: Cell, path: Path) -> Sequence[str]:
        if cell.arm == "rltf-sd":
            finished(tmp_path / "out", cell, [True] * 4)
            (path / "result.json").unlink()
            write = f"open({str(path / 'result.json')!r}, 'w').write('{{}}')"
            return [sys.executable, "-S", "-c", write]
        return [sys.executable, "-S", "-c", "import sys; sys.exit('no such luck')"]

    monkeypatch.setattr(run_module, "train_command", launch)
    with pytest.raises(DidactError, match=r"1 of 2 (.|\n)*no such luck") as e:
        run_sweep(sweep_yaml(tmp_path, tmp_path), "--out", tmp_path / "out", "--workers", 1)
    assert e.value.exit_code == 1
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [cell["arm"] for cell in found["cells"]] == ["rltf-sd"]
    assert "no such luck" in found["missing"]["spell/rltf-sd-second-try/seed-0"]


def test_the_recipes_sweep_is_a_fair_one() -> None:
    file = Path(__file__).parent.parent / "recipes" / "sweep_demo" / "sweep.yaml"
    found = read_plan(file)
    names = [arm.name for arm in found.arms]
    assert {"grpo", "rltf-sd", "rltf-fm"} <= set(names)
    # Every control of what is said; rltf-sd reads no spans.
    said = {"shuffled", "other-problem", "verdict", "reference", "second-try"}
    assert {arm.control for arm in found.arms if arm.of == "rltf-sd"} == said
    assert said <= set(CONTROLS)
    assert len(found.file.seeds) == 2
    assert (
        len({(c.config.max_sampled_tokens, repr(c.config.model), repr(c.config.optim)) for c in found.cells})
        == 1
    )
