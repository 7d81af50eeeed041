"""Teachers: models that see something private and guide towards the solution without revealing it.

    Teacher             sees the reference and the latest answer
    DialogueTeacher     also sees the conversation so far; private is the reference (static), what a program
                        reports about this very answer, as its unit tests (dynamic), or both
    OutcomeOnlyTeacher  knows only that the answer was wrong: the baseline of a second attempt

The model may be the policy, a frozen copy of it or another one. The student sees nothing private
(`rollouts/tutored_dialogue.py`). The leak meter counts what a teacher reveals all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from didact.errors import UsageError
from didact.feedback.model_critic import MAX_CHARS, ModelCritic
from didact.feedback_source import FeedbackRequest, FeedbackSource
from didact.llm.chat import ChatModel, ChatReply, ChatRequest
from didact.prompts import Prompt, conversation_text
from didact.types import Feedback, Message, Provenance

TEACHER_SLOTS = ("question", "reference", "answer")
"""The slots that a prompt of `Teacher` may have."""
DIALOGUE_SLOTS = ("question", "private", "dialogue", "answer")
"""The slots that a prompt of `DialogueTeacher` may have."""
EMPTY_DIALOGUE = "(nothing yet)"
OUTCOME_ONLY = "That is wrong. Try again."


class Teacher(ModelCritic):
    """Guidance in free text from a model that sees the reference.

    Args:
        model: The teacher.
        prompt: A prompt with some of TEACHER_SLOTS; None is teacher_v1.
        max_chars: Longer texts are cut in the middle, with a notice.
    """

    def __init__(self, model: ChatModel, *, prompt: Prompt | None = None, max_chars: int = MAX_CHARS) -> None:
        super().__init__(model, "teacher", prompt or "teacher_v1", private=True, max_chars=max_chars)


class DialogueTeacher(ModelCritic):
    """Guidance in free text from a model that sees the dialogue and something private.

    Args:
        model: The teacher.
        reference: Show the problem's reference; a problem without one then gets a failed feedback.
        program: Also show the critique of this source; if it fails, the teacher fails too.
        prompt: A prompt with some of DIALOGUE_SLOTS; None is teacher_dialogue_v1.
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

    def lacks_reference(self, request: FeedbackRequest) -> bool:
        """Whether a reference is to be shown and the problem has none."""
        return self.reference and super().lacks_reference(request)

    def answered(self, requests: Sequence[FeedbackRequest]) -> list[ChatReply]:
        """One reply per feedback request, in order."""
        if self.program is None:
            return self.model.complete([ChatRequest(self._view(request)) for request in requests])
        tested = self.program.critique(requests)
        passed = [i for i, report in enumerate(tested) if report.ok]
        asked = [ChatRequest(self._view(requests[i], tested[i].text)) for i in passed]
        replies = dict(zip(passed, self.model.complete(asked) if asked else [], strict=True))
        return [replies[i] if i in replies else _failed_program(report) for i, report in enumerate(tested)]

    def _view(self, request: FeedbackRequest, report: str | None = None) -> tuple[Message, ...]:
        """The teacher's whole view, with every text of another author as data."""
        private = [f"The solution:\n{request.problem.reference}"] if self.reference else []
        if report is not None:
            private.append(f"What a program says of the latest answer:\n{report}")
        exchanges = [f"Student: {answer}\nTeacher: {critique}" for answer, critique in request.earlier]
        return self.prompt.messages(
            self.max_chars,
            question=conversation_text(request.problem),
            private="\n\n".join(private),
            dialogue="\n\n".join(exchanges) or EMPTY_DIALOGUE,
            answer=request.turn.text,
        )


class OutcomeOnlyTeacher:
    """Gives the same sentence as the critique of every answer.

    The sentence is true only of wrong answers; `rollouts.tutored_dialogue` requests no other critique.

    Args:
        text: The sentence.
    """

    def __init__(self, text: str = OUTCOME_ONLY) -> None:
        self.text = text

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback per request, in order."""
        return [
            Feedback(
                turn=request.index,
                text=self.text,
                source="program",
                label="wrong",
                saw_reference=False,
                provenance=Provenance(author="program:retry"),
            )
            for request in requests
        ]


def _failed_program(report: Feedback) -> ChatReply:
    return ChatReply(error=f"the private program failed: {report.error}", error_kind=report.error_kind)
