"""What judges, teachers and self-critics are asked: one file a prompt, its version in its name.

    critique_v1             a free-text critique, no private input (the policy's own template)
    judge_v1                a verdict in JSON, no private input
    judge_private_v1        a verdict in JSON, by a reference that must not be told
    judge_text_private_v1   a free-text critique, by a reference that must not be told
    spans_v1                a critique, then good and poor passages in JSON, no private input
    spans_private_v1        the same, by a reference that must not be told
    spans_only_v1           good and poor passages in JSON without a critique, no private input
    spans_only_private_v1   the same, by a reference that must not be told
    teacher_v1              guidance towards a solution that must not be told
    teacher_dialogue_v1     the same in a dialogue, with the conversation so far and private notes
    repair_v1               what was wrong with a reply in JSON
    leak_v1                 whether a critique gives the answer away, in JSON
    marks_v1                a critique, then marked passages a line each, for a small reward model
    marks_only_v1           the marked passages alone
    writing_rubric_v1       a piece of writing: a score from 1 to 10 and a critique, in JSON
    writing_pair_v1         which of two pieces is better, in JSON
    descent_v1              a better instruction, from critiques of answers under the present one

A released file never changes; a new wording is a new version, so that a label names one text for ever.

What others wrote enters a prompt as data. `fill` knows no braces inside a value, and `Prompt.fenced`
stands every value between lines with a mark that none of the values holds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from didact.errors import UsageError, did_you_mean
from didact.types import Message, Problem

_SLOT = re.compile(r"\{(\w+)\}")


def fill(template: str, **values: str) -> str:
    """Put values into {slots} as data: braces and slot names inside a value stay what they are.

    >>> fill("{a} and {b}", a="{b}", b="two")
    '{b} and two'
    """
    return _SLOT.sub(lambda m: values[m.group(1)], template)


@dataclass(frozen=True)
class Prompt:
    """One released prompt.

    Attributes:
        name: The file's name without its suffix, version included.
        text: Its text, with {slots}.
    """

    name: str
    text: str

    @property
    def label(self) -> str:
        """Names this text and no other, as "judge_v1@0c1d2e3f"; stands in a feedback's provenance."""
        return f"{self.name}@{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"

    def fenced(self, **values: str) -> str:
        """The prompt with values as data, each between lines with a mark that no value holds.

        The mark is a hash of the values: whoever writes one of them would have to write text that
        holds its own hash.
        """
        return fill(self.text, mark=_mark(values), **values)

    def messages(self, max_chars: int, **values: str) -> tuple[Message, ...]:
        """`fenced` as one user message, with every value cut to `max_chars` (see `shorten`)."""
        content = self.fenced(**{name: shorten(value, max_chars) for name, value in values.items()})
        return (Message(role="user", content=content),)


@cache
def load_prompt(name: str) -> Prompt:
    """A prompt of the package.

    Raises:
        UsageError: there is none of that name.
    """
    folder = resources.files("didact.prompts")
    file = folder / f"{name}.md"
    if not file.is_file():
        valid = [entry.name.removesuffix(".md") for entry in folder.iterdir() if entry.name.endswith(".md")]
        raise UsageError(f"there is no prompt {name!r}: {did_you_mean(name, valid)}")
    return Prompt(name, file.read_text(encoding="utf-8").removesuffix("\n"))


def read_prompt(path: Path, slots: Iterable[str]) -> Prompt:
    """Somebody's own wording of a prompt, from a text file; it need not use every slot, but `{answer}`.

    Only a value between lines with `{mark}` cannot pretend to be a part of the prompt.

    Raises:
        UsageError: there is no such file, it is not UTF-8, it has a slot that nobody fills, or no `{answer}`.
    """
    try:
        text = path.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a prompt: {error}") from error
    known = ["mark", *slots]
    for slot in _SLOT.findall(text):
        if slot not in known:
            raise UsageError(f"{path}: nothing fills the slot {{{slot}}}: {did_you_mean(slot, known)}")
    if "{answer}" not in text:
        raise UsageError(f"{path}: a prompt about an answer has to hold it: put {{answer}} where it belongs")
    return Prompt(path.stem, text)


CRITIQUE_REQUEST = load_prompt("critique_v1").text
"""The last message of `critique_messages`."""


def critique_messages(problem: Problem, attempt: str) -> tuple[Message, ...]:
    """f(x, y): ask a model that has no private input to criticise an attempt, in training and after it."""
    return (
        *problem.messages,
        Message(role="assistant", content=attempt),
        Message(role="user", content=CRITIQUE_REQUEST),
    )


def conversation_text(problem: Problem) -> str:
    """A problem's messages as one text: the question alone, or every message under its role."""
    if len(problem.messages) == 1:
        return problem.question
    return "\n\n".join(f"({message.role})\n{message.content}" for message in problem.messages)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters of a text's beginning and end, and a notice of what is left out.

    >>> shorten("abcdefgh", 4)
    'ab\\n[… 4 of 8 characters left out …]\\ngh'
    """
    if len(text) <= limit:
        return text
    tail = limit // 2
    head = limit - tail
    notice = f"\n[… {len(text) - limit} of {len(text)} characters left out …]\n"
    return text[:head] + notice + text[len(text) - tail :]


def _mark(values: dict[str, str]) -> str:
    for number in itertools.count():
        seen = json.dumps([number, *values.values()]).encode()
        mark = hashlib.sha256(seen).hexdigest()[:16]
        if not any(mark in value for value in values.values()):
            return mark
    raise AssertionError("unreachable")  # pragma: no cover
