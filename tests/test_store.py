"""The store: many write and read at once, nobody's words are lost, and a person's can be taken out."""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from didact import jsonl as jsonlines
from didact.annotation.forget import forget
from didact.annotation.targets import ExampleFile, RunAnswers, cache_folder, open_answers
from didact.data.files import read_examples
from didact.errors import DataError, UsageError
from didact.feedback_store import FeedbackRecord, FeedbackStore, MergeResult, is_by, latest
from didact.jsonl import append_jsonl, append_to, filter_jsonl, locked, read_jsonl, write_atomically
from didact.run_dir import RunDir
from didact.types import Example, Feedback, Problem, Provenance, Rollout, Span, Turn


def without_ann(store: FeedbackStore) -> int:
    return len(store.filter(lambda record: not is_by(record.feedback, "ann")))


APPENDER = """
import sys
from pathlib import Path
from didact.feedback_store import FeedbackRecord, FeedbackStore
from didact.types import Feedback, Provenance

path, author, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for i in range(n):
    words = Feedback(text=f"{author} {i} " + "é" * 300, source="human", saw_reference=False,
                     provenance=Provenance(author=author))
    FeedbackStore(path).append([FeedbackRecord(rollout=str(i), feedback=words)])
"""

HALF_WRITER = """
import os, sys, time
from pathlib import Path
from didact.jsonl import locked

with locked(Path(sys.argv[1])) as handle:
    handle.write(b'{"rollout": "9", "text": "half of a wo')
    print("half", flush=True)
    sys.stdin.readline()
"""


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process that says when it is ready and goes on when it is told to."""
    with ExitStack() as stack:

        def started(code: str, *words: object) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", code, *map(str, words)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline()
            return process

        yield started


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def by(author: str, text: str = "Too short.", **changes: object) -> Feedback:
    values = {
        "text": text, "source": "human", "saw_reference": False, "provenance": Provenance(author=author),
        **changes,
    }  # fmt: skip
    return Feedback.model_validate(values)


def said(author: str, text: str = "Too short.", rollout: str = "r", **changes: object) -> FeedbackRecord:
    step = changes.pop("step", None)
    return FeedbackRecord.model_validate(
        {"rollout": rollout, "feedback": by(author, text, **changes), "step": step}
    )


def rollout(id: str, *feedback: Feedback, turns: int = 1, question: str = "q") -> Rollout:
    made = [
        Turn(
            prompt_ids=(1, 2, 3 + i), completion_ids=(7,), logprobs=(-0.5,), text=f"answer {i}",
            stop_reason="eos", reward=0.0,
        )
        for i in range(turns)
    ]  # fmt: skip
    problem = Problem.ask(question, id=f"p{id}", reference="a")
    return Rollout(id=id, group=id, problem=problem, turns=tuple(made), feedback=feedback)


@pytest.fixture
def store(tmp_path: Path) -> FeedbackStore:
    return FeedbackStore(tmp_path / "feedback.jsonl")


# ── appending and reading ─────────────────────────────────────────────────────────────────────────


def test_what_is_appended_is_read_in_order(store: FeedbackStore) -> None:
    entries = [said("ann", step=3), said("bob", "नमस्ते 🙂\u2028\r\n", label="wrong", score=0.5)]
    store.append(entries[:1])
    store.append(entries[1:])
    assert store.read() == entries
    first, second = map(json.loads, store.path.read_bytes().splitlines())
    assert list(first)[:2] == ["step", "rollout"]
    assert "step" not in second


def test_a_store_that_is_not_there_is_empty_and_appending_nothing_does_not_make_it(
    store: FeedbackStore,
) -> None:
    store.append([])
    assert store.merge([]) == MergeResult(0, 0, 0)
    assert without_ann(store) == 0
    assert store.read() == []
    assert not store.path.exists()


@given(st.lists(st.tuples(st.text(), st.text(min_size=1)), max_size=5))
def test_any_words_survive_the_file(tmp_path_factory: pytest.TempPathFactory, words: list) -> None:
    store = FeedbackStore(tmp_path_factory.mktemp("any") / "feedback.jsonl")
    entries = [said(author, text, rollout=author) for text, author in words]
    store.append(entries)
    assert store.read() == entries


def test_half_a_surrogate_pair_does_not_stop_a_run(store: FeedbackStore) -> None:
    store.append([said("judge", "broken \ud83d end", source="judge")])
    assert store.read()[0].feedback.text == "broken \ud83d end"


def test_a_key_that_is_not_known_is_refused_with_its_place(store: FeedbackStore) -> None:
    store.append([said("ann")])
    append_jsonl(store.path, [{**said("bob").to_json(), "mood": "good"}])
    with pytest.raises(DataError, match=r"feedback\.jsonl.*2.*'mood'"):
        store.read()
    with pytest.raises(DataError, match="nothing was changed"):
        without_ann(store)
    assert len(list(read_jsonl(store.path))) == 2


@pytest.mark.parametrize("line", ["[1]", '"text"', "7", '{"rollout": "a"', "\\"])
def test_a_broken_line_in_the_middle_stops_a_reader_and_changes_nothing(
    store: FeedbackStore, line: str
) -> None:
    store.append([said("ann")])
    with store.path.open("a") as handle:
        handle.write(line + "\n")
    store.append([said("ann")])
    before = store.path.read_bytes()
    for work in (store.read, lambda: without_ann(store), lambda: store.merge([said("bob")])):
        with pytest.raises(DataError, match="line 2"):
            work()
    assert store.path.read_bytes() == before


def test_processes_that_append_at_once_lose_and_mix_nothing(store: FeedbackStore, start: Start) -> None:
    n, authors = 40, ("ann", "bob", "cy")
    processes = [start(APPENDER, store.path, author, n) for author in authors]
    for process in processes:
        go(process)
    seen = 0
    while any(process.poll() is None for process in processes):
        entries = store.read()  # a reader in the middle of it all
        assert len(entries) >= seen
        seen = len(entries)
        for author in authors:
            own = [e.rollout for e in entries if e.feedback.provenance.author == author]
            assert own == [str(i) for i in range(len(own))]
    assert all(process.wait() == 0 for process in processes)
    entries = store.read()
    assert len(entries) == n * len(authors)
    for author in authors:
        own = [e for e in entries if e.feedback.provenance.author == author]
        assert [e.rollout for e in own] == [str(i) for i in range(n)]
        assert all(e.feedback.text == f"{author} {i} " + "é" * 300 for i, e in enumerate(own))


def test_an_append_waits_for_a_rewrite_and_goes_into_the_new_file(store: FeedbackStore, start: Start) -> None:
    store.append([said("ann"), said("bob")])
    with locked(store.path):
        process = start(APPENDER, store.path, "cy", 1)
        go(process)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        # What rewinding and forgetting do: another file in this one's place.
        write_atomically(store.path, json.dumps(said("bob").to_json()) + "\n")
    assert process.wait() == 0
    assert [e.feedback.provenance.author for e in store.read()] == ["bob", "cy"]


def test_a_rewind_loses_nothing_that_people_say_meanwhile(tmp_path: Path, start: Start) -> None:
    run = RunDir.create(tmp_path / "run", "", "")
    for step in range(1, 40):
        program = Provenance(author="program")
        words = by("program", source="program", provenance=program)
        run.add_rollouts([rollout(str(step), words)], step)
    process = start(APPENDER, run.feedback, "ann", 40)
    go(process)
    for step in range(39, 0, -1):
        run.rewind(step - 1)
    assert process.wait() == 0
    assert [e.rollout for e in FeedbackStore(run.feedback).read()] == [str(i) for i in range(40)]


def test_rewinding_keeps_what_came_from_outside(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", "", "")
    judge = {"source": "judge", "provenance": Provenance(author="judge")}
    FeedbackStore(run.feedback).append(
        [
            said("j", step=1, **judge),
            said("j", step=2, **judge),
            said("j", **judge),
            said("ann", step=2),
            said("ann"),
        ]
    )
    run.rewind(1)
    kept = [(e.step, e.feedback.source) for e in FeedbackStore(run.feedback).read()]
    assert kept == [(1, "judge"), (None, "judge"), (None, "human")]  # at step 2 the run said it


def test_a_writer_killed_in_the_middle_of_a_line_harms_nobody(store: FeedbackStore, start: Start) -> None:
    store.append([said("ann")])
    process = start(HALF_WRITER, store.path)
    process.kill()
    process.wait()
    assert b"half of a wo" in store.path.read_bytes()
    assert store.read() == [said("ann")]
    store.append([said("bob")])
    assert store.read() == [said("ann"), said("bob")]
    assert b"half of a wo" not in store.path.read_bytes()


def test_a_whole_last_line_without_its_end_is_kept(store: FeedbackStore) -> None:
    store.path.write_text(json.dumps(said("ann").to_json()))
    store.append([said("bob")])
    assert store.read() == [said("ann"), said("bob")]


def test_a_write_that_fails_half_way_is_taken_back(tmp_path: Path) -> None:
    class FullDisk(jsonlines.FileIO):
        def write(self, data) -> int:  # type: ignore[no-untyped-def, override]
            if self.tell() > 60:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(bytes(data)[:25])

    file = tmp_path / "x.jsonl"
    append_jsonl(file, [{"a": 1}])
    before = file.read_bytes()
    with FullDisk(file, "a+") as handle, pytest.raises(OSError, match="No space"):
        append_to(handle, b'{"a": "' + b"x" * 200 + b'"}\n')
    assert file.read_bytes() == before


def test_a_failed_rewrite_leaves_the_file_as_it_was(
    store: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append([said("ann"), said("bob")])
    before = store.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        without_ann(store)
    assert store.path.read_bytes() == before


def test_a_file_system_without_locks_is_refused(
    store: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(DataError, match=r"cannot be locked.*local disk"):
        store.append([said("ann")])


def test_a_rewrite_keeps_permissions_links_and_untouched_bytes(tmp_path: Path) -> None:
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    real.write_text('{"n":1}\n\n{"n":   2}\n{"n":3')
    real.chmod(0o600)
    link.symlink_to(real)
    assert filter_jsonl(link, lambda record: record["n"] != 1) == 1
    assert link.is_symlink()
    assert real.read_text() == '{"n":   2}\n'
    assert real.stat().st_mode & 0o777 == 0o600


# ── newer versions ────────────────────────────────────────────────────────────────────────────────


def test_merging_passes_over_repeated_words_and_adds_changed_ones(store: FeedbackStore) -> None:
    assert store.merge([said("ann"), said("bob")]) == MergeResult(2, 0, 0)
    later = Provenance(author="ann", created_at="2026-11-03T12:00:00+00:00")
    assert store.merge([said("ann", provenance=later)]) == MergeResult(0, 0, 1)
    assert store.merge([said("ann", "Too long."), said("ann", rollout="s")]) == MergeResult(1, 1, 0)
    assert store.merge([said("ann")]) == MergeResult(0, 1, 0)  # back to what ann said first
    texts = [e.feedback.text for e in store.read() if e.rollout == "r"]
    assert texts == ["Too short.", "Too short.", "Too long.", "Too short."]


@pytest.mark.parametrize("change", [{"score": 1.0}, {"label": "wrong"}, {"turn": 1}])
def test_any_difference_in_what_is_said_is_something_new(store: FeedbackStore, change: dict) -> None:
    store.append([said("ann")])
    assert store.merge([said("ann", **change)]).known == 0


def test_the_same_words_brought_by_two_threads_are_written_once(store: FeedbackStore) -> None:
    entries = [said("ann", rollout=str(i)) for i in range(20)]
    threads = [threading.Thread(target=store.merge, args=(entries,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read() == entries


def test_the_latest_version_counts_but_a_failure_never_does() -> None:
    failed = {"status": "failed", "error": "down", "text": ""}
    versions = [by("ann", "1"), by("bob", "1"), by("ann", "2"), by("bob", **failed), by("cy", **failed)]
    assert [(f.provenance.author, f.text, f.ok) for f in latest(versions)] == [
        ("ann", "2", True), ("bob", "1", True), ("cy", "", False),
    ]  # fmt: skip
    assert [f.text for f in latest([by("ann", **failed), by("ann", "2")])] == ["2"]


def test_what_an_author_says_on_several_things_all_counts() -> None:
    versions = [
        by("gpt", "Fine."), by("gpt", "It names one.", name="honesty"), by("gpt", "No.", name="style"),
        by("gpt", "", name="helpfulness", score=4.0), by("gpt", "Yes.", name="style"),
    ]  # fmt: skip
    assert [(f.name, f.text) for f in latest(versions)] == [
        (None, "Fine."), ("honesty", "It names one."), ("style", "Yes."), ("helpfulness", ""),
    ]  # fmt: skip


def test_a_verdict_without_words_never_takes_the_place_of_words() -> None:
    failed = {"status": "failed", "error": "down", "text": ""}
    thumb = by("ann", " ", score=0.0)
    assert [f.text for f in latest([by("ann", "1"), thumb])] == ["1"]
    assert [f.text for f in latest([thumb, by("ann", "2")])] == ["2"]
    assert latest([by("ann", "", score=1.0), thumb, by("ann", **failed)]) == (thumb,)
    assert latest([by("ann", "1"), thumb], verdicts=True) == (thumb,)


def test_people_whom_nobody_names_are_several(store: FeedbackStore) -> None:
    told = [by("unknown", "1"), by("unknown", "2"), by("unknown", "")]
    assert latest(told) == tuple(told)
    first, second = said("unknown", "1"), said("unknown", "2")
    assert store.merge([first, second]) == MergeResult(2, 0, 0)
    assert store.merge([first, second]) == MergeResult(0, 0, 2)


def test_words_on_another_thing_are_no_newer_version(store: FeedbackStore) -> None:
    one, other = said("gpt", name="style"), said("gpt", "Yes.", name="honesty")
    assert store.merge([one, other]) == MergeResult(2, 0, 0)
    assert store.merge([one, other]) == MergeResult(0, 0, 2)


# ── data files ────────────────────────────────────────────────────────────────────────────────────


def examples(path: Path, *rows: Example) -> ExampleFile:
    path.write_bytes(jsonlines.encode(row.model_dump(mode="json") for row in rows))
    return ExampleFile(path)


def example(id: str, *feedback: Feedback, user: str | None = None, completion: str = "Soon.") -> Example:
    problem = Problem.ask(f"Where is parcel {id}?", id=f"p{id}")
    return Example(id=id, problem=problem, completion=completion, feedback=feedback, user=user)


def test_critiques_go_into_the_line_of_their_answer(tmp_path: Path) -> None:
    file = examples(tmp_path / "data.jsonl", example("1"), example("2", by("ann", turn=1)))
    raw = file.path.read_bytes().splitlines()
    new = [said("bob", rollout="1"), said("ann", rollout="2"), said("ann", "More.", rollout="2")]
    assert file.merge(new) == MergeResult(1, 1, 1)
    assert [[f.text for f in e.feedback] for e in file.read()] == [["Too short."], ["Too short.", "More."]]
    assert file.merge(new[:1]) == MergeResult(0, 0, 1)
    assert file.path.read_bytes().splitlines()[0] != raw[0]
    with pytest.raises(DataError, match="'9'"):
        file.merge([said("bob", rollout="9")])


def test_a_data_file_names_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "q", "completin": "a"}\n')
    with pytest.raises(DataError, match=r"row 1.*'completin'"):
        open_answers(path).answers()
    twice = examples(path, example("1"), example("1"))
    with pytest.raises(DataError, match=r"row 2.*'1'.*row 1"):
        twice.read()
    with pytest.raises(UsageError, match="there is no"):
        open_answers(tmp_path / "none")
    with pytest.raises(UsageError, match=r"no rollouts\.jsonl"):
        open_answers(tmp_path)


def plain(path: Path, *rows: dict) -> ExampleFile:
    """A data file as people write it: a blank line first, and no ids."""
    path.write_bytes(b"\n" + jsonlines.encode(rows))
    return ExampleFile(path)


def test_the_plain_form_is_read_with_the_ids_of_everybody_else(tmp_path: Path) -> None:
    row = {"prompt": "q", "completion": "a", "feedback": "Too short.", "stars": 2}
    file = plain(tmp_path / "fb.jsonl", row, {**row, "id": 7})
    assert file.read() == list(read_examples(file.path))
    assert [a.rollout for a in file.answers()] == ["fb/2", "7"]
    (tmp_path / "empty.jsonl").touch()
    assert ExampleFile(tmp_path / "empty.jsonl").read() == []


def test_a_change_writes_the_canonical_form_and_ids_stay(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": "a", "feedback": f"F{i}"} for i in range(3)]
    file = plain(tmp_path / "fb.jsonl", *rows, {**rows[0], "id": "own"})
    before, raw = file.read(), file.path.read_bytes()
    assert file.merge([said("unknown", "F1", rollout="fb/3")]) == MergeResult(0, 0, 1)
    assert file.path.read_bytes() == raw
    assert file.merge([said("bob", rollout="fb/3")]) == MergeResult(1, 0, 0)
    after = file.read()
    assert [e.id for e in after] == [e.id for e in before] == ["fb/2", "fb/3", "fb/4", "own"]
    assert [len(e.feedback) for e in after] == [1, 2, 1, 1]
    lines = file.path.read_bytes().splitlines()
    assert json.loads(lines[1]) == after[1].model_dump(mode="json")
    assert lines[3] == raw.splitlines()[4]
    file.change(lambda e: None if e.id == "fb/2" else e)
    assert [e.id for e in file.read()] == ["fb/3", "fb/4", "own"]


@pytest.mark.parametrize("form", ["array", "gzip", "pretty"])
def test_other_forms_are_read_and_adding_to_them_says_how(tmp_path: Path, form: str) -> None:
    path = tmp_path / "fb.jsonl"
    row = {"prompt": "q", "completion": "a", "id": "1"}
    data = json.dumps([row] if form == "array" else row, indent=1 if form == "pretty" else None).encode()
    path.write_bytes(gzip.compress(data) if form == "gzip" else data)
    raw = path.read_bytes()
    assert [e.id for e in ExampleFile(path).read()] == ["1"]
    with pytest.raises(DataError, match="--out NEW"):
        ExampleFile(path).merge([said("bob", rollout="1")])
    assert path.read_bytes() == raw


def test_whatever_a_source_says_the_file_can_be_read_again(tmp_path: Path) -> None:
    file = examples(tmp_path / "data.jsonl", example("1"))
    down = {"status": "failed", "text": "", "source": "judge"}
    for error in ("timeout", "500", "timeout"):
        file.merge([said("judge", rollout="1", error=error, **down)])
    file.merge([said("ann", "broken \ud83d end", rollout="1")])
    assert file.merge([said("ann", "broken \ud83d end", rollout="1")]) == MergeResult(0, 0, 1)
    raw = file.path.read_bytes()
    with pytest.raises(DataError, match=r"'1'.*feedback\[4\]"):
        file.merge([said("bob", "", rollout="1")])
    assert file.path.read_bytes() == raw
    (read,) = file.read()
    assert [f.error or f.text for f in read.feedback] == ["timeout", "500", "timeout", "broken ? end"]


def test_a_runs_answers_come_with_all_that_was_said(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", "", "")
    run.add_rollouts([rollout("a", by("p", source="program"), turns=2)], step=4)
    store = open_answers(run.path)
    store.merge([said("ann", rollout="a", turn=1)])
    first, second = store.answers()
    assert isinstance(store, RunAnswers)
    assert (first.step, first.index, [f.provenance.author for f in first.feedback]) == (4, 0, ["p"])
    assert (second.text, [f.provenance.author for f in second.feedback]) == ("answer 1", ["ann"])


# ── forgetting ────────────────────────────────────────────────────────────────────────────────────

SECRET = "My sister was in that flat, say so."
"""Long enough to be looked for elsewhere."""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run of three steps that learned from ann at step 2, and got later words by ann and bob."""
    run = RunDir.create(tmp_path / "runs" / "a", "method: rltf\n", "")
    run.add_rollouts([rollout("1", by("bob"), turns=2)], step=1)
    run.add_rollouts([rollout("2", by("ann", SECRET), turns=2)], step=2)
    run.add_rollouts(
        [rollout("3", by("ann", SECRET, provenance=Provenance(author="ann", control="shuffled")), turns=2)],
        step=2,
    )
    run.add_rollouts([rollout("4")], step=3)
    run.add_evaluation([rollout("e", by("ann", SECRET), turns=2), rollout("f")], step=3)
    for step in (1, 2, 3):
        run.add_metrics({"step": step})
    FeedbackStore(run.feedback).append([said("ann", "Later.", "4"), said("bob", "Later.", "4")])
    return run


