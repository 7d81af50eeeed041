"""Critics that are language models: what they are asked, and how a reply becomes a feedback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from didact.errors import UsageError
from didact.feedback_source import FeedbackRequest
from didact.llm.chat import ChatModel, ChatReply, ChatRequest
from didact.prompts import Prompt, conversation_text, critique_messages, load_prompt, shorten
from didact.types import ErrorKind, Feedback, FeedbackSourceName, Message, Provenance

MAX_CHARS = 20_000
"""A longer question, answer, reference or critique is cut in the middle, with a notice."""


class ModelCritic:
    """Asks a chat model for a critique in free text. Base class of the judges and teachers.

    The prompt "critique_v1" is the policy's own template, a conversation that ends with the request. Any
    other prompt is one user message with the question and the answer (and the reference) as data.

    Args:
        model: The model to ask.
        source: The `source` of its feedback.
        prompt: A prompt, or the name of one of the package's prompts.
        private: Show the problem's reference. A problem without one gets a failed feedback.
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
        """One feedback per request, in order; it has failed if the reply is empty, cut off or missing.

        Raises:
            UsageError: no request can succeed, for example because the server refuses the API key.
        """
        able = [i for i, request in enumerate(requests) if not self.lacks_reference(request)]
        replies = self.answered([requests[i] for i in able]) if able else []
        reply_to = dict(zip(able, replies, strict=True))
        return [
            self.read(request, reply_to[i]) if i in reply_to else self._without_reference(request)
            for i, request in enumerate(requests)
        ]

    def lacks_reference(self, request: FeedbackRequest) -> bool:
        """Whether a reference is to be shown and the problem has none."""
        return self.private and request.problem.reference is None

    def ask(self, request: FeedbackRequest) -> ChatRequest:
        """The request about an answer."""
        return ChatRequest(self.messages(request))

    def answered(self, requests: Sequence[FeedbackRequest]) -> list[ChatReply]:
        """One reply per feedback request, in order."""
        return self.model.complete([self.ask(request) for request in requests])

    def messages(self, request: FeedbackRequest) -> tuple[Message, ...]:
        """The conversation, with every text of another author as data."""
        problem, answer = request.problem, request.turn.text
        if self.prompt.name == "critique_v1":
            return critique_messages(problem, shorten(answer.strip(), self.max_chars))
        texts = {"question": conversation_text(problem), "answer": answer}
        if self.private:
            texts["reference"] = problem.reference or ""
        return self.prompt.messages(self.max_chars, **texts)

    def read(self, request: FeedbackRequest, reply: ChatReply) -> Feedback:
        """The whole text of a reply as the critique."""
        if reply.error is not None:
            return self.failed(request, reply.error, reply)
        if not reply.text.strip():
            return self.failed(request, f"{self.model.name} gave an empty reply", reply)
        return self.feedback(request, reply, text=reply.text)

    def feedback(self, request: FeedbackRequest, reply: ChatReply, *, text: str, **fields: Any) -> Feedback:
        """A feedback with this text and these fields, and with the provenance of the reply."""
        return Feedback(
            turn=request.index,
            text=shorten(text.strip(), self.max_chars),
            source=self.source,
            saw_reference=self.private,
            provenance=self.provenance(reply),
            **fields,
        )

    def failed(
        self, request: FeedbackRequest, error: str, reply: ChatReply, *, kind: ErrorKind | None = None
    ) -> Feedback:
        """A failed feedback with its reason and its cost; `kind` defaults to that of the reply's failure."""
        kind = kind or failure_kind(reply)
        return self.feedback(request, reply, text="", status="failed", error=error, error_kind=kind)

    def provenance(self, reply: ChatReply) -> Provenance:
        """The model, its prompt, and the cost of the reply."""
        return reply_provenance(f"{self.model.name}:{self.prompt.label}", reply)

    def _without_reference(self, request: FeedbackRequest) -> Feedback:
        error = f"problem {request.problem.id!r} has no reference to show to {self.model.name}"
        return self.failed(request, error, ChatReply(), kind="missing_reference")


def reply_provenance(author: str, reply: ChatReply) -> Provenance:
    """The provenance of a feedback that was made from a reply."""
    return Provenance(
        author=author, prompt_hash=reply.request_hash, tokens=reply.tokens, cost_usd=reply.cost_usd
    )


def failure_kind(reply: ChatReply) -> ErrorKind | None:
    """Why a reply gave no critique: the kind of its error, or its content if it has none."""
    return "invalid_reply" if reply.error is None else reply.error_kind


class SelfCritique(ModelCritic):
    """A critique in free text by the policy itself, which sees only the question and the answer.

    It is asked with `critique_messages`, the template on which critiques are trained (RLTF-FM, RL2F).

    Args:
        model: The policy, as a chat model.
        max_chars: A longer answer is cut in the middle, with a notice.
    """

    def __init__(self, model: ChatModel, *, max_chars: int = MAX_CHARS) -> None:
        super().__init__(model, "self", "critique_v1", private=False, max_chars=max_chars)
