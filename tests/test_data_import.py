"""Importers: the documented shapes of each export, and no cell, row or feedback that gets lost."""

import csv
import gzip
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from didact.cli.data import data_app
from didact.data.faults import Rejected, Skipped
from didact.data.files import import_files, read_examples, validate_file
from didact.data.importers import IMPORTERS, import_rows, parse_map
from didact.data.rows import read_rows
from didact.errors import DataError, UsageError
from didact.types import Example

FIXTURES = Path(__file__).parent / "fixtures" / "data"


def imported(kind, *names, mapping=None):
    """(examples by id, rejected, skipped) of fixtures."""
    outcomes = list(import_rows(kind, [FIXTURES / name for name in names], mapping or {}))
    examples = {o.id: o for o in outcomes if isinstance(o, Example)}
    assert len(examples) == sum(isinstance(o, Example) for o in outcomes)
    rejected = [o for o in outcomes if isinstance(o, Rejected)]
    return examples, rejected, [o for o in outcomes if isinstance(o, Skipped)]


def told(example):
    """What was said, without the times."""
    return [(f.text, f.source, f.score, f.label, f.provenance.author) for f in example.feedback]


def said(example):
    return [(m.role, m.content) for m in example.problem.messages], example.completion


def make(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def run(kind, path, mapping=None):
    return list(import_rows(kind, [path], mapping or {}))


# ── every export, every kind of annotator ─────────────────────────────────────────────────────────

EVERY = [
    ("csv", ["tickets.csv"], {"prompt": "question", "completion": "answer"}),
    ("helpsteer3", ["helpsteer3.jsonl"], {}),
    ("slf5k", ["slf5k.jsonl"], {}),
    ("ultrafeedback", ["ultrafeedback.jsonl"], {}),
    ("langfuse", ["langfuse_trace.json"], {}),
    ("langfuse", ["langfuse_observations_v2.jsonl", "langfuse_scores.jsonl"], {}),
    ("langfuse", ["langfuse_generations.csv"], {}),
    ("phoenix", ["phoenix_spans.jsonl", "phoenix_annotations.jsonl"], {}),
    ("phoenix", ["phoenix_cli_traces.json"], {}),
    ("phoenix", ["phoenix_spans.csv", "phoenix_evaluations.csv"], {}),
    ("mlflow", ["mlflow_traces.jsonl"], {}),
    ("mlflow", ["mlflow_search.jsonl", "mlflow_assessments.jsonl"], {}),
    ("weave", ["weave_calls.jsonl"], {}),
    ("weave", ["weave_calls.csv"], {}),
]


@pytest.mark.parametrize(("kind", "names", "mapping"), EVERY)
def test_what_an_importer_writes_is_valid_and_read_back_as_it_was(kind, names, mapping, tmp_path):
    out = tmp_path / "fb.jsonl"
    report = import_files(kind, [FIXTURES / name for name in names], out, mapping)
    found = validate_file(out)
    assert (found.ok, found.rejected) == (report.examples, ())
    assert list(read_examples(out)) == [
        o for o in import_rows(kind, [FIXTURES / name for name in names], mapping) if isinstance(o, Example)
    ]


def test_langfuse_joins_scores_to_traces_and_to_the_observations_that_they_name():
    examples, rejected, skipped = imported("langfuse", "langfuse_trace.json")
    assert said(examples["trace-1"]) == ([("system", "Be brief."), ("user", "Where is my parcel?")], "Soon.")
    assert examples["trace-1"].user == "u-7"
    assert told(examples["trace-1"]) == [
        ("", "human", 0.0, None, "langfuse:user-feedback"),
        ("It ignores the date.", "human", None, "helpfulness: poor", "ann"),
    ]
    assert [f.name for f in examples["trace-1"].feedback] == ["user-feedback", "helpfulness"]
    assert told(examples["obs-1"]) == [("One word.", "judge", 0.9, "brevity", "langfuse:brevity")]
    assert not rejected
    assert len(skipped) == 1
    assert examples["trace-1"].feedback[0].provenance.created_at == "2025-04-12T10:25:00+00:00"


def test_langfuse_blob_storage_files_are_joined_and_a_score_without_its_trace_is_named():
    examples, rejected, _ = imported("langfuse", "langfuse_observations_v2.jsonl", "langfuse_scores.jsonl")
    assert told(examples["o-1"]) == [("", "program", 1.0, "accuracy: true", "langfuse:accuracy")]
    assert told(examples["o-3"]) == [("The sum is 6.", "human", None, None, "langfuse:note")]
    assert [r.messages() for r in rejected] == [
        ["row 3: no trace or observation 't-9' is in these files; name the file that has it too"]
    ]
    assert rejected[0].file == "langfuse_scores.jsonl"


def test_langfuse_tables_hold_their_messages_as_json_in_cells():
    examples, rejected, _ = imported("langfuse", "langfuse_generations.csv")
    assert said(examples["obs-a"]) == (
        [("system", "Be brief."), ("user", "Summarize the email below.")],
        "The email asks …",
    )
    assert [r.row for r in rejected] == [3]


def test_phoenix_annotations_keep_their_kind_and_several_stay_on_one_answer():
    examples, rejected, skipped = imported("phoenix", "phoenix_spans.jsonl", "phoenix_annotations.jsonl")
    assert told(examples["67f6740bbe1ddc3f"]) == [
        ("It ignores the date.", "human", 0.0, "correctness: incorrect", "user-123"),
        ("", "human", 0.0, "thumbs-down", "u-9"),
        ("", "program", 0.0, "exact match", "phoenix:exact match"),
    ]
    assert examples["67f6740bbe1ddc3f"].user == "u-7"
    names = [f.name for f in examples["67f6740bbe1ddc3f"].feedback]
    assert names[0] == "correctness"
    assert names[2] == "exact match"
    assert (len(examples), rejected, len(skipped)) == (1, [], 1)


def test_phoenix_reads_its_cli_and_its_dataframes():
    examples, _, _ = imported("phoenix", "phoenix_cli_traces.json")
    assert said(examples["bbbb"]) == ([("system", "Be brief."), ("user", "2 + 2?")], "5")
    assert told(examples["bbbb"]) == [
        ("The sum is 4.", "judge", 0.0, "correctness: incorrect", "phoenix:correctness")
    ]
    examples, _, _ = imported("phoenix", "phoenix_spans.csv", "phoenix_evaluations.csv")
    assert told(examples["5B8EF798A381"]) == [
        ('"this is correct ..."', "judge", 1.0, "correct", "phoenix:llm")
    ]


@pytest.mark.parametrize("spans", [[], [1]])
def test_phoenix_counts_a_trace_without_spans(tmp_path, spans):
    (outcome,) = run("phoenix", make(tmp_path, "t.jsonl", json.dumps({"id": "t", "spans": spans})))
    assert outcome.reason == "a trace without spans"


def test_mlflow_keeps_a_failed_assessment_as_failed_and_an_expectation_private():
    examples, rejected, skipped = imported("mlflow", "mlflow_traces.jsonl")
    example = examples["tr-1"]
    assert said(example) == ([("user", "Where is my parcel?")], "Soon.")
    assert example.problem.reference == "It comes on Friday."
    assert example.problem.metadata["expectations"] == {"expected_facts": ["Friday"]}
    assert told(example)[:2] == [
        ("It follows from the request.", "judge", 5.0, "Relevance", "gpt-x"),
        ("", "human", 0.0, "down", "ann@example.org"),
    ]
    failed = example.feedback[2]
    assert example.feedback[0].name == "Relevance"
    assert failed.name
    assert (failed.status, failed.error, failed.score) == ("failed", "RATE_LIMIT: 429", None)
    assert (rejected, [s.reason for s in skipped]) == ([], ["an assessment that was overridden by another"])


def test_mlflow_refuses_a_truncated_preview_as_a_prompt(tmp_path):
    trace = json.loads((FIXTURES / "mlflow_traces.jsonl").read_text())
    trace["data"]["spans"] = []
    outcomes = run("mlflow", make(tmp_path, "t.json", json.dumps(trace)))
    assert "only a truncated preview is in this file" in "".join(
        m for o in outcomes if isinstance(o, Rejected) for m in o.messages()
    )
    assert not any(isinstance(o, Example) for o in outcomes)


def test_mlflow_search_results_are_joined_with_assessments_of_another_file():
    examples, _, _ = imported("mlflow", "mlflow_search.jsonl", "mlflow_assessments.jsonl")
    assert said(examples["tr-2"]) == ([("user", "2 + 2?")], "4")
    assert told(examples["tr-2"]) == [("", "program", 1.0, "correct: true", "sum_check")]


def test_weave_keeps_reactions_notes_annotations_and_scorers():
    examples, rejected, skipped = imported("weave", "weave_calls.jsonl")
    assert told(examples["call-1"]) == [
        ("", "human", 0.0, "👎", "ann"),
        ("It ignores the date.", "human", None, None, "ann"),
        ("Too short.", "human", 2.0, "answer_quality.score", "bob"),
        ("", "human", 0.0, "answer_quality.approved: false", "bob"),
        ("One word.", "program", 1.0, "brevity: true", "VXNlcjoz"),
    ]
    names = [f.name for f in examples["call-1"].feedback]
    assert names == [None, None, "answer_quality.score", "answer_quality.approved", "brevity"]
    assert examples["call-3"].feedback == ()
    assert "which of" in rejected[0].messages()[0]
    assert "--map prompt=PATH" in rejected[0].messages()[0]
    assert len(skipped) == 1


def test_a_map_tells_where_a_log_holds_the_question():
    mapping = {"prompt": "inputs.city", "user": "op_name", "reference": "inputs.latitude"}
    examples, _, _ = imported("weave", "weave_calls.jsonl", mapping=mapping)
    assert said(examples["call-4"]) == ([("user", "Ulm")], "Sunny.")
    assert (examples["call-4"].user, examples["call-4"].problem.reference) == ("answer", "48")


def test_helpsteer3_gives_two_examples_with_three_critiques_each():
    examples, rejected, _ = imported("helpsteer3", "helpsteer3.jsonl")
    one, two = examples["helpsteer3/1/1"], examples["helpsteer3/1/2"]
    assert one.problem.id == two.problem.id
    assert [f.label for f in one.feedback] == ["perfectly helpful", "mostly helpful", "perfectly helpful"]
    assert [f.label for f in two.feedback] == ["not helpful", "slightly helpful", None]
    assert two.feedback[2].text == "Nine is not prime."
    assert not rejected


def test_helpsteer3_keeps_the_good_half_of_a_row_and_reads_gzip(tmp_path):
    row = json.loads((FIXTURES / "helpsteer3.jsonl").read_text())
    path = make(tmp_path, "train.jsonl.gz", gzip.compress(json.dumps({**row, "response2": ""}).encode()))
    outcomes = run("helpsteer3", path)
    assert [o.id for o in outcomes if isinstance(o, Example)] == ["train/1/1"]
    assert [o.row for o in outcomes if isinstance(o, Rejected)] == [1]
    outcomes = run("helpsteer3", make(tmp_path, "p.json", json.dumps({"overall_preference": 1})))
    assert 'import the config "feedback"' in outcomes[0].messages()[0]


def test_slf5k_takes_the_ideal_summary_for_the_private_reference():
    examples, _, _ = imported("slf5k", "slf5k.jsonl")
    example = examples["t3_1"]
    assert example.problem.reference == "I lost my keys in the park."
    assert told(example) == [("The summary should say what was lost.", "human", None, "Coverage", "slf5k")]
    assert example.problem.metadata["comparison_preference"] == "Summary A"


def test_ultrafeedback_keeps_critique_and_ratings_and_a_missing_rating_is_no_score():
    examples, rejected, _ = imported("ultrafeedback", "ultrafeedback.jsonl")
    example = examples["ultrafeedback/1/1"]
    assert said(example)[0] == [("system", "Be brief."), ("user", "Name a prime.")]
    assert [(f.text, f.score, f.label) for f in example.feedback] == [
        ("Right, but say why.", 8.5, None),
        ("It names one.", 5.0, "instruction_following"),
        ("Nothing to judge.", None, "honesty"),
        ("Seven is prime.", 5.0, "truthfulness"),
        ("Short but right.", 4.0, "helpfulness"),
    ]
    assert [f.name for f in example.feedback] == [
        None, "instruction_following", "honesty", "truthfulness", "helpfulness",
    ]  # fmt: skip
    assert len(rejected) == 1


# ── tables ────────────────────────────────────────────────────────────────────────────────────────


def test_a_csv_with_a_map_keeps_scores_without_text_and_answers_without_feedback(tmp_path):
    mapping = parse_map("prompt=question,completion=answer,feedback=comment,id=ticket,score=stars,author=who")
    examples, rejected, _ = imported("csv", "tickets.csv", mapping=mapping)
    assert told(examples["7"]) == [("It ignores the date.", "human", 1.0, None, "ann")]
    assert told(examples["8"]) == [("", "human", 5.0, None, "bob")]
    assert examples["9"].feedback == ()
    assert not rejected


def test_several_annotators_of_one_id_become_one_example(tmp_path):
    path = make(
        tmp_path, "a.csv",
        "id,prompt,completion,critique,author,mood\n1,Q,A,short,ann,x\n1,Q,A,long,bob,\n1,Q,A,short,ann,\n1,Q,B,c,d,\n",
    )  # fmt: skip
    outcomes = run("csv", path)
    example = next(o for o in outcomes if isinstance(o, Example))
    assert told(example) == [("short", "human", None, None, "ann"), ("long", "human", None, None, "bob")]
    assert example.problem.metadata == {"mood": "x"}
    said = [m for o in outcomes if isinstance(o, Rejected) for m in o.messages()]
    assert "row 4" in said[0]
    assert "with another prompt or answer" in said[1]


def test_jsonl_takes_lists_of_feedback_and_a_mapped_column_of_any_name(tmp_path):
    row = {"q": "Q", "a": "A", "notes": ["one", {"text": "two", "source": "llm"}], "comment": "not feedback"}
    path = make(tmp_path, "a.jsonl", json.dumps(row))
    (example,) = run("jsonl", path, {"prompt": "q", "completion": "a", "feedback": "notes"})
    assert [(f.text, f.source) for f in example.feedback] == [("one", "human"), ("two", "judge")]
    assert example.problem.metadata == {"comment": "not feedback"}


def test_a_table_without_a_map_is_told_how_to_write_one():
    examples, rejected, _ = imported("csv", "tickets.csv")
    assert not examples
    assert "column 'prompt': is missing: Columns: answer, comment, question" in rejected[0].messages()[0]
    assert "say which it is with --map prompt=COLUMN" in rejected[0].messages()[0]


def test_a_map_to_a_missing_column_names_the_nearest():
    _, rejected, _ = imported("csv", "tickets.csv", mapping={"prompt": "qestion", "completion": "answer"})
    assert "did you mean 'question'? Columns: answer, comment, question" in rejected[0].messages()[0]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("prompt,completion\nQ,A\nQ,A,C\n", "row 3: expected 2 cells as in the header, got 3"),
        ("prompt,completion\nQ,A\nQ\n", "row 3: expected 2 cells"),
        (
            'prompt,completion\nQ,A\nQ,"A\nQ,A\n',
            "row 3: broken quoting .*the rest of the file is one cell; close",
        ),
        ('prompt,completion\nQ,A\nQ,"A" x\nQ,A\n', 'row 3: broken quoting .*as ""'),
        (
            "prompt,completion,score\nQ,A,1\nQ,A,good\n",
            "row 3, column 'score': expected a number.*--map label",
        ),
        (b"prompt,completion\nQ,A\nQ,M\xfcller\n", "row 3, column 'completion': a byte is not UTF-8 .0xfc"),
    ],
)
def test_a_broken_csv_row_is_named_and_the_others_are_imported(text, fault, tmp_path):
    outcomes = run("csv", make(tmp_path, "a.csv", text))
    rejected = [o for o in outcomes if isinstance(o, Rejected)]
    assert len(rejected) == 1
    assert re.search(fault, rejected[0].messages()[0])
    assert isinstance(outcomes[-1], Example)
    assert rejected[0].raw


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "has no header"), ("a,a\n1,2\n", "two columns are called 'a'"), ("a,,\n", "no name")],
)
def test_a_csv_without_a_usable_header_is_refused(text, fault, tmp_path):
    with pytest.raises(DataError, match=fault):
        run("csv", make(tmp_path, "a.csv", text))


