r"""Math: answers compared as mathematics, hostile ones bounded, data sets told apart by their columns."""

import itertools
import json
import math
import random
import sys
from fractions import Fraction as F
from statistics import mean, median

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from didact.errors import DataError, UsageError
from didact.feedback.program import ProgramCritic
from didact.feedback_source import FeedbackRequest
from didact.leakage import LeakGuard
from didact.tasks import make_task
from didact.tasks.base import Task, validate_task
from didact.tasks.math import notation
from didact.tasks.math.answers import MAX_ANSWER_CHARS, boxed
from didact.tasks.math.checker import MathChecker
from didact.tasks.math.task import INSTRUCTIONS
from didact.tasks.numbers import last_number
from didact.types import Turn
from tests.helpers import math_task

x = sympy.Symbol("x")
DICE = list(itertools.product(range(1, 7), repeat=2))


def fixture(name):
    from pathlib import Path

    return Path(__file__).parent / "fixtures" / "math" / name


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def task():
    return math_task()


@pytest.fixture(scope="module")
def by_id(task):
    return {p.id: p for p in task.all_problems()}


def fib_like(n):
    a, b = 2, 5
    for _ in range(n - 1):
        a, b = b, a + b
    return a


COMPUTED = {
    "sum-two-digits": lambda: 347 + 286,
    "difference-large": lambda: 5002 - 1876,
    "product-two-digits": lambda: 48 * 27,
    "long-division": lambda: F(4536, 18),
    "order-of-operations": lambda: 7 + 3 * (12 - 4) - F(10, 2),
    "remainder-large": lambda: 1000 % 37,
    "fraction-sum": lambda: F(2, 3) + F(3, 4),
    "fraction-quotient": lambda: F(5, 6) / F(10, 9),
    "decimal-product": lambda: F("0.6") * F("0.35"),
    "percent-of": lambda: F(15, 100) * 640,
    "percent-change": lambda: 80 * F(125, 100) * F(80, 100),
    "apples-boxes": lambda: 413 % 24,
    "train-time": lambda: F(315, 90) * 60,
    "shared-cost": lambda: F(87, 5),
    "clock-minutes": lambda: (13 * 60 + 15) - (8 * 60 + 47),
    "average-four": lambda: mean([12, 19, 25, 32]),
    "median-seven": lambda: median([14, 3, 9, 27, 8, 11, 5]),
    "missing-mean": lambda: next(n for n in range(100) if mean([11, 15, 22, 20, n]) == 18),
    "linear-one": lambda: sympy.solve(5 * x - 8 - 27, x)[0],
    "linear-both-sides": lambda: sympy.solve(7 * x + 4 - 3 * x + 20, x)[0],
    "linear-fraction": lambda: next(n for n in range(100) if F(n, 3) + F(n, 4) == 14),
    "system-sum": lambda: next(a for a in range(42) if a - (41 - a) == 13),
    "system-xy": lambda: next(
        a + b for a in range(-20, 20) for b in range(-20, 20) if 2 * a + 3 * b == 19 and 4 * a - b == 3
    ),
    "quadratic-larger-root": lambda: max(n for n in range(-50, 50) if n * n - 5 * n - 36 == 0),
    "quadratic-root-sum-squares": lambda: sympy.simplify(
        sum(r**2 for r in sympy.solve(x**2 - 7 * x + 4, x))
    ),
    "quadratic-minimum": lambda: min(n * n - 8 * n + 21 for n in range(-50, 50)),
    "expand-square": lambda: sympy.expand((2 * x - 3) ** 2),
    "factor-difference": lambda: sympy.cancel((x**2 - 9) / (x - 3)),
    "radical-simplify": lambda: sympy.sqrt(72) + sympy.sqrt(50),
    "exponent-solve": lambda: next(n for n in range(20) if 2 ** (n + 3) == 256),
    "log-value": lambda: next(n for n in range(20) if 3**n == 243),
    "function-composition": lambda: 3 * (4**2 + 2) - 1,
    "consecutive-sum": lambda: next(n + 2 for n in range(200) if n + n + 1 + n + 2 == 144),
    "arithmetic-sequence": lambda: list(itertools.islice(itertools.count(7, 4), 25))[-1],
    "sum-first-hundred": lambda: sum(range(1, 101)),
    "geometric-sum": lambda: sum(3**k for k in range(8)),
    "fibonacci-like": lambda: fib_like(9),
    "infinite-series": lambda: F(1, 2) / (1 - F(1, 3)),
    "rectangle-area": lambda: 8 * (F(46, 2) - 8),
    "triangle-hypotenuse": lambda: math.isqrt(20**2 + 21**2),
    "triangle-angle": lambda: 180 - 47 - 68,
    "polygon-angles": lambda: (14 - 2) * 180,
    "circle-area-from-circumference": lambda: sympy.pi * sympy.Integer(7) ** 2,
    "heron-triangle": lambda: math.isqrt(21 * (21 - 13) * (21 - 14) * (21 - 15)),
    "cube-diagonal": lambda: math.isqrt(3**2 + 4**2 + 12**2),
    "distance-points": lambda: math.isqrt((6 + 2) ** 2 + (-10 - 5) ** 2),
    "lattice-triangle": lambda: F(abs(7 * 8 - 2 * 3), 2),
    "equilateral-area": lambda: sympy.Rational(1, 2) * 6 * 6 * sympy.sin(sympy.pi / 3),
    "gcd-pair": lambda: math.gcd(252, 198),
    "lcm-triple": lambda: math.lcm(12, 18, 20),
    "divisor-count": lambda: sum(360 % d == 0 for d in range(1, 361)),
    "prime-sum": lambda: sum(n for n in range(2, 30) if all(n % d for d in range(2, n))),
    "last-digit-power": lambda: 7**83 % 10,
    "modular-power": lambda: 3**50 % 11,
    "chinese-remainder": lambda: next(
        n for n in range(1, 200) if (n % 5, n % 7, n % 4) == (2, 3, 1)
    ),
    "digit-sum-multiples": lambda: sum(sum(map(int, str(n))) == 5 for n in range(100, 1000)),
    "trailing-zeros": lambda: len(s := str(math.factorial(40))) - len(s.rstrip("0")),
    "base-seven": lambda: int("1304", 7),
    "multiples-union": lambda: sum(n % 6 == 0 or n % 8 == 0 for n in range(1, 201)),
    "arrange-letters": lambda: len(set(itertools.permutations("LEVEL"))),
    "choose-committee": lambda: len(list(itertools.combinations(range(9), 3))),
    "round-handshakes": lambda: len(list(itertools.combinations(range(14), 2))),
    "grid-paths": lambda: len(set(itertools.combinations(range(8), 3))),
    "binary-no-adjacent": lambda: sum("11" not in f"{n:08b}" for n in range(256)),
    "two-dice-sum": lambda: F(sum(a + b == 9 for a, b in DICE), 36),
    "three-coins": lambda: F(sum(sum(c) >= 2 for c in itertools.product((0, 1), repeat=3)), 8),
    "draw-without-return": lambda: F(
        sum(a < 5 and b < 5 for a, b in itertools.permutations(range(9), 2)), 9 * 8
    ),
    "dice-maximum": lambda: F(sum(max(d) for d in DICE), 36),
    "birthday-weekday": lambda: F(
        sum(len(set(d)) == 3 for d in itertools.product(range(7), repeat=3)), 7**3
    ),
    "derivative-value": lambda: sympy.diff(x**3 - 4 * x**2 + 6, x).subs(x, 5),
    "definite-integral": lambda: sympy.integrate(x**2 + 2 * x, (x, 0, 3)),
    "limit-quotient": lambda: sympy.limit((x**3 - 8) / (x - 2), x, 2),
    "solution-set": lambda: sympy.FiniteSet(*sympy.solve(x**3 - 16 * x, x)),
}  # fmt: skip


