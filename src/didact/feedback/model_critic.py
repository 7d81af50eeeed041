"""Language models that criticise in free text: the policy itself, a judge, or a teacher.

A teacher sees something private and guides towards the solution without revealing it. The model may be the
policy, a frozen copy of it or another one. The student sees nothing private (`rollouts/tutored_dialogue.py`).
The leak meter counts what a teacher reveals all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from didact.errors import UsageError
from didact.feedback_source import FeedbackRequest, FeedbackSource, in_completion
from didact.llm.chat import ChatModel, ChatReply, ChatRequest, ask
from didact.prompts import Prompt, conversation_text, critique_messages, load_prompt, shorten
from didact.types import ErrorKind, Feedback, FeedbackSourceName, Message, Provenance

MAX_CHARS = 20_000
"""A longer question, answer, reference or critique is cut in the middle, with a notice."""
TEACHER_SLOTS = ("question", "reference", "answer")
"""The slots that a prompt with the reference may have."""
DIALOGUE_SLOTS = ("question", "private", "dialogue", "answer")
"""The slots that a prompt of `DialogueTeacher` may have."""
EMPTY_DIALOGUE = "(nothing yet)"


class ModelCritic:
    """Asks a chat model for a critique; by default the policy for one of its own answer.

    The prompt "critique_v1" is the template on which critiques are trained (RLTF-FM, RL2F), a conversation
    that ends with the request. Any other prompt is one user message with the question and the answer (and the
    reference) as data.

    Args:
        source: The `source` of its feedback.
        prompt: A prompt, or the name of one of the package's prompts.
        private: Show the problem's reference. A problem without one gets a failed feedback.
    """

    def __init__(
        self,
        model: ChatModel,
        source: FeedbackSourceName = "self",
        prompt: str | Prompt = "critique_v1",
        *,
        private: bool = False,
    ) -> None:
        self.model, self.source, self.private = model, source, private
        self.prompt = load_prompt(prompt) if isinstance(prompt, str) else prompt

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback per request, in order; it has failed if the reply is empty, cut off or missing.

        Raises:
            UsageError: no request can succeed, for example because the server refuses the API key.
        """
        able = [i for i, request in enumerate(requests) if not self.lacks_reference(request)]
        written = self.criticise([requests[i] for i in able]) if able else []
        found = dict(zip(able, written, strict=True))
        return [found.get(i) or self._without_reference(request) for i, request in enumerate(requests)]

    def lacks_reference(self, request: FeedbackRequest) -> bool:
        """Whether a reference is to be shown and the problem has none."""
        return self.private and request.problem.reference is None

    def criticise(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback per request that has what is to be shown, in order."""
        replies = ask(self.model, [ChatRequest(self.messages(request)) for request in requests])
        return [self.read(request, reply) for request, reply in zip(requests, replies, strict=True)]

    def messages(self, request: FeedbackRequest) -> tuple[Message, ...]:
        """The conversation, with every text of another author as data."""
        problem, answer = request.problem, request.turn.answer
        if self.prompt.name == "critique_v1":
            return critique_messages(problem, shorten(answer.strip(), MAX_CHARS))
        texts = {"question": conversation_text(problem), "answer": answer}
        if self.private:
            texts["reference"] = problem.reference or ""
        return self.prompt.messages(MAX_CHARS, **texts)

    def read(self, request: FeedbackRequest, reply: ChatReply) -> Feedback:
        """The whole text of a reply as the critique."""
        if reply.error is not None:
            return self.failed(request, reply.error, reply)
        if not reply.text.strip():
            return self.failed(request, f"{self.model.name} gave an empty reply", reply)
        return self.feedback(request, reply, text=reply.text)

    def feedback(self, request: FeedbackRequest, reply: ChatReply, *, text: str, **fields: Any) -> Feedback:
        """A feedback with this text and these fields, and with the provenance of the reply."""
        feedback = Feedback(
            turn=request.index,
            text=shorten(text.strip(), MAX_CHARS),
            source=self.source,
            saw_reference=self.private,
            provenance=reply_provenance(f"{self.model.name}:{self.prompt.label}", reply),
            **fields,
        )
        return in_completion(feedback, request)

    def failed(
        self, request: FeedbackRequest, error: str, reply: ChatReply, *, kind: ErrorKind | None = None
    ) -> Feedback:
        """A failed feedback with its reason and its cost; `kind` defaults to that of the reply's failure."""
        kind = kind or failure_kind(reply)
        return self.feedback(request, reply, text="", status="failed", error=error, error_kind=kind)

    def _without_reference(self, request: FeedbackRequest) -> Feedback:
        error = f"problem {request.problem.id!r} has no reference to show to {self.model.name}"
        return self.failed(request, error, ChatReply(), kind="missing_reference")


class DialogueTeacher(ModelCritic):
    """A teacher that sees the dialogue and something private.

    Private is the reference (static), what a program reports about this very answer, as its unit tests
    (dynamic), or both.

    Args:
        reference: Show the problem's reference; a problem without one then gets a failed feedback.
        program: Also show the critique of this source; if it fails, the teacher fails too.
        prompt: A prompt with some of DIALOGUE_SLOTS.

    Raises:
        UsageError: nothing private is shown.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        reference: bool = True,
        program: FeedbackSource | None = None,
        prompt: str | Prompt = "teacher_dialogue_v1",
    ) -> None:
        super().__init__(model, "teacher", prompt, private=True)
        if not reference and program is None:
            raise UsageError("a teacher needs something private: the reference, a program's words, or both")
        self.reference, self.program = reference, program

    def lacks_reference(self, request: FeedbackRequest) -> bool:
        return self.reference and super().lacks_reference(request)

    def criticise(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        if self.program is None:
            return super().criticise(requests)
        tested = self.program.critique(requests)
        passed = [i for i, report in enumerate(tested) if report.ok]
        asked = [ChatRequest(self.messages(requests[i], tested[i].text)) for i in passed]
        replies = dict(zip(passed, ask(self.model, asked), strict=True))
        return [
            self.read(request, replies[i] if i in replies else _failed_program(tested[i]))
            for i, request in enumerate(requests)
        ]

    def messages(self, request: FeedbackRequest, report: str | None = None) -> tuple[Message, ...]:
        """The teacher's whole view, with a program's report if there is one."""
        private = [f"The solution:\n{request.problem.reference}"] if self.reference else []
        if report is not None:
            private.append(f"What a program says of the latest answer:\n{report}")
        exchanges = [f"Student: {answer}\nTeacher: {critique}" for answer, critique in request.earlier]
        return self.prompt.messages(
            MAX_CHARS,
            question=conversation_text(request.problem),
            private="\n\n".join(private),
            dialogue="\n\n".join(exchanges) or EMPTY_DIALOGUE,
            answer=request.turn.answer,
        )


def reply_provenance(author: str, reply: ChatReply) -> Provenance:
    """The provenance of a feedback that was made from a reply."""
    return Provenance(
        author=author, prompt_hash=reply.request_hash, tokens=reply.tokens, cost_usd=reply.cost_usd
    )


def failure_kind(reply: ChatReply) -> ErrorKind | None:
    """Why a reply gave no critique: the kind of its error, or its content if it has none."""
    return "invalid_reply" if reply.error is None else reply.error_kind


def _failed_program(report: Feedback) -> ChatReply:
    return ChatReply(error=f"the private program failed: {report.error}", error_kind=report.error_kind)
