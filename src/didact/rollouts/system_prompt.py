"""An instruction added to every prompt when messages become ids.

Problems are unchanged: feedback sources, verifiers and run files have the question without the instruction,
so that answers under different instructions are answers to the same problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from didact.rendering.renderer import Renderer
from didact.types import Ids, Message

Place: TypeAlias = Literal["system", "user"]
"""Where the instruction goes: before the system message's text, or before the last user message."""


class InstructedRenderer(Renderer):
    """A renderer whose prompts begin with an instruction; with a blank one they are those of `base`.

    The place "user" is for chat templates without a system message.
    """

    def __init__(self, base: Renderer, instruction: str, place: Place = "system") -> None:
        vars(self).update(vars(base))
        self.instruction, self.place = instruction, place

    def prompt(self, messages: Sequence[Message]) -> Ids:
        """The ids of a conversation with the instruction in it."""
        return super().prompt(instructed(messages, self.instruction, self.place))


def instructed(messages: Sequence[Message], instruction: str, place: Place) -> tuple[Message, ...]:
    """A conversation with an instruction in it.

    >>> chat = [Message(role="user", content="2 + 2?")]
    >>> [m.content for m in instructed(chat, "Be brief.", "system")]
    ['Be brief.', '2 + 2?']
    >>> [m.content for m in instructed(chat, "Be brief.", "user")]
    ['Be brief.\\n\\n2 + 2?']
    """
    if not instruction.strip():
        return tuple(messages)
    if place == "system" and messages[0].role != "system":
        return (Message(role="system", content=instruction), *messages)
    where = 0 if place == "system" else len(messages) - 1
    joined = Message(role=messages[where].role, content=f"{instruction}\n\n{messages[where].content}")
    return (*messages[:where], joined, *messages[where + 1 :])