def value(answer):
    """An answer of the shipped file as sympy reads it, by hand: math-verify is what is tested here."""
    plain = answer.replace(r"\{", "{").replace(r"\}", "}")
    if plain.startswith("{"):
        return sympy.FiniteSet(*map(int, plain.strip("{}").split(",")))
    if plain.startswith(r"\frac"):
        top, bottom = plain.removeprefix(r"\frac{").removesuffix("}").split("}{")
        return sympy.Rational(int(top), int(bottom))
    plain = plain.replace(r"\sqrt{", "*sqrt(").replace("}", ")").replace(r"\pi", "*pi")
    return sympy.nsimplify(plain.replace("^", "**").replace("4x", "4*x").replace("12x", "12*x"))


# ── the problems that ship ────────────────────────────────────────────────────────────────────────


def test_every_shipped_answer_is_computed_again(by_id):
    assert by_id.keys() == COMPUTED.keys()
    assert len(by_id) >= 60
    for name, problem in by_id.items():
        computed = COMPUTED[name]()
        computed = sympy.Rational(computed) if isinstance(computed, F) else sympy.sympify(computed)
        gold = value(problem.metadata["answer"])
        assert gold == computed or sympy.simplify(gold - computed) == 0, name


def test_the_shipped_problems_are_a_task_that_accepts_its_own_references(task):
    checked: Task = task
    validate_task(checked, 100)
    train, held_out = task.all_train_problems(), task.eval_problems(1000)
    assert not {p.question for p in train} & {p.question for p in held_out}
    assert len(held_out) >= 8
    assert all(task.verify(p, f"So it is {p.reference}.").correct for p in train[:10])
    assert all(p.question.endswith(r"into \boxed{}.") for p in train)


