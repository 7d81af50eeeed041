"""A teacher: a model that sees the private reference and guides towards it without telling it.

The policy itself, a frozen copy of it or another model may teach; which one is the ChatModel's affair.
What a teacher lets slip all the same, the leak meter counts.
"""

from __future__ import annotations

from didact.feedback.model_critic import MAX_CHARS, ModelCritic
from didact.llm.chat import ChatModel
from didact.prompts import Prompt

SLOTS = ("question", "reference", "answer")
"""What a prompt of this teacher may show."""


class Teacher(ModelCritic):
    """Guidance in free text from a model that sees the reference.

    Args:
        model: Who teaches.
        prompt: What it is asked, with some of SLOTS; None is teacher_v1.
        max_chars: Longer texts are cut in the middle, with a notice.
    """

    def __init__(self, model: ChatModel, *, prompt: Prompt | None = None, max_chars: int = MAX_CHARS) -> None:
        super().__init__(model, "teacher", prompt or "teacher_v1", private=True, max_chars=max_chars)