def test_semicolons_tabs_and_byte_order_marks_are_seen(tmp_path):
    for delimiter in ";\t,":
        text = "\ufeffprompt;completion\nQ;A\n".replace(";", delimiter)
        (example,) = run("csv", make(tmp_path, "a.csv", text))
        assert example.completion == "A"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("prompt", "not TARGET=COLUMN"),
        ("a=b,a=c", "names 'a' twice"),
        ("=x", "not TARGET"),
        ("x=", "not TARGET"),
    ],
)
def test_a_wrong_map_is_a_usage_error(text, error):
    with pytest.raises(UsageError, match=error):
        parse_map(text)


def test_unknown_kinds_and_targets_are_usage_errors():
    with pytest.raises(UsageError, match="did you mean 'langfuse'"):
        list(import_rows("langfues", [], {}))
    with pytest.raises(UsageError, match="did you mean 'prompt'"):
        list(import_rows("csv", [], {"promt": "a"}))
    with pytest.raises(UsageError, match="takes no --map"):
        list(import_rows("slf5k", [], {"prompt": "a"}))


# ── properties ────────────────────────────────────────────────────────────────────────────────────

TEXT = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    [
        "👩‍👩‍👧 e\u0301",
        "שלום\u202e",
        "a\r\nb",
        "a\rb",
        '""',
        'x","y',
        "\x00",
        "\u2028",
        "{0} %s",
        '[{"role":"user"}]',
        "'",
    ]
)
SPOKEN = TEXT.filter(lambda text: text.strip())


