"""Special-token escaping: control tokens in texts are encoded as text, on any transformers tokenizer.

A tokenizer encodes "<|im_end|>" in a message as the end of the message, so the author of an answer or a
critique could forge turns. The conversation is rendered with brackets around each control token that a
message spells, and the text between the brackets is encoded by itself, without special tokens. All other
text, and every conversation without such a message, is encoded as usual.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

PRIVATE_USE = range(0xE000, 0xF8FF)
"""Code points without a meaning, for brackets that no message contains."""


class Brackets(NamedTuple):
    """Two characters that the conversation does not contain."""

    start: str
    end: str


class SafeTokenizer:
    """Finds the control tokens in texts and encodes them as text.

    Args:
        turn_markers: Ids that the chat template puts around messages. They are control tokens like all
            special tokens, even if the tokenizer does not call them special. Other added tokens, as
            <think>, may be written by a model and stay tokens.
    """

    def __init__(self, tokenizer: Any, turn_markers: Collection[int] = ()) -> None:
        self.tokenizer = tokenizer
        added = dict(getattr(tokenizer, "added_tokens_decoder", {}))
        control = {token.content: i for i, token in added.items() if token.special}
        texts, ids = getattr(tokenizer, "all_special_tokens", ()), getattr(tokenizer, "all_special_ids", ())
        control |= dict(zip(texts, ids, strict=True))
        for i in turn_markers:
            if i in added and not added[i].content.isspace() and not added[i].content.isalnum():
                control[added[i].content] = i
        longest_first = sorted(filter(None, control), key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) never matches
        # Plain text may well be unknown.
        self.ids = frozenset(control.values()) - {getattr(tokenizer, "unk_token_id", None)}
        # A token matched after the normalizer may be in a text that does not spell it.
        self._normalizes = any(token.special and token.normalized for token in added.values())

    def needed(self, text: str) -> bool:
        """Whether the text spells a control token."""
        if self.pattern.search(text):
            return True
        return self._normalizes and not self.ids.isdisjoint(self._plain(text))

    def brackets(self, *texts: str) -> Brackets:
        """Two characters that none of the texts contains."""
        taken = set().union(*texts)
        free = [c for c in map(chr, PRIVATE_USE) if c not in taken]
        return Brackets(free[0], free[1])

    def marked(self, text: str, brackets: Brackets) -> str:
        """The text with brackets around its control tokens, or around all of it if they may be disguised."""
        if not self.needed(text):
            return text
        start, end = brackets
        if self._normalizes:
            return f"{start}{text}{end}"
        return self.pattern.sub(lambda m: f"{start}{m.group()}{end}", text)

    def encode(self, text: str, brackets: Brackets, *, inside: bool = False) -> list[int]:
        """The ids of a marked text, which continues another one if `inside` is set; a single bracket, left by
        a template that cuts texts, is dropped."""
        start, end = brackets
        # [text, in brackets, text, in brackets, …, text], with None for a single bracket
        first, *rest = re.split(f"{start}([^{start}{end}]*){end}|[{start}{end}]", text)
        ids = self._inside(first) if inside else self._plain(first)
        for number, piece in enumerate(rest):
            if piece:
                ids += self._as_text(piece) if number % 2 == 0 else self._inside(piece)
        return ids

    def between_ends(self, ids: Sequence[int]) -> list[int]:
        """The ids with those that the tokenizer adds before and after every text, as a BOS."""
        letter, whole = self._plain("a"), list(self.tokenizer.encode("a"))
        places = range(len(whole) - len(letter) + 1)
        at = next((k for k in places if whole[k : k + len(letter)] == letter), None)
        return list(ids) if at is None else [*whole[:at], *ids, *whole[at + len(letter) :]]

    def _as_text(self, piece: str) -> list[int]:
        ids = self._inside(piece, split_special_tokens=True)
        if self.ids.isdisjoint(ids):
            return ids
        # Not every added token is a special one, but all have more than one character.
        return [i for character in piece for i in self._inside(character, split_special_tokens=True)]

    def _plain(self, text: str, **settings: Any) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, **settings))

    def _inside(self, piece: str, **settings: Any) -> list[int]:
        """The ids of a piece inside a text: SentencePiece adds a blank before the beginning of a text."""
        newline = self._plain("\n", **settings)
        ids = self._plain("\n" + piece, **settings)
        return ids[len(newline) :] if ids[: len(newline)] == newline else self._plain(piece, **settings)
