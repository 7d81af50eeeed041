"""What `make structure` counts."""

import ast

import pytest

from tests.structure import (
    Measure,
    functions,
    homonyms,
    is_sentence,
    literary_rate,
    measures,
    sentence_matches,
)


def test_literary_words_are_counted_in_docstrings_alone():
    tree = ast.parse(
        '"""What the judge said, and nobody says it so many times."""\n'
        "told = 'she said'\n"
        "class A:\n"
        '    """It understands."""\n'
        "    limit = 3\n"
        '    """Whoever asks."""\n'
    )
    assert literary_rate([tree]) == pytest.approx(1e4 * 5 / 15)
    assert literary_rate([]) == 0


def test_a_class_name_in_two_files_is_a_homonym_and_a_private_one_is_not():
    trees = {
        "a.py": ast.parse("class Case: ...\nclass _Row: ...\nclass Only: ..."),
        "b.py": ast.parse("class Case: ...\nclass _Row: ..."),
    }
    assert homonyms(trees) == {"Case": ["a.py", "b.py"]}


def test_a_function_is_measured_with_its_docstring_and_without_its_decorators():
    assert dict(functions(ast.parse("@x\ndef f():\n    '''a'''\n    return 1\nasync def g(): ..."))) == {
        "f": 3,
        "g": 1,
    }


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("optim.lr", False),
        ("row 3, column 'score'", False),
        ("a file that is not there", True),
        ("x" * 41, True),
    ],
)
def test_a_match_of_more_than_four_words_or_forty_characters_is_a_sentence(pattern, expected):
    assert is_sentence(pattern) is expected


def test_sentences_are_found_in_literals_and_in_formatted_strings():
    code = (
        "raises(E, match='no key')\n"
        "raises(E, match=f'{x} has no column of that name')\n"
        "f(text='one two three four five')"
    )
    assert list(sentence_matches(ast.parse(code))) == [" has no column of that name"]


def test_a_measure_holds_up_to_its_limit():
    assert Measure("lines", 5, 5).holds
    assert not Measure("lines", 6, 5).holds
    assert str(Measure("lines", 36_501, 36_500, "a.py")).split() == [
        "OVER",
        "lines",
        "36,501",
        "of",
        "36,500",
        "a.py",
    ]


def test_the_limits_hold():
    assert [str(m) for m in measures() if not m.holds] == []
