"""Quotes → places: what is found is what was said, and what is not sure is counted, never guessed."""

import unicodedata
from itertools import permutations
from unittest import mock

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from didact.spans import MatchPolicy, Quote, SpanReport, locate, match
from didact.spans.fuzzy import nearest
from didact.spans.match import MAX_PLACES
from didact.spans.text_normalization import (
    _by_runs,
    _collapse_space,
    _context_free_form,
    codes_of,
    normalize,
    normalize_with_offsets,
    segments,
)
from tests.tokenizers_tiny import empty_tables  # noqa: F401

anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
tricky = st.text("aAéE\u0301\u0323 \r\n\t\u00a0’“—ﬁ①ß½ｶ\uff9e각\u1100\u1161\u200b\u202e¨🙂", max_size=30)
texts = st.one_of(anything, tricky, st.text("ab ", max_size=30))


def one(quote, text, policy=MatchPolicy(), **more):  # noqa: B008
    (placed,) = locate([Quote(quote, "poor", **more)], text, policy).matches
    return placed


def places(placed):
    return [(s.start, s.end) for s in placed.spans]


# ── the form and the way back ─────────────────────────────────────────────────────────────────────────


@given(texts)
@example("b\u0302\u0323")  # two marks change places, and the second joins the letter
@example("\u1100\u1161\u11a8")
def test_pieces_have_the_nfkc_of_the_whole(text):
    pieces = segments(text)
    assert "".join(text[a:b] for a, b in pieces) == text
    assert all(a < b for a, b in pieces)
    written = "".join(unicodedata.normalize("NFKC", text[a:b]) for a, b in pieces)
    assert written == unicodedata.normalize("NFKC", text)


@given(texts)
@example(" \r\u0300")  # a mark upon white space
def test_the_map_back_is_exact(text):
    form = normalize_with_offsets(text)
    assert len(form.text) == len(form.first) == len(form.last)
    assert form.first.tolist() == sorted(form.first)
    assert form.last.tolist() == sorted(form.last)
    for i, (a, b) in enumerate(zip(form.first, form.last, strict=True)):
        assert 0 <= a < b <= len(text)
        assert normalize_with_offsets(text[a:b]).text.find(form.text[i]) >= 0
    # A stretch of the form that can be mapped back comes from a stretch with that form.
    for start in range(len(form.text)):
        for end in range(start + 1, min(start + 5, len(form.text)) + 1):
            span = form.span(start, end)
            if span is not None:
                assert normalize_with_offsets(text[slice(*span)]).text == form.text[start:end]


@given(texts)
def test_a_form_has_single_spaces_and_nothing_unseen(text):
    form = normalize_with_offsets(text).text
    assert "  " not in form
    assert not any(unicodedata.category(c) == "Cf" for c in form)
    assert normalize_with_offsets(form + "\n\nx").text.endswith(" x")


@given(st.text("ab \r\n\t\x0b\x0c\x1cXY'\"", max_size=40))
def test_what_stands_beyond_ascii_does_not_change_what_stands_before(text):
    short, long = normalize_with_offsets(text), normalize_with_offsets(text + "é")
    assert short.text == long.text[: len(short.text)]
    assert long.first[: len(short.first)].tolist() == short.first.tolist()
    assert long.last[: len(short.last)].tolist() == short.last.tolist()


@given(texts | st.text("aé €–’½שلа你。🙂\u00a0", max_size=30))
def test_the_short_way_says_what_the_long_way_says(text):
    form, first, last = _by_runs(text)
    short, long = normalize_with_offsets(text), _collapse_space(codes_of(form), first, last)
    assert short.text == long.text
    assert short.first.tolist() == long.first.tolist()
    assert short.last.tolist() == long.last.tolist()


def test_a_simple_character_never_joins_what_stands_before_it():
    simple = [c for c in map(chr, range(0x80, 0x20000)) if _context_free_form(c)]
    assert len(simple) > 20_000
    for before in "aAoשأ가カ<":
        for c in simple[:3000] + simple[3000::17]:
            assert unicodedata.normalize("NFKC", before + c) == before + unicodedata.normalize("NFKC", c)


