"""Own prompts: splits that cannot leak, verifiers, and errors that name row and column."""

import json
import sys

import pytest

from didact.errors import DataError, UsageError
from didact.tasks import make_task, validate_task
from didact.tasks.verifiers import make_verifier
from tests.helpers import prompts_task


@pytest.fixture
def write(tmp_path):
    def write_rows(rows, name="data.jsonl"):
        path = tmp_path / name
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        else:
            lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write_rows


def sums(n, start=0):
    return [{"prompt": f"What is {i} + 1?", "reference": str(i + 1)} for i in range(start, start + n)]


def prompts(problems):
    return [p.question for p in problems]


def training(task):
    return [task.train_problem(i) for i in range(len(task.all_train_problems()))]


def test_every_row_is_on_exactly_one_side_and_gold_scores_one(write):
    task = prompts_task(write(sums(50)))
    held_out = task.eval_problems(50)
    assert task.name == "data"
    assert 4 <= len(held_out) <= 18
    assert sorted(prompts(training(task)) + prompts(held_out)) == sorted(row["prompt"] for row in sums(50))
    validate_task(task)


def test_the_split_does_not_depend_on_seed_order_or_other_rows(write):
    rows = sums(40)
    tasks = [
        prompts_task(write(rows, "a.jsonl"), seed=0),
        prompts_task(write(rows[::-1], "b.jsonl"), seed=5),
        prompts_task(write(rows + sums(40, start=100), "c.jsonl")),
    ]
    held_out = [set(prompts(task.eval_problems(99))) for task in tasks]
    assert held_out[0] == held_out[1] == held_out[2] & {row["prompt"] for row in rows}
    assert prompts(tasks[0].eval_problems(99)) == prompts(tasks[1].eval_problems(99))


def test_the_same_prompt_is_never_on_both_sides(write):
    rows = [{"prompt": f"Q{i % 10}" + " " * (i % 3), "reference": str(i)} for i in range(60)]
    task = prompts_task(write(rows))
    sides = [{q.strip() for q in prompts(side)} for side in (training(task), task.eval_problems(60))]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 10


@pytest.mark.parametrize("fraction", [0.0001, 0.9999])
def test_neither_side_is_ever_empty(write, fraction):
    task = prompts_task(write(sums(2)), eval_fraction=fraction)
    assert len(task.all_train_problems()) == len(task.eval_problems(9)) == 1


def test_each_pass_visits_every_problem_once_in_an_order_of_its_own(write):
    path = write(sums(30))
    task = prompts_task(path, seed=1)
    n = len(task.all_train_problems())
    passes = [prompts(task.train_problem(i) for i in range(e * n, e * n + n)) for e in range(3)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])
    assert passes[0] != passes[1] != passes[2]
    assert passes[1] == prompts(prompts_task(path, seed=1).train_problem(n + i) for i in range(n))
    assert passes[0] != prompts(training(prompts_task(path, seed=2)))


def test_a_second_file_is_for_evaluation_only_and_may_have_one_row(write):
    task = prompts_task(write(sums(1)), eval_path=write(sums(3, start=50), "eval.jsonl"))
    assert prompts(training(task)) == ["What is 0 + 1?"]
    assert prompts(task.eval_problems(2)) == ["What is 50 + 1?", "What is 51 + 1?"]


def test_chat_messages_ids_references_and_other_columns_are_kept(write):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    rows = [
        {"messages": chat, "reference": 4, "id": 17, "topic": {"kind": "sum"}},
        {"prompt": chat[1:], "reference": 4.5},
    ]
    task = prompts_task(write(rows))
    by_id = {p.id: p for p in [*training(task), *task.eval_problems(9)]}
    assert [m.role for m in by_id["17"].messages] == ["system", "user"]
    assert (by_id["17"].reference, by_id["17"].metadata) == ("4", {"topic": {"kind": "sum"}})
    assert (by_id["data/2"].reference, by_id["data/2"].question) == ("4.5", "2 + 2?")


def test_other_column_names_can_be_given(write):
    rows = [{"question": f"Q{i}", "gold": "x", "prompt": 3} for i in range(4)]
    task = prompts_task(write(rows), prompt_column="question", reference_column="gold")
    problem = task.train_problem(0)
    assert problem.question.startswith("Q")
    assert problem.metadata == {"prompt": 3}


