"""Validation: every fault of every row, with row, column and cure; nothing lost, nothing half written."""

import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from didact.cli.data import data_app
from didact.data.faults import Rejected, RowError
from didact.data.files import check_examples, create_jsonl, read_examples, validate_file
from didact.data.record import parse_example
from didact.errors import DataError, UsageError
from didact.jsonl import encode
from didact.types import Example, Feedback, Problem, Provenance, Span

GOLDEN = Path(__file__).parent / "fixtures" / "data" / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.jsonl"))


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def good(i=1, **changes):
    return {"id": f"r{i}", "prompt": f"Q{i}", "completion": f"A{i}", "feedback": f"C{i}", **changes}


@pytest.mark.parametrize("case", CASES)
def test_the_messages_are_the_golden_ones(case, tmp_path):
    path = tmp_path / "fb.jsonl"
    shutil.copy(GOLDEN / f"{case}.jsonl", path)
    try:
        said = validate_file(path).render()
    except DataError as error:
        said = str(error).replace(f"{tmp_path}/", "")
    assert said + "\n" == (GOLDEN / f"{case}.txt").read_text(encoding="utf-8")


def test_all_the_documented_faults_have_a_golden_file():
    assert {"missing_column", "mixed_types", "empty_completion", "unknown_role", "duplicate_id", "not_utf8",
            "truncated_last_line", "one_row", "zero_rows", "spans", "nan_scores", "lone_surrogates",
            "duplicated_feedback"} <= set(CASES)  # fmt: skip


@pytest.mark.parametrize("case", [case for case in CASES if case != "zero_rows"])
def test_every_row_is_accepted_or_is_in_the_rejected_file(case, tmp_path):
    path = tmp_path / "fb.jsonl"
    shutil.copy(GOLDEN / f"{case}.jsonl", path)
    found = validate_file(path, out=tmp_path / "ok.jsonl")
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    assert found.ok == len(lines) - len(found.rejected)
    ok = tmp_path / "ok.jsonl"
    assert len(list(read_examples(ok)) if ok.exists() else []) == found.ok
    if not found.rejected:
        assert not (tmp_path / "fb.rejected.jsonl").exists()
        return
    kept = [json.loads(line) for line in (tmp_path / "fb.rejected.jsonl").read_bytes().splitlines()]
    assert [row["row"] for row in kept] == [r.row for r in found.rejected]
    for row in kept:
        assert row["faults"]
        assert row["raw"].strip()


def test_both_forms_are_read_and_the_good_rows_are_written_as_examples(tmp_path):
    example = Example(
        id="e", problem=Problem.ask("Q", id="p", reference="r", topic="x"), completion="So it is 🚂.",
        feedback=(
            Feedback(
                text="T", source="judge", score=0.5, label="poor", saw_reference=True, leaks=False,
                spans=(Span(start=9, end=10, quote="🚂", label="poor", phrase="T"),),
                provenance=Provenance(author="m", tokens=3, created_at="2026-01-01T00:00:00+00:00"),
            ),
        ),
        user="u",
    )  # fmt: skip
    path = write(tmp_path / "fb.jsonl", example.model_dump(mode="json"), good(2, score=-1, annotator="ann"))
    assert validate_file(path, out=tmp_path / "ok.jsonl").ok == 2
    first, second = read_examples(tmp_path / "ok.jsonl")
    assert first == example
    assert second.feedback[0].model_dump(exclude_defaults=True) == {
        "text": "C2", "source": "human", "score": -1.0, "saw_reference": False,
        "provenance": {"author": "ann"},
    }  # fmt: skip


def test_the_plain_form_knows_the_aliases_of_feedback_and_of_annotators():
    record = {
        "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}],
        "completion": "A",
        "critique": "one",
        "rationale": ["two", {"explanation": "three", "source": "llm", "name": "accuracy", "label": "wrong"}],
        "comment": {"comment": "four", "annotator_kind": "CODE", "annotator": "pytest"},
        "score": 2,
        "colour": "red",
    }
    example = parse_example(record, fallback_id="f/1")
    told = [(f.text, f.source, f.label, f.score, f.provenance.author) for f in example.feedback]
    assert told == [
        ("one", "human", None, None, "unknown"),
        ("two", "human", None, None, "unknown"),
        ("three", "judge", "accuracy: wrong", None, "unknown"),
        ("four", "program", None, None, "pytest"),
        ("", "human", None, 2.0, "unknown"),
    ]
    assert example.problem.metadata == {"colour": "red"}
    assert [f.name for f in example.feedback] == [None, None, "accuracy", None, None]
    again = parse_example(example.model_dump(mode="json"), fallback_id="x")
    assert again == example  # a label that tells its name is not told twice


def test_versions_that_came_back_are_a_slip_only_where_people_write():
    said = {"text": "T", "source": "human", "provenance": {"author": "ann"}}
    row = {"id": "1", "completion": "A", "feedback": [said, {**said, "text": "U"}, said]}
    problem = Problem.ask("Q", id="p").model_dump(mode="json")
    assert [f.text for f in parse_example({**row, "problem": problem}, fallback_id="x").feedback] == [*"TUT"]
    with pytest.raises(RowError, match="says the same"):
        parse_example({**row, "prompt": "Q"}, fallback_id="x")


