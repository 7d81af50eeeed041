"""Spans → signed tokens: by character, whatever the order, and never on an end."""

import sys
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.spans.align import align, critiques
from didact.errors import DataError, UsageError
from didact.spans import credited_by, token_labels
from didact.types import Span

TEXT = "The sum is 7."
OFFSETS = [(0, 3), (3, 7), (7, 10), (10, 12), (12, 13), (13, 13)]
"""The| sum| is| 7|.|<end>"""


def span(start, end, label="poor", text=TEXT, phrase=None):
    return Span(start=start, end=end, quote=text[start:end], label=label, phrase=phrase)


def labels(spans, offsets=OFFSETS, text=TEXT, **rules):
    return token_labels(spans, offsets, text, **rules).tolist()


def test_tokens_of_a_span_have_its_sign_and_all_others_have_none():
    assert labels([span(4, 10, "poor")]) == [0, -1, -1, 0, 0, 0]
    assert labels([span(4, 10, "good")]) == [0, 1, 1, 0, 0, 0]
    assert labels([span(0, 3, "good"), span(11, 12)]) == [1, 0, 0, -1, 0, 0]
    assert labels([]) == [0] * 6
    assert token_labels([span(0, 3)], [], "The").shape == (0,)
    assert token_labels([span(0, 3)], OFFSETS, TEXT).dtype == np.float32


def test_a_token_belongs_to_what_more_than_half_of_its_visible_characters_are():
    assert labels([span(0, 1)])[0] == 0  # 1 of 3
    assert labels([span(0, 2)])[0] == -1  # 2 of 3
    assert labels([span(11, 12)])[3] == -1  # " 7": the space does not count
    assert labels([span(10, 11)])[3] == 0  # only the space of " 7"
    assert labels([span(8, 9)])[2] == 0  # half of " is" is not more than half
    assert labels([span(8, 9)], min_overlap=0.49)[2] == -1
    assert labels([span(8, 10)], min_overlap=1)[2] == -1
    assert labels([span(8, 9)], min_overlap=1)[2] == 0
    assert labels([span(0, 1)], min_overlap=0)[:2] == [-1, 0]
    # A token that is nothing but space is what its space is.
    assert labels([span(1, 3, text="a  b")], [(0, 1), (1, 3), (3, 4)], "a  b") == [0, -1, 0]


def test_two_spans_that_share_a_token_label_it_together():
    assert labels([span(0, 3, "good", "abcd"), span(3, 4, "good", "abcd")], [(0, 2), (2, 4)], "abcd") == [
        1,
        1,
    ]
    halves = [span(2, 3, "good", "abcd"), span(3, 4, "good", "abcd")]
    assert labels(halves, [(0, 2), (2, 4)], "abcd") == [0, 1]


def test_all_tokens_of_one_character_are_labelled():
    text, offsets = "a🙂b", [(0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3)]
    assert labels([span(1, 2, "poor", text)], offsets, text) == [0, -1, -1, -1, -1, 0]


def test_zero_width_and_end_tokens_are_never_labelled():
    everything = [span(0, 13)]
    offsets = [(0, 0), (0, 7), (7, 7), (7, 13), (13, 13)]
    assert labels(everything, offsets) == [0, -1, 0, -1, 0]
    # An end that the tokenizer does not call special has characters of its own.
    text = "The<eos>"
    assert labels([span(0, 8, "poor", text)], [(0, 3), (3, 8)], text, ended=True) == [-1, 0]
    assert labels([span(0, 8, "poor", text)], [(0, 3), (3, 8)], text) == [-1, -1]


def test_overlaps_are_summed_or_the_poor_one_wins():
    spans = [span(0, 10, "good"), span(4, 13, "poor")]
    assert labels(spans) == [1, 0, 0, -1, -1, 0]
    assert labels(spans, overlap="negative_wins") == [1, -1, -1, -1, -1, 0]
    two_to_one = [span(0, 10, "good"), span(0, 7, "good"), span(4, 13, "poor")]
    assert labels(two_to_one) == [1, 1, 0, -1, -1, 0]
    assert labels(two_to_one, overlap="negative_wins") == [1, -1, -1, -1, -1, 0]


def test_one_stretch_that_is_called_both_is_neither_unless_a_rule_says_so():
    both = [span(4, 7, "good"), span(4, 7, "poor"), span(0, 10, "good")]
    assert labels(both) == [1, 1, 1, 0, 0, 0]
    assert labels(both, identical="negative_wins") == [1, 0, 1, 0, 0, 0]
    assert labels(both, identical="negative_wins", overlap="negative_wins") == [1, -1, 1, 0, 0, 0]
    assert labels(both, identical="keep") == [1, 1, 1, 0, 0, 0]  # two good, one poor
    assert labels(both, identical="keep", overlap="negative_wins") == [1, -1, 1, 0, 0, 0]
    assert labels(both, overlap="negative_wins") == [1, 1, 1, 0, 0, 0]


def test_a_low_bound_can_make_a_token_both():
    spans = [span(0, 1, "good"), span(2, 3, "poor")]
    assert labels(spans, min_overlap=0)[0] == 0
    assert labels(spans, min_overlap=0, overlap="negative_wins")[0] == -1


def test_what_is_said_twice_counts_once():
    once = [span(0, 10, "good"), span(4, 13, "poor", phrase="x")]
    assert labels([*once, span(4, 13, "poor", phrase="y"), span(4, 13, "poor")]) == labels(once)


