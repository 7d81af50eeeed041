"""The student as its own teacher: a critique of an answer given the public conversation only.

    c̃_t ~ π(· | o_t, u_t, "criticise this")

The request is appended to the ids that the student saw, and is not part of its later context. RL2F's world
model (`methods/rl2f.py`) trains critiques after the same request.
"""

from __future__ import annotations

from collections.abc import Sequence

from didact.engines.base import POLICY, Engine, SamplingParams, Weights
from didact.feedback_source import FeedbackRequest
from didact.prompts import CRITIQUE_REQUEST, load_prompt
from didact.rendering.renderer import Renderer
from didact.rng import derive_seed
from didact.rollouts.base import sample_fitting
from didact.types import Feedback, Ids, Provenance, Turn

AUTHOR = f"policy:{load_prompt('critique_v1').label}:dialogue"


def critique_prompt(renderer: Renderer, turn: Turn) -> Ids:
    """The student's context before a turn, the turn, and the request to criticise it."""
    request = renderer.follow_up(CRITIQUE_REQUEST, ended=turn.stop_reason == "eos")
    return (*turn.prompt_ids, *turn.completion_ids, *request)


class UnprivilegedCritic:
    """Criticises answers of `tutored_dialogues` with the policy's own weights.

    It conditions on ids that the student has seen or sampled, and neither on the reference nor on a reward. A
    critique that was cut off or is empty is used unchanged.

    Args:
        engine: Where the weights live.
        renderer: Messages ⇄ ids for its tokenizer.
        params: How to sample; greedy by default.
        weights: `POLICY` follows the training.
        seed: Seed of the draws.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        *,
        params: SamplingParams | None = None,
        weights: Weights = POLICY,
        seed: int = 0,
    ) -> None:
        self.engine = engine
        self.renderer = renderer
        self.params = params or SamplingParams(temperature=0.0)
        self.weights = weights
        self.seed = seed

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback a request, in order; failed where the conversation leaves no room for it."""
        prompts = [critique_prompt(self.renderer, request.turn) for request in requests]
        seeds = [derive_seed(self.seed, "public critic", *prompt) for prompt in prompts]
        samples = sample_fitting(self.engine, prompts, self.params, seeds=seeds, weights=self.weights)
        return [
            self._failed(request, len(prompt)) if sample is None else self._feedback(request, sample.ids)
            for request, prompt, sample in zip(requests, prompts, samples, strict=True)
        ]

    def _feedback(self, request: FeedbackRequest, ids: Ids) -> Feedback:
        return Feedback(
            turn=request.index,
            text=self.renderer.text(ids).strip(),
            source="self",
            saw_reference=False,
            provenance=Provenance(author=AUTHOR, tokens=len(ids)),
        )

    def _failed(self, request: FeedbackRequest, length: int) -> Feedback:
        return Feedback(
            turn=request.index,
            source="self",
            status="failed",
            error=f"{length} tokens leave no room for a critique of {self.params.max_tokens} in the model's "
            f"context of {self.engine.max_length}",
            saw_reference=False,
            provenance=Provenance(author=AUTHOR),
        )
