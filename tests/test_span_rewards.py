"""What spans give each token, and every option, by hand. Tokens are characters; id 0 ends an answer."""

import pytest

from didact.methods.text2grad import SpanRewards, span_rewards
from didact.types import Span
from tests.bigram import Bigram, critique, failed

ENGINE = Bigram()
TOKENIZER = ENGINE.tokenizer


def given(*rollouts, **settings):
    return span_rewards(rollouts, TOKENIZER, SpanRewards(**settings))


def reward(text, good=(), poor=(), *, ended=True, more=(), settings=None):
    """The rewards of one answer; `more` are further critiques of it."""
    rollout = ENGINE.answer(text, good, poor, ended=ended)
    rollout = rollout.model_copy(update={"feedback": (*rollout.feedback, *more)})
    [found], _ = given(rollout, **(settings or {}))
    return None if found is None else found.tolist()


# ── δ ─────────────────────────────────────────────────────────────────────────────────────────────


def test_good_is_one_poor_is_minus_one_and_the_rest_is_zero():
    assert reward("ab cd", good=["ab"], poor=["d"]) == [1, 1, 0, 0, -1, 0]


def test_the_end_id_is_never_labelled():
    assert reward("ab", good=["ab"]) == [1, 1, 0]
    assert reward("ab", good=["ab"], ended=False) == [1, 1]


def test_an_end_id_that_is_text_is_not_labelled_either():
    rollout = ENGINE.answer("ab!", good=["ab!"], ended=False)
    turn = rollout.turns[0].model_copy(update={"stop_reason": "eos"})
    [found], _ = given(rollout.model_copy(update={"turns": (turn,)}))
    assert found.tolist() == [1, 1, 0]


def test_all_critiques_of_the_answer_count():
    others = [critique("abc", [("c", "poor")]), critique("abc", [("b", "good")], turn=1)]
    assert reward("abc", good=["a"], more=others) == [1, 0, -1, 0]


def test_where_signs_meet_the_rule_decides():
    assert reward("abc", good=["ab"], poor=["bc"]) == [1, 0, -1, 0]
    assert reward("abc", good=["ab"], poor=["bc"], settings={"overlap": "negative_wins"}) == [1, -1, -1, 0]
    assert reward("ab", good=["ab"], poor=["ab"]) == [0, 0, 0]
    assert reward("ab", good=["ab"], poor=["ab"], settings={"identical": "negative_wins"}) == [-1, -1, 0]


def test_what_a_critique_may_be():
    rollouts = [
        ENGINE.answer("ab"),
        ENGINE.answer("ab", **failed()),
        ENGINE.answer("ab").model_copy(update={"feedback": ()}),
    ]
    found, seen = given(*rollouts)
    assert found[0].tolist() == [0, 0, 0]
    assert found[1:] == [None, None]
    assert (seen["unlabelled"], seen["tokens"]) == (1, 3)
    found, _ = given(*rollouts, failed="neutral")
    assert [f is None for f in found] == [False, False, True]  # nobody was asked about the last one
    assert found[1].tolist() == [0, 0, 0]


def test_a_failed_critique_beside_a_usable_one_does_not_matter():
    rollout = ENGINE.answer("ab", good=["a"])
    both = rollout.model_copy(update={"feedback": (critique("ab", [], **failed()), *rollout.feedback)})
    [found], _ = given(both)
    assert found.tolist() == [1, 0, 0]


def test_a_span_that_quotes_something_else_is_counted_and_left_out():
    stray = critique("ab", []).model_copy(update={"spans": (Span(start=0, end=1, quote="x", label="poor"),)})
    rollout = ENGINE.answer("ab", good=["b"])
    [found], seen = given(rollout.model_copy(update={"feedback": (stray, *rollout.feedback)}))
    assert found.tolist() == [0, 1, 0]
    assert seen["misquoted"] == 1


def test_an_answer_whose_ids_are_another_text_is_counted_and_unlabelled():
    rollout = ENGINE.answer("ab", good=["b"])
    turn = rollout.turns[0].model_copy(update={"completion_ids": (ord("a"), ord("c"), 0)})
    [found], seen = given(rollout.model_copy(update={"turns": (turn,)}))
    assert found.tolist() == [0, 0, 0]
    assert seen["unplaced"] == 1


def test_labels_are_counted():
    _, seen = given(ENGINE.answer("abc", good=["ab"], poor=["c"]), ENGINE.answer("d"))
    assert {k: v for k, v in seen.items() if v} == {"tokens": 6, "good": 2, "poor": 1, "unlabelled": 1}


