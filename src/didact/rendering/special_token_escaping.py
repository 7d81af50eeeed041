"""Text whose control tokens stay text, on any transformers tokenizer.

A tokenizer takes "<|im_end|>" in a message for the real end of it, so who writes an answer or a
critique could write turns of his own. Only what must change does: the conversation is rendered with
brackets around each control token that a message spells, and the text between the brackets is encoded
by itself, without special tokens. All other text is encoded as ever, and a conversation that spells no
control token never comes here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

PRIVATE_USE = range(0xE000, 0xF8FF)
"""Code points that mean nothing, for brackets that no message holds."""


class Brackets(NamedTuple):
    """Two characters that the conversation at hand does not hold."""

    start: str
    end: str


class SafeTokenizer:
    """Finds the control tokens in texts and encodes them as text.

    Args:
        tokenizer: A transformers tokenizer.
        turn_markers: Ids that the chat template puts around messages. They are control tokens, as all
            special tokens are, also where the tokenizer does not call them special. Other added
            tokens, as <think>, are what a model may write itself, and stay tokens.
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
        # Matched after the normalizer, a token may stand in a text that does not spell it.
        self._normalizes = any(token.special and token.normalized for token in added.values())

    def needed(self, text: str) -> bool:
        """Does the text spell a control token?"""
        if self.pattern.search(text):
            return True
        return self._normalizes and not self.ids.isdisjoint(self._plain(text))

    def brackets(self, *texts: str) -> Brackets:
        """Two characters that none of the texts holds."""
        taken = set().union(*texts)
        free = [c for c in map(chr, PRIVATE_USE) if c not in taken]
        return Brackets(free[0], free[1])

    def marked(self, text: str, brackets: Brackets) -> str:
        """The text with its control tokens in brackets, or all of it where they may be disguised."""
        if not self.needed(text):
            return text
        start, end = brackets
        if self._normalizes:
            return f"{start}{text}{end}"
        return self.pattern.sub(lambda m: f"{start}{m.group()}{end}", text)

    def encode(self, text: str, brackets: Brackets) -> list[int]:
        """The ids of a marked text; a bracket that a template's cutting has left alone is dropped."""
        start, end = brackets
        # [text, in brackets, text, in brackets, …, text], with None for a bracket that stands alone
        first, *rest = re.split(f"{start}([^{start}{end}]*){end}|[{start}{end}]", text)
        ids = self._plain(first)
        for number, piece in enumerate(rest):
            if piece:
                ids += self._as_text(piece) if number % 2 == 0 else self._inside(piece)
        return ids

    def between_ends(self, ids: Sequence[int]) -> list[int]:
        """The ids between what the tokenizer puts before and after every text, as a BOS."""
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
        """The ids of a piece as it stands within a text: SentencePiece puts a blank before a beginning."""
        newline = self._plain("\n", **settings)
        ids = self._plain("\n" + piece, **settings)
        return ids[len(newline) :] if ids[: len(newline)] == newline else self._plain(piece, **settings)
