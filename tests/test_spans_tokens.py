"""Sampled ids ⇄ characters: exact for every tokenizer family, and for any ids at all."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from didact.errors import DataError
from didact.spans import token_labels, token_offsets, turn_offsets
from didact.spans.tokens import _by_pieces, _by_prefixes, _characters, _decode
from didact.types import Span, Turn
from tests.tokenizers_tiny import FAMILIES, LINES, Characters, HalfBytes, empty_tables, tokenizer  # noqa: F401

HARD = [
    "", " ", "\r\n", "a\r\nb\r\n", "é", "e\u0301", "a\u0323\u0302b", "🙂", "👩\u200d🚀 👍🏽", "שלום world",
    "\u202eabc\u202c", "€€€", "\ufeffx", "\x00\x01", "  two  ", "\U0001f3f4\U000e0067", "한글 각", "\u2028",
]  # fmt: skip
texts = st.one_of(
    st.sampled_from(HARD + LINES),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text("ab 42.,\r\n é€🙂ש\u0301\u200d", max_size=40),
)
families = st.sampled_from(sorted(FAMILIES))
LOSSLESS = ("byte-level BPE", "bytes", "unigram with byte fallback")


def pairs(offsets):
    """An array of offsets as tuples, which can be compared."""
    assert offsets.shape == (len(offsets), 2)
    return [tuple(pair) for pair in offsets.tolist()]


def check_partition(offsets, text):
    """Each id begins where the one before ended, or inside its last character; together they are the text."""
    at = 0
    for first, last in offsets:
        assert 0 <= first <= last <= len(text)
        if first == last:
            continue
        assert first in (at, at - 1)
        assert last >= at
        at = last
    assert at == len(text)


@given(families, st.data())
def test_any_sequence_of_ids_has_exact_offsets(family, data):
    tok = tokenizer(family)
    ids = data.draw(st.lists(st.integers(0, len(tok) + 3), max_size=30))
    text = _decode(tok, ids)
    offsets = token_offsets(ids, tok, text)
    assert len(offsets) == len(ids)
    check_partition(offsets, text)
    assert pairs(token_offsets(ids, tok)) == pairs(offsets)
    # Not by the slow way: the decoder of every family is understood.
    found = _by_pieces(ids, tok)
    assert found is not None
    assert (found[0], pairs(found[1])) == (text, pairs(offsets))


@given(families, texts)
def test_text_to_ids_to_text(family, text):
    tok = tokenizer(family)
    ids = [*tok.encode(text, add_special_tokens=False), tok.eos_token_id]
    decoded = _decode(tok, ids)
    if family in LOSSLESS:
        assert decoded == text
    offsets = token_offsets(ids, tok, decoded)
    check_partition(offsets, decoded)
    assert offsets[-1][0] == offsets[-1][1]


@given(families, texts, st.data())
def test_a_span_goes_to_tokens_and_back_to_its_text(family, text, data):
    tok = tokenizer(family)
    ids = tok.encode(text, add_special_tokens=False)
    decoded = _decode(tok, ids)
    if not decoded:
        return
    start = data.draw(st.integers(0, len(decoded) - 1))
    end = data.draw(st.integers(start + 1, len(decoded)))
    span = Span(start=start, end=end, quote=decoded[start:end], label="poor")
    offsets = token_offsets(ids, tok, decoded)
    # Every token that touches it: these hold its text, and nothing beyond the tokens at its two ends.
    touched = token_labels([span], offsets, decoded, min_overlap=0)
    inside = [o for o, d in zip(offsets, touched, strict=True) if d]
    visible = [i for i in range(start, end) if not decoded[i].isspace()]
    covered = {i for first, last in inside for i in range(first, last)}
    assert set(visible) <= covered
    for first, last in inside:
        assert first < end
        assert last > start
    # Only tokens that lie in it whole: their text is a part of the quote.
    whole = token_labels([span], offsets, decoded, min_overlap=1)
    for (first, last), d in zip(offsets, whole, strict=True):
        shown = decoded[first:last].strip() or decoded[first:last]
        assert not d or shown in span.quote


@given(texts, st.data())
def test_a_span_on_token_boundaries_comes_back_exactly(text, data):
    tok = tokenizer("byte-level BPE")
    ids = tok.encode(text, add_special_tokens=False)
    offsets = token_offsets(ids, tok, text)
    bounds = sorted({0, len(text), *(o[0] for o in offsets), *(o[1] for o in offsets)})
    start, end = sorted((data.draw(st.sampled_from(bounds)), data.draw(st.sampled_from(bounds))))
    if start == end or any(a < start < b or a < end < b for a, b in offsets):
        return
    labels = token_labels(
        [Span(start=start, end=end, quote=text[start:end], label="good")], offsets, text, min_overlap=1
    )
    found = [o for o, d in zip(offsets, labels, strict=True) if d > 0]
    assert text[found[0][0] : found[-1][1]] == text[start:end]


@given(families, st.data())
def test_decoding_prefixes_gives_the_same_where_no_character_is_torn(family, data):
    tok = tokenizer(family)
    text = data.draw(st.text("abc 42.,", max_size=20))
    ids = tok.encode(text, add_special_tokens=False)
    whole = _decode(tok, ids)
    assert pairs(_by_prefixes(ids, tok, whole)) == pairs(token_offsets(ids, tok, whole))


@given(st.binary(max_size=40))
@example(b"\xed\xa0\x80")
@example(b"\xf0\x9f\x98")
@example(b"a\xe2\x82b\xc0\xaf\xf5")
def test_broken_bytes_are_counted_as_they_are_decoded(data):
    text, char_of = _characters(data)
    assert text == data.decode("utf-8", "replace")
    assert len(char_of) == len(data) + 1
    assert char_of[-1] == len(text)
    steps = [b - a for a, b in zip(char_of.tolist(), char_of[1:].tolist(), strict=False)]
    assert all(0 <= step <= 1 for step in steps)
    tok = tokenizer("bytes")
    ids = [tok.convert_tokens_to_ids(c) for c in _byte_tokens(data)]
    assert _decode(tok, ids) == text
    check_partition(token_offsets(ids, tok, text), text)


def _byte_tokens(data):
    from didact.spans.tokens import _BYTE_OF

    names = {b: c for c, b in _BYTE_OF.items()}
    return [names[b] for b in data]


def test_a_character_over_four_tokens_belongs_to_each_of_them():
    tok = tokenizer("bytes")
    ids = tok.encode("a🙂é", add_special_tokens=False)
    assert pairs(token_offsets(ids, tok, "a🙂é")) == [(0, 1), *[(1, 2)] * 4, *[(2, 3)] * 2]
    half = token_offsets(ids[:3], tok)
    assert pairs(half) == [(0, 1), (1, 2), (1, 2)]  # "a�": two bytes of four


def test_a_token_may_end_one_character_and_begin_another():
    backend = Tokenizer(models.BPE(vocab={"Ã©Ã": 0, "©": 1, "<|end|>": 2}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    assert backend.decode([0, 1]) == "éé"
    assert pairs(token_offsets([0, 1], backend, "éé")) == [(0, 2), (1, 2)]


def test_special_and_unknown_ids_are_zero_width_wherever_they_stand():
    tok = tokenizer("byte-level BPE")
    a, end, user = tok.encode("é")[0], tok.eos_token_id, tok.convert_tokens_to_ids("<|user|>")
    ids = [user, *tok.encode("x"), end, *tok.encode("y"), 10_000, end]
    assert pairs(token_offsets(ids, tok)) == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 2)]
    assert a is not None


def test_an_id_without_text_inside_a_character_has_no_width():
    tok = tokenizer("bytes")
    a, b = tok.encode("é", add_special_tokens=False)
    offsets = token_offsets([a, 400, b], tok, "é")
    assert pairs(offsets) == [(0, 1), (0, 0), (0, 1)]
    span = Span(start=0, end=1, quote="é", label="poor")
    assert token_labels([span], offsets, "é").tolist() == [-1, 0, -1]


@pytest.mark.parametrize("family", FAMILIES)
@given(texts, st.data())
def test_ids_without_text_change_nothing_wherever_they_stand(family, text, data):
    tok = tokenizer(family)
    plain = tok.encode(text, add_special_tokens=False)
    empty = st.sampled_from([len(tok) + 7, 100_000, tok.eos_token_id, tok.convert_tokens_to_ids("<|user|>")])
    kept = data.draw(st.lists(st.booleans(), min_size=len(plain), max_size=len(plain) + 6))
    ids, own = [], []
    rest = iter(plain)
    for is_text in kept:
        token = next(rest, None) if is_text else data.draw(empty)
        if token is not None:
            own += [len(ids)] if is_text else []
            ids.append(token)
    for token in rest:
        own.append(len(ids))
        ids.append(token)
    whole = _decode(tok, plain)
    offsets = token_offsets(ids, tok, whole)
    assert pairs(offsets[own]) == pairs(token_offsets(plain, tok, whole))
    others = np.delete(offsets, own, axis=0)
    assert (others[:, 0] == others[:, 1]).all()
    assert (np.diff(offsets[:, 0]) >= 0).all()
    slow = _by_prefixes(ids, tok, whole)
    assert (slow[np.isin(np.arange(len(ids)), own, invert=True)] == others).all() or "�" in whole
    if whole:
        span = Span(start=0, end=len(whole), quote=whole, label="good")
        labels = token_labels([span], offsets, whole)
        assert labels.tolist() == [float(first < last) for first, last in offsets]


def test_special_ids_do_not_tear_a_character_apart():
    for family in ("bytes", "unigram with byte fallback"):
        tok = tokenizer(family)
        ids = tok.encode("€", add_special_tokens=False)
        ids = [*ids[:-1], tok.eos_token_id, ids[-1]]
        text = _decode(tok, ids)
        assert text == "€"
        offsets = token_offsets(ids, tok, text)
        assert pairs(offsets)[-1] == (0, 1)
        assert offsets[-2][0] == offsets[-2][1]


def test_byte_tokens_that_are_no_text_are_one_mark_each():
    tok = tokenizer("unigram with byte fallback")
    ids = [tok.convert_tokens_to_ids(t) for t in ("a", "<0xE2>", "<0x82>", "b", "<0xC3>", "<0xA9>")]
    assert _decode(tok, ids) == "a��bé"
    assert pairs(token_offsets(ids, tok)) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (4, 5)]


def test_the_first_space_is_stripped_once():
    tok = tokenizer("unigram with byte fallback")
    space, word = tok.convert_tokens_to_ids("▁"), tok.convert_tokens_to_ids("▁answer")
    assert pairs(token_offsets([space, space, word], tok)) == [(0, 0), (0, 1), (1, 8)]
    assert pairs(token_offsets([tok.eos_token_id, word], tok)) == [(0, 0), (0, 6)]


def test_an_added_token_that_is_not_special_is_text():
    for family in ("byte-level BPE", "unigram with byte fallback"):
        tok = tokenizer(family)
        ids = tok.encode("x<think é>y", add_special_tokens=False)
        text = _decode(tok, ids)
        assert "think" in text
        check_partition(token_offsets(ids, tok, text), text)


@pytest.mark.parametrize("text", HARD)
def test_a_tokenizer_of_which_nothing_is_known_is_decoded_prefix_by_prefix(text):
    ids = [*map(ord, text.replace("\x00", "")), 0]
    text = text.replace("\x00", "")
    assert pairs(token_offsets(ids, Characters(), text)) == [
        *((i, i + 1) for i in range(len(text))),
        (len(text),) * 2,
    ]
    raw = text.encode()
    offsets = token_offsets([*raw, 256], HalfBytes(), text)
    assert pairs(offsets[:-1]) == [
        (len(raw[:i].decode(errors="ignore")), len(raw[:i].decode(errors="ignore")) + 1)
        for i in range(len(raw))
    ]
    assert pairs(offsets)[-1] == (len(text), len(text))


def test_a_decoder_of_another_kind_is_decoded_prefix_by_prefix():
    backend = Tokenizer(models.BPE(vocab={"he": 0, "llo</w>": 1, "you</w>": 2}, merges=[]))
    backend.decoder = decoders.BPEDecoder()
    assert backend.decode([0, 1, 2]) == "hello you"
    assert _by_pieces([0, 1, 2], backend) is None
    assert pairs(token_offsets([0, 1, 2], backend, "hello you")) == [(0, 2), (2, 5), (5, 9)]


def test_without_a_decoder_pieces_stand_between_spaces():
    backend = Tokenizer(models.WordLevel({"a": 0, "bc": 1}, unk_token="a"))
    assert pairs(token_offsets([0, 1, 0], backend)) == [(0, 1), (1, 4), (4, 6)]


# ── a turn ────────────────────────────────────────────────────────────────────────────────────────────


def sampled(text, ids, stop):
    return Turn(prompt_ids=(1,), completion_ids=ids, logprobs=None, text=text, stop_reason=stop)


def test_a_turn_ends_before_its_stop_string():
    tok = tokenizer("bytes")
    ids = tok.encode("7. STOP", add_special_tokens=False)
    offsets = turn_offsets(sampled("7.", ids, "stop"), tok)
    assert pairs(offsets) == [(0, 1), (1, 2), *[(2, 2)] * 5]
    with pytest.raises(DataError, match="' STOP'"):
        turn_offsets(sampled("7.", ids, "length"), tok)


def test_text_that_the_ids_do_not_decode_to_is_an_error():
    tok = tokenizer("bytes")
    ids = tok.encode("is 7", add_special_tokens=False)
    for text in ("is 8", "is", "is 77", "Is 7", ""):
        with pytest.raises(DataError, match="decode to 4 characters"):
            token_offsets(ids, tok, text)
    with pytest.raises(DataError, match="as it was decoded"):
        token_offsets(ids, tok, "is 8", cut=True)


def test_no_ids_have_no_offsets():
    assert pairs(token_offsets([], tokenizer("bytes"), "")) == []
    assert pairs(token_offsets([], Characters(), "")) == []


def test_tables_do_not_keep_a_tokenizer_alive():
    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    gone = weakref.ref(backend)
    token_offsets([0], backend)
    del backend
    gc.collect()
    assert gone() is None


def test_tokens_that_were_added_later_are_not_missed():
    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    assert pairs(token_offsets([0, 1], backend)) == [(0, 1), (1, 1)]
    backend.add_special_tokens(["<s>"])
    backend.add_tokens(["new"])
    assert backend.decode([0, 1, 2, 0]) == "a new a"
    assert pairs(token_offsets([0, 1, 2, 0], backend)) == [(0, 1), (1, 1), (1, 5), (5, 7)]