@given(st.lists(st.tuples(SPOKEN, SPOKEN, SPOKEN), min_size=1, max_size=5))
def test_any_text_survives_a_csv_cell_a_json_line_and_the_data_file(tmp_path_factory, cells):
    folder = tmp_path_factory.mktemp("cells")
    sheet = io.StringIO(newline="")
    csv.writer(sheet).writerows([("prompt", "completion", "comment"), *cells])
    as_csv = make(folder, "a.csv", sheet.getvalue())
    lines = [json.dumps({"prompt": p, "completion": c, "comment": f}) + "\n" for p, c, f in cells]
    as_json = make(folder, "a.jsonl", "".join(lines))
    for kind, path in (("csv", as_csv), ("jsonl", as_json)):
        out = folder / f"{kind}.out.jsonl"
        import_files(kind, [path], out, {})
        got = [(e.problem.question, e.completion, e.feedback[0].text) for e in read_examples(out)]
        assert got == cells


def test_a_cell_of_json_is_text_unless_it_is_called_messages(tmp_path):
    chat = '[{"role": "user", "content": "Q"}]'
    quoted = chat.replace('"', '""')
    (text,) = run("csv", make(tmp_path, "a.csv", f'prompt,completion\n"{quoted}",A\n'))
    (messages,) = run("csv", make(tmp_path, "b.csv", f'messages,completion\n"{quoted}",A\n'))
    assert (text.problem.question, messages.problem.question) == (chat, "Q")


