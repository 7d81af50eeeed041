"""Splits that cannot leak a prompt, a near-copy or a user, and near-duplicates found without all pairs."""

import json
import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import DisjointSet
from typer.testing import CliRunner

from didact.cli.data import data_app
from didact.data.files import read_examples
from didact.data.split import (
    _jaccard,
    _shingles,
    choose_test,
    group_rows,
    groups_of,
    join_near,
    normalised,
    prompt_text,
    split_file,
)
from didact.errors import DataError, UsageError
from didact.types import Example, Message, Problem
from tests.helpers import calls_of


def words(rng, n):
    return " ".join("".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(n))


def example(i, prompt, completion="Yes.", user=None):
    return Example(id=str(i), problem=Problem.ask(prompt, id=prompt), completion=completion, user=user)


def write(path, examples):
    path.write_text("".join(e.model_dump_json() + "\n" for e in examples), encoding="utf-8")
    return path


def sides(split):
    return list(read_examples(split.train)), list(read_examples(split.test))


@pytest.fixture
def many(tmp_path):
    rng = random.Random(0)
    examples = [example(i, words(rng, 12), words(rng, 20), user=f"u{i % 40}") for i in range(200)]
    return write(tmp_path / "fb.jsonl", examples)


def test_every_row_is_on_exactly_one_side_and_the_share_is_met(many):
    made = split_file(many, test=0.1)
    train, test = sides(made)
    assert sorted(e.id for e in train + test) == sorted(e.id for e in read_examples(many))
    assert (len(test), made.test_rows, made.train_rows) == (20, 20, 180)


def test_by_user_no_user_and_no_prompt_is_on_both_sides(many):
    train, test = sides(split_file(many, by="user", test=0.2))
    assert not {e.user for e in train} & {e.user for e in test}
    assert not {e.problem.question for e in train} & {e.problem.question for e in test}
    assert len(test) == 40


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows(many, tmp_path):
    examples = list(read_examples(many))

    def test_ids(rows, name, **settings):
        folder = tmp_path / name
        folder.mkdir()
        path = write(folder / "fb.jsonl", rows)
        return {e.id for e in sides(split_file(path, **settings))[1]}

    first = test_ids(examples, "a")
    assert first == test_ids(examples[::-1], "b") == test_ids(examples, "c")
    assert first != test_ids(examples, "d", seed=1)


def test_near_duplicate_prompts_and_long_answers_and_equal_problems_stay_together():
    rng = random.Random(1)
    prompt, answer = words(rng, 30), words(rng, 30)
    changed = prompt[:-6] + "abcdef"
    assert similarity(prompt, changed) >= 0.8
    system = (Message(role="system", content="Be brief."), Message(role="user", content=prompt))
    examples = [
        example(0, prompt),
        example(1, changed),
        example(2, "  " + prompt.upper() + "\n"),
        example(3, words(rng, 30), answer),
        example(4, words(rng, 30), answer + " indeed"),
        example(5, words(rng, 30), "Yes."),
        example(6, words(rng, 30), "Yes."),
        Example(id="7", problem=Problem(id="other", messages=system), completion="No."),
    ]
    assert group_rows(examples, by="problem") == [[0, 1, 2, 7], [3, 4], [5], [6]]
    assert group_rows(examples, by="problem", threshold=1.0) == [[0, 2, 7], [1], [3], [4], [5], [6]]


def test_a_long_system_prompt_does_not_make_all_prompts_alike():
    rng = random.Random(2)
    system = Message(role="system", content=words(rng, 500))
    examples = [
        Example(
            id=str(i),
            problem=Problem(id=str(i), messages=(system, Message(role="user", content=words(rng, 10)))),
            completion="Yes.",
        )
        for i in range(5)
    ]
    assert len(group_rows(examples, by="problem")) == 5


def test_users_are_joined_through_prompts_that_they_share():
    examples = [example(0, "a", user="x"), example(1, "b", user="x"), example(2, "b", user="y"),
                example(3, "c", user="y"), example(4, "d")]  # fmt: skip
    assert group_rows(examples, by="user") == [[0, 1, 2, 3], [4]]
    assert group_rows(examples, by="problem") == [[0], [1, 2], [3], [4]]


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["u", "v", "w", "x", None])), min_size=2),
    st.floats(0.01, 0.99),
    st.sampled_from(["problem", "user"]),
)
def test_whatever_is_chosen_groups_stay_whole_and_both_sides_have_rows(rows, test, by):
    examples = [example(i, prompt * 30, user=user) for i, (prompt, user) in enumerate(rows)]
    groups = group_rows(examples, by=by)
    try:
        chosen = choose_test(examples, groups, test=test, seed=0, where="f", by=by)
    except DataError:
        # Refused for lack of groups, or because no choice comes near the share.
        sizes = [len(group) for group in groups]
        assert len(groups) < 2 or max(sizes) > 0.5 * min(test, 1 - test) * len(examples)
        return
    assert 0 < len(chosen) < len(examples)
    for group in groups:
        assert len(chosen & set(group)) in (0, len(group))


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([("a", "u")], {}, "has one row only|it has one row"),
        ([("a", "u"), ("A ", "v")], {}, "all 2 rows have one prompt"),
        ([("a", "u"), ("b", "u")], {"by": "user"}, "of one user; use --by problem"),
        ([("a", None), ("b", None)], {"by": "user"}, "no row names a user.*--by problem"),
        ([("a", "u"), ("b", "u"), ("b", "v")], {"by": "user"}, "hang together by .* or users"),
        (
            [("a", "u")] * 50 + [("b", "v")] * 50,
            {},
            r"a test side of 10% is impossible.*best is 50%.*--test 0\.50",
        ),
    ],
)
def test_an_impossible_split_is_refused_with_its_reason_and_writes_nothing(rows, settings, message, tmp_path):
    examples = [example(i, prompt, user=user) for i, (prompt, user) in enumerate(rows)]
    path = write(tmp_path / "fb.jsonl", examples)
    with pytest.raises(DataError, match=message):
        split_file(path, **settings)
    assert list(tmp_path.iterdir()) == [path]