def everything(folder: Path) -> str:
    return "".join(p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*")) if p.is_file())


def test_forgetting_takes_a_persons_words_from_everywhere_in_a_run(run: RunDir) -> None:
    report = forget("ann", [run.path])
    (removed,) = report.removed
    assert (removed.feedback, removed.prompts, removed.rollouts) == (4, 3, 0)
    assert removed.learned == "it trained on 2 of these critiques"
    assert report.still == ()
    text = everything(run.path)
    assert SECRET not in text
    assert '"ann"' not in text
    assert ":ann" not in text
    authors = [e.feedback.provenance.author for e in FeedbackStore(run.feedback).read()]
    assert authors == ["bob", "bob"]
    # The prompts that spelt the words are empty, all others are as they were.
    prompts = {r.id: [t.prompt_ids for t in r.turns] for r in run.read_rollouts()}
    assert prompts["1"] == [(1, 2, 3), (1, 2, 4)]
    assert prompts["2"] == prompts["3"] == [(1, 2, 3), ()]
    first, second = run.read_evaluation(3)
    assert ([t.prompt_ids for t in first.turns], first.feedback) == ([(1, 2, 3), ()], ())
    assert second == rollout("f")
    (note,) = read_jsonl(run.path / "forgotten.jsonl")
    assert datetime.fromisoformat(note["at"]).tzinfo == UTC
    assert (note["feedback"], note["prompts"], note["learned"]) == (4, 3, True)
    assert len(note["author_sha256"]) == 64


def test_forgetting_twice_finds_nothing_and_writes_no_second_note(run: RunDir) -> None:
    forget("ann", [run.path])
    before = everything(run.path)
    report = forget("ann", [run.path])
    assert report.removed == ()
    assert report.near == "Valid: bob"
    assert everything(run.path) == before


def test_rollouts_can_go_whole(run: RunDir) -> None:
    (removed,) = forget("ann", [run.path], drop_rollouts=True).removed
    assert (removed.rollouts, removed.prompts) == (3, 0)
    assert [r.id for r in run.read_rollouts()] == ["1", "4"]
    assert [r.id for r in run.read_evaluation(3)] == ["f"]


def test_words_that_came_after_training_taught_nothing(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", "", "")
    run.add_rollouts([rollout("1")], step=1)
    run.add_metrics({"step": 1})
    FeedbackStore(run.feedback).append([said("ann", rollout="1"), said("ann", rollout="1", step=2)])
    (removed,) = forget("ann", [run.path]).removed
    assert (removed.feedback, removed.learned) == (2, None)


def test_a_judge_of_the_same_name_is_nobody_to_be_forgotten(store: FeedbackStore) -> None:
    store.append([said("ann", source="judge"), said("ann")])
    assert without_ann(store) == 1
    assert [e.feedback.source for e in store.read()] == ["judge"]


def test_forgetting_in_data_files_takes_critiques_and_whole_examples(tmp_path: Path) -> None:
    file = examples(
        tmp_path / "data.jsonl",
        example("1", by("ann", SECRET), by("bob"), user="cy"),
        example("2", by("bob"), user="ann", completion="Your sister's flat is 4 B."),
        example("3"),
    )
    kept = file.path.read_bytes().splitlines()[2]
    report = forget("ann", [tmp_path])
    (removed,) = report.removed
    assert (removed.path, removed.feedback, removed.examples) == (file.path, 1, 1)
    first, last = file.read()
    assert (first.id, [f.provenance.author for f in first.feedback], last.id) == ("1", ["bob"], "3")
    assert kept in file.path.read_bytes().splitlines()
    (note,) = read_jsonl(tmp_path / "forgotten.jsonl")
    assert (note["of"], note["examples"]) == ("data.jsonl", 1)
    assert "ann" not in json.dumps(note)


def test_forgetting_finds_the_plain_form_and_names_what_it_could_not_search(tmp_path: Path) -> None:
    row = {"prompt": "q", "completion": "a"}
    theirs = {**row, "feedback": [{"text": SECRET, "annotator": "ann"}]}
    file = plain(tmp_path / "fb.jsonl", {**row, "user": "ann"}, theirs, row)
    broken = plain(tmp_path / "sub.jsonl", theirs, {"prompt": "q"})
    other = tmp_path / "other" / "metrics.jsonl"
    other.parent.mkdir()
    other.write_text('{"step": 1}\n')
    packed = tmp_path / "fb.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(row).encode()))
    raw = broken.path.read_bytes()
    report = forget("ann", [tmp_path])
    (removed,) = report.removed
    assert (removed.path, removed.feedback, removed.examples) == (file.path, 1, 1)
    assert [e.id for e in file.read()] == ["fb/3", "fb/4"]
    unsearched = dict(report.unsearched)
    assert set(unsearched) == {broken.path, other, packed}
    assert unsearched[broken.path].startswith("row 3, column 'completion': is missing")
    assert "gzipped" in unsearched[packed]
    assert broken.path.read_bytes() == raw
    assert report.still == (broken.path,)
    with pytest.raises(UsageError, match=r"metrics\.jsonl.*row 1"):
        forget("ann", [other.parent])
    with pytest.raises(DataError, match="row 3"):
        forget("ann", [broken.path])


def test_replies_beside_a_data_file_that_hold_the_words_are_named(tmp_path: Path) -> None:
    file = examples(tmp_path / "data.jsonl", example("1", by("ann", SECRET)))
    reply = cache_folder(file.path) / "replies" / "ab" / "ab1.json"
    reply.parent.mkdir(parents=True)
    reply.write_text(json.dumps({"reply": SECRET}))
    assert forget("ann", [file.path]).still == (reply,)


def test_runs_that_trained_on_the_file_are_named_by_path_or_by_hash(tmp_path: Path) -> None:
    file = examples(tmp_path / "data.jsonl", example("1", by("ann", SECRET)))
    by_path = RunDir.create(
        tmp_path / "p", yaml.safe_dump({"task": {"settings": {"path": str(file.path)}}}), ""
    )
    by_hash = RunDir.create(tmp_path / "h", "method: rltf\n", "")
    sha = jsonlines_sha(file.path)
    write_atomically(by_hash.path / "inputs.json", json.dumps({"elsewhere/data.jsonl": sha}))
    other = RunDir.create(tmp_path / "o", "method: rltf\n", "")
    for each in (by_path, by_hash, other):
        each.add_rollouts([rollout("1")], step=1)
    report = forget("ann", [file.path, by_path.path, by_hash.path, other.path])
    learned = {r.path.name: r.learned for r in report.removed}
    reason = f"it trained on {file.path}"
    assert learned == {"data.jsonl": None, "p": reason, "h": reason}


def test_a_run_that_learned_from_another_runs_critiques_is_named(run: RunDir, tmp_path: Path) -> None:
    heir = RunDir.create(
        tmp_path / "runs" / "b", yaml.safe_dump({"feedback": {"settings": {"path": str(run.path)}}}), ""
    )
    heir.add_rollouts([rollout("1")], step=1)
    report = forget("ann", [tmp_path / "runs"])
    assert {r.path.name: r.learned for r in report.removed}["b"] == f"it trained on {run.path}"


def jsonlines_sha(file: Path) -> str:
    import hashlib

    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_files_that_still_hold_the_words_are_named(run: RunDir, tmp_path: Path) -> None:
    folder = run.path.parent
    quoted = 'She said "no" 🙂 twice'
    FeedbackStore(run.feedback).append([said("ann", quoted, "4")])
    (folder / "answers.csv").write_text('rollout,critique\r\n4,"She said ""no"" 🙂 twice"\r\n')
    (folder / "escaped.json").write_text(json.dumps({"a": quoted}))
    (folder / "harmless.csv").write_text("rollout,critique\r\n4,Later.\r\n")
    echo = rollout("5").model_copy(
        update={"turns": (rollout("5").turns[0].model_copy(update={"text": SECRET}),)}
    )
    run.add_rollouts([echo], step=3)
    still = forget("ann", [folder]).still
    assert {p.name for p in still} == {"answers.csv", "escaped.json", "rollouts.jsonl"}


def test_a_bad_file_stops_before_anything_is_changed(run: RunDir, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("not json\n" + "{}\n")
    before = everything(run.path)
    with pytest.raises(DataError, match=r"bad\.jsonl, row 1"):
        forget("ann", [run.path, bad])
    assert everything(run.path) == before


@pytest.mark.parametrize(
    ("person", "path", "message"),
    [("ann", "none", "there is no"), ("ann", ".", "no run directory and no data file"), (" ", ".", "--user")],
)
def test_wrong_words_are_refused(tmp_path: Path, person: str, path: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        forget(person, [tmp_path / path])


def test_a_torn_last_line_goes_with_the_rest(store: FeedbackStore) -> None:
    store.append([said("bob")])
    with store.path.open("a") as handle:
        handle.write('{"rollout": "1", "text": "' + SECRET)
    assert without_ann(store) == 0
    assert SECRET not in store.path.read_text()
    assert store.read() == [said("bob")]


def test_spans_come_back_as_they_were(store: FeedbackStore) -> None:
    span = Span(start=0, end=2, quote="an", label="good", phrase="nice")
    store.append([said("ann", spans=(span,))])
    assert store.read()[0].feedback.spans == (span,)