@given(st.lists(st.lists(TEXT, min_size=1, max_size=8), min_size=1, max_size=5))
def test_any_csv_row_is_imported_or_named(tmp_path_factory, rows):
    header = ["prompt", "completion", "critique", "score", "id", "label", "messages", "user"]
    sheet = io.StringIO(newline="")
    csv.writer(sheet).writerows([header, *rows])
    path = make(tmp_path_factory.mktemp("rows"), "a.csv", sheet.getvalue())
    outcomes = list(import_rows("csv", [path], {}))
    examples = [o for o in outcomes if isinstance(o, Example)]
    merged = sum(max(len(example.feedback) - 1, 0) for example in examples)
    assert len(outcomes) + merged >= sum(row != [""] for row in rows)
    numbers = [o.row for o in outcomes if isinstance(o, Rejected)]
    assert len(numbers) == len(set(numbers))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [
        "id",
        "input",
        "output",
        "inputs",
        "prompt",
        "completion",
        "messages",
        "scores",
        "observations",
        "name",
        "value",
        "source",
        "traceId",
        "trace_id",
        "span_id",
        "context",
        "attributes",
        "annotations",
        "annotator_kind",
        "result",
        "spans",
        "info",
        "data",
        "request",
        "response",
        "assessments",
        "assessment_name",
        "feedback",
        "expectation",
        "valid",
        "summary",
        "feedback_type",
        "payload",
        "weave_ref",
        "context",
        "response1",
        "response2",
        "feedback1",
        "feedback2",
        "instruction",
        "completions",
        "generated_summary_for_feedback",
        "post",
        "trace",
    ]
)