def test_unusual_but_valid_files_are_read(write):
    text = '\ufeff{"prompt": "a\u2028b", "reference": "1"}\r\n\r\n  \n{"prompt": "c", "reference": "2"}'
    task = prompts_task(write(text.encode()))
    assert {*prompts(training(task)), *prompts(task.eval_problems(9))} == {"a\u2028b", "c"}


# --- forms of the source


def test_csv_and_a_json_array_are_read_like_json_lines(write):
    rows = [{"prompt": f"What is {i} + 1?", "reference": str(i + 1)} for i in range(9)]
    lines = prompts_task(write(rows, "a.jsonl"))
    array = prompts_task(write(json.dumps(rows, indent=1).encode(), "b.json"))
    cells = "\n".join(["prompt,reference", *(f'"{r["prompt"]}",{r["reference"]}' for r in rows)])
    table = prompts_task(write(cells.encode(), "c.csv"))
    for task in (array, table):
        assert prompts(task.eval_problems(9)) == prompts(lines.eval_problems(9))
        assert {(p.question, p.reference) for p in task.all_problems()} == {
            (p.question, p.reference) for p in lines.all_problems()
        }


@pytest.mark.parametrize(("question", "gold"), [("question", "answer"), ("problem", "reference")])
def test_usual_column_names_are_found_without_a_setting(write, question, gold):
    row = {question: "2 + 2?", gold: 4, "unit": "km"}
    task = prompts_task(write([row, {**row, question: "1 + 3?"}]))
    problem = task.train_problem(0)
    assert (problem.reference, problem.metadata) == ("4", {"unit": "km"})
    assert task.verify(problem, "4").correct


def test_a_list_of_answers_is_no_reference_unless_it_is_configured(write):
    rows = [{"prompt": "2 + 2?", "answer": ["4"]}, {"prompt": "1 + 3?", "answer": ["4"]}]
    task = prompts_task(write(rows), verifier="none")
    assert (task.train_problem(0).reference, task.train_problem(0).metadata) == (None, {"answer": ["4"]})
    with pytest.raises(DataError, match="column 'answer'"):
        prompts_task(write(rows), verifier="none", reference_column="answer")


