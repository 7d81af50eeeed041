"""The characters that each sampled id encodes.

A tokenizer's own offsets belong to a text that it encodes, and encoding the decoded answer may give other
ids than the sampled ones. So the ids are decoded one by one to bytes, and the bytes are mapped to characters:

    ids      15   903     7     44   2
    bytes    "is" E2 82   AC    "!"  (end)
    text     i s  €             !
    offsets  0,2  2,3     2,3   3,4  4,4

An id that encodes part of a character gets the whole character. Special ids, unknown ids and empty pieces are
zero-width, at the first character that is not complete before them. The bytes come from the serialised
decoder of a fast tokenizer; other decoders are called on each prefix, which is slower. Either way the pieces
must join to the answer's text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from didact.errors import DataError
from didact.types import Turn

Offsets: TypeAlias = NDArray[np.int64]
"""int64 [T, 2]: first character and one past the last of each sampled id, in Unicode code points."""
_REPLACEMENT = "�".encode()
_ANCHOR = "a"


def turn_offsets(turn: Turn, tokenizer: Any) -> Offsets:
    """`token_offsets` of a turn, whose text ends before a stop string.

    Raises:
        DataError: its ids do not decode to its text.
    """
    return token_offsets(turn.completion_ids, tokenizer, turn.text, cut=turn.stop_reason == "stop")


def token_offsets(
    ids: Sequence[int] | NDArray[np.int64], tokenizer: Any, text: str | None = None, *, cut: bool = False
) -> Offsets:
    """The character offsets of each sampled id.

    Args:
        ids: The sampled ids, [T], an end id included.
        tokenizer: A transformers tokenizer or a `tokenizers.Tokenizer`; of any other, only `decode` is used.
        text: The answer, decoded without special ids; decoded here by default.
        cut: The text may be a prefix, as before a stop string; ids beyond it are zero-width.

    Returns:
        int64 [T, 2], (first, one past the last). Ids that share a character overlap there. Starts never
        decrease, nor do the ends of ids that have a width.

    Raises:
        DataError: the ids do not decode to the text.
    """
    ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    found = _by_pieces(ids, tokenizer)
    wanted = text
    if wanted is None or cut or found is None or found[0] != wanted:
        decoded = _decode(tokenizer, ids)
        if found is None or found[0] != decoded:
            found = decoded, _by_prefixes(ids, tokenizer, decoded)
        wanted = decoded if wanted is None else wanted
    whole, offsets = found
    if whole == wanted:
        return offsets
    if cut and whole.startswith(wanted):
        return np.minimum(offsets, len(wanted))
    at = _common_prefix(whole, wanted)
    raise DataError(
        f"the sampled ids decode to {len(whole)} characters and the answer has {len(wanted)}: at character "
        f"{at} they decode to {whole[at : at + 20]!r}, the answer has {wanted[at : at + 20]!r}. Use the "
        "tokenizer that the ids come from, and the text as it was decoded"
    )


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decode as answers are decoded: without special ids and without cleaning up spaces."""
    plain = hasattr(tokenizer, "id_to_token")  # a `tokenizers.Tokenizer`, which never cleans up
    more = {} if plain else {"clean_up_tokenization_spaces": False}
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, **more))


def _backend(tokenizer: Any) -> Any | None:
    """The `tokenizers.Tokenizer` of a fast tokenizer, or None."""
    inside = getattr(tokenizer, "backend_tokenizer", None)
    if inside is None and hasattr(tokenizer, "id_to_token"):
        inside = tokenizer
    return inside if hasattr(inside, "get_added_tokens_decoder") else None