def test_what_the_form_makes_alike():
    alike = [
        ("It’s “5”", "It's \"5\""), ("a\r\n\tb", "a b"), ("a\u00a0b", "a b"), ("e\u0301", "é"),
        ("ﬁve", "five"),
        ("x – y — z − 1", "x - y - z - 1"), ("¨ ¨", "¨ ¨"),
        ("so…", "so..."), ("²", "2"), ("a\u200bb\ufeff", "ab"),
        ("ｶ\uff9e", "ガ"), ("\u1100\u1161\u11a8", "각"), ("\u202eש\u202c", "ש"),
    ]  # fmt: skip
    for a, b in alike:
        assert normalize_with_offsets(a).text == normalize_with_offsets(b).text


@given(texts)
@example("")
@example("İẞΣ\0ǰ")  # characters that become two or three
@example("Ａ𐐀ꭰ\ud800\U0010ffff")  # far up: upper case, half a character, the last of all
def test_folded_case_maps_to_the_original(text):
    form = normalize_with_offsets(text)
    folded = form.caseless
    assert folded.text == form.text.casefold()
    assert len(folded.text) == len(folded.first) == len(folded.last)
    at = 0
    for c, first, last in zip(form.text, form.first, form.last, strict=True):
        for _ in c.casefold():
            assert (folded.first[at], folded.last[at]) == (first, last)
            at += 1


@pytest.mark.parametrize(
    ("quote", "answer", "found"),
    [
        ("DIE STRASSE IST", "Hier: die Straße ist nass.", "die Straße ist"),
        ("die straße ist", "Hier: DIE STRASSE IST NASS.", "DIE STRASSE IST"),
        ("die straße", "So: DIE STRAẞE.", "DIE STRAẞE"),
        ("IN İSTANBUL", "He lives in i̇stanbul now", "in i̇stanbul"),
        ("İSTANBUL", "in i̇stanbul", "i̇stanbul"),
        ("the FILE office", "see the ﬁle oﬃce.", "the ﬁle oﬃce"),
        ("ŉ BOEK LEES", "hy sal ŉ boek lees", "ŉ boek lees"),
        ("Ὀδυσσεύς ἐστιν", "ὈΔΥΣΣΕΎΣ ἘΣΤΙΝ.", "ὈΔΥΣΣΕΎΣ ἘΣΤΙΝ"),
    ],
)
def test_case_that_changes_the_length_is_followed(quote, answer, found):
    placed = one(quote, answer)
    (span,) = placed.spans
    assert placed.tier == "normalised"
    assert span.quote == found == answer[span.start : span.end]


def test_half_of_a_folded_character_is_no_match():
    assert one("DIE STRAS", "die Straße", MatchPolicy(fuzzy=False)).reason == "absent"


@given(st.text("aßSẞ İiﬁǰŉΣσ.", min_size=4, max_size=20), st.data())
def test_a_quote_in_other_case_comes_back_as_the_answers_characters(text, data):
    start = data.draw(st.integers(0, len(text) - 3))
    end = data.draw(st.integers(start + 3, len(text)))
    quote = data.draw(st.sampled_from([str.upper, str.casefold, str.lower]))(text[start:end])
    form = normalize_with_offsets(text)
    for span in one(quote, text, MatchPolicy(repeats="all", fuzzy=False)).spans:
        assert span.quote == text[span.start : span.end]
        assert normalize(span.quote).casefold() == normalize(quote).casefold()
        assert span.start in form.first


# ── tiers ─────────────────────────────────────────────────────────────────────────────────────────────


@given(texts, st.data())
def test_any_stretch_of_an_answer_is_found_where_it_stands(text, data):
    assume(text.strip())
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    quote = text[start:end]
    assume(quote.strip())
    every = one(quote, text, MatchPolicy(repeats="all"))
    assert every.tier == "exact"
    assert (start, end) in places(every)
    assert all(s.quote == quote == text[s.start : s.end] for s in every.spans)
    unique = one(quote, text)
    if len(every.spans) == 1:
        assert places(unique) == [(start, end)]
    else:
        assert (unique.tier, unique.spans, unique.reason) == ("unaligned", (), "ambiguous")
    number = places(every).index((start, end)) + 1
    by_index = one(quote, text, MatchPolicy(repeats="by_index"), occurrence=number)
    assert places(by_index) == [(start, end)]
    assert places(one(quote, text, MatchPolicy(repeats="first"))) == places(every)[:1]


