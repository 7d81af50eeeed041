"""Spans: tables that are filled once, bounds, ties and messages, each by hand."""

import unicodedata

import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel

from didact.errors import DataError
from didact.spans import credited_by, fuzzy, token_labels, token_offsets, tokens
from didact.spans.fuzzy import levenshtein, nearest
from didact.spans.match import QuoteError, find_quote
from didact.spans.text_normalization import _CodePointMap, _context_free_form, normalize
from didact.types import Span
from tests.tokenizers_tiny import FAMILIES, empty_tables, tokenizer  # noqa: F401


def span(start, end, label="poor"):
    return Span(start=start, end=end, quote="x" * (end - start), label=label)


# ── tables ────────────────────────────────────────────────────────────────────────────────────────


def test_the_byte_alphabet_is_that_of_the_tokenizers():
    table = tokens._byte_alphabet()
    assert set(table) == set(ByteLevel.alphabet())
    assert sorted(table.values()) == list(range(256))
    assert all(ord(c) == byte for c, byte in table.items() if ord(c) < 256)
    others = [table[c] for c in sorted(table) if ord(c) >= 256]
    assert others == sorted(others)
    assert (table["Ġ"], table["Ċ"]) == (ord(" "), ord("\n"))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_known_decoder_needs_no_prefixes(family, monkeypatch):
    monkeypatch.setattr(tokens, "_by_prefixes", None)
    made = tokenizer(family)
    for text in ("The sum is 5.", " é €5 <0x41> ", "a\nb"):
        ids = made.encode(text, add_special_tokens=False)
        decoded = tokens._decode(made, ids)
        found = tokens._by_pieces(ids, made)
        if found is not None and found[0] == decoded:
            assert token_offsets(ids, made).tolist() == found[1].tolist()
    assert tokens._by_pieces(made.encode("a"), made.backend_tokenizer) is not None


def test_a_code_point_is_computed_once():
    asked = []
    double = _CodePointMap(lambda c: asked.append(c) or 2 * ord(c))
    codes = np.array([1, 2, 1, 0x10FFFF], np.uint32)
    assert double(codes).tolist() == double(codes).tolist() == [2, 4, 2, 2 * 0x10FFFF]
    assert sorted(asked) == ["\x01", "\x02", "\U0010ffff"]
    assert double(codes).dtype == np.uint32


def test_only_plain_characters_of_known_scripts_are_free_of_context():
    kinds = {c: unicodedata.category(c) for c in "\u0300\u0903\u0488\u00ad\u0378\u02b0"}
    assert set(kinds.values()) == {"Mn", "Mc", "Me", "Cf", "Cn", "Lm"}
    assert [_context_free_form(c) for c in kinds] == [None] * 6
    edges = "\u00e9\u1e00\u3001\u3400\u4e00\U0001f600"
    assert [_context_free_form(c) for c in edges] == list(edges)
    assert [_context_free_form(c) for c in "a\uac00\u0e01ﬁ"] == ["a", None, None, None]


def test_forms_by_characters_and_by_runs():
    assert normalize("l’été — “5”") == 'l\'été - "5"'
    assert normalize("ﬁn\u00b4e ¨ e\u0301") == "fin'e ¨ é"


# ── labels ────────────────────────────────────────────────────────────────────────────────────────


def test_a_span_beside_a_token_is_not_credited():
    assert credited_by([span(0, 2), span(4, 6)], [(2, 4)], [-1]) == [None]
    for sign, found in ((1, "good"), (-1, "poor")):
        (one,) = credited_by([span(0, 4, "poor"), span(0, 4, "good")], [(0, 4)], [sign])
        assert one.label == found
    with pytest.raises(ValueError):
        credited_by([span(0, 2)], [(0, 2)], [1, 1])