def test_settings_out_of_range_and_existing_files_are_refused(many):
    for wrong in ({"test": 0.0}, {"test": 1.0}, {"threshold": 0.0}, {"threshold": 1.5}):
        with pytest.raises(UsageError, match="must lie"):
            split_file(many, **wrong)
    (many.parent / "fb.test.jsonl").write_text("mine")
    with pytest.raises(UsageError, match=r"fb\.test\.jsonl exists already"):
        split_file(many)
    assert not (many.parent / "fb.train.jsonl").exists()


def test_a_bad_row_stops_the_split_before_anything_is_written(many):
    many.write_text(many.read_text() + json.dumps({"prompt": "Q"}) + "\n")
    with pytest.raises(DataError, match="row 201, column 'completion'"):
        split_file(many)
    assert list(many.parent.iterdir()) == [many]


def test_the_command_says_where_the_rows_went(many, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["split", str(many), "--by", "user", "--test", "0.1", "--out-dir", str(out)]
    done = CliRunner().invoke(data_app, arguments)
    assert done.exit_code == 0
    assert "test:  20 rows in 4 groups" in done.output
    assert sorted(p.name for p in out.iterdir()) == ["fb.test.jsonl", "fb.train.jsonl"]
    done = CliRunner().invoke(data_app, ["split", str(many), "--by", "usr"])
    assert isinstance(done.exception, UsageError)


# ── near-duplicates ───────────────────────────────────────────────────────────────────────────────


def similarity(a, b):
    return _jaccard(_shingles(normalised(a)), _shingles(normalised(b)))


def clusters(texts, **settings):
    union = DisjointSet(range(len(texts)))
    join_near(union, texts, **settings)
    return groups_of(union)


def test_planted_near_duplicates_are_found_and_others_are_left_alone():
    rng = random.Random(3)
    originals = [words(rng, 40) for _ in range(150)]
    copies = [text[:100] + "xyz" + text[103:] for text in originals]
    found = clusters(originals + copies)
    assert all(similarity(a, b) > 0.85 for a, b in zip(originals, copies, strict=True))
    whole = sum([i, i + 150] in found for i in range(150))
    assert whole >= 149
    assert all(len(group) <= 2 for group in found)


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(codec=None), max_size=20), max_size=8))
def test_equal_texts_are_always_joined_whatever_they_hold(texts):
    joined = clusters(texts + texts)
    for i, text in enumerate(texts):
        group = next(group for group in joined if i in group)
        assert (i + len(texts) in group) == bool(normalised(text))


def test_similarity_is_the_jaccard_index_of_character_shingles():
    a, b = "abcdefghij", "abcdefghijk"
    assert similarity(a, a.upper()) == 1.0
    assert similarity(a, b) == pytest.approx(6 / 7)
    assert similarity(a, "zyxwvutsrq") == 0.0
    rng = random.Random(4)
    long, other = words(rng, 3000), words(rng, 3000)
    half = long[: len(long) // 2] + other[len(long) // 2 :]
    assert similarity(long, half) == pytest.approx(1 / 3, abs=0.05)  # a sketch, beyond 2,048 shingles


def test_short_texts_can_be_left_out():
    assert clusters(["Yes.", "Yes.", "No."], min_chars=10) == [[0], [1], [2]]
    assert clusters(["Yes.", "yes.", "No."]) == [[0, 1], [2]]


def test_a_crowded_bucket_does_not_make_the_work_quadratic():
    rng = random.Random(5)
    shared = words(rng, 20)

    def cost(n):
        texts = [f"{shared} {words(rng, 9)}" for _ in range(n)]
        return calls_of(lambda: clusters(texts))

    assert cost(1600) < 6 * cost(400)  # linear is 4, quadratic is 16


def test_prompts_are_compared_without_the_system_part():
    messages = (Message(role="system", content="S"), Message(role="user", content="U"))
    assert prompt_text(Problem(id="p", messages=messages)) == "U"
