"""`didact critique` and `didact data forget`, as somebody would type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from didact.annotation.human import HumanFeedback
from didact.annotation.targets import AnnotatedAnswer, ExampleFile, RunAnswers
from didact.cli.critique import critique
from didact.cli.data import forget
from didact.config import load_config
from didact.data.files import read_examples
from didact.errors import DataError, DidactError
from didact.feedback_source import FeedbackRequest
from didact.jsonl import encode
from didact.run_dir import RunDir
from didact.types import Example, Problem, Rollout, Turn
from tests.helpers import code_task
from tests.judge_server import JudgeServer, verdict
from tests.test_code_task import needs_sandbox
from tests.test_human import ask, fill
from tests.test_store import by, example, examples

app = typer.Typer()
app.add_typer(critique, name="critique")
data_app = typer.Typer()
data_app.command()(forget)
data_app.command()(lambda: None)  # a second one, so that `forget` keeps its name
app.add_typer(data_app, name="data")


def didact(*words: object, code: int = 0) -> Result:
    """What `didact …` prints; its own errors by their exit code."""
    result = CliRunner().invoke(app, list(map(str, words)))
    got = result.exit_code
    if isinstance(result.exception, DidactError):
        got = result.exception.exit_code
    assert got == code, (result.output, result.exception)
    return result


@pytest.fixture
def data(tmp_path: Path) -> ExampleFile:
    return examples(tmp_path / "data.jsonl", ask(), ask("-7", "2"), ask("007", "3"))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run on spell_backward with two wrong answers and a right one."""
    run = RunDir.create(tmp_path / "run", load_config("grpo").to_yaml(), "")
    rollouts = []
    for i, (word, text) in enumerate((("sun", "sun"), ("tar", "tar"), ("dog", "god"))):
        problem = Problem.ask(f"Spell this word backward: {word}", id=word, reference=word[::-1])
        turn = Turn(
            prompt_ids=(1,), completion_ids=(2,), logprobs=(-1.0,), text=text, stop_reason="eos",
            reward=float(text == word[::-1]),
        )  # fmt: skip
        rollouts.append(Rollout(id=f"1/{word}/{i}", group=word, problem=problem, turns=(turn,)))
    run.add_rollouts(rollouts, step=1)
    run.add_metrics({"step": 1})
    return run


def test_answers_go_out_and_critiques_come_back(run: RunDir, tmp_path: Path) -> None:
    table = tmp_path / "answers.csv"
    shown = didact("critique", "export", run.path, "--out", table, "--only-wrong", "--step", 1).output
    assert "2 of 3 answers" in shown
    fill(table, {"critique": "Not backward.", "label": "wrong", "spans": "good: s"}, {"score": "0.25"})
    words = ("critique", "import", run.path, table, "--annotator", "ann")
    assert "2 critiques added, 0 changed (the latest counts), 0 already there" in didact(*words).output
    assert "0 critiques added, 0 changed (the latest counts), 2 already there" in didact(*words).output
    first, second, third = RunAnswers(run.path).answers()
    assert [f.text for f in first.feedback] == ["Not backward."]
    assert [f.score for f in second.feedback] == [0.25]
    assert third.feedback == ()
    table = tmp_path / "one.jsonl"
    assert "1 of 3" in didact("critique", "export", run.path, "--out", table, "--n", 1, "--seed", 3).output