@pytest.mark.parametrize("kind", sorted(set(IMPORTERS) - {"csv"}))
@settings(max_examples=30)
@given(rows=st.lists(st.dictionaries(NAMES, JSON, max_size=7), min_size=2, max_size=4))
def test_no_export_however_broken_crashes_an_importer_or_loses_a_row(tmp_path_factory, kind, rows):
    path = tmp_path_factory.mktemp("broken") / "e.jsonl"
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    outcomes = list(import_rows(kind, [path], {}))
    numbers = {o.row for o in outcomes if isinstance(o, Rejected | Skipped)}
    examples = [o for o in outcomes if isinstance(o, Example)]
    feedback_rows = sum(len(example.feedback) for example in examples)
    # A row is rejected, passed over, an example of its own, or feedback on one.
    assert len(numbers) + len(examples) + feedback_rows >= len(rows)
    assert len({example.id for example in examples}) == len(examples)
    for example in examples:
        assert Example.model_validate_json(example.model_dump_json()) == example


def test_a_json_file_may_be_lines_an_array_a_wrapped_array_or_one_object(tmp_path):
    rows = [{"a": 1}, {"a": 2}]
    forms = {
        "lines": "\n".join(map(json.dumps, rows)),
        "array": json.dumps(rows),
        "pretty": json.dumps(rows, indent=2),
        "wrapped": json.dumps({"data": rows, "next_cursor": None}, indent=2),
    }
    for name, text in forms.items():
        assert [row.value for row in read_rows(make(tmp_path, f"{name}.json", text))] == rows
    (one,) = read_rows(make(tmp_path, "one.json", json.dumps({"a": [1]}, indent=2)))
    assert one.value == {"a": [1]}
    broken = list(read_rows(make(tmp_path, "broken.jsonl", '{"a": 1\n\n{"a": 2}\n')))
    assert [(type(row).__name__, row.row) for row in broken] == [("Rejected", 1), ("RawRow", 3)]


