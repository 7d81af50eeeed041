"""A teacher in a dialogue: sees the conversation so far and something private about the latest answer.

The private part is the reference (static), what a program says of this very answer, as the output of its
unit tests (dynamic), or both. The student sees neither (`rollouts/tutored_dialogue.py`); the leak meter
counts what the teacher reveals all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from didact.errors import UsageError
from didact.feedback.model_critic import MAX_CHARS, ModelCritic
from didact.feedback_source import FeedbackRequest, FeedbackSource
from didact.llm.chat import ChatModel, ChatReply, ChatRequest
from didact.prompts import Prompt, conversation_text, shorten
from didact.types import Feedback, Message

NOTHING_YET = "(nothing yet)"
SLOTS = ("question", "private", "dialogue", "answer")
"""What a prompt of this teacher may show."""


class DialogueTeacher(ModelCritic):
    """Guidance in free text from a model with a view of its own on the dialogue.

    Args:
        model: Who teaches.
        reference: Show the problem's reference; a problem without one then gets a failed feedback.
        program: Show what this source says of the answer, too; where it fails, the teacher does.
        prompt: What it is asked, with some of SLOTS; None is teacher_dialogue_v1.
        max_chars: Longer texts are cut in the middle, with a notice.

    Raises:
        UsageError: nothing private is shown.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        reference: bool = True,
        program: FeedbackSource | None = None,
        prompt: Prompt | None = None,
        max_chars: int = MAX_CHARS,
    ) -> None:
        asked = prompt or "teacher_dialogue_v1"
        super().__init__(model, "teacher", asked, private=True, max_chars=max_chars)
        if not reference and program is None:
            raise UsageError("a teacher needs something private: the reference, a program's words, or both")
        self.reference = reference
        self.program = program

    def lacks(self, request: FeedbackRequest) -> bool:
        """Is the reference missing that the teacher is to be shown?"""
        return self.reference and super().lacks(request)

    def answered(self, requests: Sequence[FeedbackRequest]) -> list[ChatReply]:
        """One reply to what is asked about each answer, in order."""
        tested: Sequence[Feedback | None] = [None] * len(requests)
        if self.program is not None:
            tested = self.program.critique(requests)
        fit = [i for i, said in enumerate(tested) if said is None or said.ok]
        asked = [ChatRequest(self._asked(requests[i], tested[i])) for i in fit]
        replies = dict(zip(fit, self.replies(asked), strict=True)) if asked else {}
        return [replies[i] if i in replies else _failed_program(said) for i, said in enumerate(tested)]

    def _asked(self, request: FeedbackRequest, tested: Feedback | None) -> tuple[Message, ...]:
        """The teacher's whole view, with everything that others wrote as data in it."""
        notes = []
        if self.reference:
            notes.append(f"The solution:\n{request.problem.reference}")
        if tested is not None:
            notes.append(f"What a program says of the latest answer:\n{tested.text}")
        exchanges = [f"Student: {answer}\nTeacher: {critique}" for answer, critique in request.earlier]
        texts = {
            "question": conversation_text(request.problem),
            "private": "\n\n".join(notes),
            "dialogue": "\n\n".join(exchanges) or NOTHING_YET,
            "answer": request.turn.text,
        }
        content = self.prompt.fenced(**{name: shorten(text, self.max_chars) for name, text in texts.items()})
        return (Message(role="user", content=content),)


def _failed_program(feedback: Feedback | None) -> ChatReply:
    error, kind = (None, None) if feedback is None else (feedback.error, feedback.error_kind)
    return ChatReply(error=f"the private program failed: {error or ''}", error_kind=kind)