def test_training_goes_through_all_problems_in_another_order_each_pass(task):
    n = len(task.all_train_problems())
    first, second = ([task.train_problem(i + k * n).id for i in range(n)] for k in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second
    assert first == [math_task(seed=0).train_problem(i).id for i in range(n)]
    assert first != [math_task(seed=1).train_problem(i).id for i in range(n)]
    assert [p.id for p in math_task(seed=1).eval_problems(99)] == [p.id for p in task.eval_problems(99)]


def test_the_registry_makes_it_with_checked_settings():
    made = make_task("math", {"form": "either", "format_penalty": "0.1"}, seed=3)
    assert made.name == "math"
    assert made.format_penalty == 0.1
    with pytest.raises(UsageError, match=r"'forms'.*'form'"):
        make_task("math", {"forms": "boxed"})
    with pytest.raises(UsageError, match=r"form = 'box'.*'boxed'"):
        make_task("math", {"form": "box"})


# ── what counts as the answer ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{1} no \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} is it", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{ 5 }", "5"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{}", None),
        (r"\boxed{5", None),
        (r"\boxed{1} and \boxed{2", None),  # the last one counts, and it is not whole
        ("5", None),
        (r"\boxed 5", "5"),
        (r"\boxed{" + "1" * (MAX_ANSWER_CHARS + 1) + "}", None),
        (r"\boxed{1}" + " " * 30_000, None),  # only the end of a text is read
    ],
)
def test_the_last_whole_box_is_the_answer(text, found):
    assert boxed(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1, 2 and 3.", "3"),
        ("it costs 1,250.50 euros", "1250.50"),
        ("x = -4", "-4"),
        ("7-3", "3"),
        ("x = −4", "-4"),
        ("3/4 of it", "3/4"),
        ("so .5", ".5"),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number_as_it_is_written(text, found):
    number = last_number(text)
    assert (number and number.written) == found


@given(st.text(st.sampled_from("\\boxed{}$ 12.,-/"), max_size=200))
def test_reading_an_answer_never_raises(text):
    found = boxed(text)
    assert found is None or found in text


@given(st.text(max_size=60))
def test_a_box_gives_back_what_was_put_into_it(text):
    plain = text.replace("{", "").replace("}", "").replace("\\", "").strip()
    assert boxed(rf"so \boxed{{{plain}}}") == (plain or None)


# ── right and wrong ───────────────────────────────────────────────────────────────────────────────


def verdict_on(task, gold, answer):
    problem = task.eval_problems(1)[0].model_copy(update={"metadata": {"answer": gold}})
    return task.verify(problem, answer)


SAME = [
    ("42", "42.0"), ("33", "033"), (r"\frac{1}{2}", "0.5"), (r"\frac12", "1/2"), ("1000", "1,000"),
    (r"2\sqrt{3}", r"\sqrt{12}"), ("x^2+1", "1 + x^2"), (r"\{1,2\}", r"\{2, 1\}"), ("5", "x = 5"),
    ("90", r"90^\circ"), ("5", r"5\text{ cm}"), (r"\frac{1}{3}", "0.333333"), ("0.5", r"50\%"),
    ("300", r"3 \times 10^2"), ("-1/2", r"-\frac{1}{2}"), ("B", r"\text{B}"), (r"49\pi", r"\pi \cdot 49"),
]  # fmt: skip
DIFFERENT = [
    ("42", "41"), (r"\frac{1}{3}", "0.33"), ("(1, 2)", "(2, 1)"), ("5", "5, 6"), ("5", r"6 \text{ or } 5"),
    ("5", r"\infty"), ("5", "-5"), ("12", "1 2 3"), ("x+3", "x-3"), ("5", "?"), ("5", r"\text{five}"),
]  # fmt: skip
NOT_WORKED_OUT = [
    ("10", "5+5"),
    ("1296", r"48 \times 27"),
    ("6", "3!"),
    ("84", r"\binom{9}{3}"),
    ("5", "25/5+0"),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_the_same_mathematics_is_right(task, gold, answer):
    assert verdict_on(task, gold, rf"\boxed{{{answer}}}") == (1.0, True, None)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT + NOT_WORKED_OUT)
def test_other_mathematics_is_wrong(task, gold, answer):
    assert verdict_on(task, gold, rf"\boxed{{{answer}}}") == (0.0, False, None)


def test_an_expression_that_is_not_worked_out_is_right_only_on_request(by_id):
    loose = math_task(unevaluated=True)
    for gold, answer in NOT_WORKED_OUT[:3]:
        problem = by_id["gcd-pair"].model_copy(update={"metadata": {"answer": gold}})
        assert loose.verify(problem, rf"\boxed{{{answer}}}").correct


HOSTILE = [
    r"5^{\left(5^{\left(5^{\left(5^5\right)}\right)}\right)}",
    "9" * 390, "10^{10^{10^{10}}}", r"\sum_{n=1}^{10^{12}} n!", "((((((((((" * 30, r"\frac" * 70,
    r"\int_0^1 x^x dx", "__import__('os').system('true')", "}{", "\x00", "\ud800", "{{{{", "%" * 50,
    r"\begin{matrix}1\\2\end{matrix}", "1e309", "NaN", r"\text{" , "١٢",
]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda h: repr(h[:18]))
def test_a_hostile_answer_is_wrong_and_nothing_hangs(hostile):
    checker = MathChecker(cpu_seconds=1, wall_seconds=30)
    task = math_task()
    task.checker = CHECKERS.setdefault("hostile", checker)
    problem = task.train_problem(0).model_copy(update={"metadata": {"answer": "7"}})
    assert task.verify(problem, rf"\boxed{{{hostile}}}") == (0.0, False, None)
    assert task.checker.started <= 1  # the process outlives every one of them


