"""The RLTF paper's three puzzles: its settings, easier ones, answers as data, and critiques that are true."""

import os
from collections import deque
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import didact
from didact.config import load_config
from didact.errors import UsageError
from didact.feedback.program import RIGHT
from didact.feedback.puzzle_critic import PuzzleCritic
from didact.feedback_source import FeedbackRequest
from didact.methods import make_method
from didact.registry import SOURCES
from didact.tasks import make_task
from didact.tasks.base import validate_problem, validate_task
from didact.tasks.reasoning_gym import INSTRUCTION, is_arithmetic, read_literal
from didact.types import Turn
from tests.helpers import generator_task

TINY = Path(didact.__file__).parent / "assets" / "tiny"  # setup.tiny_model() would load torch
RECIPE = Path(__file__).parents[1] / "recipes" / "rltf_paper_tasks"
PAPER = {
    "knights_knaves": {"n_people": 5, "depth_constraint": 3, "width_constraint": 3},
    "binary_matrix": {"min_n": 3, "max_n": 5, "p_zero": 0.25},
    "shortest_path": {"min_rows": 5, "max_rows": 6, "min_cols": 5, "max_cols": 6, "p_blocked": 0.4},
}
CONFIGS = [*PAPER, *(f"{name}_easy" for name in PAPER)]
QWEN_PIECES = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 and its successors cut a text before merging: no token spans two pieces."""

if not RECIPE.is_dir():
    pytest.skip("the recipes are not beside the tests", allow_module_level=True)


@pytest.fixture(scope="module")
def tasks():
    configs = {name: load_config("rltf-sd", RECIPE / f"{name}.yaml") for name in CONFIGS}
    made = {name: make_task(c.task.name, c.task.settings) for name, c in configs.items()}
    for name in ("knights_knaves", "knights_knaves_easy"):
        # The generator takes twenty milliseconds a problem, and its first 200 all differ, so the 800 that are
        # drawn behind them to keep training apart are not drawn here.
        task = made[name]
        task.__dict__["_eval_pool"] = [task._problem(task._eval_set, i, "eval") for i in range(200)]
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_one_that_a_run_accepts(name):
    config = load_config("rltf-sd", RECIPE / f"{name}.yaml")
    make_method(config.method, config.settings)
    SOURCES.make(config.feedback.source, config.feedback.settings)
    assert config.eval.problems == 200


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_settings_are_the_papers(name):
    config = load_config("rltf-sd", RECIPE / f"{name}.yaml")
    generator = {k: v for k, v in config.task.settings.items() if k not in ("boxed", "format_penalty")}
    assert (config.task.name, generator) == (name, PAPER[name])
    assert (config.task.settings["boxed"], config.task.settings["format_penalty"]) == (True, 0.1)
    assert (config.settings["samples"], config.problems_per_step, config.steps) == (8, 32, 619)
    assert (config.model.lora.rank, config.optim.lr, config.sampling.max_tokens) == (32, 2e-5, 8096)


@pytest.mark.parametrize("name", CONFIGS)
def test_gold_answers_score_full_marks(tasks, name):
    task = tasks[name]
    validate_task(task, 100)
    problem = task.train_problem(0)
    assert task.verify(problem, problem.reference) == (1.0, True, None)
    assert not task.verify(problem, "I do not know.").correct


LENGTHS = {
    # config: (prompt bytes, answer bytes, prompt pieces, answer pieces), each the largest of 200
    "knights_knaves": (1282, 130, 287, 27),
    "knights_knaves_easy": (469, 52, 105, 11),
    "binary_matrix": (419, 57, 133, 52),
    "binary_matrix_easy": (336, 31, 100, 31),
    "shortest_path": (797, 63, 209, 13),
    "shortest_path_easy": (692, 33, 172, 7),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_lengths_are_as_the_recipe_states(tasks, name):
    bytes_of = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    problems = tasks[name].eval_problems(200)
    texts = [(p.question, p.reference) for p in problems]
    found = [
        max(count(pair[side]) for pair in texts)
        for count in (lambda t: len(bytes_of.encode(t, add_special_tokens=False).ids), pieces)
        for side in (0, 1)
    ]
    assert len(problems) == 200
    assert tuple(found) == LENGTHS[name]
    row = [cell.strip() for line in RECIPE.joinpath("README.md").read_text().splitlines()
           if line.startswith(f"| `{name}` |") for cell in line.split("|")]  # fmt: skip
    assert [int(cell) for cell in row[3:7]] == found


def pieces(text):
    return len(QWEN_PIECES.findall(text))


# ── a box around the answer ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", PAPER)
def test_a_boxed_answer_may_think_aloud_and_a_bare_one_pays(tasks, name):
    task = tasks[name]
    for problem in task.eval_problems(5):
        assert problem.question.endswith(INSTRUCTION)
        bare = problem.reference.removeprefix(r"\boxed{").removesuffix("}")
        assert task.verify(problem, f"First \\boxed{{no}}. Then {problem.reference}, I think.").reward == 1
        assert task.verify(problem, bare) == (pytest.approx(-0.1), False, None)
        assert task.verify(problem, r"\boxed{wrong}") == (0.0, False, None)
        fresh = make_task(name, {**PAPER[name], "boxed": True})  # knows no problem yet
        assert fresh.verify(problem, problem.reference).correct


def test_boxed_and_bare_tasks_ask_the_same_problems():
    bare, asked = (generator_task("binary_matrix", PAPER["binary_matrix"], boxed=b) for b in (False, True))
    for index in range(5):
        one, other = bare.train_problem(index), asked.train_problem(index)
        assert other.question == f"{one.question.rstrip()}\n\n{INSTRUCTION}"
        assert other.reference == rf"\boxed{{{one.reference}}}"
        assert other.id == one.id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"boxed": "maybe"}, "boxed = 'maybe'"),
        ({"format_penalty": 2}, "format_penalty = 2"),
        ({"format_penalty": "much"}, "format_penalty = 'much'"),
        ({"boxes": True}, "has no setting 'boxes'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        make_task("binary_matrix", settings)


def first_problem(task):
    """One problem, without the thousand that are drawn to keep training and evaluation apart."""
    return task._problem(task._eval_set, 0, "eval")


# ── answers are data ──────────────────────────────────────────────────────────────────────────────

EVALUATED = {"binary_matrix": {}, "n_queens": {}, "spiral_matrix": {}, "string_insertion": {}}
PARSED = [
    "countdown",
    "intermediate_integration",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
]
FEW = {**dict.fromkeys(PARSED, 8), "puzzle24": 4}
"""Problems of generators that work with formulas, which takes them long; 25 of any other."""


@pytest.mark.parametrize("kind", ["plain", "boxed", "direct"])
@pytest.mark.parametrize("name", [*EVALUATED, *PARSED])
def test_no_answer_is_run_as_python(name, kind, tmp_path):
    boxed = kind == "boxed"
    task = generator_task(name) if kind == "direct" else make_task(name, {"boxed": boxed})
    problem = first_problem(task)
    canary = tmp_path / "was here"
    for attack in (
        f"__import__('os').mkdir({str(canary)!r})",
        f"[open({str(canary)!r}, 'w')]",
        "[().__class__.__base__.__subclasses__()]",
        "__import__('os')._exit(3)",
    ):
        answer = rf"\boxed{{{attack}}}" if boxed else attack
        assert not task.verify(problem, answer).correct
    assert not canary.exists()
    assert os.getpid()


@pytest.mark.parametrize("name", [*EVALUATED, *PARSED])
def test_no_answer_computes_for_ever(name):
    task = make_task(name)
    problem = first_problem(task)
    for endless in ("9**9**9**9", "[" * 100_000, "((9**999)**999)**999", "9" * 1_000_000, "exp(9)**(9**9)"):
        assert not task.verify(problem, endless).correct


@pytest.mark.parametrize("name", [*EVALUATED, *PARSED])
def test_the_generators_own_answers_are_still_right(name):
    task = make_task(name)
    for index in range(FEW.get(name, 25)):
        validate_problem(task, task._problem(task._eval_set, index, "eval"))


def test_a_list_of_lists_still_earns_its_partial_score():
    task = make_task("binary_matrix", {"dense": True})
    problem = first_problem(task)
    assert task.verify(problem, str(problem.metadata["solution"])).reward == pytest.approx(0.1)


@given(st.text(st.sampled_from("[]()0123456789,.-+*/^ xsincoexplg_'\"="), max_size=60))
def test_what_counts_as_arithmetic_names_nothing(text):
    if is_arithmetic(text):
        assert "__" not in text
        assert "=" not in text
        assert "'" not in text
    try:
        value = read_literal(text)
    except ValueError:
        return
    assert isinstance(value, list | tuple | dict | set | int | float | complex | str | bytes | type(None))


# ── critiques ─────────────────────────────────────────────────────────────────────────────────────


def said(task, problem, answer, level):
    verdict = task.verify(problem, answer)
    turn = Turn(
        prompt_ids=(), completion_ids=(), logprobs=None, text=answer, stop_reason="eos",
        reward=verdict.reward, correct=verdict.correct,
    )  # fmt: skip
    (feedback,) = PuzzleCritic(task, level).critique([FeedbackRequest(problem, turn, 0)])
    assert feedback.ok
    assert feedback.label == ("right" if verdict.correct else "wrong")
    for s in feedback.spans:
        assert answer[s.start : s.end] == s.quote
        assert s.phrase is None or s.phrase in feedback.text
    assert verdict.correct == any(s.phrase == RIGHT for s in feedback.spans)
    return feedback.text


def places(task, problem, answer, level="reveal"):
    """What is marked, as (quote, label, phrase)."""
    critic = PuzzleCritic(task, level)
    return [(s.quote, s.label, s.phrase) for s in critic.spans(problem, answer)]


def puzzle(name, **metadata):
    problem = first_problem(make_task(name))
    return problem.model_copy(update={"id": "own", "metadata": {**problem.metadata, **metadata}})


@pytest.fixture(scope="module")
def bare():
    return {name: make_task(name, settings) for name, settings in PAPER.items()}


KNIGHTS = {
    "names": ["Ann", "Bob"],
    "solution": [True, False],
    "knight_knave_terms": {"knight": "angel", "knave": "devil", "a_knight": "an angel", "a_knave": "a devil"},
}


@pytest.mark.parametrize(
    ("answer", "hint", "reveal"),
    [
        ("Ann is a devil, and Bob is a devil.", "The role of Ann is wrong.", "Ann is an angel."),
        ("Bob is a devil.", "The role of Ann is missing.", "Ann is an angel."),
        ("Bob is an angel and ann is a DEVIL", "The role of Ann is wrong. The role of Bob is wrong.",
         "Ann is an angel. Bob is a devil."),
        ("", "The role of Ann is missing. The role of Bob is missing.", "Ann is an angel. Bob is a devil."),
    ],
)  # fmt: skip
def test_a_critique_of_knights_and_knaves_names_people(bare, answer, hint, reveal):
    problem = puzzle("knights_knaves", **KNIGHTS).model_copy(
        update={"reference": "Ann is an angel, and Bob is a devil."}
    )
    task = bare["knights_knaves"]
    assert said(task, problem, answer, "verdict") == "The answer is wrong."
    assert said(task, problem, answer, "hint") == f"The answer is wrong. {hint}"
    assert said(task, problem, answer, "reveal") == f"The answer is wrong. {reveal}"
    assert said(task, problem, "Bob is a devil, and Ann is an angel.", "reveal") == "The answer is right."


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("1 0\n1 1", "Row 2, column 1 is wrong."),
        ("1 0", "There should be 2 rows, not 1."),
        ("1 0 2 1", "There should be 2 rows, not 1. Row 1 should have 2 numbers, not 4."),
        ("1 0\n2 1 1", "Row 2 should have 2 numbers, not 3."),
        ("[[1, 0], [2, 1]]", "Write only numbers with spaces between them, one row a line."),
        ("1  0\n2 1", "Write one row a line, with single spaces between the numbers."),
    ],
)
def test_a_critique_of_a_matrix_names_rows_and_columns(bare, answer, hint):
    problem = puzzle("binary_matrix", solution=[[1, 0], [2, 1]]).model_copy(update={"reference": "1 0\n2 1"})
    assert said(bare["binary_matrix"], problem, answer, "hint") == f"The answer is wrong. {hint}"


def test_a_revealing_critique_of_a_matrix_says_the_number(bare):
    problem = puzzle("binary_matrix", solution=[[1, 0], [2, 1]]).model_copy(update={"reference": "1 0\n2 1"})
    found = said(bare["binary_matrix"], problem, "1 0\n1 1", "reveal")
    assert found == "The answer is wrong. Row 2, column 1 should be 2."


GRID = [["*", "O", "X"], ["X", "O", "O"], ["O", "O", "#"]]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("up", "Step 1 (up) leaves the grid."),
        ("right right", "Step 2 (right) goes into a blocked cell."),
        ("right down", "The path ends before the destination, which is 1 down and 1 right of there."),
        ("right down left", "Step 3 (left) goes into a blocked cell."),
        ("right down down up down right", "The path has 6 steps, but there is a shorter one of 4."),
        ("infeasible", "There is a path."),
        ("north", "'north' is no direction: write only right, down, left and up."),
        ("", "The path ends before the destination, which is 2 down and 2 right of there."),
    ],
)
def test_a_critique_of_a_path_walks_it(bare, answer, hint):
    solution = ["right", "down", "right", "down"]
    problem = puzzle("shortest_path", matrix=GRID, solution=solution).model_copy(
        update={"reference": " ".join(solution)}
    )
    task = bare["shortest_path"]
    assert said(task, problem, answer, "hint") == f"The answer is wrong. {hint}"
    assert said(task, problem, answer, "reveal").endswith("A shortest path is: right down right down.")
    assert said(task, problem, "right down down right", "reveal") == "The answer is right."  # another one


def test_a_critique_of_a_boxed_answer_reads_the_box(tasks):
    task = tasks["shortest_path"]
    problem = task.train_problem(0)
    assert said(task, problem, "up up up", "hint").endswith(r"There is no final answer in a \boxed{}.")
    assert "no direction" in said(task, problem, r"\boxed{over}", "hint") or "lead there" in said(
        task, problem, r"\boxed{over}", "hint"
    )


def test_every_hint_about_a_walk_is_true(bare):
    """Walk every answer of up to four steps again, by another program, on real problems."""
    task = bare["shortest_path"]
    moves = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
    for problem in task.eval_problems(6):
        grid = problem.metadata["matrix"]
        reach = shortest(grid)
        for answer in ("right", "down down", "left up left", "up right down left"):
            if task.verify(problem, answer).correct:
                continue
            text = said(task, problem, answer, "hint")
            r, c = next((r, c) for r, row in enumerate(grid) for c, x in enumerate(row) if x == "*")
            fate = None
            for step in answer.split():
                r, c = r + moves[step][0], c + moves[step][1]
                inside = 0 <= r < len(grid) and 0 <= c < len(grid[0])
                fate = "leaves the grid" if not inside else "blocked" if grid[r][c] == "X" else None
                if fate:
                    break
            wanted = "No open cells" if reach is None else fate or "ends before"
            assert wanted in text


def shortest(grid):
    at = {x: (r, c) for r, row in enumerate(grid) for c, x in enumerate(row) if x in "*#"}
    queue, seen = deque([(at["*"], 0)]), {at["*"]}
    while queue:
        (r, c), n = queue.popleft()
        if (r, c) == at["#"]:
            return n
        for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            place = r + dr, c + dc
            inside = 0 <= place[0] < len(grid) and 0 <= place[1] < len(grid[0])
            if inside and place not in seen and grid[place[0]][place[1]] != "X":
                seen.add(place)
                queue.append((place, n + 1))
    return None


def test_other_tasks_have_no_puzzle_critic():
    with pytest.raises(UsageError, match="'gcd'"):
        PuzzleCritic(make_task("gcd"))


# ── where ─────────────────────────────────────────────────────────────────────────────────────────


def test_wrong_roles_are_poor_and_right_ones_good(bare):
    problem, task = puzzle("knights_knaves", **KNIGHTS), bare["knights_knaves"]
    answer = "Ann is an angel. No: Ann is a devil, Bob is a devil."
    assert places(task, problem, answer) == [
        ("Ann is a devil", "poor", "Ann is an angel."),
        ("Bob is a devil", "good", None),
    ]
    assert places(task, problem, "Bob is a devil.", "hint") == [("Bob is a devil", "good", None)]
    assert places(task, problem, answer, "verdict") == []


@pytest.mark.parametrize(
    ("answer", "marked"),
    [
        ("1 0\n1 1", [
            ("1 0", "good", None), ("1", "poor", "Row 2, column 1 should be 2."), ("1", "good", None),
        ]),
        ("1 0 7 8\r\n2 1", [
            ("1 0", "good", None), ("7 8", "poor", "Row 1 should have 2 numbers, not 4."),
            ("2 1", "good", None),
        ]),
        ("1 0\n2 1\n3 3", [
            ("1 0", "good", None), ("2 1", "good", None), ("3 3", "poor", "There should be 2 rows, not 3."),
        ]),
        ("[1, 0]", [(q, "poor", "Write only numbers with spaces between them, one row a line.")
                    for q in ("[1,", "0]")]),
        ("1  0\n2 1", []),  # every number is right, and so is none of the places wrong
    ],
)  # fmt: skip
def test_wrong_cells_are_poor_and_right_ones_good(bare, answer, marked):
    problem = puzzle("binary_matrix", solution=[[1, 0], [2, 1]]).model_copy(update={"reference": "1 0\n2 1"})
    assert places(bare["binary_matrix"], problem, answer) == marked
    assert places(bare["binary_matrix"], problem, f"\n {answer}") == marked


@pytest.mark.parametrize(
    ("answer", "marked"),
    [
        ("right right down", ["right"]), ("up up", ["up"]), ("right down", []), ("down\n north", ["north"]),
        ("infeasible", ["infeasible"]), ("right north", ["north"]), ("", []),
    ],
)  # fmt: skip
def test_the_step_that_fails_is_poor(bare, answer, marked):
    problem = puzzle("shortest_path", matrix=GRID, solution=["right", "down", "right", "down"])
    found = places(bare["shortest_path"], problem, answer)
    assert [quote for quote, label, phrase in found if label == "poor" and phrase] == marked
    assert len(found) == len(marked)
    if answer.startswith("right right"):
        (s,) = PuzzleCritic(bare["shortest_path"]).spans(problem, answer)
        assert (s.start, s.end) == (6, 11)


def test_places_in_a_box_are_those_of_the_last_box(tasks):
    problem = puzzle("shortest_path", matrix=GRID, solution=["right", "down", "right", "down"])
    task = tasks["shortest_path"]
    answer = "Perhaps \\boxed{up up}, but no: \\boxed{ right up }, \\boxed is final, {right up}."
    (s,) = PuzzleCritic(task).spans(problem, answer)
    assert (s.quote, s.start) == ("up", answer.index("up }"))
    assert PuzzleCritic(task).spans(problem, "up up") == ()
    assert PuzzleCritic(task, spans=False).critique([]) == []