@pytest.mark.parametrize(
    ("quote", "text", "found"),
    [
        ("it's 5", "So it’s  5.", "it’s  5"),
        ("first line second", "The first line\r\nsecond.", "first line\r\nsecond"),
        ("first\nline", "The first line.", "first line"),
        ("“quoted”", 'a "quoted" word', '"quoted"'),
        ("THE SUM", "So the sum is", "the sum"),
        ("five", "It is ﬁve.", "ﬁve"),
        ("café au", "un cafe\u0301 au lait", "cafe\u0301 au"),
        ("naïve", "a nai\u0308ve b", "nai\u0308ve"),
        ("x - 1", "so x − 1 is", "x − 1"),
        (" the sum ", "(the sum)", "the sum"),
        ("ab", "a\u200bb", "a\u200bb"),
        ("שלום", "\u202bש\u200fלום\u202c x", "ש\u200fלום"),
    ],
)
def test_a_normalised_quote_is_found_with_the_answers_own_characters(quote, text, found):
    placed = one(quote, text)
    assert placed.tier == "normalised"
    assert [s.quote for s in placed.spans] == [found]
    ((start, end),) = places(placed)
    assert text[start:end] == found


@pytest.mark.parametrize(
    ("quote", "text"),
    [
        ("N", "n = 3"),  # a short name in another case is another name
        ("f", "ﬁve"),  # half a ligature
        ("i", "ﬁve"),
        ("5", "½ of it"),
        ("", "abc"), (" \n", "a \n b"), ("\u200b", "ab"), ("…", "ab"),
        ("absent", "not here"), ("abcd", "abc"),
        ("is not 7 but 8", "is not 7 but 9"),  # another number is another statement
        ("short word", "shirt word"),  # too short for a near copy
    ],
)  # fmt: skip
def test_what_is_not_sure_is_not_placed(quote, text):
    placed = one(quote, text)
    assert (placed.tier, placed.spans) == ("unaligned", ())
    assert placed.reason == ("blank" if not quote.strip() else "absent")


def test_a_surer_tier_is_not_left_for_more_places():
    text = "The sum, the sum, the sum."
    assert places(one("The sum", text, MatchPolicy(repeats="all"))) == [(0, 7)]
    every = one("the  sum", text, MatchPolicy(repeats="all"))
    assert (every.tier, len(every.spans)) == ("normalised", 2)
    assert one("the  sum", text).reason == "ambiguous"


def test_places_may_overlap():
    assert one("aa", "aaa").reason == "ambiguous"
    assert places(one("aa", "aaa", MatchPolicy(repeats="all"))) == [(0, 2), (1, 3)]


def test_the_index_counts_from_one_and_must_be_there():
    policy = MatchPolicy(repeats="by_index")
    text = "no, no, no"
    assert [places(one("no", text, policy, occurrence=n)) for n in (1, 2, 3)] == [
        [(0, 2)],
        [(4, 6)],
        [(8, 10)],
    ]
    for bad in (0, 4, -1, 10**9):
        assert one("no", text, policy, occurrence=bad).reason == "index"
    assert one("no", text, policy).reason == "ambiguous"
    assert one("no", "no.", policy, occurrence=2).reason == "index"
    assert places(one("no", "no.", policy)) == [(0, 2)]


def test_a_left_context_chooses_among_equal_places_only():
    text = "First x = 1. Then x = 1."
    assert places(one("x = 1", text, before="then ")) == [(18, 23)]
    assert places(one("x = 1", text, before="First")) == [(6, 11)]
    assert one("x = 1", text, before="Last").reason == "ambiguous"
    assert places(one("Then", text, before="something else")) == [(13, 17)]
    every = one("x = 1", text + " Then x = 1", MatchPolicy(repeats="by_index"), before="Then", occurrence=2)
    assert places(every) == [(30, 35)]