CHECKERS = {}


@pytest.fixture(scope="module", autouse=True)
def _close():
    yield
    for checker in CHECKERS.values():
        checker.close()


def test_an_endless_comparison_costs_its_limit_and_the_next_is_answered():
    checker = CHECKERS.setdefault("hostile", MathChecker(cpu_seconds=1, wall_seconds=30))
    stopped = checker.compare("1", r"5^{5^{5^{5^5}}}", loose=True)
    assert not stopped.equal
    assert stopped.error is None
    assert stopped.why is not None
    assert checker.compare(r"\frac{1}{2}", "0.5").equal


def test_a_stalled_machine_is_no_wrong_answer():
    checker = MathChecker(cpu_seconds=30, wall_seconds=0.0)
    try:
        compared = checker.compare("1/2", "0.5")
        assert compared.error is not None
        assert "did not end in time" in compared.error
    finally:
        checker.close()


def test_a_killed_process_is_started_again():
    checker = MathChecker()
    try:
        assert checker.compare("1/2", "0.5").equal
        checker._process.kill()
        checker._process.wait()
        assert checker.compare("1/2", "0.5").equal
        assert checker.started == 2
    finally:
        checker.close()


def test_a_failed_process_leaves_no_reward(monkeypatch, by_id):
    task = math_task()
    task.checker = MathChecker()
    monkeypatch.setattr(sys, "executable", "/does/not/exist")
    verdict = task.verify(by_id["two-dice-sum"], r"\boxed{0.333333}")
    assert verdict.reward is None
    assert not verdict.correct
    assert "math-verify failed" in verdict.error


