"""The prompts of judges, teachers and self-critics: one file per prompt, with its version in its name.

docs/feedback.md lists them.

Three prompts of one problem make up RLTF (arXiv:2602.02482, A.2 and the critique template):

    x₀ = question            x₁ = revision(question, y₀, c₀)         f(x₀, y₀) = critique request
    one user turn            one *fresh* user turn, not a chat       x₀, y₀ and a request, as a chat

A released file never changes; a new wording is a new version, so that a label always names the same text.

Text of other authors enters a prompt as data. `fill` ignores braces inside a value, and `Prompt.fenced` puts
every value between lines with a mark that none of the values contains.
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
    """Fill {slots} with values as data: braces and slot names inside a value are kept.

    >>> fill("{a} and {b}", a="{b}", b="two")
    '{b} and two'
    """
    return _SLOT.sub(lambda m: values[m.group(1)], template)


@dataclass(frozen=True)
class Prompt:
    """A released prompt."""

    name: str
    """The file name without its suffix, with the version."""
    text: str
    """With {slots}."""

    @property
    def label(self) -> str:
        """Identifies this text in a feedback's provenance, as "judge_v1@0c1d2e3f"."""
        return f"{self.name}@{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"

    def fenced(self, **values: str) -> str:
        """The prompt with values as data, each between lines with a mark that no value contains.

        The mark is a hash of the values, so that a value would have to contain its own hash to forge it.
        """
        return fill(self.text, mark=_mark(values), **values)

    def messages(self, max_chars: int, **values: str) -> tuple[Message, ...]:
        """`fenced` as one user message, with every value cut to `max_chars` (see `shorten`)."""
        content = self.fenced(**{name: shorten(value, max_chars) for name, value in values.items()})
        return (Message(role="user", content=content),)


@cache
def load_prompt(name: str) -> Prompt:
    """A prompt of the package; a UsageError names the valid ones."""
    folder = resources.files("didact.prompts")
    file = folder / f"{name}.md"
    if not file.is_file():
        valid = [entry.name.removesuffix(".md") for entry in folder.iterdir() if entry.name.endswith(".md")]
        raise UsageError(f"there is no prompt {name!r}: {did_you_mean(name, valid)}")
    return Prompt(name, file.read_text(encoding="utf-8").removesuffix("\n"))


def read_prompt(path: Path, slots: Iterable[str]) -> Prompt:
    """A user's prompt from a text file, with some of the slots, among them `{answer}`.

    A value can pose as a part of the prompt unless it is between lines with `{mark}`.

    Raises:
        UsageError: there is no such file, it is not UTF-8, it has an unknown slot, or no `{answer}`.
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
REVISION = load_prompt("revision_v1").text
"""The last message of `revision_messages`, with its slots."""


def critique_messages(problem: Problem, attempt: str) -> tuple[Message, ...]:
    """f(x, y): the request for a critique of an attempt without private input, in training and inference."""
    return (
        *problem.messages,
        Message(role="assistant", content=attempt),
        Message(role="user", content=CRITIQUE_REQUEST),
    )


def revision_messages(problem: Problem, attempt: str, critique: str) -> tuple[Message, ...]:
    """x₁: the problem's messages with the last one replaced by question, attempt and critique."""
    content = fill(REVISION, question=problem.question, attempt=attempt, critique=critique)
    return (*problem.messages[:-1], Message(role="user", content=content))


def conversation_text(problem: Problem) -> str:
    """A problem's messages as one text: the question alone, or all messages with their roles."""
    if len(problem.messages) == 1:
        return problem.question
    return "\n\n".join(f"({message.role})\n{message.content}" for message in problem.messages)


def shorten(text: str, limit: int) -> str:
    """The beginning and the end of a text, `limit` characters in all, with a notice of the cut between them.

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