class _Vocabulary:
    """The bytes of every id in one array, for a byte-level decoder, which only joins them."""

    def __init__(self, backend: Any, special: set[str]) -> None:
        words = {i: token for token, i in backend.get_vocab().items() if token not in special}
        # The last entry stands for all unknown ids.
        pieces = [_token_bytes(words[i]) if i in words else b"" for i in range(max(words, default=0) + 2)]
        self.bytes = np.frombuffer(b"".join(pieces), np.uint8)
        self.lengths = np.array([len(p) for p in pieces], np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.begun = np.array([sum(byte & 0xC0 != 0x80 for byte in p) for p in pieces], np.int64)
        """The number of characters that begin in each id."""
        self.inside = np.array([p != b"" and p[0] & 0xC0 == 0x80 for p in pieces], np.int64)
        """1 if the id's first byte continues a character."""

    def decode(self, ids: NDArray[np.int64]) -> tuple[bytes, NDArray[np.int64]]:
        """The joined bytes of ids and the length of each, [T]."""
        lengths = self.lengths.take(ids, mode="clip")
        where = (self.starts.take(ids, mode="clip") + lengths - lengths.cumsum()).repeat(lengths)
        where += np.arange(len(where))
        return self.bytes.take(where, mode="clip").tobytes(), lengths

    def offsets(self, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> Offsets:
        """The character offsets of ids of these byte lengths that decode to valid UTF-8."""
        begun = self.begun.take(ids, mode="clip")
        offsets = np.empty((len(ids), 2), np.int64)
        offsets[:, 1] = last = begun.cumsum()
        offsets[:, 0] = last - begun - self.inside.take(ids, mode="clip")
        if np.count_nonzero(lengths[:-1]) < len(ids) - 1:
            wide, empty = np.flatnonzero(lengths), np.flatnonzero(lengths == 0)
            following = wide.searchsorted(empty)
            empty = empty[following < len(wide)]
            offsets[empty] = offsets[wide[following[: len(empty)]], :1]
        return offsets


class _Decoder:
    """Decodes ids of one tokenizer to bytes. Holds no reference to the tokenizer.

    Attributes:
        kind: "bytes" (byte level), "first" (the first token differs, as WordPiece) or "fallback"
            (SentencePiece with byte fallback); None for an unknown decoder.
    """

    def __init__(self, backend: Any) -> None:
        added = backend.get_added_tokens_decoder().values()
        self.special = {token.content for token in added if token.special}
        self.kind, self.steps = _kind(backend.decoder)
        self.vocabulary = _Vocabulary(backend, self.special) if self.kind == "bytes" else None
        self.rest: dict[int, bytes] = {}
        self.first: dict[int, bytes] = {}
        self.single: set[int] = set()
        """Byte-fallback ids."""

    def pieces(self, ids: Sequence[int], backend: Any) -> list[bytes]:
        """The bytes of each id in this sequence."""
        for i in set(ids).difference(self.rest):
            self.rest[i] = self._bytes(i, backend)
        found = [self.rest[i] for i in ids]
        if self.kind == "first":
            start = next((place for place, i in enumerate(ids) if i in self.first), None)
            if start is not None:  # the first id that is not skipped has no space before it
                found[start] = self.first[ids[start]]
        if self.kind == "fallback":
            if not self.single.isdisjoint(ids):
                self._replace_invalid(found, ids)
            for step in self.steps:
                if step["type"] == "Strip":
                    _strip(found, step["content"].encode(), step["start"], step["stop"])
        return found

    def _bytes(self, i: int, backend: Any) -> bytes:
        token = backend.id_to_token(i)
        if token is None or token in self.special:
            return b""
        if self.kind == "first":
            self.first[i] = _join(backend.decoder, [token]).encode()
            return _join(backend.decoder, [_ANCHOR, token])[len(_ANCHOR) :].encode()
        for step in self.steps:
            if step["type"] == "Replace":
                token = token.replace(step["pattern"]["String"], step["content"])
            if step["type"] == "ByteFallback" and len(token) == 6 and token[:3] == "<0x" and token[5] == ">":
                try:
                    byte = bytes([int(token[3:5], 16)])
                except ValueError:
                    continue
                self.single.add(i)
                return byte
        return str(token).encode()

    def _replace_invalid(self, found: list[bytes], ids: Sequence[int]) -> None:
        """Replace the bytes of invalid runs of fallback ids by "�". Skipped ids do not end a run."""
        run: list[int] = []
        for place in [*(p for p in range(len(ids)) if found[p]), len(ids)]:
            if place < len(ids) and ids[place] in self.single:
                run.append(place)
                continue
            try:
                b"".join(found[p] for p in run).decode()
            except UnicodeDecodeError:
                for p in run:
                    found[p] = _REPLACEMENT
            run = []


_DECODERS: WeakKeyDictionary[Any, _Decoder] = WeakKeyDictionary()


def _by_pieces(ids: Sequence[int], tokenizer: Any) -> tuple[str, Offsets] | None:
    """(text, offsets), or None for an unknown decoder."""
    backend = _backend(tokenizer)
    if backend is None:
        return None
    decoder = _DECODERS.get(backend)
    if decoder is None:
        decoder = _DECODERS[backend] = _Decoder(backend)
    if decoder.kind is None:
        return None
    if decoder.vocabulary is None:
        pieces = decoder.pieces(ids, backend)
        return _text_and_offsets(b"".join(pieces), np.array([len(piece) for piece in pieces], np.int64))
    sampled = np.fromiter(ids, np.int64, len(ids))
    data, lengths = decoder.vocabulary.decode(sampled)
    try:
        return data.decode(), decoder.vocabulary.offsets(sampled, lengths)
    except UnicodeDecodeError:
        return _text_and_offsets(data, lengths)


def _text_and_offsets(data: bytes, lengths: NDArray[np.int64]) -> tuple[str, Offsets]:
    """The text of joined bytes, and the character offsets of ids of these byte lengths, [T]."""
    text, char_of = _characters(data)
    ends = np.cumsum(lengths)
    offsets = np.empty((len(lengths), 2), np.int64)
    offsets[:, 0] = char_of[ends - lengths]
    offsets[:, 1] = np.where(lengths > 0, char_of[np.maximum(ends - 1, 0)] + 1, offsets[:, 0])
    return text, offsets


def _characters(data: bytes) -> tuple[str, NDArray[np.int64]]:
    """The text of bytes, and the character index of each byte, with one more entry for the end.

    Invalid UTF-8 becomes "�" by the usual rule: one for each maximal invalid subpart.
    """
    raw = np.frombuffer(data, np.uint8)
    begins = np.ones(len(raw) + 1, np.int64)
    begins[:-1] = (raw & 0xC0) != 0x80
    try:
        return data.decode(), np.cumsum(begins) - 1
    except UnicodeDecodeError:
        pass
    parts, at, view = [], 0, memoryview(data)
    while at < len(data):
        try:
            parts.append(str(view[at:], "utf-8"))
            break
        except UnicodeDecodeError as error:
            parts += [str(view[at : at + error.start], "utf-8"), "�"]
            begins[at + error.start] = 1
            begins[at + error.start + 1 : at + error.end] = 0
            at += error.end
    return "".join(parts), np.cumsum(begins) - 1


def _kind(decoder: Any) -> tuple[str | None, list[dict[str, Any]]]:
    """The kind of a decoder, and its steps."""
    if decoder is None:
        return "first", []
    try:
        steps = _flatten(json.loads(decoder.__getstate__()))
    except Exception:  # a custom Python decoder, which cannot be serialised
        return None, []
    names = [step["type"] for step in steps]
    if names == ["ByteLevel"]:
        return "bytes", steps
    if names in (["WordPiece"], ["Metaspace"]):
        return "first", steps
    order = ["Replace", "ByteFallback", "Fuse", "Strip"]
    places = [order.index(name) if name in order else -1 for name in names]
    known = -1 not in places and places == sorted(places) and names.count("ByteFallback") < 2
    plain = all("String" in s["pattern"] for s in steps if s["type"] == "Replace")
    fused = "Strip" not in names or "Fuse" in names
    return ("fallback" if known and plain and fused else None), steps


def _flatten(step: dict[str, Any]) -> list[dict[str, Any]]:
    if step["type"] == "Sequence":
        return [inner for one in step["decoders"] for inner in _flatten(one)]
    return [step]


def _join(decoder: Any, tokens: list[str]) -> str:
    return " ".join(tokens) if decoder is None else str(decoder.decode(tokens))


def _strip(found: list[bytes], content: bytes, start: int, stop: int) -> None:
    """Remove up to `start` and `stop` copies of a character from the two ends of the text."""
    for _ in range(start):
        place = next((p for p, piece in enumerate(found) if piece), None)
        if place is None or not found[place].startswith(content):
            break
        found[place] = found[place][len(content) :]
    for _ in range(stop):
        place = next((p for p in reversed(range(len(found))) if found[p]), None)
        if place is None or not found[place].endswith(content):
            break
        found[place] = found[place][: -len(content)]


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's byte alphabet: printable bytes as themselves, the others from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _token_bytes(token: str) -> bytes:
    """The bytes of a byte-level token."""
    try:
        return bytes([_BYTE_OF[c] for c in token])
    except KeyError:  # an added token, spelled in plain text
        return token.encode()


def _by_prefixes(ids: Sequence[int], tokenizer: Any, whole: str) -> Offsets:
    """Offsets from the decoded text of every prefix, for an unknown decoder."""
    special = set(getattr(tokenizer, "all_special_ids", ()))
    offsets: list[tuple[int, int]] = []
    done, before = 0, ""
    for n, i in enumerate(ids, start=1):
        so_far = before if i in special else _decode(tokenizer, ids[:n])
        if so_far == before and (i in special or not _decode(tokenizer, [i])):
            offsets.append((done, done))
            continue
        before = so_far
        certain = max(done, _common_prefix(so_far, whole))
        # The part that differs is a character with bytes still to come.
        pending = len(so_far) > certain
        offsets.append((done, min(certain + pending, len(whole))))
        done = certain
    return np.array(offsets, np.int64).reshape(-1, 2)


def _common_prefix(a: str, b: str) -> int:
    """The length of the common prefix of two texts."""
    if b.startswith(a):
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(b))