def test_without_math_verify_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "math_verify.py").write_text("raise ImportError('hidden')")
    with pytest.raises(UsageError, match=r"didact-rl\[math\]"):
        MathChecker().compare("1/2", "0.5")


def test_integers_need_no_process(monkeypatch, by_id):
    task = math_task()
    task.checker = None
    assert task.verify(by_id["gcd-pair"], r"\boxed{018}").correct
    assert not task.verify(by_id["gcd-pair"], r"\boxed{19}").correct
    assert not task.verify(by_id["gcd-pair"], "18").correct


# ── forms and prompts ─────────────────────────────────────────────────────────────────────────────


def test_the_form_says_what_is_an_answer_and_what_is_asked_for(by_id):
    asked = {form: math_task(form=form, path=fixture("own.jsonl")) for form in INSTRUCTIONS}
    problem = asked["number"].train_problem(0)
    gold = problem.metadata["answer"]
    assert problem.reference == gold
    rewards = {
        form: [task.verify(problem, text).reward for text in (rf"\boxed{{{gold}}}", f"It is {gold}.", "?")]
        for form, task in asked.items()
    }
    assert rewards == {"boxed": [1, 0, 0], "number": [1, 1, 0], "either": [1, 1, 0]}
    for form, task in asked.items():
        assert task.train_problem(0).question.endswith(f"\n\n{INSTRUCTIONS[form]}")
    assert math_task(instruction="").train_problem(0).question.endswith(("?", "."))
    assert math_task(instruction="Be brief.").train_problem(0).question.endswith("\n\nBe brief.")


def test_the_split_does_not_depend_on_how_a_problem_is_asked():
    plain, asked = math_task(instruction=""), math_task(instruction="Answer in a box.")
    assert [p.id for p in plain.eval_problems(99)] == [p.id for p in asked.eval_problems(99)]


def test_an_answer_without_the_form_pays_the_penalty(by_id):
    strict = math_task(format_penalty=0.1)
    rewards = [strict.verify(by_id["gcd-pair"], text).reward for text in (r"\boxed{18}", r"\boxed{1}", "18")]
    assert rewards == pytest.approx([1.0, 0.0, -0.1])
    with pytest.raises(UsageError, match="format_penalty = 2"):
        math_task(format_penalty=2)


def test_form_number_refuses_answers_that_are_no_number():
    with pytest.raises(DataError, match="form 'number'"):
        math_task(form="number")


# ── data sets ─────────────────────────────────────────────────────────────────────────────────────

SHAPED = {
    "dapo.jsonl": ("dapo", ["34", "8"]),
    "dapo_processed.jsonl": ("dapo", ["12", "70"]),
    "deepmath.jsonl": ("deepmath", [r"\dfrac{2}{3}", "0"]),
    "math500.jsonl": ("math500", [r"\left( 3, \frac{\pi}{2} \right)", r"\text{Evelyn}"]),
    "aime.jsonl": ("aime", ["33", "204"]),
    "aime_upper.jsonl": ("aime", ["45", "900"]),
    "aime_idx.jsonl": ("aime", ["7", "110"]),
}


@pytest.mark.parametrize("name", SHAPED)
def test_every_public_shape_is_told_by_its_columns(name):
    shape, answers = SHAPED[name]
    task = math_task(fixture(name))
    problems = sorted(task.all_problems(), key=lambda p: answers.index(p.metadata["answer"]))
    assert [p.metadata["answer"] for p in problems] == answers
    assert {p.metadata["shape"] for p in problems} == {shape}
    assert [p.reference for p in problems] == [rf"\boxed{{{answer}}}" for answer in answers]
    assert all("solution" not in json.dumps(p.metadata) for p in problems)  # worked solutions stay out
    validate_task(task)


