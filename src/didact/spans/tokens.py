"""Which characters of the answer each sampled id wrote.

A tokenizer's own offsets belong to a text that it encodes; encoding the decoded answer again may give
other tokens than those that were sampled. So the ids are decoded here, one by one, down to bytes, and the
bytes are counted into characters:

    ids      15   903     7     44   2
    bytes    "is" E2 82   AC    "!"  (end)
    text     i s  €             !
    offsets  0,2  2,3     2,3   3,4  4,4

An id that wrote part of a character gets the whole character. Special ids, ids that the tokenizer does not
know and pieces that decode to nothing are zero-width. The tokenizer's decoder is read from what it says
about itself; one of another kind is decoded prefix by prefix, which is slower. Either way the pieces must
make up the answer's text, or there is an error.
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
"""[T, 2]: first character and one past the last of each sampled id, in Unicode code points."""
_LOST = "�".encode()
_ANCHOR = "a"


def turn_offsets(turn: Turn, tokenizer: Any) -> Offsets:
    """`token_offsets` of a turn: against its own text, which ends before a stop string.

    Raises:
        DataError: its ids do not make up its text.
    """
    return token_offsets(turn.completion_ids, tokenizer, turn.text, cut=turn.stop_reason == "stop")


def token_offsets(
    ids: Sequence[int] | NDArray[np.int64], tokenizer: Any, text: str | None = None, *, cut: bool = False
) -> Offsets:
    """The characters that each sampled id wrote, by decoding bytes; nothing is encoded again.

    Args:
        ids: The sampled ids, an end id included.
        tokenizer: A transformers tokenizer or a `tokenizers.Tokenizer`; of any other, only its `decode`.
        text: The answer, decoded without special ids. None decodes it here.
        cut: The text may end early, as before a stop string; what lies behind it is zero-width.

    Returns:
        int64 [T, 2]: (first, one past the last) of each id. Ids that share a character overlap there;
        each begins where the one before ends, or inside its last character. A zero-width id has both alike.

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
        end = len(wanted)
        return np.minimum(offsets, end)
    raise DataError(_difference(whole, wanted))


def _difference(whole: str, wanted: str) -> str:
    at = _common(whole, wanted)
    return (
        f"the sampled ids decode to {len(whole)} characters and the answer has {len(wanted)}: at character "
        f"{at} they say {whole[at : at + 20]!r}, the answer {wanted[at : at + 20]!r}. Its tokens cannot be "
        "placed: use the tokenizer that the ids come from, and the text as it was decoded"
    )


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """As answers are decoded: without special ids, with every space."""
    plain = hasattr(tokenizer, "id_to_token")  # a `tokenizers.Tokenizer`, which never cleans up
    more = {} if plain else {"clean_up_tokenization_spaces": False}
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, **more))


def _backend(tokenizer: Any) -> Any | None:
    """The `tokenizers.Tokenizer` inside, or the tokenizer itself where it is one."""
    inside = getattr(tokenizer, "backend_tokenizer", None)
    if inside is None and hasattr(tokenizer, "id_to_token"):
        inside = tokenizer
    return inside if hasattr(inside, "get_added_tokens_decoder") else None


# ── by the bytes of each id ───────────────────────────────────────────────────────────────────────────