@pytest.mark.parametrize(
    ("offsets", "named"),
    [
        ([(0, 3), (3, 3), (2, 2), (1, 2)], ["id 3", "(1, 2)", "(0, 3)"]),
        ([(0, 10), (9, 12)], ["id 1", "(9, 12)", "(0, 10)"]),
        ([(2, 4), (3, 6), (1, 7)], ["id 2", "(1, 7)", "(3, 6)"]),
        ([(3, 5), (4, 2)], ["id 1", "(4, 2)", "(3, 5)"]),
        ([(-1, 1)], ["id 0", "(-1, 1)", "(0, 0)"]),
    ],
)
def test_the_first_offset_out_of_order_is_named(offsets, named):
    with pytest.raises(DataError) as error:
        token_labels([span(0, 2)], offsets, "x" * 10)
    assert all(part in str(error.value) for part in named)


# ── bounds and ties of the fuzzy tier ─────────────────────────────────────────────────────────────


def test_overlapping_matches_are_one_and_distant_ones_several():
    assert fuzzy._apart([(0, 10), (1, 10), (2, 11)], 10, 1) == [(0, 10)]
    assert fuzzy._apart([(0, 9), (1, 11)], 10, 1) == [(1, 11)]
    assert fuzzy._apart([(5, 14), (6, 16)], 10, 1) == [(6, 16)]
    assert fuzzy._apart([(0, 10), (3, 13)], 10, 1) == [(0, 10), (3, 13)]
    assert fuzzy._apart([(5, 15), (7, 17)], 10, 1) == [(5, 15)]
    assert fuzzy._apart([(5, 15), (8, 18)], 10, 1) == [(5, 15), (8, 18)]
    assert fuzzy._apart([(0, 2), (2, 4)], 2, 1) == [(0, 2), (2, 4)]
    assert fuzzy._apart([(20, 31), (20, 29), (21, 31)], 10, 2) == [(21, 31)]


def test_the_bounds_of_the_search():
    text = "a" * (fuzzy.MAX_LENGTH - 1) + "b"
    assert nearest(text, text, 0.1) == [(0, fuzzy.MAX_LENGTH)]
    assert nearest(text + "b", text + "b", 0.1) is None
    assert nearest("", "abc", 0.5) is None
    assert nearest("abc", "abc", 0.1) is None
    word = "abcdefghij"
    assert len(nearest(word, f"{word} -- " * fuzzy.MAX_BEST, 0.1)) == fuzzy.MAX_BEST
    assert nearest(word, f"{word} -- " * (fuzzy.MAX_BEST + 1), 0.1) == []
    # One copy is in the first window and none in the last.
    assert nearest(word, f"abcdefghij {'-' * 40} abcdeXXhij", 0.2) == [(0, 10)]
    assert nearest("1 plus 2 and 3", "1 plus 4 and 3", 0.3) is None


def test_edits_between_two_texts():
    for one, other, edits in (
        ("", "", 0),
        ("", "ab", 2),
        ("abc", "", 3),
        ("kitten", "sitting", 3),
        ("a", "b", 1),
    ):
        assert levenshtein(one, other) == levenshtein(other, one) == edits
    assert levenshtein("ab", "xxab") == 2


# ── verbatim quotes ───────────────────────────────────────────────────────────────────────────────


def test_a_verbatim_quote_has_a_span():
    found = find_quote("no, no, yes", "yes", "good", phrase="Right.")
    assert found == Span(start=8, end=11, quote="yes", label="good", phrase="Right.")
    found = find_quote("no, no, yes", "no", "poor", phrase="Wrong.", start=4)
    assert found == Span(start=4, end=6, quote="no", label="poor", phrase="Wrong.")
    assert find_quote("no", "no", "poor", start=0).start == 0


@pytest.mark.parametrize(
    ("quote", "start", "named"),
    [
        ("no", None, ["'no'", "more than once", '"start"']),
        ("", None, ["empty"]),
        ("", 0, ["character 0"]),
        ("no", 1, ["'no'", "character 1"]),
        ("no", -3, ["character -3"]),
        ("YES it is", None, ["'YES it is'", "upper and lower case"]),
        ("maybe", None, ["'maybe'", "character by character"]),
        ("m" * 60, None, [repr("m" * 60)]),
        ("m" * 61, None, [repr("m" * 59 + "…")]),
    ],
)
def test_a_quote_that_is_not_found_is_named_with_the_cure(quote, start, named):
    with pytest.raises(QuoteError) as error:
        find_quote("no, no, yes it is", quote, "good", start=start)
    assert all(part in str(error.value) for part in named)
