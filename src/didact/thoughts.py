"""Where an answer begins after a model's thoughts.

Thoughts are blocks at the beginning of a completion, one after the other, in the conventions of
`thoughts.yaml`. A block ends where as many tags of its kind have closed as opened. A block that begins in the
middle of an answer is part of the answer.

The prompt may have opened the first block. Where it is not known to, a closing tag that nothing opened ends
thoughts all the same, if it is a template's tag and no code, in backticks or in quotation marks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import yaml

UNFINISHED = "{}: nothing follows the thoughts of the reply: raise max_tokens, or switch thinking off"
_KNOWN = yaml.safe_load((resources.files("didact") / "thoughts.yaml").read_text("utf-8"))
_OWN, _WORDS = len(_KNOWN["templates"]), len(_KNOWN["templates"]) + len(_KNOWN["prompts"])
_KINDS = [*_KNOWN["templates"], *_KNOWN["prompts"], *_KNOWN["words"]]
_TAG = re.compile("|".join(f"({opens})|({closes})" for opens, closes in _KINDS), re.IGNORECASE)
_BEFORE = re.compile(rf"\s*{_KNOWN['before']}", re.IGNORECASE)
_AFTER = re.compile(rf"(?:{_KNOWN['after']}\s*)+\Z", re.IGNORECASE)


class _Tag(NamedTuple):
    start: int
    end: int
    kind: int
    step: int
    """1 if it opens thoughts, -1 if it closes them."""
    quoted: bool


def opens_thoughts(prompt: str) -> bool:
    """Whether a prompt ends inside thoughts that it has just opened.

    >>> opens_thoughts("assistant\\n<think>\\n"), opens_thoughts("assistant\\n<think>\\n\\n</think>\\n\\n")
    (True, False)
    """
    end = prompt[-200:].rstrip()
    return any(tag.end == len(end) and tag.step > 0 for tag in _tags(end))


def has_tag(text: str) -> bool:
    """Whether a text holds a tag of thoughts, or a part of one that is a token of its own."""
    return _TAG.search(text) is not None or text in ("<|channel|>", "<|channel>", "<channel|>")


def answer_start(text: str, *, opened: bool = False) -> int | None:
    """The offset of the first character after the thoughts; 0 without thoughts, None where they never end.

    The indentation of the answer's first line is part of it.

    Args:
        opened: The prompt has opened thoughts.

    >>> texts = "5", "<think>4?</think>\\n\\n5", "4?</think>5", "<think>4? ", "a <think>b</think>"
    >>> [answer_start(text) for text in texts]
    [0, 19, 10, None, 0]
    """
    tags = _tags(text)
    at = n = 0
    if opened or not tags or tags[0].step < 0 or text[: tags[0].start].strip():
        close = _unopened(tags, opened)
        if close is None:
            return None if opened else 0
        at, n = tags[close].end, close + 1
    while n < len(tags) and not text[at : tags[n].start].strip():
        close = n if tags[n].step < 0 else _end(tags, n)
        if close is None:
            if tags[n].kind == _WORDS:
                break
            return None
        at, n = tags[close].end, close + 1
    if at == 0:
        return 0
    before = _BEFORE.match(text, at)
    at = at if before is None else before.end()
    blank = len(text) - len(text[at:].lstrip())
    line = text.rfind("\n", at, blank) + 1
    return line if line and blank < len(text) else blank


def answer_of(text: str) -> str | None:
    """What follows the thoughts of a text; None where they never end."""
    start = answer_start(text)
    return None if start is None else answer_text(text, start)


def answer_text(text: str, start: int) -> str:
    """The answer from `start` on, without what a template puts behind one that follows thoughts."""
    return _AFTER.sub("", text[start:]) if start else text


def _tags(text: str) -> list[_Tag]:
    found, at, fences, ticks, last_fence = [], 0, 0, 0, text.rfind("```")
    for m in _TAG.finditer(text):
        between, behind = text[at : m.start()], text[m.end() : m.end() + 200].partition("\n")[0]
        fences += between.count("```")
        _, newline, line = between.rpartition("\n")
        ticks = line.count("`") + (0 if newline else ticks)
        fenced = fences % 2 == 1 and last_fence > m.start()
        quoted = between[-1:] in ('"', "'") and behind[:1] == between[-1:]
        quoted = quoted or fenced or (ticks % 2 == 1 and "`" in behind)
        kind, closes = divmod((m.lastindex or 1) - 1, 2)
        found.append(_Tag(m.start(), m.end(), kind, -1 if closes else 1, quoted))
        at = m.end()
    return found


def _unopened(tags: Sequence[_Tag], opened: bool) -> int | None:
    """The tag that closes thoughts which no tag of the text opened; if the prompt did, the last in doubt."""
    depth, last = [0] * len(_KINDS), None
    for n, tag in enumerate(tags):
        own = tag.kind < _OWN
        depth[tag.kind] += tag.step
        last = n if tag.step < 0 and own else last
        if depth[tag.kind] < 0 and not tag.quoted and (own or opened):
            return n
        depth[tag.kind] = max(depth[tag.kind], 0)
    return last if opened else None


def _end(tags: Sequence[_Tag], n: int) -> int | None:
    """The tag that closes the block of tag n; if more open than close, the first, unless others still do."""
    for quoted in (False, True):
        depth, rest, end = 1, 0, None
        for i in range(n + 1, len(tags)):
            if tags[i].kind == tags[n].kind and (quoted or not tags[i].quoted):
                depth += tags[i].step
                if depth == 0:
                    return i
                rest = tags[i].step if end is None else rest + tags[i].step
                end, rest = (i, 0) if rest < 0 else (end, rest)
        if end is not None:
            return end
    return None