def test_the_own_instruction_of_dapo_gives_way_to_ours():
    for name in ("dapo.jsonl", "dapo_processed.jsonl"):
        for problem in math_task(fixture(name)).all_problems():
            assert "Answer:" not in problem.question
            assert problem.question.count("step by step") == 1


def test_a_second_file_is_evaluated_on_and_may_not_overlap(tmp_path):
    task = math_task(fixture("dapo.jsonl"), eval_path=fixture("aime.jsonl"))
    assert len(task.all_train_problems()) == 2
    assert {p.metadata["shape"] for p in task.eval_problems(9)} == {"aime"}
    assert [f.name for f in task.files] == ["dapo.jsonl", "aime.jsonl"]
    own = write(tmp_path / "own.jsonl", {"problem": "1+1?", "answer": 2}, {"problem": "1+2?", "answer": 3})
    held = write(tmp_path / "held.jsonl", {"problem": " 1+2? ", "answer": 3})
    with pytest.raises(DataError, match=r"held\.jsonl.*own\.jsonl, row 2"):
        math_task(own, eval_path=held)


def test_a_repeated_question_counts_once_and_a_contradiction_is_refused(tmp_path):
    rows = [
        {"problem": "1+1?", "answer": 2}, {"problem": "1+1?", "answer": "2"},
        {"problem": "2+1?", "answer": 3}, {"problem": "4+1?", "answer": 5},
    ]  # fmt: skip
    task = math_task(write(tmp_path / "r.jsonl", *rows))
    assert len(task.all_problems()) == 3
    assert list(task.left_out.values()) == ["repeats row 1"]
    bad = write(tmp_path / "c.jsonl", *rows, {"problem": "2+1?", "answer": 4})
    with pytest.raises(DataError, match=r"row 5: .*row 3"):
        math_task(bad)
    left = math_task(bad, conflicts="skip")
    assert {p.metadata["answer"] for p in left.all_problems()} == {"2", "5"}
    assert len(left.left_out) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "q", "answr": "1"}, "column 'answer'.*'answr'"),
        ({"problem": "", "answer": "1"}, "column 'problem'"),
        ({"problem": "q", "answer": None}, "column 'answer'.*null"),
        ({"problem": "q", "answer": True}, "column 'answer'.*true"),
        ({"problem": "q", "answer": " "}, "column 'answer'.*empty"),
        ({"problem": "q", "answer": "{1"}, "column 'answer'.*braces"),
        ({"problem": "q", "answer": "1" * 500}, "column 'answer'.*500"),
        ({"problem": "q", "answer": "1000", "url": "u"}, "column 'answer'.*999"),
        ({"question": "q", "final_answer": []}, "column 'final_answer'"),
        ({"prompt": "q", "reward_model": {"style": "rule"}}, "column 'reward_model.ground_truth'"),
        ({"prompt": [{"role": "king", "content": "q"}], "reward_model": {"ground_truth": "1"}}, "'king'"),
        ({"prompt": [{"role": "assistant", "content": "q"}], "reward_model": {}}, "'prompt'"),
        ({"problem": "q", "answer": "1", "id": []}, "column 'id'"),
    ],
)  # fmt: skip
def test_a_bad_row_names_row_and_column(tmp_path, row, message):
    path = write(tmp_path / "bad.jsonl", {"problem": "ok", "answer": "1"}, row)
    with pytest.raises(DataError, match=message) as caught:
        math_task(path)
    assert "bad.jsonl, row 2: " in str(caught.value)


def test_ids_are_unique(tmp_path):
    rows = [{"problem": f"{i}?", "answer": i, "id": "same"} for i in range(2)]
    with pytest.raises(DataError, match=r"row 2: .*'same'.*row 1"):
        math_task(write(tmp_path / "ids.jsonl", *rows))


def test_a_box_or_dollars_around_a_gold_answer_are_taken_off(tmp_path):
    rows = [{"problem": "a", "answer": r"$\frac{1}{2}$"}, {"problem": "b", "answer": r"\boxed{7}"}]
    task = math_task(write(tmp_path / "wrapped.jsonl", *rows))
    assert {p.metadata["answer"] for p in task.all_problems()} == {r"\frac{1}{2}", "7"}


# ── what critics make of it ───────────────────────────────────────────────────────────────────────


