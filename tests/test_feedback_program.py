"""The programmatic critic: each level tells what it says and no more."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from didact.feedback.program import RIGHT, WRONG, Level, ProgramCritic
from didact.feedback_source import FeedbackRequest
from didact.types import Problem, Turn


def request(answer, reference, *, correct=False, reward=0.0, index=0):
    turn = Turn(
        prompt_ids=(1,), completion_ids=(2,), logprobs=(-0.1,), text=answer, stop_reason="eos",
        reward=reward, correct=correct,
    )  # fmt: skip
    return FeedbackRequest(Problem.ask("?", id="p", reference=reference), turn, index)


def one(level, answer, reference, **more):
    (feedback,) = ProgramCritic(level).critique([request(answer, reference, **more)])
    return feedback


@pytest.mark.parametrize(
    ("answer", "reference", "verdict", "hint", "reveal"),
    [
        (
            "sun",
            "nus",
            "",
            "Characters 1 and 3 are wrong.",
            "Character 1 should be n. Character 3 should be s.",
        ),
        (
            "nu",
            "nus",
            "",
            "It should have 3 characters, not 2. Character 3 is wrong.",
            "It should have 3 characters, not 2. Character 3 should be s.",
        ),
        ("nuss", "nus", "", "It should have 3 characters, not 4.", "It should have 3 characters, not 4."),
        (
            "",
            "ab",
            "",
            "It should have 2 characters, not 0. Characters 1 and 2 are wrong.",
            "It should have 2 characters, not 0. Character 1 should be a. Character 2 should be b.",
        ),
        (
            "12",
            "7",
            "",
            "It should have 1 character, not 2. Character 1 is wrong.",
            "It should have 1 character, not 2. Character 1 should be 7.",
        ),
        ("a c b d", "a b c d", "", "Words 2 and 3 are wrong.", "Word 2 should be b. Word 3 should be c."),
        (
            "x y z",
            "a b c",
            "",
            "Words 1, 2 and 3 are wrong.",
            "Word 1 should be a. Word 2 should be b. Word 3 should be c.",
        ),
    ],
)
def test_the_critique_of_each_level(answer, reference, verdict, hint, reveal):
    said = [one(level, answer, reference).text for level in (Level.VERDICT, Level.HINT, Level.REVEAL)]
    assert said == [WRONG, f"{WRONG} {hint}", f"{WRONG} {reveal}"]


@pytest.mark.parametrize(
    ("answer", "reference", "direction"),
    [
        ("57", "63", "Character 1 is too low. Character 2 is too high."),
        ("1121", "2342", "Characters 1, 2, 3 and 4 are too low."),
        ("7", "-71", "It should have 3 characters, not 1. Characters 1, 2 and 3 are wrong."),
        ("x1", "21", "Character 1 is wrong."),
        ("10 blue 3", "2 red 3", "Word 1 is too high. Word 2 is wrong."),
        ("02 a", "2 b", "Words 1 and 2 are wrong."),
    ],
)
def test_a_direction_is_too_low_or_too_high(answer, reference, direction):
    assert one(Level.DIRECTION, answer, reference).text == f"{WRONG} {direction}"


@given(st.text("0123456789-", max_size=6), st.text("0123456789-", min_size=1, max_size=6))
def test_a_direction_depends_on_the_reference_by_its_order_alone(answer, reference):
    """A reference that lies on the same side of every character gets the same words."""
    farther = {(a, r): ("0" if r < a else "9") for a in "0123456789" for r in "0123456789" if a != r}
    pairs = list(zip(answer, reference, strict=False))
    other = "".join(farther.get(pair, pair[1]) for pair in pairs) + reference[len(pairs) :]
    critic = ProgramCritic(Level.DIRECTION)
    assert critic.text(answer, reference) == critic.text(answer, other)


words = st.text("abcdefgh", min_size=1, max_size=12)
sentences = st.lists(words, min_size=2, max_size=6).map(" ".join)


def apply_corrections(critique, answer, reference):
    """What a reader gets who does exactly what a revealing critique says."""
    by_word = len(reference.split()) > 1
    parts = answer.split() if by_word else list(answer.strip())
    if size := re.search(r"should have (\d+)", critique):
        parts = (parts + ["?"] * int(size[1]))[: int(size[1])]
    for place, value in re.findall(r"(?:Character|Word) (\d+) should be (.+?)\.(?= |$)", critique):
        parts[int(place) - 1] = value
    return (" " if by_word else "").join(parts)


@given(st.one_of(words, sentences, st.just("")), st.one_of(words, sentences))
@example("", "a b")
@example("a b", "ab")
def test_applying_reveal_gives_the_reference(answer, reference):
    assume(answer != reference)
    critique = ProgramCritic("reveal").text(answer, reference)
    assert apply_corrections(critique, answer, reference) == reference


@given(st.one_of(words, st.just("")), words)
def test_verdict_and_hint_do_not_depend_on_the_right_letters(answer, reference):
    """Two references that differ from the answer in the same places get the same words."""
    unlike = "".join(r if i < len(answer) and answer[i] == r else r.upper() for i, r in enumerate(reference))
    for level in (Level.VERDICT, Level.HINT):
        critic = ProgramCritic(level)
        assert critic.text(answer, reference) == critic.text(answer, unlike)
    assert ProgramCritic("verdict").text(answer, reference) == WRONG


@given(sentences, sentences)
def test_a_hint_holds_no_word_of_the_reference(answer, reference):
    marked = " ".join(f"zz{word}" for word in reference.split())
    assert "zz" not in ProgramCritic("hint").text(answer, marked)


def test_at_most_so_many_mistakes_are_named():
    text = ProgramCritic("reveal", max_mistakes=3).text("x" * 10, "y" * 10)
    assert text.count("should be") == 3


@pytest.mark.parametrize("level", list(Level))
def test_a_right_answer_is_called_right_at_every_level(level):
    feedback = one(level, "anything", "nus", correct=True, reward=1.0)
    assert (feedback.text, feedback.label, feedback.score) == (RIGHT, "right", 1.0)


@pytest.mark.parametrize("level", list(Level))
def test_every_feedback_has_an_author_and_saw_the_reference(level):
    feedback = one(level, "sun", "nus", index=2)
    assert (feedback.source, feedback.saw_reference, feedback.turn) == ("program", True, 2)
    assert feedback.provenance.author == f"program:{level.value}"
    assert feedback.label == "wrong"


def test_without_a_reference_it_fails_and_gives_no_score():
    feedback = one("reveal", "sun", None)
    assert not feedback.ok
    assert feedback.score is None
    assert "'p' has no reference" in feedback.error
    assert not feedback.saw_reference


def test_there_is_one_feedback_a_request_in_order():
    critic = ProgramCritic("hint")
    requests = [request("ab", "cb"), request("ab", None, index=1), request("ab", "ac", index=2)]
    assert [f.turn for f in critic.critique(requests)] == [0, 1, 2]
    assert critic.critique([]) == []


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="revel"):
        ProgramCritic("revel")


@pytest.mark.parametrize("level", list(Level))
def test_an_answer_that_equals_the_reference_is_never_called_wrong(level):
    feedback = one(level, " nus", "nus", correct=False)
    assert (feedback.text, feedback.label) == (RIGHT, "right")


# ── where ─────────────────────────────────────────────────────────────────────────────────────────


def told(feedback):
    return [(s.start, s.end, s.quote, s.label, s.phrase) for s in feedback.spans]


def test_wrong_elements_are_poor_with_their_sentence_and_right_ones_good():
    assert told(one("reveal", " sunx\n", "nusses")) == [
        (1, 2, "s", "poor", "Character 1 should be n."),
        (2, 3, "u", "good", None),
        (3, 4, "n", "poor", "Character 3 should be s."),
        (4, 5, "x", "poor", "Character 4 should be s."),
    ]
    assert told(one("hint", "a  c\tb d e", "a b c d")) == [
        (0, 1, "a", "good", None),
        (3, 6, "c\tb", "poor", "Words 2 and 3 are wrong."),
        (7, 8, "d", "good", None),
        (9, 10, "e", "poor", "It should have 4 words, not 5."),
    ]


def test_a_right_answer_is_good_and_a_verdict_on_a_wrong_one_names_no_place():
    for level in Level:
        assert told(one(level, "\n nus ", "nus")) == [(2, 5, "nus", "good", RIGHT)]
    assert one("verdict", "sun", "nus").spans == ()
    assert one("reveal", " ", "nus").spans == ()
    assert one("reveal", "sun", None).spans == ()


def test_mistakes_that_are_not_named_have_no_span():
    found = ProgramCritic("reveal", max_mistakes=2).spans("xxxx", "abcd")
    assert [s.quote for s in found] == ["x", "x"]
    assert ProgramCritic("reveal", spans=False).critique([request("sun", "nus")])[0].spans == ()


white = st.sampled_from(["", " ", "\n", "\u2003", "\x1c"])
text = st.one_of(words, sentences, st.text(max_size=8), st.just("é🙂 \u2003x\x85y \x1c"))


@given(st.sampled_from(list(Level)), white, text, text, white)
@example(Level.HINT, "", "a b", "a c", "")
def test_every_place_quotes_the_answer_and_every_phrase_the_critique(level, before, answer, reference, after):
    answer = before + answer + after
    feedback = one(level, answer, reference)
    places = set()
    for s in feedback.spans:
        assert answer[s.start : s.end] == s.quote
        assert s.phrase is None or s.phrase in feedback.text
        assert (s.label == "good") or s.phrase
        assert not places & set(range(s.start, s.end))
        places |= set(range(s.start, s.end))
    if feedback.label == "wrong" and level is not Level.VERDICT and len(feedback.spans) < 16:
        # Together, good and poor are every visible character that is not an unnamed mistake.
        assert {i for i, c in enumerate(answer) if not c.isspace()} <= places or len(answer) > 16


@given(words, words)
def test_exactly_the_right_characters_are_good(answer, reference):
    assume(answer != reference)
    found = ProgramCritic("reveal").spans(answer, reference)
    good = {i for s in found if s.label == "good" for i in range(s.start, s.end)}
    pairs = enumerate(zip(answer, reference, strict=False))
    assert good == {i for i, (got, want) in pairs if got == want}