# ── options ───────────────────────────────────────────────────────────────────────────────────────


def test_a_normalised_span_adds_up_to_its_sign():
    found = reward("abcd-xy", good=["abcd"], poor=["xy"], settings={"length_normalised": True})
    assert found == [0.25] * 4 + [0] + [-0.5] * 2 + [0]


def test_soft_labels_are_the_mean_over_critiques():
    others = [
        critique("abc", [("b", "good")]),
        critique("abc", [("b", "poor"), ("c", "poor")]),
        critique("abc", []),
    ]
    found = reward("abc", good=["ab"], more=others, settings={"soft": True})
    assert found == [0.25, 0.25, -0.25, 0]


def test_the_first_error_may_weigh_more():
    found = reward("abcdef", good=["a"], poor=["cd", "f"], settings={"first_error": 3.0})
    assert found == [1, 0, -3, -3, 0, -1, 0]
    assert reward("abc", good=["a"], settings={"first_error": 3.0}) == [1, 0, 0, 0]


def test_good_and_poor_may_weigh_differently():
    found = reward("abc", good=["a"], poor=["c"], settings={"good": 0.5, "poor": 2.0})
    assert found == [0.5, 0, -2, 0]


def test_the_length_term_stands_at_the_last_token():
    settings = {"length_coef": 0.3, "length_target": 4}
    assert reward("abcde", good=["a"], settings=settings) == pytest.approx([1, 0, 0, 0, 0, -0.3 * 2 / 4])
    assert reward("abc", poor=["c"], ended=False, settings=settings) == [0, 0, -1]
    assert reward("abcdefgh", settings=settings)[-1] == pytest.approx(-0.3 * 5 / 4)


def test_options_come_one_after_the_other():
    settings = {"length_normalised": True, "first_error": 2.0, "poor": 3.0, "good": 0.5}
    assert reward("ab-cd", good=["ab"], poor=["cd"], settings=settings) == [0.25, 0.25, 0, -3, -3, 0]


# ── the published code's rewards ──────────────────────────────────────────────────────────────────


def test_kodcode_gives_one_to_what_nobody_labelled_and_nothing_for_good():
    found = reward("ab, cd", good=["a"], poor=["d"], settings={"compat": "kodcode"})
    assert found == [0, 1, 0, 0, 1, -1, 0]
    assert reward("ab, c", settings={"compat": "kodcode"}) == [1, 1, 0, 0, 1, 0]


def test_ultrafeedback_gives_a_tenth_where_nothing_is_found():
    assert reward("a, b", settings={"compat": "ultrafeedback"}) == pytest.approx([0.1, 0, 0, 0.1, 0])
    assert reward("a, b", poor=["b"], settings={"compat": "ultrafeedback"}) == [0, 0, 0, -1, 0]


def test_kodcode_unites_spans_that_overlap_and_takes_the_least():
    settings = {"compat": "kodcode"}
    assert reward("abcdef", good=["ab"], poor=["bc"], settings=settings) == [-1, -1, -1, 1, 1, 1, 0]
    assert reward("abcdef", good=["abcd"], poor=["b"], settings=settings) == [-1] * 4 + [1, 1, 0]
    assert reward("abcdef", good=["b"], poor=["b"], settings=settings) == [1, -1, 1, 1, 1, 1, 0]
    assert reward("abcdef", good=["ab", "bcd"], poor=["de"], settings=settings) == [-1] * 5 + [1, 0]
    assert reward("abcdef", good=["ab"], poor=["cd"], settings=settings) == [0, 0, -1, -1, 1, 1, 0]


def test_slf5k_fades_out_around_the_54th_token_from_the_first_label():
    """w = 1/(1 + e^x), x = clip(n − 54, −10, 6), n from 1: from 0.99995 down to 0.00247."""
    text = "_" * 3 + "a" * 80
    found = reward(text, good=["a" * 80], settings={"compat": "slf5k"})
    assert found[:3] == [0, 0, 0]
    ceiling, floor = 0.9999546, 0.0024726
    for n, expected in (
        (1, ceiling), (44, ceiling), (45, 0.9998766), (48, 0.9975274), (53, 0.7310586), (54, 0.5),
        (55, 0.2689414), (59, 0.0066929), (60, floor), (61, floor), (80, floor),
    ):  # fmt: skip
        assert found[2 + n] == pytest.approx(expected, rel=1e-4), n
    assert reward("ab", settings={"compat": "slf5k"}) == [0, 0, 0]