def test_a_quote_that_stands_everywhere_says_nothing():
    text = "a" * (MAX_PLACES + 5)
    for repeats in ("all", "first", "by_index"):
        assert one("a", text, MatchPolicy(repeats=repeats), occurrence=1).reason == "ambiguous"


# ── near copies ───────────────────────────────────────────────────────────────────────────────────────


def distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def slow_nearest(quote, text, share):
    """(edits, places) by trying every stretch."""
    found = {}
    for a in range(len(text) + 1):
        for b in range(a, len(text) + 1):
            edits = distance(quote, text[a:b])
            if edits <= int(share * len(quote) + 1e-9):
                found.setdefault(edits, []).append((a, b))
    return min(found.items()) if found else None


letters = st.text("abc", min_size=10, max_size=14)


@given(letters, st.text("abc", max_size=24), st.sampled_from([0.1, 0.2, 0.3]))
@example("abcabcabca", "abcabcabcc abcabcabcb", 0.1)
def test_the_nearest_copy_is_that_of_trying_everything(quote, text, share):
    slow, fast = slow_nearest(quote, text, share), nearest(quote, text, share)
    if slow is None:
        assert fast is None
        return
    _, stretches = slow
    assert fast is not None
    assert set(fast) <= set(stretches)
    # Every equally near stretch overlaps one that was named, so one name means one place.
    for a, b in stretches:
        assert any(a < d and c < b for c, d in fast)


@given(st.text("abcdefghij klm", min_size=30, max_size=60), st.data())
def test_a_few_typing_mistakes_are_forgiven(text, data):
    start = data.draw(st.integers(0, 8))
    quote = text[start : start + 20]
    assume(len(quote.strip()) == 20)
    at = data.draw(st.integers(1, 18))
    damaged = data.draw(st.sampled_from([quote[:at] + quote[at + 1 :], quote[:at] + "X" + quote[at:]]))
    placed = one(damaged, text)
    if placed.tier == "fuzzy":
        (s,) = placed.spans
        assert distance(damaged.casefold(), s.quote.casefold()) <= 2
        assert s.quote == text[s.start : s.end]
    else:  # then there is a second place as near, or a surer one
        assert placed.reason == "ambiguous" or placed.tier in ("exact", "normalised")


def test_a_near_copy_is_placed():
    text = "We know that the derivative of the function is positive on the interval."
    placed = one("the derivative of a function is positive", text)
    assert placed.tier == "fuzzy"
    placed = one("the derivate of the function is positive", text)
    assert (placed.tier, [s.quote for s in placed.spans]) == (
        "fuzzy",
        ["the derivative of the function is positive"],
    )


def test_two_equally_near_copies_are_none():
    text = "the quick brown fax. The quick brown fix."
    placed = one("the quick brown fox", text, MatchPolicy(repeats="all"))
    assert (placed.tier, placed.reason) == ("unaligned", "ambiguous")
    assert places(one("the quick brown fox", text, before="fax. ")) == [(21, 40)]
    nearer = one("the quick brown fox", "the quick brown fx. The qick brwn fox.")
    assert [s.quote for s in nearer.spans] == ["the quick brown fx"]
    many = one("abababababababx", "ab" * 60)
    assert (many.tier, many.reason) == ("unaligned", "ambiguous")


def test_unrelated_phrases_are_never_placed():
    text = (
        "Photosynthesis turns light into chemical energy. Plants take in water and carbon dioxide, and with "
        "the light of the sun they make sugar and give off oxygen, on which nearly all animals depend."
    )
    phrases = [
        "the mitochondria is the powerhouse", "respiration happens at night only", "plants eat soil to grow",
        "the answer does not cite a source", "carbon monoxide and nitrogen", "sugar is made from oxygen",
        "water is not necessary for this", "animals depend on the moon light",
        "chlorophyll reflects green light",
        "energy cannot be created or destroyed",
    ]  # fmt: skip
    found = locate([Quote(p, "poor") for p in phrases], text)
    assert found.spans == ()
    assert [p.reason for p in found.matches] == ["absent"] * 10