def test_a_parquet_file_is_read_like_json_lines(write, tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    chat = [{"role": "user", "content": "2 + 2?", "name": None}]
    rows = [
        {"messages": chat, "answer": "4", "n": 1},
        {"messages": [{**chat[0], "content": "1 + 1?", "name": None}], "answer": "2", "n": None},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    task = prompts_task(tmp_path / "t.parquet")
    assert task.name == "t"
    assert {(p.question, p.reference, p.metadata["n"]) for p in task.all_problems()} == {
        ("2 + 2?", "4", 1),
        ("1 + 1?", "2", None),
    }
    with pytest.raises(DataError, match=r"broken\.parquet"):
        prompts_task(write(b"no parquet", "broken.parquet"))


class Hub:
    """Stands in for the package `datasets`."""

    def __init__(self, file):
        self.asked, self.file = [], file

    def load_dataset(self, path, name, split):
        self.asked.append((path, split, name))
        if split not in ("train", "test"):
            raise ValueError(f"Unknown split {split!r}")
        numbers = range(8) if split == "train" else range(20, 23)
        return Rows(({"question": f"{n} + 1?", "answer": f"{n + 1}"} for n in numbers), self.file)


class Rows(list):
    def __init__(self, rows, file):
        super().__init__(rows)
        self.cache_files = [{"filename": str(file)}]


def test_a_hub_dataset_is_trained_on_one_split_and_evaluated_on_another(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "cached.arrow")
    monkeypatch.setitem(sys.modules, "datasets", hub)
    task = prompts_task("owner/sums", subset="main", eval_split="test")
    assert hub.asked == [("owner/sums", "train", "main"), ("owner/sums", "test", "main")]
    assert (task.name, len(task.all_train_problems())) == ("sums", 8)
    assert [p.id for p in task.eval_problems(9)] == [f"sums/test/{i}" for i in (1, 2, 3)]
    assert task.files == (hub.file, hub.file)
    with pytest.raises(DataError, match=r"'owner/sums'.*'dev'"):
        prompts_task("owner/sums", split="dev")


@pytest.mark.parametrize("path", ["owner/sums", "rows.parquet"])
def test_a_missing_package_is_named_with_its_extra(path, monkeypatch):
    for module in ("datasets", "pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"didact-rl\[datasets\]"):
        prompts_task(path)


# --- verifiers


def verdict(write, verifier, answer, reference="Yes", **columns):
    rows = [{"prompt": f"Q{i}", "reference": reference, **columns} for i in range(3)]
    task = prompts_task(write(rows), verifier=verifier)
    return task.verify(task.train_problem(0), answer)


@pytest.mark.parametrize(
    ("verifier", "reference", "right", "wrong"),
    [
        ("exact", "Yes", ["Yes", " Yes\n"], ["yes", "Yes.", ""]),
        ({"name": "exact", "casefold": True}, "Straße", ["STRASSE", "straße"], ["Strase"]),
        ("regex", r"^\d+ apples?$", ["3 apples", "1 apple"], ["apples", "3 apples!"]),
        ({"name": "regex", "pattern": r"(?i)\byes\b"}, "Yes", ["Oh yes!"], ["yesterday", ""]),
        ("numeric", "1,250", ["1250", "so it is 1,250.0 in all", "= 1.25e3"], ["1251", "-1250", "none", ""]),
        ({"name": "numeric", "tolerance": 0.05}, "0.5", ["0.54", ".46"], ["0.56", "9" * 500]),
    ],
)
def test_verifiers_tell_right_from_wrong(write, verifier, reference, right, wrong):
    for answer in right:
        assert verdict(write, verifier, answer, reference) == (1.0, True, None), answer
    for answer in wrong:
        assert verdict(write, verifier, answer, reference) == (0.0, False, None), answer


def test_without_a_verifier_nothing_is_scored_and_nothing_is_wrong(write):
    task = prompts_task(write([{"prompt": "a"}, {"prompt": "b", "reference": "kept"}]), verifier="none")
    assert task.verify(task.train_problem(0), "x") == (None, False, None)
    validate_task(task)


def test_a_pattern_is_not_an_answer_that_a_critic_could_compare_with(write):
    task = prompts_task(write([{"prompt": p, "reference": "^a+$"} for p in "ab"]), verifier="regex")
    assert task.train_problem(0).reference is None
    validate_task(task)


FUNCTION = """
def near(answer, row):
    assert set(row) == {"prompt", "reference", "unit"}, row
    return answer == f"{row['reference']} {row['unit']}"

def half(answer, row): return 0.5
def broken(answer, row): return 1 / 0
def silent(answer, row): return None
def endless(answer, row): return float("nan")
"""


@pytest.fixture
def function_file(tmp_path):
    path = tmp_path / "json.py"  # a name that must not hide the standard library's
    path.write_text(FUNCTION)
    return path


def test_a_users_function_sees_answer_and_row(write, function_file):
    assert verdict(write, f"{function_file}:near", "3 km", "3", unit="km") == (1.0, True, None)
    assert verdict(write, f"{function_file}:near", "3", "3", unit="km") == (0.0, False, None)
    assert verdict(write, f"{function_file}:half", "3", "3") == (0.5, False, None)
    assert json.loads("1") == 1


def test_a_function_can_come_from_an_installed_module():
    assert make_verifier("operator:contains").verify("abc", "", {}).error is not None
    assert make_verifier("math:dist").needs_reference is False


def test_a_function_that_raises_leaves_the_answer_unscored_and_fails_validation(write, function_file):
    found = verdict(write, f"{function_file}:broken", "x")
    assert (found.reward, found.correct) == (None, False)
    assert "ZeroDivisionError" in found.error
    task = prompts_task(write(sums(4)), verifier=f"{function_file}:broken")
    with pytest.raises(DataError, match="ZeroDivisionError"):
        validate_task(task)


@pytest.mark.parametrize("name", ["silent", "endless"])
def test_a_function_must_return_a_finite_number(write, function_file, name):
    with pytest.raises(UsageError, match=r"returned (None|nan)"):
        verdict(write, f"{function_file}:{name}", "x")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("exakt", "did you mean 'exact'"),
        ({"name": "exact", "case_fold": True}, "did you mean 'casefold'"),
        ({"name": "regex", "pattern": "("}, "not a regular expression"),
        ({"name": "numeric", "tolerance": -1}, "tolerance must be a number of 0 or above, not -1"),
        ({"name": "numeric", "tolerance": float("nan")}, "tolerance"),
        ({"tolerance": 1}, "needs a name"),
        ("nowhere.py:f", "no file nowhere.py"),
        ("no_such_module_x:f", "cannot be imported"),
        ("math:sqr", "did you mean 'sqrt'"),
        ({"name": "math:sqrt", "x": 1}, "takes no settings"),
    ],
)
def test_a_wrong_verifier_is_a_usage_error(spec, message):
    with pytest.raises(UsageError, match=message):
        make_verifier(spec)


# --- bad files


GOOD = '{"prompt": "a", "reference": "1"}'

BAD = {
    "an empty file": (b"", {}, "usable rows"),
    "blank lines only": (b"\n \n", {}, "usable rows"),
    "not UTF-8": (GOOD.encode() + b'\n{"prompt": "\xff"}', {}, r"row 2: .*byte 13.*0xff"),
    "UTF-16": (GOOD.encode("utf-16"), {}, "UTF-16"),
    "truncated in a string": ([GOOD, '{"prompt": "b", "refer'], {}, "row 2: .*cut off"),
    "truncated after a value": ([GOOD, '{"prompt": "b", "reference": "2"'], {}, "row 2: .*cut off"),
    "invalid JSON": ([GOOD, "{'prompt': 'b'}", GOOD], {}, "row 2: .*character 2"),
    "a row that is a list": (['["a"]', GOOD], {}, "row 1: .*a list"),
    "one row": ([GOOD], {}, "eval_path"),
    "one prompt": ([GOOD, '{"prompt": " a", "reference": "1"}'], {}, "eval_path"),
    "no prompt column": (['{"promt": "a", "reference": "1"}'], {}, "row 1: column 'prompt'.*'promt'"),
    "no such prompt column": ([GOOD], {"prompt_column": "promt"}, "row 1: column 'promt'.*'prompt'"),
    "no reference column": (
        [GOOD, '{"prompt": "b", "referense": "2"}'],
        {},
        "row 2: column 'reference'.*'referense'.*verifier=none",
    ),
    "a null reference": (['{"prompt": "b", "reference": null}'], {}, "column 'reference'.*null"),
    "an empty reference": (['{"prompt": "b", "reference": " "}'], {}, "column 'reference'.*empty"),
    "a reference of the wrong type": (['{"prompt": "b", "reference": ["x"]}'], {}, "column 'reference'"),
    "a boolean reference": (['{"prompt": "b", "reference": true}'], {}, "column 'reference'.*true"),
    "a reference that is no number": (
        [GOOD, '{"prompt": "b", "reference": "two"}'],
        {"verifier": "numeric"},
        "row 2: column 'reference'.*'two'",
    ),
    "a reference that is no pattern": (
        [GOOD, '{"prompt": "b", "reference": "("}'],
        {"verifier": "regex"},
        r"row 2: column 'reference'.*'\('",
    ),
    "a prompt of the wrong type": (['{"prompt": 3, "reference": "1"}'], {}, "column 'prompt'.*3"),
    "an empty prompt": (['{"prompt": " \\n", "reference": "1"}'], {}, "column 'prompt'.*empty"),
    "no messages": (['{"messages": [], "reference": "1"}'], {}, "column 'messages'"),
    "an unknown role": (
        ['{"messages": [{"role": "usr", "content": "a"}], "reference": "1"}'],
        {},
        r"column 'messages\[0\].role'.*'usr'.*'user'",
    ),
    "a message without content": (
        ['{"messages": [{"role": "user"}], "reference": "1"}'],
        {},
        r"column 'messages\[0\]'",
    ),
    "a message of parts": (
        ['{"messages": [{"role": "user", "content": [{"type": "text"}]}], "reference": "1"}'],
        {},
        r"column 'messages\[0\].content'",
    ),
    "an answer at the end": (
        ['{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'],
        {"verifier": "none"},
        "column 'messages'.*assistant",
    ),
    "a duplicate id": (
        ['{"prompt": "a", "reference": "1", "id": "x"}', '{"prompt": "b", "reference": "1", "id": "x"}'],
        {},
        "row 2: .*'x'.*row 1",
    ),
    "an id of the wrong type": (
        ['{"prompt": "a", "reference": "1", "id": 1.5}'],
        {},
        "column 'id'.*1.5",
    ),
    "NaN": (['{"prompt": "a", "reference": NaN}'], {}, "row 1.*'reference'.*nan"),
    "half a surrogate pair": (['{"prompt": "\\ud800", "reference": "1"}'], {}, "row 1.*surrogate"),
    "endless nesting": (["[" * 100_000], {}, "row 1"),
    "an endless integer": (['{"prompt": "a", "reference": ' + "9" * 5000 + "}"], {}, "row 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_its_row_and_column(write, tmp_path, case):
    content, settings, message = BAD[case]
    path = write(content)
    with pytest.raises(DataError, match=f"(?s)data.jsonl.*{message}") as caught:
        prompts_task(path, **settings)
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl"):
        prompts_task(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="Is a directory"):
        prompts_task(tmp_path)


def test_an_evaluation_file_may_not_repeat_a_training_prompt_or_id(write):
    path = write(sums(3))
    with pytest.raises(DataError, match=r"eval\.jsonl, row 2.*, row 3"):
        prompts_task(path, eval_path=write([*sums(1, start=9), *sums(1, start=2)], "eval.jsonl"))
    named = write([{"prompt": "a", "reference": "1", "id": "x"}], "named.jsonl")
    with pytest.raises(DataError, match=r"'x'.*named\.jsonl, row 1"):
        prompts_task(named, eval_path=write([{"prompt": "b", "reference": "1", "id": "x"}], "eval.jsonl"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "'path'"),
        ({"path": "x", "prompt_colum": "p"}, "did you mean 'prompt_column'"),
        ({"path": "x", "eval_fraction": 1.0}, "eval_fraction = 1.0"),
        ({"path": "x", "seed": 3}, "no setting 'seed'"),
    ],
)
def test_make_task_refuses_wrong_settings(config, message):
    with pytest.raises(UsageError, match=message):
        make_task("prompts", config)


def test_make_task_builds_it_with_its_seed(write):
    path = write(sums(30))
    made = make_task(
        "prompts", {"path": str(path), "verifier": {"name": "numeric", "tolerance": 0.1}}, seed=4
    )
    assert made.train_problem(0) == prompts_task(path, verifier="numeric", seed=4).train_problem(0)
    assert made.verify(made.train_problem(0), f"{made.train_problem(0).reference}.05").correct


# ── settings as YAML gives them ───────────────────────────────────────────────────────────────────


def test_numbers_that_yaml_reads_as_text_are_numbers(write):
    settings = {"path": str(write(sums(20))), "verifier": {"name": "numeric", "tolerance": "1e-1"}}
    task = make_task("prompts", {**settings, "eval_fraction": "1e-1"})
    assert 1 <= len(task.eval_problems(20)) < 8
    problem = task.train_problem(0)
    assert task.verify(problem, f"{problem.reference}.05").correct


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verifier": None}, r"verifier"),
        ({"path": None}, r"path"),
        ({"eval_fraction": "many"}, r"eval_fraction = 'many'.*number"),
        ({"verifier": {"name": "regex", "pattern": 3}}, r"'regex': pattern = 3.*string"),
        ({"verifier": {"name": "numeric", "tolerance": True}}, r"tolerance = True"),
    ],
)
def test_a_setting_of_another_type_is_a_usage_error(write, changes, message):
    with pytest.raises(UsageError, match=message):
        make_task("prompts", {"path": str(write(sums(20))), **changes})


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("import sys; sys.exit(0)", "exit"),
        ("exit(3)", "exit"),
        ("raise SystemExit", "exit"),
        ("import numpy; return numpy.array([1.0, 0.0])", "array"),
        ("return 10**400", "returned 1000"),
        ("from decimal import Decimal; return Decimal('sNaN')", "sNaN"),
        ("return float('inf')", "inf"),
        ("return 'yes'", "yes"),
    ],
)
def test_a_verifier_that_leaves_or_returns_no_number_ends_the_run_with_its_name(tmp_path, body, named):
    file = tmp_path / "checks.py"
    file.write_text(f"def check(answer, row):\n    {body}\n")
    with pytest.raises(UsageError, match=named) as refused:
        make_verifier(f"{file}:check").verify("5", "5", {})
    assert str(file) in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "body",
    [
        "import numpy; return numpy.float32(1)",
        "return True",
        "return 2",
        "import torch; return torch.tensor(1.0)",
    ],
)
def test_a_verifiers_number_may_be_of_any_kind(tmp_path, body):
    (tmp_path / "checks.py").write_text(f"def check(answer, row):\n    {body}\n")
    assert make_verifier(f"{tmp_path / 'checks.py'}:check").verify("5", "5", {}).correct
