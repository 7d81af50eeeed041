"""Run directory and checkpoints: whole or not there, and nobody's words are lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from didact.errors import CheckpointError, DataError, UsageError
from didact.run_dir import RunDir, append_jsonl, read_jsonl, write_atomically
from didact.training.checkpoint import KEEP, State, check, load_checkpoint, save_checkpoint
from tests.helpers import dialogue


class FileEngine:
    """Saves a number."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def save(self, path: Path) -> None:
        (path / "weights.bin").write_bytes(bytes([self.value]) * 100)

    def load(self, path: Path) -> None:
        self.value = (path / "weights.bin").read_bytes()[0]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    for step in (1, 2):
        save_checkpoint(tmp_path, FileEngine(step), State(step=step))  # type: ignore[arg-type]
    return tmp_path


def load(folder: Path) -> tuple[int | None, int, list[str]]:
    engine = FileEngine()
    state, torn = load_checkpoint(folder, engine)  # type: ignore[arg-type]
    return (state.step if state else None), engine.value, torn


def test_the_newest_checkpoint_is_loaded(saved: Path) -> None:
    assert load(saved) == (2, 2, [])


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert load(tmp_path) == (None, 0, [])


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "no manifest", "state"])
def test_a_torn_checkpoint_is_named_and_the_one_before_is_taken(saved: Path, damage: str) -> None:
    newest = saved / "step-000002"
    weights, manifest = newest / "weights.bin", newest / "manifest.json"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:50])
    elif damage == "flip":
        weights.write_bytes(b"\xff" + weights.read_bytes()[1:])
    elif damage == "remove":
        weights.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:20])
    elif damage == "no manifest":
        manifest.unlink()
    else:
        (newest / "state.json").write_text("{}")
    step, value, torn = load(saved)
    assert (step, value) == (1, 1)
    assert len(torn) == 1
    assert "step-000002 is torn" in torn[0]
    with pytest.raises(CheckpointError, match="torn"):
        check(newest)


def test_a_half_written_checkpoint_is_never_seen(saved: Path) -> None:
    (saved / ".tmp-step-000003").mkdir()
    (saved / "step-junk").mkdir()
    assert load(saved)[0] == 2


def test_only_the_newest_are_kept_and_only_once_a_newer_one_is_whole(saved: Path) -> None:
    class FullDisk(FileEngine):
        def save(self, path: Path) -> None:
            super().save(path)
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        save_checkpoint(saved, FullDisk(), State(step=3))  # type: ignore[arg-type]
    assert load(saved) == (2, 2, [])
    save_checkpoint(saved, FileEngine(3), State(step=3))  # type: ignore[arg-type]
    assert [p.name for p in sorted(saved.glob("step-*"))] == ["step-000002", "step-000003"][-KEEP:]


def test_a_torn_checkpoint_is_replaced_when_its_step_comes_again(saved: Path) -> None:
    (saved / "step-000002" / "weights.bin").unlink()
    save_checkpoint(saved, FileEngine(9), State(step=2))  # type: ignore[arg-type]
    assert load(saved) == (2, 9, [])


# ── the run directory ─────────────────────────────────────────────────────────────────────────────


def test_rollouts_and_their_feedback_come_back_as_they_were(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", "method: sft\n", "didact train sft")
    rollouts = [dialogue(0.0, 1.0), dialogue(1.0), dialogue(0.0, failed=True)]
    rollouts = [r.model_copy(update={"id": str(i)}) for i, r in enumerate(rollouts)]
    run.add_rollouts(rollouts, step=1)
    assert list(run.read_rollouts()) == rollouts


def test_what_a_person_adds_later_is_read_with_the_rest(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", "", "")
    rollout = dialogue(0.0, 1.0)
    run.add_rollouts([rollout], step=1)
    words = {**rollout.feedback[0].model_dump(mode="json"), "source": "human", "text": "too short"}
    append_jsonl(run.feedback, [{"step": 9, "rollout": rollout.id, **words}])
    (read,) = run.read_rollouts()
    assert [f.text for f in read.feedback] == ["mend it", "too short"]


def test_rewinding_forgets_later_steps_but_not_peoples_words(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", "", "")
    rollout = dialogue(0.0, 1.0)
    for step in (1, 2):
        run.add_rollouts([rollout], step)
        run.add_metrics({"step": step})
    words = {**rollout.feedback[0].model_dump(mode="json"), "source": "human"}
    append_jsonl(run.feedback, [{"rollout": rollout.id, **words}])
    before = run.metrics.read_bytes()
    run.rewind(1)
    assert run.metrics.read_bytes() == before.splitlines(keepends=True)[0]
    assert [r["step"] for r in read_jsonl(run.rollouts)] == [1]
    assert [(r.get("step"), r["source"]) for r in read_jsonl(run.feedback)] == [
        (1, "program"), (None, "human"),
    ]  # fmt: skip


def test_a_torn_last_line_is_passed_over_and_swallows_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    append_jsonl(file, [{"a": 1}])
    with file.open("a") as handle:
        handle.write('{"a": ')
    assert list(read_jsonl(file)) == [{"a": 1}]
    append_jsonl(file, [{"a": 2}])
    assert list(read_jsonl(file)) == [{"a": 1}, {"a": 2}]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(DataError, match="line 2"):
        list(read_jsonl(file))


def test_a_directory_with_another_run_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "run", "", "")
    with pytest.raises(UsageError, match=r"--resume.*--out"):
        RunDir.create(tmp_path / "run", "", "")


def test_a_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UsageError, match="not an empty directory"):
        RunDir.create(tmp_path, "", "")


def test_an_atomic_write_leaves_no_half_file(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_atomically(file, json.dumps([1]))
    write_atomically(file, json.dumps([2]))
    assert json.loads(file.read_text()) == [2]
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
