"""What critics that are language models share: ask, take free text, say who wrote it and what failed."""

from __future__ import annotations

from collections.abc import Sequence

from didact.errors import UsageError
from didact.feedback_source import FeedbackRequest
from didact.llm.chat import ChatModel, ChatReply, ChatRequest
from didact.prompts import Prompt, conversation_text, critique_messages, load_prompt, shorten
from didact.types import ErrorKind, Feedback, FeedbackSourceName, Message, Provenance

MAX_CHARS = 20_000
"""A question, answer, reference or critique longer than this is cut in the middle, with a notice."""
SHOWN_CHARS = 500
"""So much of an unusable reply stands in the error."""


class ModelCritic:
    """Asks a chat model for a critique in free text. Judge, Teacher and SelfCritique are this.

    The prompt "critique_v1" is the policy's own template, a conversation that ends with the request;
    any other is one user message that holds question and answer (and reference) as data.

    Args:
        model: Who is asked.
        source: What the feedback's `source` says.
        prompt: What is asked, or the name of one of the package's prompts.
        private: Show the problem's reference. A problem without one then gets a failed feedback.
        max_chars: Longer texts are cut in the middle, with a notice.
    """

    def __init__(
        self,
        model: ChatModel,
        source: FeedbackSourceName,
        prompt: str | Prompt,
        *,
        private: bool,
        max_chars: int = MAX_CHARS,
    ) -> None:
        if max_chars < 1:
            raise UsageError(f"max_chars must be at least 1, not {max_chars}")
        self.model = model
        self.source = source
        self.prompt = load_prompt(prompt) if isinstance(prompt, str) else prompt
        self.private = private
        self.max_chars = max_chars

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback a request, in order; an empty, cut-off or missing reply is a failed one.

        Raises:
            UsageError: no request can ever succeed, as with a key that the server refuses.
        """
        fit = [i for i, request in enumerate(requests) if not self.lacks(request)]
        replies = self.answered([requests[i] for i in fit]) if fit else []
        reply_to = dict(zip(fit, replies, strict=True))
        return [
            self.read(request, reply_to[i]) if i in reply_to else self._without_reference(request)
            for i, request in enumerate(requests)
        ]

    def lacks(self, request: FeedbackRequest) -> bool:
        """Is the reference missing that the model is to be shown?"""
        return self.private and request.problem.reference is None

    def ask(self, request: FeedbackRequest) -> ChatRequest:
        """What the model is asked about an answer."""
        return ChatRequest(self.messages(request))

    def answered(self, requests: Sequence[FeedbackRequest]) -> list[ChatReply]:
        """One reply to what is asked about each answer, in order."""
        return self.replies([self.ask(request) for request in requests])

    def replies(self, asked: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply a request, in order."""
        return self.model.complete(asked)

    def messages(self, request: FeedbackRequest) -> tuple[Message, ...]:
        """The conversation, with everything that others wrote as data in it."""
        problem, answer = request.problem, request.turn.text
        if self.prompt.name == "critique_v1":
            return critique_messages(problem, shorten(answer.strip(), self.max_chars))
        texts = {"question": conversation_text(problem), "answer": answer}
        if self.private:
            texts["reference"] = problem.reference or ""
        content = self.prompt.fenced(**{name: shorten(text, self.max_chars) for name, text in texts.items()})
        return (Message(role="user", content=content),)

    def read(self, request: FeedbackRequest, reply: ChatReply) -> Feedback:
        """The reply's text, as it is, for a critique."""
        if reply.error is not None:
            return self.failed(request, reply.error, reply)
        if not reply.text.strip():
            return self.failed(request, f"{self.model.name} gave an empty reply", reply)
        return Feedback(
            turn=request.index,
            text=shorten(reply.text.strip(), self.max_chars),
            source=self.source,
            saw_reference=self.private,
            provenance=self.provenance(reply),
        )

    def failed(
        self,
        request: FeedbackRequest,
        error: str,
        reply: ChatReply | None = None,
        *,
        kind: ErrorKind | None = None,
    ) -> Feedback:
        """A failed feedback with its reason and its cost; `kind` defaults to that of the reply's failure."""
        return Feedback(
            turn=request.index,
            source=self.source,
            status="failed",
            error=error,
            error_kind=failure_kind(reply) if kind is None and reply is not None else kind,
            saw_reference=self.private,
            provenance=self.provenance(reply or ChatReply()),
        )

    def provenance(self, reply: ChatReply) -> Provenance:
        """The model and the prompt that it read, with what the reply cost."""
        return Provenance(
            author=f"{self.model.name}:{self.prompt.label}",
            prompt_hash=reply.request_hash,
            tokens=reply.tokens,
            cost_usd=reply.cost_usd,
        )

    def _without_reference(self, request: FeedbackRequest) -> Feedback:
        error = f"problem {request.problem.id!r} has no reference to show to {self.model.name}"
        return self.failed(request, error, kind="missing_reference")


def failure_kind(reply: ChatReply) -> ErrorKind | None:
    """Why no critique could be made of a reply: its own failure, or its content where there was none."""
    return "invalid_reply" if reply.error is None else reply.error_kind


def shown(text: str) -> str:
    """A reply's beginning, quoted, for an error message."""
    return repr(text) if len(text) <= SHOWN_CHARS else repr(text[:SHOWN_CHARS]) + "…"
