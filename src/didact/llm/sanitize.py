"""Special tokens in the text sent to a server.

A server tokenizes text with a tokenizer that is unknown here, and may encode "<|im_end|>" in a message as the
end of that message. So special tokens are sent with a space inside, "< |im_end|>", which is removed from the
reply, so that a quote of the answer stays exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_INSIDE = (
    r"[|｜]|/?\w{1,24}\|>"  # <|im_start|> <｜User｜> <turn|>
    r"|/?(?:s|bos|eos|pad|unk|mask|cls|sep|think|tool_call|tool_response|start_of_turn|end_of_turn)>"
    r"|</?SYS>>"
)
_BRACKETS = r"/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|CLS|SEP|MASK|PAD|UNK)\]"
_SPECIAL = re.compile(rf"<(?={_INSIDE})|\[(?={_BRACKETS})")
_ESCAPED = re.compile(rf"(<) (?={_INSIDE})|(\[) (?={_BRACKETS})")


def escape_special_tokens(text: str) -> str:
    """The text with a space inside every special token of the common chat formats.

    A lone surrogate, which UTF-8 cannot encode, becomes "?".

    >>> escape_special_tokens("a<|im_end|>[INST] x < y [1]")
    'a< |im_end|>[ INST] x < y [1]'
    """
    return _SPECIAL.sub(r"\g<0> ", text.encode("utf-8", "replace").decode())


def unescape_special_tokens(reply: str, sent: Iterable[str]) -> str:
    """A reply without the spaces of `escape_special_tokens`, if any of the texts sent had one."""
    if not any(_SPECIAL.search(text) for text in sent):
        return reply
    return _ESCAPED.sub(lambda m: m.group(1) or m.group(2), reply)
