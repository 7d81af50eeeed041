"""Where an answer begins after a model's thoughts.

Thoughts are blocks at the beginning of a completion, in one of the conventions in use. The prompt may have
opened the first one, and a closing tag that nothing opened ends thoughts as well. A block that begins in the
middle of an answer is part of the answer.
"""

from __future__ import annotations

import re

UNFINISHED = "{}: the thoughts before the reply never end: raise max_tokens"
_NAMES = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|(?:inner_)?monologue)"
_CONVENTIONS = {
    rf"<{_NAMES}>": rf"</{_NAMES}>",
    r"\[THINK\]": r"\[/THINK\]",  # Mistral
    r"◁think▷": r"◁/think▷",  # Kimi
    r"<\|begin_of_thought\|>": r"<\|end_of_thought\|>",
    r"<\|START_THINKING\|>": r"<\|END_THINKING\|>",  # Command
    r"<\|channel\|>(?!final)\w+\b[^<]*<\|message\|>": r"<\|channel\|>final\b[^<]*<\|message\|>",  # gpt-oss
    r"<\|channel>thought": r"<channel\|>",  # Gemma
    r"Here is my thought process:": r"Here is my response:",  # Granite
}
"""The opening tag of thoughts, and the closing one."""
_BLOCKS = [tuple(re.compile(tag, re.IGNORECASE) for tag in pair) for pair in _CONVENTIONS.items()]
_OPENS = "|".join(_CONVENTIONS)
_CLOSES = "|".join(closes for opens, closes in _CONVENTIONS.items() if "Here" not in opens)
_TAG = re.compile(f"({_CLOSES})|{_OPENS}", re.IGNORECASE)
_OPENED = re.compile(rf"(?:{_OPENS})\s*\Z", re.IGNORECASE)
_BETWEEN = re.compile(r"(?:\s|<\|(?:begin_of_solution|START_RESPONSE)\|>)*", re.IGNORECASE)


def opens_thoughts(prompt: str) -> bool:
    """Whether a prompt ends inside thoughts that it has just opened.

    >>> opens_thoughts("assistant\\n<think>\\n"), opens_thoughts("assistant\\n<think>\\n\\n</think>\\n\\n")
    (True, False)
    """
    return _OPENED.search(prompt, max(0, len(prompt) - 200)) is not None


def has_tag(text: str) -> bool:
    """Whether a text holds a tag of thoughts, or a part of one that is a token of its own."""
    return _TAG.search(text) is not None or text in ("<|channel|>", "<|channel>", "<channel|>")


def answer_start(text: str, *, opened: bool = False) -> int | None:
    """The offset of the first character after the thoughts; 0 without thoughts, None where they never end.

    Args:
        text: A completion.
        opened: The prompt has opened thoughts.

    >>> texts = "5", "<think>4?</think>\\n\\n5", "4?</think>5", "<think>4? ", "a <think>b</think>"
    >>> [answer_start(text) for text in texts]
    [0, 19, 10, None, 0]
    """
    begin = at = _after(text, 0)
    while True:
        block = next((closes for opens, closes in _BLOCKS if opens.match(text, at)), None)
        tag = _TAG.search(text, at)
        if block is None and (tag is None or not tag.group(1)):
            break
        end = tag if block is None else block.search(text, at)
        if end is None:
            return None
        at = _after(text, end.end())
    if at == begin:
        return None if opened else 0
    return at


def answer_of(text: str) -> str | None:
    """What follows the thoughts of a text; None where they never end."""
    start = answer_start(text)
    return None if start is None else text[start:]


def _after(text: str, at: int) -> int:
    """The next offset that is neither white space nor a tag of the answer."""
    found = _BETWEEN.match(text, at)
    return at if found is None else found.end()
