"""An engine as a chat model: a judge, a teacher or a self-critic in this process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from didact.engines.base import POLICY, Engine, Sample, SamplingParams, Weights
from didact.llm.chat import ChatReply, ChatRequest
from didact.rendering.renderer import Renderer
from didact.rng import derive_seed
from didact.rollouts.base import completion_text, sample_fitting
from didact.thoughts import UNFINISHED
from didact.types import Ids

GREEDY = SamplingParams(temperature=0.0)


@dataclass(eq=False)
class EngineChat:
    """A `ChatModel` with an engine's weights.

    A reply depends on the weights, the settings and its own conversation: every draw is seeded by hashing
    (seed, "chat", messages), so neither the step nor the batch changes it. A schema is not enforced: the
    prompt has to request it.
    """

    engine: Engine
    renderer: Renderer
    name: str = "policy"
    """The author in the provenance of its texts."""
    params: SamplingParams = GREEDY
    weights: Weights = POLICY
    """`POLICY` follows the training; a snapshot stays as it was."""
    seed: int = 0
    keep_cut: bool = False
    """A reply that was cut off has its text beside the error."""

    def complete(self, requests: Sequence[ChatRequest]) -> list[ChatReply]:
        """One reply a request, in order; an error where it does not fit the context or was cut off."""
        prompts = [self.renderer.prompt(request.messages) for request in requests]
        seeds = [
            derive_seed(self.seed, "chat", *(part for m in request.messages for part in (m.role, m.content)))
            for request in requests
        ]
        samples = sample_fitting(self.engine, prompts, self.params, seeds=seeds, weights=self.weights)
        return [self._reply(*answered) for answered in zip(requests, prompts, samples, strict=True)]

    def _reply(self, request: ChatRequest, prompt: Ids, sample: Sample | None) -> ChatReply:
        request_hash = self.request_hash(request)
        if sample is None:
            error = (
                f"the request's {len(prompt)} tokens leave {self.name} no room for a reply of "
                f"{self.params.max_tokens} in its context of {self.engine.max_length}"
            )
            return ChatReply(request_hash=request_hash, error=error)
        if sample.stop_reason == "length":
            error = f"{self.name}: the reply was cut off at {len(sample.ids)} tokens: raise max_tokens"
            text = self.renderer.text(sample.ids) if self.keep_cut else ""
            return ChatReply(
                text, len(sample.ids), request_hash=request_hash, error=error, error_kind="invalid_reply"
            )
        text = completion_text(self.renderer, self.params, sample)
        answer = text[self.renderer.answer_from(sample.ids, text) :]
        reply = ChatReply(answer, len(sample.ids), request_hash=request_hash)
        if answer or not text:
            return reply
        return replace(reply, error=UNFINISHED.format(self.name), error_kind="invalid_reply")

    def request_hash(self, request: ChatRequest) -> str:
        """sha256 of everything that a reply depends on.

        Weights enter by name only: cache replies only where `name` identifies one set of weights.
        """
        messages = [m.model_dump() for m in request.messages]
        whole = [self.name, self.weights.name, self.seed, repr(self.params), messages]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()