def about(problem, text, task):
    verdict = task.verify(problem, text)
    turn = Turn(
        prompt_ids=(), completion_ids=(), logprobs=None, text=text, stop_reason="eos",
        reward=verdict.reward, correct=verdict.correct,
    )  # fmt: skip
    return FeedbackRequest(problem, turn, 0)


def test_the_programmatic_critic_gets_a_reference_that_is_an_answer(task, by_id):
    right, wrong = (
        ProgramCritic("verdict").critique([about(by_id["gcd-pair"], text, task)])[0]
        for text in (r"18 it is: \boxed{18.0}", r"\boxed{19}")
    )
    assert (right.label, wrong.label) == ("right", "wrong")
    assert right.saw_reference


def test_a_critique_that_tells_the_answer_is_seen_to_leak(task, by_id):
    class Teller:
        def critique(self, requests):
            (f,) = ProgramCritic("verdict").critique(requests)
            return [f.model_copy(update={"text": said})]

    found = {}
    for said in ("The answer is 18.", "Use the algorithm of Euclid."):
        guard = LeakGuard(Teller(), "keep")
        found[said] = guard.critique([about(by_id["gcd-pair"], r"\boxed{19}", task)])[0].leaks
    assert list(found.values()) == [True, False]


def test_ten_thousand_random_problems_would_split_the_same_for_any_order(tmp_path):
    rows = [{"id": i, "problem": f"What is {i} + 1?", "answer": i + 1} for i in range(300)]
    one = math_task(write(tmp_path / "a.jsonl", *rows))
    random.Random(0).shuffle(rows)
    other = math_task(write(tmp_path / "b.jsonl", *rows))
    assert {p.id for p in one.eval_problems(999)} == {p.id for p in other.eval_problems(999)}


# ── notation ──────────────────────────────────────────────────────────────────────────────────────

SAME = {
    "13": [
        "13.",
        "=13",
        "= 13",
        "$13$",
        "13,",
        r"\ 13",
        "13.0",
        "+13",
        r"\mathbf{13}",
        r"{\bf 13}",
        r"\underline{13}",
        "x=13",
    ],
    "5": [
        r"5~\text{m}",
        "5 dollars",
        "5°",
        r"5^\circ",
        r"5^{\circ}",
        "€5",
        r"\$5",
        "5 €",
        r"5\text{ cm}",
        r"5\,\mathrm{kg}",
        "5 km/h",
        r"5 \text{cm}^2",
        r"\textbf{5}",
        r"\left. 5 \right.",
    ],
    "1000": ["10^3", "10^{3}", "1,000", "1 000", r"1\times10^3", "1e3", "1000.00", "10³", r"1{,}000"],
    "0.001": ["10^{-3}", "1/1000", ".001", r"1\cdot10^{-3}", "10⁻³"],
    "14-i": ["14.0-1.0i", "14-1i", "14 - i"],
    "[2,5)": [r"2\le x<5", r"2 \leq x < 5", "2≤x<5", "[2, 5)", r"\left[2,5\right)"],
    "(2,5]": [r"2<x\le 5"],
    r"\emptyset": [r"\varnothing", "∅"],
    "7/2": [
        "3 1/2",
        r"3\frac{1}{2}",
        r"\frac72",
        r"\frac{7}{2}",
        "3.5",
        "3½",
        r"\dfrac{7}{2}",
        r"\tfrac{7}{2}",
    ],
    "-7/2": ["-3 1/2", r"-3\frac12", "−3.5", "- 7/2"],
    r"\frac{1}{2}": ["½", "0.5", "1/2", r"\dfrac12", ".50"],
    r"\frac{1}{3}": ["1/3", "⅓", "0.333333"],
    r"\sqrt{2}": ["√2", r"\sqrt2"],
    "x^2": ["x²", "x^{2}", r"x \cdot x"],
    r"\infty": ["∞"],
    r"2\pi": ["2π", r"2 \pi"],
    "A": ["A.", "A)", "(A)", r"\text{A}", "A:"],
    r"\text{blue}": ["blue", "Blue", r"\text{ blue }", r"\text{Blue}."],
    "12345678901234567890123": ["12345678901234567890123", "12,345,678,901,234,567,890,123"],
    "10_2": ["10_{2}", "10_2."],
    "1,2": ["1, 2", "2,1"],
    r"\{1,2\}": [r"\{2, 1\}"],
    "(1,2)": ["(1, 2)", r"\left(1,2\right)"],
}
DIFFERENT = {
    "10_2": ["10_3", "10_{3}", "11_2"],
    "4210_5": ["4210_6", "421_5"],
    "3.1415926": ["3.1415927", "3.14159260001"],
    "0.1": ["0.1000000001", "0.10001", "1"],
    "12345678901234567890": ["12345678901234567891", "1234567890123456789"],
    "9007199254740993": ["9007199254740992"],
    r"\frac{1}{3}": ["0.33", "1/4", "0.334"],
    "[2,5)": [r"2<x<5", r"2\le x\le5", "(2,5)", "[2,6)"],
    "x^2": ["x³", "y²", "2x"],
    "A": ["B.", "B)", "AB"],
    r"\text{cat}": [r"\text{act}", "dog", r"\text{tac}"],
    "blue": ["lube", "bleu"],
    "5": ["5x", "5y", "6 dollars", r"5\pi", "55", "-5", "5/2", "5 6"],
    "5 cm": ["5 mm"],
    "1000": ["10^4", "100", "10^{-3}"],
    "(1,2)": ["(2,1)", "(1,3)"],
    r"\sqrt{2}": ["√3", "1.41"],
    "14-i": ["14+i", "14.0-2.0i"],
    "-7/2": ["3 1/2", "-2.5"],
}


