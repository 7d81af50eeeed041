"""People's critiques: out as a table, back without a lost or guessed word, and looked up to the letter."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.annotation.batch import criticise_answers
from didact.annotation.human import HumanFeedback
from didact.annotation.io import TableImport, choose_answers, export_answers, import_critiques
from didact.annotation.table import escape_csv_formula, read_table, unescape_csv_formula, write_table
from didact.annotation.targets import AnnotatedAnswer, ExampleFile, RunAnswers, open_answers
from didact.errors import DataError, UsageError
from didact.feedback.program import ProgramCritic
from didact.feedback_source import FeedbackRequest
from didact.feedback_store import MergeResult
from didact.jsonl import encode
from didact.run_dir import RunDir
from didact.spans.match import QuoteError, find_quote
from didact.types import Example, Feedback, Problem, Provenance, Rollout, Turn
from tests.helpers import CountingCritic
from tests.test_store import by, example, examples, rollout

ANSWER = "The sum is 7.\r\nنعم 🙂 é, the sum is -7."

hostile = st.text(max_size=30) | st.text(alphabet="=+-@'\"\t\r\n,;0.5/ée\u0301🙂ا\u202e{}[]", max_size=20)


def ask(
    answer: str = ANSWER, id: str = "1", question: str = "3 + 4?", reference: str | None = "7"
) -> Example:
    problem = Problem.ask(question, id=f"p{id}", reference=reference)
    return Example(id=id, problem=problem, completion=answer)


@pytest.fixture
def data(tmp_path: Path) -> ExampleFile:
    return examples(tmp_path / "data.jsonl", ask(), ask("-7", "2"), ask("007", "3"))


def fill(file: Path, *rows: dict) -> Path:
    """Write words into the first rows of an exported table, as a spreadsheet would."""
    if file.suffix == ".jsonl":
        records = [json.loads(line) for line in file.read_bytes().splitlines()]
        records = [{**record, **row} for record, row in zip(records, [*rows, *[{}] * 99], strict=False)]
        file.write_bytes(encode(records))
        return file
    cells = list(csv.reader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline="")))
    for row, words in zip(cells[1:], rows, strict=False):
        for name, value in words.items():
            row[cells[0].index(name)] = value
    out = io.StringIO(newline="")
    csv.writer(out).writerows(cells)
    file.write_bytes(out.getvalue().encode("utf-8-sig"))
    return file


def round_trip(store: ExampleFile, *rows: dict, kind: str = "csv", **settings: object) -> TableImport:
    """Export all answers, fill in the first rows and import the table as ann."""
    file = store.path.with_name(f"answers{len(list(store.path.parent.iterdir()))}.{kind}")
    export_answers(store.answers(), file)
    fill(file, *rows)
    return import_critiques(store, file, **{"annotator": "ann", **settings})


def reasons(done: TableImport) -> str:
    return "\n".join(map(str, done.rejected))


# ── tables ────────────────────────────────────────────────────────────────────────────────────────


@given(hostile)
def test_what_is_protected_is_restored(text: str) -> None:
    assert unescape_csv_formula(escape_csv_formula(text)) == text


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-7", "@a", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "''-1", "007", "1/2", "3/1/0", "1.50",
     "1e5", "12345678901234567", "true", "FALSE", "50%", "1 000", "7\n"],
)  # fmt: skip
def test_cells_that_a_spreadsheet_would_change_get_an_apostrophe(text: str) -> None:
    assert escape_csv_formula(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "42", "0", "It is 7.", "'tis", "7 apples", "3/spell/0/1", "a=b", "''"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert escape_csv_formula(text) == unescape_csv_formula(text) == text


@given(st.lists(st.tuples(hostile, hostile), max_size=4))
def test_a_table_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("table")
    columns = ("rollout", "turn", "question", "answer")
    records = [{"rollout": f"r{i}", "turn": 0, "question": q, "answer": a} for i, (q, a) in enumerate(rows)]
    for name in ("t.csv", "t.jsonl"):
        write_table(folder / name, columns, records)
        read = [
            (row.value.get("question", ""), row.value.get("answer", "")) for row in read_table(folder / name)
        ]
        assert read == rows


def test_a_csv_has_a_byte_order_mark_and_no_cell_that_runs(data: ExampleFile, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    export_answers(data.answers(), out)
    raw = out.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    rows = list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline="")))
    assert rows[0] == [
        "rollout", "turn", "question", "answer", "critique", "score", "label", "spans", "annotator",
        "answer_sha256",
    ]  # fmt: skip
    assert [row[3] for row in rows[1:]] == [ANSWER, "'-7", "'007"]
    assert not [cell for row in rows for cell in row if cell.startswith(tuple("=+-@\t\r\n"))]


def test_a_semicolon_divides_where_a_comma_divides_decimals(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text('rollout;turn;critique\r\n1;0;"a; b, c"\r\n')
    assert read_table(file)[0].value == {"rollout": "1", "turn": "0", "critique": "a; b, c"}


def test_a_cell_of_a_megabyte_is_read(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    write_table(file, ("rollout", "turn", "answer"), [{"rollout": "1", "turn": 0, "answer": "x" * 10**6}])
    assert len(read_table(file)[0].value["answer"]) == 10**6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"rollout,turn,critque\r\n1,0,x\r\n", "'critique'"),
        ("t.csv", b"turn,critique\r\n0,x\r\n", "'rollout'"),
        ("t.csv", b"rollout,turn,turn\r\n", "'turn'"),
        ("t.csv", b"rollout,turn\r\n1,0,x\r\n", "row 2.*3"),
        ("t.csv", b'rollout,turn,critique\r\n1,0,"cut off', "row 2"),
        ("t.csv", b"rollout,turn,critique\r\n1,0,caf\xe9\r\n", "row 2.*UTF-8"),
        ("t.csv", b"", "header"),
        ("t.jsonl", b'{"rollout": "1", "turn": 0}\n{"rollout": "1"', "row 2"),
        ("t.jsonl", b"[1]\n", "row 1"),
        ("t.jsonl", b'{"rollout": "1", "turn": 0, "mood": 1}\n', "'mood'"),
    ],
)
def test_a_table_that_cannot_be_used_is_named_and_nothing_is_imported(
    data: ExampleFile, name: str, content: bytes, message: str
) -> None:
    file = data.path.with_name(name)
    file.write_bytes(content)
    before = data.path.read_bytes()
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        import_critiques(data, file, annotator="ann")
    assert data.path.read_bytes() == before


# ── exporting ─────────────────────────────────────────────────────────────────────────────────────


def test_answers_are_chosen_by_step_verdict_and_a_draw_that_keeps_their_order(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", "", "")
    run.add_rollouts([rollout(f"a{i}") for i in range(20)], step=1)
    right = rollout("b").turns[0].model_copy(update={"reward": 1.0, "correct": True})
    bare = rollout("c").turns[0].model_copy(update={"reward": None})
    others = [rollout(id).model_copy(update={"turns": (t,)}) for id, t in (("b", right), ("c", bare))]
    run.add_rollouts(others, step=2)
    answers = open_answers(run.path).answers()
    assert [a.rollout for a in choose_answers(answers, step=2)] == ["b", "c"]
    assert [a.rollout for a in choose_answers(answers, only_wrong=True)] == [f"a{i}" for i in range(20)]
    drawn = choose_answers(answers, n=5)
    assert len(drawn) == 5
    assert drawn == choose_answers(answers, n=5) == [a for a in answers if a in drawn]
    assert drawn != choose_answers(answers, n=5, seed=1)
    # The draw looks at answers, not at their places: more answers do not move those that stay.
    fewer = [a for a in answers if a.rollout != "a0"]
    assert {a.rollout for a in drawn} - {"a0"} <= {a.rollout for a in choose_answers(fewer, n=5)}
    for settings, message in (
        ({"step": 9}, "there are 1 to 2"),
        ({"step": 2, "only_wrong": True}, "refused none"),
    ):
        with pytest.raises(UsageError, match=message):
            choose_answers(answers, **settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no answers"):
        choose_answers([])


def test_the_reference_is_shown_only_on_request_and_then_said(data: ExampleFile, tmp_path: Path) -> None:
    for name, shown in (("without.csv", False), ("with.csv", True)):
        out = tmp_path / name
        export_answers(data.answers(), out, with_reference=shown)
        assert ("reference" in out.read_bytes().decode().splitlines()[0]) == shown
        fill(out, {"critique": f"Wrong {name}."})
        import_critiques(data, out, annotator="ann")
    assert [f.saw_reference for f in data.read()[0].feedback] == [False, True]


def test_an_export_never_replaces_a_file(data: ExampleFile, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    out.write_text("somebody's work")
    with pytest.raises(UsageError, match="exists"):
        export_answers(data.answers(), out)
    with pytest.raises(UsageError, match=r"\.csv or \.jsonl"):
        export_answers(data.answers(), tmp_path / "a.xlsx")
    assert out.read_text() == "somebody's work"


# ── importing ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_words_spans_or_a_score_alone_come_back(data: ExampleFile, kind: str) -> None:
    spans = "poor: is 7\ngood: نعم 🙂"
    done = round_trip(
        data, {"critique": "Which one?\n=so"}, {"score": "0.5", "label": "wrong"}, {"spans": "07"}, kind=kind
    )
    assert (done.merged, done.blank, done.rejected, done.rejected_file) == (MergeResult(3, 0, 0), 0, (), None)
    first, second, third = (e.feedback[0] for e in data.read())
    assert (first.text, first.score, first.spans) == ("Which one?\n=so", None, ())
    assert (second.text, second.score, second.label) == ("", 0.5, "wrong")
    assert [(s.start, s.quote, s.label) for s in third.spans] == [(1, "07", "poor")]
    assert first.source == "human"
    assert first.provenance == Provenance(author="ann", created_at=first.provenance.created_at)
    assert datetime.fromisoformat(first.provenance.created_at).tzinfo == UTC
    done = round_trip(data, {"spans": spans}, kind=kind, annotator="bob")
    assert done.merged == MergeResult(1, 0, 0)
    assert done.blank == 2
    found = data.read()[0].feedback[1].spans
    assert [(ANSWER[s.start : s.end], s.label) for s in found] == [("is 7", "poor"), ("نعم 🙂", "good")]


@given(
    answer=(st.text(alphabet=st.characters(codec="utf-8"), max_size=40) | hostile).filter(str.strip),
    critique=st.text(alphabet=st.characters(codec="utf-8"), max_size=40) | hostile,
    place=st.tuples(st.integers(0, 40), st.integers(1, 10)),
    kind=st.sampled_from(["csv", "jsonl"]),
)
def test_any_answer_and_any_words_survive_the_way_out_and_back(
    tmp_path_factory: pytest.TempPathFactory, answer: str, critique: str, place: tuple[int, int], kind: str
) -> None:
    store = examples(
        tmp_path_factory.mktemp("trip") / "data.jsonl", ask(answer, question="=q\r\n" + critique)
    )
    start = min(place[0], max(len(answer) - 1, 0))
    quote = answer[start : start + place[1]]
    spans = json.dumps([{"quote": quote, "start": start, "label": "good"}]) if quote else ""
    done = round_trip(store, {"critique": critique, "spans": spans}, kind=kind)
    assert done.rejected == ()
    (read,) = store.read()
    assert read.completion == answer
    if critique.strip() or quote:
        (feedback,) = read.feedback
        assert feedback.text == (critique if critique.strip() else "")
        assert [s.quote for s in feedback.spans] == ([quote] if quote else [])
        assert all(answer[s.start : s.end] == s.quote for s in feedback.spans)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"spans": "the sum"}, None),
        ({"spans": "sum is"}, "'spans'.*more than once"),
        ({"spans": "is 8"}, "'spans'.*does not occur"),
        ({"spans": "THE SUM IS 7"}, "'spans'.*differs in"),
        ({"spans": "7.\nنعم"}, "more than once"),
        ({"spans": '[{"quote": "7.\\nنعم"}]'}, "'spans'.*differs in"),
        ({"spans": '[{"quote": "e\\u0301"}]'}, "'spans'.*differs in"),
        ({"spans": '[{"quote": ""}]'}, "a quote is empty"),
        ({"spans": '[{"quote": "7", "start": 12}]'}, "does not stand at character 12"),
        ({"spans": '[{"quote": "7", "start": 999}]'}, "does not stand at character 999"),
        ({"spans": '[{"quote": "7", "start": -1}]'}, "does not stand at character -1"),
        ({"spans": '[{"quote": "7", "start": 11}, {"quote": "is 7", "end": 12}]'}, None),
        ({"spans": '[{"quote": "7", "start": 11, "end": 13}]'}, "ends at 12"),
        ({"spans": '[{"quote": "نعم", "label": "bad"}]'}, "unknown label 'bad'"),
        ({"spans": '[{"quote": "نعم", "lable": "good"}]'}, "did you mean 'label'"),
        ({"spans": '[{"quote": "نعم"'}, "is not JSON"),
        ({"spans": '[{"quote": 7}]'}, "is no span"),
        ({"score": "9/10"}, "'score'.*'9/10' is not a number"),
        ({"score": "nan"}, "is not a number"),
        ({"score": "1e999"}, "is not a number"),
        ({"score": "0,5"}, "is not a number"),
        ({"critique": "x", "rollout": "11"}, "'rollout': there is no answer '11'"),
        ({"critique": "x", "turn": "1"}, "'turn': '1' has no turn 1"),
        ({"critique": "x", "turn": "first"}, "'turn'.*a number from 0"),
        ({"critique": "x", "answer": "The sum is 7."}, "'answer': was changed or cut off"),
        ({"critique": "x", "answer_sha256": "0" * 64}, "'answer_sha256': the answer on file is another"),
        ({"critique": "x", "answer_sha256": "", "answer": ""}, "neither the answer nor its hash"),
        ({"critique": "x", "answer_sha256": "", "answer": "other"}, "differs from the answer on file"),
        ({"critique": "x", "answer_sha256": ""}, None),
        ({"critique": "x", "answer": ""}, None),
        ({"critique": "x", "answer": ANSWER.replace("\r\n", "\n")}, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_each_row_is_taken_or_refused_with_row_column_and_cure(
    data: ExampleFile, row: dict, message: str | None, kind: str
) -> None:
    done = round_trip(data, row, {"critique": "Good row."}, kind=kind)
    assert data.read()[1].feedback[0].text == "Good row."
    if message is None:
        assert reasons(done) == ""
        return
    assert len(done.rejected) == 1
    assert done.rejected[0].row == (2 if kind == "csv" else 1)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(reasons(done))
    assert data.read()[0].feedback == ()


@pytest.mark.parametrize("value", [True, [1], "x", {"a": 1}, 10**400])
def test_json_values_of_another_type_are_refused(data: ExampleFile, value: object) -> None:
    assert "'score'" in reasons(round_trip(data, {"score": value}, kind="jsonl"))
    if value != "x":
        assert "must be a text" in reasons(round_trip(data, {"critique": value}, kind="jsonl"))


def test_a_turn_of_thousands_of_digits_costs_that_row_alone(data: ExampleFile) -> None:
    done = round_trip(data, {"critique": "x", "turn": "9" * 5000}, {"critique": "Good row."})
    assert "row 2, column 'turn': '999" in reasons(done)
    assert "is no turn" in reasons(done)
    assert len(reasons(done)) < 200
    assert data.read()[1].feedback[0].text == "Good row."


def test_half_a_surrogate_pair_is_refused(data: ExampleFile) -> None:
    phrase = [{"quote": "is 7", "phrase": "\ud83d"}]
    for row, column in (({"spans": phrase}, "spans"), ({"critique": "\ud83d"}, "critique")):
        with pytest.raises(DataError, match=rf"row 1.*'{column}"):
            round_trip(data, row, kind="jsonl")


def test_a_row_without_an_annotator_is_refused(data: ExampleFile) -> None:
    done = round_trip(data, {"critique": "x"}, {"critique": "y", "annotator": "bob"}, annotator=None)
    assert "'annotator': nobody is named" in reasons(done)
    assert data.read()[1].feedback[0].provenance.author == "bob"


@pytest.mark.parametrize("typed", ["'=5' is wrong", "'007' has a zero too many", "''", "'-", "'tis"])
def test_an_apostrophe_that_somebody_typed_stays(data: ExampleFile, typed: str) -> None:
    round_trip(data, {"critique": typed})
    assert data.read()[0].feedback[0].text == typed


def test_a_quote_copied_with_the_protecting_apostrophe_is_placed(data: ExampleFile) -> None:
    done = round_trip(data, {}, {"spans": "'-7"}, {"spans": "good: '007"})
    assert reasons(done) == ""
    assert [s.quote for e in data.read()[1:] for s in e.feedback[0].spans] == ["-7", "007"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_rejected_rows_are_mended_in_their_own_file(data: ExampleFile, kind: str) -> None:
    done = round_trip(data, {"critique": "=HYPERLINK()", "spans": "is 8"}, {"critique": "ok"}, kind=kind)
    beside = done.rejected_file
    assert beside is not None
    assert beside.name.endswith(f".rejected.{kind}")
    cell = "'=HYPERLINK()" if kind == "csv" else "=HYPERLINK()"
    assert f'"{cell}"' in beside.read_text(encoding="utf-8-sig")
    fill(beside, {"spans": "is 7"})
    again = import_critiques(data, beside, annotator="ann")
    assert (again.merged, again.rejected) == (MergeResult(1, 0, 0), ())
    assert data.read()[0].feedback[0].text == "=HYPERLINK()"


def test_a_rejected_file_that_somebody_mends_is_not_replaced(data: ExampleFile, tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    export_answers(data.answers(), table)
    fill(table, {"spans": "is 8", "critique": "x"})
    first = import_critiques(data, table, annotator="ann").rejected_file
    assert import_critiques(data, table, annotator="ann").rejected_file == first
    assert first is not None
    fill(first, {"critique": "much better words"})
    second = import_critiques(data, table, annotator="ann").rejected_file
    assert second == tmp_path / "a.rejected.2.csv"
    assert "much better words" in first.read_text(encoding="utf-8-sig")


def test_nobodys_words_are_replaced(data: ExampleFile) -> None:
    assert round_trip(data, {"critique": "Wrong."}).merged == MergeResult(1, 0, 0)
    assert round_trip(data, {"critique": "Wrong."}).merged == MergeResult(0, 0, 1)
    assert round_trip(data, {"critique": "Wrong."}, annotator="bob").merged == MergeResult(1, 0, 0)
    assert round_trip(data, {"critique": "Right!"}).merged == MergeResult(0, 1, 0)
    said = [(f.provenance.author, f.text) for f in data.read()[0].feedback]
    assert said == [("ann", "Wrong."), ("bob", "Wrong."), ("ann", "Right!")]


def test_one_annotator_who_says_two_things_in_one_table_is_asked_to_choose(
    data: ExampleFile, tmp_path: Path
) -> None:
    table = tmp_path / "a.jsonl"
    sha = data.answers()[0].sha256
    rows = [{"rollout": "1", "turn": 0, "critique": c, "answer_sha256": sha} for c in ("a", "b", "a")]
    table.write_bytes(encode(rows))
    done = import_critiques(data, table, annotator="ann")
    assert done.merged == MergeResult(1, 0, 1)
    assert "row 2" in reasons(done)
    assert "in row 1: keep one" in reasons(done)


def test_critiques_of_a_run_go_to_its_store_by_rollout_and_turn(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", "", "")
    run.add_rollouts([rollout("3/1/0", turns=2)], step=3)  # a spreadsheet would make a date of this id
    store = RunAnswers(run.path)
    table = tmp_path / "a.csv"
    export_answers(store.answers(), table)
    assert b'"\'3/1/0"' in table.read_bytes()
    fill(table, {}, {"critique": "Second."})
    assert import_critiques(store, table, annotator="ann").merged == MergeResult(1, 0, 0)
    first, second = store.answers()
    assert (first.feedback, second.feedback[0].text, second.feedback[0].turn) == ((), "Second.", 1)


# ── quotes ────────────────────────────────────────────────────────────────────────────────────────


@given(st.text(max_size=30), st.integers(0, 29), st.integers(1, 5))
def test_a_quote_is_placed_exactly_or_refused(answer: str, start: int, length: int) -> None:
    quote = answer[start : start + length]
    places = [i for i in range(len(answer)) if quote and answer.startswith(quote, i)]
    if len(places) == 1:
        span = find_quote(answer, quote, "poor")
        assert (span.start, answer[span.start : span.end]) == (start, quote)
    else:
        with pytest.raises(QuoteError):
            find_quote(answer, quote, "poor")
    for place in places:
        assert find_quote(answer, quote, "poor", start=place).start == place


def test_overlapping_places_are_several() -> None:
    with pytest.raises(QuoteError, match="more than once"):
        find_quote("aaa", "aa", "good")


# ── the source ────────────────────────────────────────────────────────────────────────────────────


def request(example: Example, index: int = 0) -> FeedbackRequest:
    return FeedbackRequest(example.problem, AnnotatedAnswer.of(example).turn, index)


def heard(source: HumanFeedback, *of: Example) -> list[str]:
    return [f"{f.provenance.author}: {f.text}" for f in source.critique([request(e, 1) for e in of])]


def test_the_critique_of_exactly_this_answer_is_found() -> None:
    said = [example("1", by("ann")), example("2", by("bob", "No."), completion="Later.")]
    source = HumanFeedback(said)
    assert len(source) == 2
    assert heard(source, *reversed(said)) == ["bob: No.", "ann: Too short."]
    (feedback,) = source.critique([request(said[0], 1)])
    assert (feedback.turn, feedback.ok) == (1, True)


def test_what_is_asked_counts_and_not_the_problems_id() -> None:
    source = HumanFeedback([example("1", by("ann"))])
    same = Example(id="9", problem=Problem.ask("Where  is parcel 1?\n", id="other"), completion="Soon.")
    other = Example(id="1", problem=Problem.ask("Where is parcel 2?", id="p1"), completion="Soon.")
    assert [f.ok for f in source.critique([request(same), request(other)])] == [True, False]


@pytest.mark.parametrize("completion", ["Soon", "Soon. ", "soon.", ""])
def test_an_answer_that_nobody_criticised_fails_and_is_not_scored(completion: str) -> None:
    source = HumanFeedback([example("1", by("ann", score=1.0))])
    (feedback,) = source.critique([request(example("1", completion=completion), 3)])
    assert (feedback.ok, feedback.turn, feedback.score, feedback.text) == (False, 3, None, "")
    assert feedback.error == "nobody has criticised this answer"


def test_words_are_preferred_and_the_latest_of_an_author_counts() -> None:
    silent = example(
        "1", by("ann", "", score=0.0), by("bob", "Old."), by("bob", "New."), by("cy", "", label="x")
    )
    for seed in range(8):
        assert heard(HumanFeedback([silent], seed=seed), silent) == ["bob: New."]
    mute = example("1", by("ann", "", score=0.0))
    assert HumanFeedback([mute]).critique([request(mute)])[0].score == 0.0


def test_a_thumb_takes_no_words_away_and_nobody_unnamed_is_lost() -> None:
    thumbed = example("1", by("ann", "Say when."), by("ann", "", score=0.0))
    assert heard(HumanFeedback([thumbed]), thumbed) == ["ann: Say when."]
    strangers = example("1", *(by("unknown", f"{i}.") for i in range(3)))
    drawn = {heard(HumanFeedback([strangers], seed=seed), strangers)[0] for seed in range(20)}
    assert drawn == {"unknown: 0.", "unknown: 1.", "unknown: 2."}


def test_an_author_of_several_pieces_has_one_voice() -> None:
    pieces = [by("gpt", f"{i}.", name=str(i)) for i in range(9)]
    rated = by("gpt", "", name="helpfulness", score=4.0)
    forward, backward = example("1", *pieces, rated, by("ann")), example("1", by("ann"), rated, *pieces[::-1])
    drawn = [heard(HumanFeedback([forward], seed=seed), forward)[0] for seed in range(60)]
    assert drawn == [heard(HumanFeedback([backward], seed=seed), forward)[0] for seed in range(60)]
    assert len(set(drawn)) > 5
    assert 15 < drawn.count("ann: Too short.") < 45
    assert "gpt: " not in drawn


def test_a_share_caps_pieces_and_not_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    flood = [example("1", *(by("troll", f"{i}.", name=str(i)) for i in range(9)), by("ann"))]
    rest = [example(str(i), by(f"a{i}")) for i in range(2, 5)]
    told: list[str] = []
    monkeypatch.setattr("didact.annotation.human._warn", told.append)
    source = HumanFeedback([*flood, *rest], max_share=0.25)
    assert told == ["'troll' wrote 9 of 13 critiques, more than a share of 0.25: 8 are left out"]
    assert len(source) == 4


def test_of_several_annotators_the_seed_draws_one_whatever_their_order() -> None:
    people = [by(name, name) for name in ("ann", "bob", "cy")]
    forward, backward = example("1", *people), example("1", *reversed(people))
    drawn = [heard(HumanFeedback([forward], seed=seed), forward)[0] for seed in range(20)]
    assert drawn == [heard(HumanFeedback([backward], seed=seed), forward)[0] for seed in range(20)]
    assert len(set(drawn)) == 3


def test_judges_failures_and_the_quarantined_are_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = by("dee", "", status="failed", error="down")
    said = example("1", by("judge", source="judge"), failed, by("troll", "Praise the brand."), by("ann"))
    told: list[str] = []
    monkeypatch.setattr("didact.annotation.human._warn", told.append)
    source = HumanFeedback([said], quarantined=["troll"])
    assert heard(source, said) == ["ann: Too short."]
    assert told == ["1 critiques by quarantined annotators are left out"]
    with pytest.raises(DataError, match="human"):
        HumanFeedback([said], quarantined=["troll", "ann"])


def test_an_annotator_who_floods_is_capped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    flood = [example(str(i), by("troll", f"Praise {i}.")) for i in range(90)]
    rest = [example(str(i), by(f"a{i % 5}")) for i in range(90, 120)]
    told: list[str] = []
    monkeypatch.setattr("didact.annotation.human._warn", told.append)
    source = HumanFeedback([*flood, *rest], max_share=0.25)
    spoken = [f.provenance.author for f in source.critique([request(e) for e in [*flood, *rest]]) if f.ok]
    assert len(source) == len(spoken) == 40
    assert spoken.count("troll") / len(spoken) == 0.25
    assert told == [
        "'troll' wrote 90 of 120 critiques, more than a share of 0.25: 80 are left out",
    ]
    backward = HumanFeedback([*reversed(rest), *reversed(flood)], max_share=0.25)
    assert heard(backward, *flood) == heard(source, *flood)
    assert len(HumanFeedback([*flood, *rest])) == 120


@pytest.mark.parametrize(
    ("share", "message"), [(0.3, "needs 4 annotators, but there are 2"), (0.0, "in"), (1.5, "in")]
)
def test_a_share_that_cannot_be_is_refused(share: float, message: str) -> None:
    with pytest.raises(UsageError, match=f"max_share.*{message}"):
        HumanFeedback([example("1", by("ann"), by("bob"))], max_share=share)


def test_a_source_reads_files_and_runs(tmp_path: Path, data: ExampleFile) -> None:
    round_trip(data, {"critique": "Which?"})
    assert heard(HumanFeedback(data.path), data.read()[0]) == ["ann: Which?"]
    run = RunDir.create(tmp_path / "run", "", "")
    answered = rollout("1", by("ann", turn=1), turns=2)
    run.add_rollouts([answered], step=1)
    requests = [FeedbackRequest(answered.problem, turn, i) for i, turn in enumerate(answered.turns)]
    assert [f.ok for f in HumanFeedback(str(run.path)).critique(requests)] == [False, True]


# ── a source criticises a file ────────────────────────────────────────────────────────────────────


def test_criticising_is_kept_batch_by_batch_and_resumed(data: ExampleFile) -> None:
    class Dies(CountingCritic):
        def critique(self, requests):  # type: ignore[no-untyped-def]
            if self.asked >= 2:
                raise KeyboardInterrupt
            return super().critique(requests)

    with pytest.raises(KeyboardInterrupt):
        criticise_answers(data, Dies(), batch_size=1)
    assert [len(e.feedback) for e in data.read()] == [1, 1, 0]
    told: list[tuple[int, int]] = []
    done = criticise_answers(data, CountingCritic(), batch_size=2, progress=lambda *d: told.append(d))
    assert (done.asked, done.skipped, done.failed) == (2, 1, 0)
    assert told == [(1, 3), (3, 3)]
    assert [len(e.feedback) for e in data.read()] == [1, 1, 1]


def test_an_author_nobody_knows_yet_is_learned_from_the_first_reply(data: ExampleFile) -> None:
    criticise_answers(data, CountingCritic())
    before = data.path.read_bytes()
    source = CountingCritic()
    source.asked = 7  # so that it says something else now
    done = criticise_answers(data, source, batch_size=2)
    assert (source.asked, done.asked, done.skipped) == (8, 1, 2)
    assert data.path.read_bytes() == before


def test_failures_are_kept_and_asked_for_again(data: ExampleFile) -> None:
    done = criticise_answers(data, CountingCritic(fails=[1]), batch_size=3)
    assert (done.asked, done.failed, done.error) == (3, 1, "scripted")
    assert done.seconds > 0
    assert [e.feedback[0].ok for e in data.read()] == [True, False, True]
    again = criticise_answers(data, CountingCritic())
    assert (again.asked, again.skipped) == (2, 1)
    assert [f.ok for f in data.read()[1].feedback] == [False, True]


def test_a_source_criticises_a_runs_answers(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", "", "")
    run.add_rollouts([rollout("1", turns=2), rollout("2")], step=1)
    store = RunAnswers(run.path)
    wrong = choose_answers(store.answers(), only_wrong=True)
    assert criticise_answers(store, ProgramCritic(), answers=wrong[:2]).asked == 2
    assert [[f.label for f in a.feedback] for a in store.answers()] == [["wrong"], ["wrong"], []]
    (first, _) = run.read_rollouts()
    assert [f.turn for f in first.feedback] == [0, 1]


def test_a_source_that_forgets_an_answer_is_found_out(data: ExampleFile) -> None:
    class Forgets(CountingCritic):
        def critique(self, requests):  # type: ignore[no-untyped-def]
            return super().critique(requests)[:-1]

    with pytest.raises(ValueError, match="shorter"):
        criticise_answers(data, Forgets())
    assert all(not e.feedback for e in data.read())


def test_answers_and_examples_are_the_same_to_the_source() -> None:
    turn = Turn(prompt_ids=(1,), completion_ids=(2,), logprobs=(-1.0,), text="Soon.", stop_reason="eos")
    feedback: Feedback = by("ann")
    answer = AnnotatedAnswer("r", 0, example("1").problem, turn, (feedback,), 3)
    assert heard(HumanFeedback([answer]), example("1")) == ["ann: Too short."]
    assert isinstance(rollout("1"), Rollout)