class _Vocabulary:
    """The bytes of every id, one behind the other, for a decoder that does no more than join them."""

    def __init__(self, backend: Any, special: set[str]) -> None:
        words = {i: token for token, i in backend.get_vocab().items() if token not in special}
        # The last one stands for every id that is not known.
        written = [_plain_bytes(words[i]) if i in words else b"" for i in range(max(words, default=0) + 2)]
        self.bytes = np.frombuffer(b"".join(written), np.uint8)
        self.lengths = np.array([len(w) for w in written], np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.begun = np.array([sum(map(_begins, w)) for w in written], np.int64)
        """How many characters begin in each."""
        self.inside = np.array([bool(w) and not _begins(w[0]) for w in written], np.int64)
        """1 where the first byte belongs to a character that began before."""

    def written(self, ids: NDArray[np.int64]) -> tuple[bytes, NDArray[np.int64]]:
        """The bytes that ids write together, and how many each does. Larger ones are taken for the last."""
        lengths = self.lengths.take(ids, mode="clip")
        where = (self.starts.take(ids, mode="clip") + lengths - lengths.cumsum()).repeat(lengths)
        where += np.arange(len(where))
        return self.bytes.take(where, mode="clip").tobytes(), lengths

    def offsets(self, ids: NDArray[np.int64]) -> Offsets:
        """Of ids that write whole characters together: the characters of each."""
        begun = self.begun.take(ids, mode="clip")
        offsets = np.empty((len(ids), 2), np.int64)
        offsets[:, 1] = last = begun.cumsum()
        offsets[:, 0] = last - begun - self.inside.take(ids, mode="clip")
        return offsets


class _Table:
    """The bytes of each id that was met, for one tokenizer; it does not keep the tokenizer alive.

    Attributes:
        kind: "bytes", "first" or "fallback"; None for a decoder that is not known.
    """

    def __init__(self, backend: Any) -> None:
        added = backend.get_added_tokens_decoder().values()
        self.special = {token.content for token in added if token.special}
        self.kind, self.steps = _kind(backend.decoder)
        self.vocabulary = _Vocabulary(backend, self.special) if self.kind == "bytes" else None
        self.rest: dict[int, bytes] = {}
        self.first: dict[int, bytes] = {}
        self.single: set[int] = set()
        """Ids that stand for one byte, where a text's own bytes are fallback tokens."""

    def pieces(self, ids: Sequence[int], backend: Any) -> list[bytes]:
        """The bytes that each id writes in this sequence."""
        try:
            found = list(map(self.rest.__getitem__, ids))
        except KeyError:
            for i in set(ids).difference(self.rest):
                self.rest[i] = self._bytes(i, backend)
            found = list(map(self.rest.__getitem__, ids))
        if self.kind == "first":
            self._begin(found, ids, backend)
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
            self.first[i] = _joined(backend.decoder, [token]).encode()
            return _joined(backend.decoder, [_ANCHOR, token])[len(_ANCHOR) :].encode()
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

    def _begin(self, found: list[bytes], ids: Sequence[int], backend: Any) -> None:
        """The first id that is not skipped has no space before it."""
        for place, i in enumerate(ids):
            if i in self.first:
                found[place] = self.first[i]
                return

    def _replace_invalid(self, found: list[bytes], ids: Sequence[int]) -> None:
        """A run of byte tokens that is no UTF-8 becomes one "�" a byte. Skipped ids do not end a run."""
        run: list[int] = []
        for place in [*(p for p in range(len(ids)) if found[p]), len(ids)]:
            if place < len(ids) and ids[place] in self.single:
                run.append(place)
                continue
            try:
                b"".join(found[p] for p in run).decode()
            except UnicodeDecodeError:
                for p in run:
                    found[p] = _LOST
            run = []


_TABLES: WeakKeyDictionary[Any, _Table] = WeakKeyDictionary()


def _by_pieces(ids: Sequence[int], tokenizer: Any) -> tuple[str, Offsets] | None:
    """(the text, the offsets), or None where the tokenizer's decoder is not known."""
    backend = _backend(tokenizer)
    if backend is None:
        return None
    table = _TABLES.get(backend)
    if table is None:
        table = _TABLES[backend] = _Table(backend)
    if table.kind is None:
        return None
    if table.vocabulary is None:
        pieces = table.pieces(ids, backend)
        return _placed(b"".join(pieces), np.array([len(piece) for piece in pieces], np.int64))
    asked = np.fromiter(ids, np.int64, len(ids))
    data, lengths = table.vocabulary.written(asked)
    try:
        return data.decode(), table.vocabulary.offsets(asked)
    except UnicodeDecodeError:
        return _placed(data, lengths)


def _placed(data: bytes, lengths: NDArray[np.int64]) -> tuple[str, Offsets]:
    """The text of some bytes, and the characters of the ids that wrote so many of them each."""
    text, char_of = _characters(data)
    ends = np.cumsum(lengths)
    offsets = np.empty((len(lengths), 2), np.int64)
    offsets[:, 1] = last = char_of[np.maximum(ends - 1, 0)] + (ends > 0)
    offsets[:, 0] = np.where(lengths > 0, char_of[ends - lengths], last)
    return text, offsets


def _characters(data: bytes) -> tuple[str, NDArray[np.int64]]:
    """The text of some bytes, and the character of each byte; one entry more for the end.

    What is no UTF-8 becomes "�" as every decoder makes it: one for each longest beginning of a character.
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
    """How pieces become text: the kind and the decoder's steps."""
    if decoder is None:
        return "first", []
    try:
        steps = _flat(json.loads(decoder.__getstate__()))
    except Exception:  # a decoder of somebody's own, which cannot be written down
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


def _flat(step: dict[str, Any]) -> list[dict[str, Any]]:
    if step["type"] == "Sequence":
        return [inner for one in step["decoders"] for inner in _flat(one)]
    return [step]


def _joined(decoder: Any, tokens: list[str]) -> str:
    return " ".join(tokens) if decoder is None else str(decoder.decode(tokens))


def _strip(found: list[bytes], content: bytes, start: int, stop: int) -> None:
    """Take up to so many of one character from the text's beginning and end."""
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


def _begins(byte: int) -> bool:
    """Does a character begin with this byte, in UTF-8?"""
    return byte & 0xC0 != 0x80


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones stand for themselves, the others from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _plain_bytes(token: str) -> bytes:
    """The bytes that a byte-level token stands for."""
    try:
        return bytes([_BYTE_OF[c] for c in token])
    except KeyError:  # an added token that is spelled as it is
        return token.encode()


# ── by decoding prefixes ──────────────────────────────────────────────────────────────────────────────


def _by_prefixes(ids: Sequence[int], tokenizer: Any, whole: str) -> Offsets:
    """Offsets from the decoded text of every prefix, for a decoder that is not known."""
    special = set(getattr(tokenizer, "all_special_ids", ()))
    offsets: list[tuple[int, int]] = []
    done = 0
    for n, i in enumerate(ids, start=1):
        if i in special:
            end = offsets[-1][1] if offsets else 0
            offsets.append((end, end))
            continue
        so_far = _decode(tokenizer, ids[:n])
        certain = max(done, _common(so_far, whole))
        # What does not agree yet is a character of which some bytes are still to come.
        pending = len(so_far) > certain
        offsets.append((done, min(certain + pending, len(whole))))
        done = certain
    return np.array(offsets, np.int64).reshape(-1, 2)


def _common(a: str, b: str) -> int:
    """How many characters two texts have in common at their beginnings."""
    if b.startswith(a):
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(b))