def of_gold(tmp_path_factory, golds):
    file = tmp_path_factory.mktemp("math") / "golds.jsonl"
    rows = [{"problem": f"Question {i} about {gold}?", "answer": gold} for i, gold in enumerate(golds)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = math_task(file)
    return task, {problem.metadata["answer"]: problem for problem in task.all_problems()}


@pytest.fixture(scope="module")
def golds(tmp_path_factory):
    return of_gold(tmp_path_factory, {**SAME, **DIFFERENT})


@pytest.mark.parametrize(("gold", "answer"), [(g, a) for g, answers in SAME.items() for a in (g, *answers)])
def test_another_notation_is_right(golds, gold, answer):
    task, problems = golds
    assert task.verify(problems[gold], rf"So it is \boxed{{{answer}}}.").correct


@pytest.mark.parametrize(("gold", "answer"), [(g, a) for g, answers in DIFFERENT.items() for a in answers])
def test_what_looks_alike_is_wrong(golds, gold, answer):
    task, problems = golds
    verdict = task.verify(problems[gold], rf"So it is \boxed{{{answer}}}.")
    assert verdict.reward == 0
    assert not verdict.correct


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("5", r"so \boxed 5", True),
        ("5", r"so \boxed5", True),
        ("1,2", r"\boxed{1} and \boxed{2}", True),
        ("1,2", r"\boxed{1} and \boxed{3}", False),
        ("5", r"It is \boxed{5}. I put it in \boxed{}.", True),
        ("5", r"\boxed{5}, as asked: \boxed{answer}", True),
        ("5", r"\boxed{5}, in \boxed{\text{your answer}}", True),
        ("5", r"\boxed{5} in \boxed{...}", True),
        ("5", r"\boxed{5} or rather \boxed{6}", False),
        ("5", r"\boxed{6} or rather \boxed{5}", True),
        ("5", r"\boxed{5} and \boxed{6", False),
    ],
)
def test_which_box_is_the_answer(golds, gold, text, right):
    task, problems = golds
    assert task.verify(problems[gold], text).correct is right


@given(st.text("0123456789.,-–+ x^{}\\\\frac$½²√°€()[]<≤_iA", max_size=40))
def test_rewriting_ends_and_changes_nothing_the_second_time(text):
    once = notation.rewritten(text)
    assert notation.rewritten(once) is not None
    assert notation.compare(once, once) is True


@given(st.integers(-(10**25), 10**25), st.integers(-(10**25), 10**25))
def test_unequal_integers_are_never_equal(a, b):
    assert notation.compare(notation.rewritten(str(a)), notation.rewritten(f"{b:,}")) is (a == b)
