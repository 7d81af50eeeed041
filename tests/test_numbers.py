"""Numbers as people write them, read exactly."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from didact.tasks.numbers import MOST_DIGITS, last_number
from didact.tasks.verifiers import make_verifier

VALUES = {
    "9007199254740993": 9007199254740993,
    "1/2": Fraction(1, 2),
    "–3": -3,
    "- 3": -3,
    "−7": -7,
    "—7": -7,
    "-4e2": -400,
    "1e-5": Fraction(1, 100_000),
    "1E+3": 1000,
    "1.5e3": 1500,
    "2.5×10^3": 2500,
    "2.5 x 10³": 2500,
    "3·10⁻²": Fraction(3, 100),
    "6.02×10^{23}": 602 * 10**21,
    "2\\times10^{3}": 2000,
    "2*10**3": 2000,
    "1 000 000": 10**6,
    "1'000'000": 10**6,
    "1’000": 1000,
    "1_000": 1000,
    "1\u202f000": 1000,
    "1\u00a0000": 1000,
    "12,34,567": 1234567,
    "1,250.5": Fraction(2501, 2),
    "$1,000": 1000,
    "2,500,000.75": Fraction(10_000_003, 4),
    "3 1/2": Fraction(7, 2),
    "½": Fraction(1, 2),
    "3½": Fraction(7, 2),
    "3 ½": Fraction(7, 2),
    "-3/4": Fraction(-3, 4),
    "1 / 2": Fraction(1, 2),
    "1⁄2": Fraction(1, 2),
    "6/3": 2,
    ".5": Fraction(1, 2),
    "-.5": Fraction(-1, 2),
    "3.": 3,
    "50%": 50,
    "٣": 3,
    "１２": 12,
    "+5": 5,
    "a1": 1,
    "x = - 3": -3,
    "is -3": -3,
    "is – 3": -3,
    "(-3)": -3,
    "= −3": -3,
    # An operator, a hyphen or a bullet is no sign.
    "5-3": 3,
    "5 - 3": 3,
    "x - 3": 3,
    "(2) - 3": 3,
    "3-4": 4,
    "covid-19": 19,
    "Answers:\n- 3": 3,
    # Several numbers are not one.
    "1,2": 2,
    "(1, 2)": 2,
    "100 200 300": 300,
    "in 2020 100": 100,
    "12/25/2024": 2024,
    "10:30": 30,
    "2 and 3 is 5.": 5,
    "100 000": 100_000,
    "12 345": 12_345,
}
NONE = ["", "none", "1/0", "1e999999999", "9" * 500, "-", "/", "e"]


@pytest.mark.parametrize("text", VALUES)
def test_the_value_as_people_write_it(text):
    found = last_number(text)
    assert found is not None
    assert found.value == VALUES[text]
    assert 0 <= found.start < found.end <= len(text)


@pytest.mark.parametrize("text", NONE, ids=lambda text: text[:12])
def test_what_is_no_number(text):
    assert last_number(text) is None


@given(
    st.integers(-(10**30), 10**30),
    st.sampled_from(["", "It is ", "x = 3, so "]),
    st.sampled_from(["", " in all.", "."]),
)
def test_an_integer_reads_back_in_every_grouping(number, before, behind):
    for written in (
        f"{number}",
        f"{number:,}",
        f"{number:_}",
        f"{number:,}".replace(",", "'"),
        f"{number:,}".replace(",", "\u2009"),
    ):
        found = last_number(f"{before}{written}{behind}")
        assert found is not None
        assert found.value == number
        assert found.start == len(before)
        assert found.end == len(before) + len(written)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_reads_back_exactly_as_it_is_written(number):
    found = last_number(f"about {number!r} of it")
    assert found is not None
    assert found.value == Fraction(repr(number))


@given(st.fractions(max_denominator=10**6))
def test_a_fraction_is_one_number(number):
    found = last_number(f"{number.numerator}/{number.denominator}")
    assert found is not None
    assert found.value == number


@given(st.text("0123456789.,+-−–eE x/½'_³×^()\n", max_size=60))
def test_no_text_makes_the_reader_raise(text):
    found = last_number(text)
    assert found is None or (
        0 <= found.start < found.end <= len(text)
        and max(map(len, found.written.split("/"))) <= 2 * MOST_DIGITS + 9
    )


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("9007199254740993", "9007199254740992", False),
        ("9007199254740993", "9007199254740993", True),
        ("1/2", "2", False),
        ("1/2", "0.5", True),
        ("–3", "3", False),
        ("–3", "-3", True),
        ("- 3", "-3", True),
        ("- 3", "3", False),
        ("1e-5", "0.00001", True),
        ("1 000 000", "1000000", True),
        ("1'000'000", "1000000", True),
        ("0.3333333", "1/3", True),
        ("0.333", "1/3", False),
        ("The answer is 5.", "5", True),
    ],
)
def test_numeric_compares_exactly(answer, reference, right):
    assert make_verifier("numeric").verify(answer, reference, {}).correct is right