def test_unusable_rows_end_with_3_and_the_good_ones_stay(data: ExampleFile, tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    didact("critique", "export", data.path, "--out", table, "--with-reference")
    fill(table, {"spans": "\x1b[31mred"}, {"critique": "Fine."})
    result = didact("critique", "import", data.path, table, "--annotator", "ann", code=3)
    assert "row 2, column 'spans'" in result.output
    assert "\x1b" not in result.output
    assert isinstance(result.exception, DataError)
    assert "mend them in" in str(result.exception)
    assert (tmp_path / "a.rejected.csv").exists()
    assert [len(e.feedback) for e in data.read()] == [0, 1, 0]


def test_a_program_criticises_a_run_and_its_quality_is_shown(run: RunDir) -> None:
    words = ("critique", "run", run.path, "--feedback", "program", "--batch-size", 2)
    result = didact(*words)
    assert "3 answers criticised" in result.output
    assert "1 of 3 answers\n3 of 3 answers" in result.output  # the first one shows who signs
    again = didact(*words).output
    assert "1 answers criticised" in again
    assert "2 had a critique already" in again
    first = RunAnswers(run.path).answers()[0].feedback
    assert len(first) == 1
    assert first[0].text.startswith("The answer is wrong.")
    shown = didact("critique", "quality", run.path).output
    assert "3 of 3 answers have a critique" in shown
    assert "program:reveal" in shown
    found = json.loads(didact("critique", "quality", run.path, "--json").output)
    (author,) = found["authors"]
    assert (author["precision"], author["recall"], author["judged"]) == (1.0, 1.0, 3)
    assert found["labels"]["alpha"] is None


def test_agreement_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    labels = [("wrong", "wrong"), ("right", "right"), ("wrong", "right")]
    rows = [
        example(str(i), by("ann", label=a), by("[bold]bob\x1b[31m", label=b))
        for i, (a, b) in enumerate(labels)
    ]
    file.write_bytes(encode(row.model_dump(mode="json") for row in rows))
    shown = didact("critique", "quality", file).output
    assert "agreement on labels: α = 0.444 (2 annotators on 3 answers); among people: α = 0.444" in shown
    assert "agreement on scores: nothing to compare" in shown
    assert "[bold]bob" in shown
    assert "\x1b" not in shown


def test_a_file_is_criticised_by_a_named_source(data: ExampleFile) -> None:
    assert didact("critique", "run", data.path, code=2).exception.args[0].startswith("who criticises?")
    result = didact("critique", "run", data.path, "--feedback", "program", "--n", 2)
    assert "2 answers criticised" in result.output
    assert sum(bool(e.feedback) for e in data.read()) == 2
    wrong = didact("critique", "run", data.path, "--feedback", "programm", code=2)
    assert "did you mean 'program'" in str(wrong.exception)


def test_a_source_that_fails_every_time_ends_with_3_and_says_why(tmp_path: Path) -> None:
    file = examples(tmp_path / "d.jsonl", ask(reference=None))
    result = didact("critique", "run", file.path, "--feedback", "program", code=3)
    assert "no reference to compare with" in str(result.exception)
    assert not file.read()[0].feedback[0].ok


# ── the plain form ────────────────────────────────────────────────────────────────────────────────


def test_a_file_in_the_plain_form_goes_all_the_way(tmp_path: Path) -> None:
    path, table = tmp_path / "fb.jsonl", tmp_path / "answers.csv"
    path.write_bytes(encode({"prompt": f"{i} + {i}?", "completion": "7", "reference": "8"} for i in range(3)))
    didact("critique", "export", path, "--out", table)
    fill(table, {"critique": "Count again.", "label": "wrong"})
    assert "1 critiques added" in didact("critique", "import", path, table, "--annotator", "ann").output
    assert "3 answers criticised" in didact("critique", "run", path, "--feedback", "program").output
    assert "3 of 3 answers have a critique" in didact("critique", "quality", path).output
    (first, *_) = read_examples(path)
    assert (first.id, [f.source for f in first.feedback]) == ("fb/1", ["human", "program"])
    assert HumanFeedback(path).critique(
        [FeedbackRequest(first.problem, AnnotatedAnswer.of(first).turn, 0)]
    )[0].text == "Count again."  # fmt: skip
    (tmp_path / "torn.jsonl").write_text('{"prompt": "q", "comple')
    shown = didact("data", "forget", "--user", "ann", tmp_path).output.replace("\n", "")
    assert f"{path}: 1 critiques removed" in shown
    assert f"not searched: {tmp_path / 'torn.jsonl'} (row 1: invalid JSON" in shown


# ── judges and programs ───────────────────────────────────────────────────────────────────────────

JUDGE = (
    "--feedback",
    "judge:openai",
    "--judge-model",
    "judge",
    "--set",
    "feedback.settings.api_key_env=null",
)


@pytest.fixture
def many(tmp_path: Path) -> ExampleFile:
    return examples(tmp_path / "many.jsonl", *(ask(f"It is {i}.", str(i)) for i in range(100)))


def judged(file: ExampleFile, server: JudgeServer, *words: object, code: int = 0) -> Result:
    return didact("critique", "run", file.path, *JUDGE, "--base-url", server.url, *words, code=code)


def test_a_judge_that_fails_is_not_asked_for_ever_and_can_be_asked_again(many: ExampleFile) -> None:
    with JudgeServer(lambda messages: verdict("Wrong.", 2)) as server:
        server.script[:] = ["length"] * 100
        result = judged(many, server, "--batch-size", 8, code=75)
        said = str(result.exception)
        assert "9 of the last 9 critiques failed" in said
        assert "Stopped with 9 of 100 answers done" in said
        assert "begin again" in said
        assert sum(bool(e.feedback) for e in many.read()) == 9
        server.script.clear()
        assert "100 answers criticised" in judged(many, server).output
        assert all(any(f.ok for f in e.feedback) for e in many.read())


def test_failures_may_be_allowed(many: ExampleFile) -> None:
    with JudgeServer(lambda messages: verdict("Wrong.", 2), script=["length"] * 30) as server:
        result = judged(many, server, "--set", "feedback.max_failed=1", "--batch-size", 20)
    assert "100 answers criticised" in result.output
    assert "30 failed" in result.output


def test_what_a_budget_stopped_is_no_critique_and_is_not_kept(many: ExampleFile) -> None:
    with JudgeServer(lambda messages: verdict("Wrong.", 2)) as server:
        result = judged(many, server, "--max-requests", 10, "--batch-size", 8, code=75)
        assert "stopped with 10 of 100 answers done" in str(result.exception)
        assert "max_requests = 10" in str(result.exception)
        said = [f for e in many.read() for f in e.feedback]
        assert [f.ok for f in said] == [True] * 10
        assert len(server.bodies) == 10
        # What was spent stands beside the file, so that beginning again does not spend it again.
        judged(many, server, "--max-requests", 10, code=75)
        assert len(server.bodies) == 10
        priced = ("--max-cost", 100, "--price-in", 1, "--price-out", 1, "--max-requests", 200)
        assert "0 failed" in judged(many, server, *priced).output
        assert len(server.bodies) == 100, "nothing that was kept is asked for again"
    assert [[f.ok for f in e.feedback] for e in many.read()] == [[True]] * 100


def test_the_replies_of_a_data_file_are_kept_beside_it(data: ExampleFile) -> None:
    before = data.path.read_bytes()
    with JudgeServer(lambda messages: verdict("Wrong.", 2)) as server:
        judged(data, server)
        data.path.write_bytes(before)
        judged(data, server)
        assert len(server.bodies) == 3
    assert len(list((data.path.parent / "data.jsonl.didact" / "replies").rglob("??/*.json"))) == 3
    assert [f.text for e in data.read() for f in e.feedback] == ["Wrong."] * 3


@pytest.mark.parametrize(
    "words",
    [["--feedback", "judge:local"], ["--feedback", "teacher", "--set", "feedback.settings.who=frozen"]],
)
def test_a_file_has_no_model_to_take_a_copy_of(data: ExampleFile, words: list[str]) -> None:
    refused = didact("critique", "run", data.path, *words, code=2)
    assert "give --judge-model a folder or hub id" in str(refused.exception)
    missing = didact("critique", "run", data.path, *words, "--judge-model", "no/such/folder", code=2)
    assert "no/such/folder" in str(missing.exception)


@needs_sandbox
def test_failing_programs_are_told_which_case_they_fail(tmp_path: Path) -> None:
    wrong = {
        "add": "def add(a, b):\n    return a - b\n",
        "first": "def first(items):\n    return items[1]\n",
        "twice": "def twice(x):\n    return x +\n",
    }
    problems = tmp_path / "problems.jsonl"
    rows = [
        ("add", "def add(a, b):", "add(1, 2) == 3", "return a + b"),
        ("first", "def first(items):", "first([4]) == 4", "return items[0]"),
        ("twice", "def twice(x):", "twice(2) == 4", "return 2 * x"),
    ]
    problems.write_bytes(
        encode(
            {"prompt": f"Write {name}.", "signature": signature, "examples": [], "tests": [test, test],
             "reference": f"{signature}\n    {body}\n"}
            for name, signature, test, body in rows
        )
    )  # fmt: skip
    task = code_task(problems, eval_fraction=0.2)
    made = [
        Example(id=p.metadata["entry_point"], problem=p, completion=wrong[p.metadata["entry_point"]])
        for p in task.all_problems()
    ]
    file = examples(tmp_path / "programs.jsonl", *made)
    words = ("critique", "run", file.path, "--task", "code", "--feedback", "program")
    assert "3 answers criticised" in didact(*words).output
    said = {e.id: e.feedback[0] for e in file.read()}
    assert "In test 1, `add(1, 2)` should return 3, but it returned -1." in said["add"].text
    assert "`first([4])` should return 4, but it raised IndexError" in said["first"].text
    assert said["twice"].text.startswith("The program cannot be compiled: SyntaxError")
    assert {(f.ok, f.label, f.source) for f in said.values()} == {(True, "wrong", "program")}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["critique", "export", "none", "--out", "a.csv"], 2, "there is no 'none'"),
        (["critique", "export", "data.jsonl", "--out", "a.txt"], 2, "one of these endings"),
        (["critique", "export", "data.jsonl", "--out", "nodir/a.csv"], 2, "not a directory: make it first"),
        (["critique", "export", "data.jsonl", "--out", "a.csv", "--step", "1"], 2, "a data file has none"),
        (["critique", "import", "data.jsonl", "none.csv"], 3, "none.csv cannot be read"),
        (["critique", "quality", "."], 2, "no rollouts.jsonl"),
        (["data", "forget", "--user", "ann", "none"], 2, "there is no 'none'"),
    ],
)
def test_wrong_words_end_with_a_cure_and_change_nothing(
    data: ExampleFile, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(data.path.parent)
    before = data.path.read_bytes()
    assert message in str(didact(*words, code=code).exception)
    assert data.path.read_bytes() == before
    assert list(data.path.parent.iterdir()) == [data.path]


def test_a_person_is_forgotten_and_what_stays_is_said(run: RunDir, data: ExampleFile, tmp_path: Path) -> None:
    words = "Ask my sister on the third floor."
    table = tmp_path / "answers.csv"
    didact("critique", "export", data.path, "--out", table)
    fill(table, {"critique": words})
    didact("critique", "import", data.path, table, "--annotator", "ann")
    turn, problem = RunAnswers(run.path).answers()[0].turn, Problem.ask("x", id="x")
    learned = Rollout(
        id="2/x/0", group="x", problem=problem, turns=(turn,), feedback=(by("ann", words),)
    )  # fmt: skip
    run.add_rollouts([learned], step=1)
    shown = didact("data", "forget", "--user", "ann", tmp_path).output
    assert f"{data.path}: 1 critiques removed" in shown.replace("\n", "")
    assert "it trained on 1 of these critiques: its model/ and checkpoints/ stay as they are" in shown
    assert f"still holds some of these words to the letter: {table}" in shown.replace("\n", "")
    assert words not in data.path.read_text() + run.feedback.read_text()
    again = didact("data", "forget", "--user", "an", tmp_path).output
    assert "nothing by 'an' in 2 run directories and data files: nobody has written anything" in again


# ── passages ──────────────────────────────────────────────────────────────────────────────────────────


def marked(messages: list[dict[str, str]]) -> str:
    """A judge that marks "-7" as poor, and "7" as good: where that is all of the answer, it stands once."""
    quotes = [{"quote": q, "before": "", "phrase": "a number"} for q in ("-7", "7")]
    found = {"critique": "It is a number.", "good_spans": quotes[1:], "poor_spans": quotes[:1]}
    return json.dumps({**found, "score": 2, "label": "wrong"})


def test_a_judge_marks_passages_and_what_it_misquotes_is_counted(tmp_path: Path) -> None:
    file = examples(tmp_path / "data.jsonl", ask("is -7", "1"), ask("7, 7", "2"))
    with JudgeServer(marked) as server:
        shown = judged(file, server, "--spans").output
        assert (
            "spans: 4 quotes about 2 answers: 2 exact, 0 normalised, 0 fuzzy, 2 unaligned (1 ambiguous); "
            "1 good, 1 poor; 1 replies were asked for again"
        ) in shown
        assert len(server.bodies) == 3
        # Begun again, nobody is asked: what is there is passed over, and the replies are kept.
        assert "2 had a critique already" in judged(file, server, "--spans").output.replace("1 had", "2 had")
        assert len(server.bodies) == 3
        body = server.bodies[0]
        assert "good_spans" in body["messages"][0]["content"]
        assert "good_spans" in body["response_format"]["json_schema"]["schema"]["properties"]
    first, second = file.read()
    assert [(s.start, s.end, s.label, s.phrase) for s in first.feedback[0].spans] == [
        (3, 5, "poor", "a number"), (4, 5, "good", "a number"),
    ]  # fmt: skip
    assert second.feedback[0].spans == ()
    assert second.feedback[0].text == "It is a number."


def test_a_judge_marks_passages_without_a_critique_before_them(tmp_path: Path) -> None:
    file = examples(tmp_path / "data.jsonl", ask("is -7", "1"))

    def bare(messages: list[dict[str, str]]) -> str:
        assert "critique" not in messages[0]["content"]
        return json.dumps(
            {"good_spans": [], "poor_spans": [{"quote": "-7", "before": ""}], "score": 2, "label": "wrong"}
        )

    with JudgeServer(bare) as server:
        judged(file, server, "--spans", "--set", "feedback.settings.reasoning=false")
    ((said,),) = [e.feedback for e in file.read()]
    assert (said.text, said.score, [s.quote for s in said.spans]) == ("", 0.2, ["-7"])


def test_a_program_marks_answers_of_a_run_that_it_criticised_without(run: RunDir) -> None:
    words = ("critique", "run", run.path, "--feedback", "program")
    didact(*words, "--set", "feedback.settings.spans=false")
    assert not any(f.spans for a in RunAnswers(run.path).answers() for f in a.feedback)
    result = didact(*words, "--spans").output
    assert "3 answers criticised" in result
    assert "spans: 3 good, 4 poor" in result
    latest = [a.feedback[-1] for a in RunAnswers(run.path).answers()]
    assert [[(s.quote, s.label) for s in f.spans] for f in latest] == [
        [("s", "poor"), ("u", "good"), ("n", "poor")],
        [("t", "poor"), ("a", "good"), ("r", "poor")],
        [("god", "good")],
    ]
    again = didact(*words, "--spans").output
    assert "2 had a critique already" in again
    assert [len(a.feedback) for a in RunAnswers(run.path).answers()] == [2, 2, 2]


def test_a_source_that_cannot_mark_says_who_can(run: RunDir) -> None:
    result = didact("critique", "run", run.path, "--feedback", "self", "--spans", code=2)
    assert "--spans is for program, judge:openai, judge:local and reward-model, not 'self'" in str(
        result.exception
    )