def test_equal_prompts_share_a_problem_id_and_other_references_do_not():
    def problem(**row):
        return parse_example({"prompt": "Q", "completion": "A", **row}, fallback_id="x").problem.id

    assert problem() == problem(completion="B") != problem(prompt="R")
    assert problem(reference=4) == problem(reference="4") != problem()


def test_a_completion_that_was_changed_after_it_was_hashed_is_refused():
    with pytest.raises(RowError, match="completion_sha256"):
        parse_example({"prompt": "Q", "completion": "A", "completion_sha256": "00"}, fallback_id="x")


def test_reading_stops_at_the_first_bad_row_and_names_the_command(tmp_path):
    path = write(tmp_path / "fb.jsonl", good(1), good(2, completion=""))
    with pytest.raises(DataError, match=r"fb\.jsonl.*2.*'completion'"):
        list(read_examples(path))


def test_validating_again_replaces_its_own_file_and_removes_it_when_all_is_well(tmp_path):
    path = write(tmp_path / "fb.jsonl", good(1, completion=""), good(2, completion=""))
    aside = tmp_path / "fb.rejected.jsonl"
    validate_file(path)
    assert len(aside.read_text().splitlines()) == 2
    validate_file(write(path, good(1), good(2, completion="")))
    assert len(aside.read_text().splitlines()) == 1
    validate_file(write(path, good(1), good(2)))
    assert not aside.exists()


def test_somebody_elses_file_is_never_written_over(tmp_path):
    path = write(tmp_path / "fb.jsonl", good(1, completion=""))
    aside = tmp_path / "fb.rejected.jsonl"
    aside.write_text("my notes\n")
    with pytest.raises(UsageError, match=r"fb\.rejected\.jsonl"):
        validate_file(path)
    assert aside.read_text() == "my notes\n"
    aside.unlink()
    (tmp_path / "ok.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        validate_file(path, out=tmp_path / "ok.jsonl")
    assert (tmp_path / "ok.jsonl").read_text() == "mine"
    assert not aside.exists()


def test_an_error_half_way_leaves_no_file_behind(tmp_path):
    def write_two_and_fail():
        with create_jsonl(tmp_path / "out.jsonl") as out:
            out.add({"a": 1})
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_two_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_data_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl"):
        validate_file(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="Is a directory"):
        validate_file(tmp_path)
    path = tmp_path / "utf16.jsonl"
    path.write_text(json.dumps(good()), encoding="utf-16")
    with pytest.raises(DataError, match="UTF-16"):
        validate_file(path)
    path.write_bytes(b"\x1f\x8b broken")
    with pytest.raises(DataError, match="cannot be read"):
        validate_file(path)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("[" * 100_000, "invalid JSON|recursion"),
        ("9" * 5000, "cannot be used"),
        ('"text"', "expected a JSON obj"),
    ],
)
def test_a_strange_line_costs_that_row_alone(line, fault, tmp_path):
    path = tmp_path / "fb.jsonl"
    path.write_text(f"{json.dumps(good(1))}\n{line}\n\n{json.dumps(good(2))}\n")
    outcomes = list(check_examples(path))
    assert [type(outcome) for outcome in outcomes] == [Example, Rejected, Example]
    assert outcomes[1].row == 2
    assert re.search(fault, outcomes[1].messages()[0])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "id",
        "prompt",
        "messages",
        "completion",
        "feedback",
        "problem",
        "user",
        "score",
        "label",
        "spans",
        "source",
        "comment",
        "metadata",
        "reference",
        "created_at",
    ]
)


@given(st.lists(st.dictionaries(KEYS, JSON, max_size=8) | JSON, min_size=2, max_size=6))
def test_no_row_whatever_it_holds_raises_or_disappears(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("any") / "fb.jsonl"
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    outcomes = list(check_examples(path))
    assert len(outcomes) == len(rows)
    for outcome in outcomes:
        if isinstance(outcome, Rejected):
            assert all(message.startswith(f"row {outcome.row}") for message in outcome.messages())
            encode([outcome.as_json()]).decode()
        else:
            line = encode([outcome.model_dump(mode="json")])
            assert parse_example(json.loads(line), fallback_id="x") == outcome


# ── the command ───────────────────────────────────────────────────────────────────────────────────


def test_the_command_exits_with_3_when_a_row_is_rejected(tmp_path):
    path = write(tmp_path / "fb.jsonl", good(1), good(2, completion=""))
    done = CliRunner().invoke(data_app, ["validate", str(path)])
    assert done.exit_code == 3
    assert "2 rows: 1 ok, 1 rejected → fb.rejected.jsonl" in done.output
    done = CliRunner().invoke(data_app, ["validate", str(write(path, good(1)))])
    assert (done.exit_code, done.output) == (0, "1 row: 1 ok, 0 rejected\n")


def test_the_terminal_gets_no_escape_sequences_of_the_data(tmp_path):
    path = write(tmp_path / "fb.jsonl", {"\x1b[31mprompt": "Q", "completion": "A\u202e"})
    done = CliRunner().invoke(data_app, ["validate", str(path)])
    assert done.exit_code == 3
    assert "\x1b" not in done.output
    assert "\\x1b[31mprompt" in done.output