def test_the_bounds_hold(monkeypatch):
    text = "abcdefghijklmnopqrstuvwxyz"
    quote = "abcdefghijklmnopqrXXXvwxyz"
    assert one(quote, text).tier == "unaligned"
    monkeypatch.setattr(match, "MIN_RATIO", 0.85)
    assert one(quote, text).tier == "fuzzy"
    assert one(quote, text, MatchPolicy(fuzzy=False)).tier == "unaligned"
    assert one("ABCDEFGH", text).tier == "normalised"
    monkeypatch.setattr(match, "MIN_CASELESS", 9)
    assert one("ABCDEFGH", text).tier == "unaligned"


# ── many quotes ───────────────────────────────────────────────────────────────────────────────────────

quotes = st.builds(
    Quote,
    st.text("ab .é’", max_size=6),
    st.sampled_from(["good", "poor"]),
    phrase=st.none() | st.sampled_from(["p", "q"]),
    occurrence=st.none() | st.integers(-1, 3),
    before=st.none() | st.text("ab", max_size=2),
)
policies = st.builds(
    MatchPolicy,
    repeats=st.sampled_from(["unique_only", "all", "first", "by_index"]),
    fuzzy=st.booleans(),
)
bounds = st.fixed_dictionaries(
    {"MIN_LENGTH": st.integers(1, 12), "MIN_RATIO": st.sampled_from([0.5, 0.75, 0.9, 1.0])}
)


@given(st.lists(quotes, max_size=4), st.text("ab .é'", max_size=20), policies, bounds)
def test_the_order_of_quotes_does_not_matter_and_every_span_quotes_the_answer(asked, text, policy, limits):
    with mock.patch.multiple(match, **limits):
        check_order_and_quotes(asked, text, policy)


def check_order_and_quotes(asked, text, policy):
    found = locate(asked, text, policy)
    assert [p.quote for p in found.matches] == asked
    for p in found.matches:
        assert (p.tier == "unaligned") == (p.spans == ()) == (p.reason is not None)
        assert all(s.quote == text[s.start : s.end] for s in p.spans)
        assert all((s.label, s.phrase) == (p.quote.label, p.quote.phrase) for s in p.spans)
    for order in permutations(asked):
        assert locate(order, text, policy).spans == found.spans
    doubled = locate([*asked, *asked], text, policy)
    assert doubled.spans == found.spans


@given(st.lists(st.tuples(texts, texts), max_size=5))
def test_nothing_that_is_quoted_can_break_it(pairs):
    for quote, text in pairs:
        placed = one(quote, text)
        report = SpanReport.of(locate([placed.quote], text))
        assert report.quotes == 1
        assert all(s.quote == text[s.start : s.end] for s in placed.spans)


@given(st.text(max_size=20), st.text(max_size=40))
def test_half_surrogates_pass_through(quote, text):
    assert locate([Quote(quote, "good")], text).matches


# ── the report ────────────────────────────────────────────────────────────────────────────────────────


def test_a_report_counts_and_adds_up():
    text = "The sum is 7, the sum is off."
    asked = [
        Quote("is 7", "poor"), Quote("THE SUM IS 7", "good"), Quote("sum", "poor"), Quote("nine", "good"),
        Quote("the summ is off", "good"),
    ]  # fmt: skip
    found = locate(asked, text)
    report = SpanReport.of(found)
    assert (report.answers, report.quotes, report.ambiguous, report.good, report.poor) == (1, 5, 1, 2, 1)
    assert (report.exact, report.normalised, report.fuzzy, report.unaligned) == (1, 1, 1, 2)
    both = report + SpanReport.of(locate([], "ab"))
    assert (both.answers, both.quotes, both.unaligned) == (2, 5, 2)
    assert str(report).startswith("5 quotes about 1 answers: 1 exact, 1 normalised, 1 fuzzy, 2 unaligned")