# ── the command ───────────────────────────────────────────────────────────────────────────────────


def test_the_command_imports_counts_and_keeps_what_it_rejects(tmp_path):
    path = make(tmp_path, "t.csv", "prompt,completion,comment\nQ,A,C\nQ,,C\n")
    out = tmp_path / "fb.jsonl"
    done = CliRunner().invoke(data_app, ["import", "csv", str(path), "--out", str(out)])
    assert done.exit_code == 0
    assert "answers: 1" in done.output
    assert "rejected: 1" in done.output
    assert "row 3, column 'completion': is empty" in done.output
    kept = json.loads((tmp_path / "fb.rejected.jsonl").read_text())
    assert (kept["row"], json.loads(kept["raw"])["comment"]) == (3, "C")


def test_nothing_to_import_is_a_data_error_and_makes_no_file(tmp_path):
    path = make(tmp_path, "t.csv", "prompt,completion\nQ,\n")
    with pytest.raises(DataError, match=r"row 2(?s:.*)'completion'"):
        import_files("csv", [path], tmp_path / "fb.jsonl", {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fb.rejected.jsonl", "t.csv"]
    with pytest.raises(DataError, match="there are no rows"):
        import_files("csv", [make(tmp_path, "u.csv", "prompt,completion\n")], tmp_path / "fb.jsonl", {})
    row = {"id": "o", "trace_id": "t", "type": "TOOL", "input": "a", "parent_observation_id": "x"}
    with pytest.raises(DataError, match="traces or spans"):
        import_files("langfuse", [make(tmp_path, "o.json", json.dumps(row))], tmp_path / "fb.jsonl", {})


def test_an_existing_file_is_never_written_over(tmp_path):
    out = make(tmp_path, "fb.jsonl", "mine")
    with pytest.raises(UsageError, match="exists already"):
        import_files("csv", [FIXTURES / "tickets.csv"], out, {"prompt": "question", "completion": "answer"})
    with pytest.raises(UsageError, match="is not a directory"):
        import_files("csv", [FIXTURES / "tickets.csv"], tmp_path / "no" / "fb.jsonl", {})
    assert out.read_text() == "mine"