def test_a_span_of_another_answer_is_an_error():
    with pytest.raises(DataError, match=r"'sum'.*\[4, 7\)"):
        token_labels([span(4, 7)], [(0, 12)], "All of them.")
    with pytest.raises(DataError, match="''"):
        token_labels([Span(start=90, end=93, quote="sum", label="good")], OFFSETS, TEXT)
    # The same place counted in UTF-16 units.
    with pytest.raises(DataError, match="code points"):
        token_labels([Span(start=2, end=3, quote="b", label="good")], [(0, 2)], "🙂b")
    for wrong in [(0, 14), (-1, 2), (5, 3)]:
        with pytest.raises(DataError, match="id 1"):
            token_labels([span(0, 3)], [(0, 3), wrong], TEXT)


def test_a_share_out_of_range_is_named():
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="min_overlap"):
            labels([], min_overlap=bad)


spans_of_text = st.lists(
    st.builds(
        lambda start, size, label: span(start, min(start + size, 13), label),
        st.integers(0, 12), st.integers(1, 13), st.sampled_from(["good", "poor"]),
    ),
    max_size=4,
)  # fmt: skip
rules = st.fixed_dictionaries(
    {
        "overlap": st.sampled_from(["sum_clip", "negative_wins"]),
        "identical": st.sampled_from(["drop", "negative_wins", "keep"]),
        "min_overlap": st.sampled_from([0, 0.3, 0.5, 1]),
    }
)


@given(spans_of_text, rules)
def test_order_does_not_matter_and_signs_are_signs(spans, chosen):
    found = labels(spans, **chosen)
    assert set(found) <= {-1, 0, 1}
    assert all(labels(order, **chosen) == found for order in permutations(spans))
    swapped = [span(s.start, s.end, "good" if s.label == "poor" else "poor") for s in spans]
    if chosen["overlap"] == "sum_clip" and chosen["identical"] != "negative_wins":
        assert labels(swapped, **chosen) == [-d for d in found]


@given(spans_of_text, rules, st.lists(st.integers(0, 13), max_size=6))
def test_labels_are_those_of_counting_character_by_character(spans, chosen, cuts):
    bounds = sorted({0, 13, *cuts})
    offsets = list(pairwise(bounds))
    kept = {(s.start, s.end, s.label) for s in spans}
    if chosen["identical"] != "keep":
        for a, b, label in list(kept):
            if label == "good" and (a, b, "poor") in kept:
                kept -= {(a, b, "good")} | ({(a, b, "poor")} if chosen["identical"] == "drop" else set())
    signs = []
    for i in range(13):
        over = [1 if label == "good" else -1 for a, b, label in kept if a <= i < b]
        total = sum(over)
        signs.append(-1 if chosen["overlap"] == "negative_wins" and -1 in over else (total > 0) - (total < 0))
    expected = []
    for a, b in offsets:
        counted = [i for i in range(a, b) if TEXT[i] != " "] or list(range(a, b))
        shares = {sign: sum(signs[i] == sign for i in counted) / len(counted) for sign in (1, -1)}
        has = {sign: share > chosen["min_overlap"] or share == 1 for sign, share in shares.items()}
        both = -1 if chosen["overlap"] == "negative_wins" else 0
        expected.append(both if has[1] and has[-1] else has[1] - has[-1])
    assert labels(spans, offsets, **chosen) == expected


# ── who gave a label ──────────────────────────────────────────────────────────────────────────────────


def test_each_label_names_the_span_that_gave_it():
    wide, narrow = span(0, 13, "poor", phrase="all"), span(11, 12, "poor", phrase="the number")
    good = span(0, 3, "good", phrase="begins well")
    spans = [wide, good, narrow]
    found = labels(spans)
    assert found == [0, -1, -1, -1, -1, 0]
    assert credited_by(spans, OFFSETS, found) == [None, wide, wide, wide, wide, None]
    assert credited_by([narrow, good], OFFSETS, labels([narrow, good])) == [
        good,
        None,
        None,
        narrow,
        None,
        None,
    ]
    exact = span(10, 12, "poor", phrase="exact")
    assert credited_by([wide, exact], OFFSETS, labels([wide, exact]))[3] is exact


@given(spans_of_text, rules)
def test_every_label_has_somebody_of_its_sign(spans, chosen):
    found = labels(spans, **chosen)
    for label, (first, last), giver in zip(found, OFFSETS, credited_by(spans, OFFSETS, found), strict=True):
        assert (giver is None) == (label == 0)
        if giver is not None:
            assert giver.label == ("good" if label > 0 else "poor")
            assert giver.start < last
            assert first < giver.end


# ── speed ─────────────────────────────────────────────────────────────────────────────────────────────


def calls(work):
    """How many calls it takes to align so much work: of Python and of C, the same on every machine."""
    made = 0

    def count(frame, event, argument):
        nonlocal made
        made += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        report, tokens = align(work)
    finally:
        sys.setprofile(None)
    return made / len(work), report, tokens


def test_no_step_of_an_alignment_goes_through_an_answer_in_python():
    # Seconds are for the benchmark: a busy machine would fail a test of them.
    align(critiques(20, seed=1))  # what is read once from a tokenizer
    few, report, tokens = calls(critiques(60, seed=1))
    many, _, longer = calls(critiques(60, seed=1, words=4 * 440))
    assert report.answers == 60
    assert tokens / 60 > 400
    assert longer > 3.5 * tokens
    assert min(report.exact, report.normalised, report.fuzzy, report.unaligned) > 0
    assert few < 500
    assert many < 1.3 * few
