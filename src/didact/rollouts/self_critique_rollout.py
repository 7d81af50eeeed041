"""The policy criticises its own answers, in RLTF's dialogues and in RL2F's.

    RLTF    y₀ → c̃₀ ~ π(· | f_FeeMol(x₀, y₀)) → ỹ₁          (arXiv:2602.02482, Alg. 4)
    RL2F    c̃_t ~ π(· | o_t, u_t, "criticise this")           (arXiv:2602.16066)

RLTF's critique is requested with `critique_messages`, the template of feedback modelling and of
`feedback.model_critic.ModelCritic`, and sampled like an answer, because its tokens are trained. RL2F's is
given the public conversation only: the request is appended to the ids that the student saw, and is not part
of its later context. The world model of methods/rl2f.py trains critiques after the same request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from didact.engines.base import POLICY, Engine, Sample, SamplingParams, Weights, fits_context
from didact.feedback_source import FeedbackRequest
from didact.prompts import CRITIQUE_REQUEST, critique_messages, load_prompt
from didact.rendering.renderer import Renderer
from didact.rng import derive_seed
from didact.rollouts.base import StepContext, sample_fitting, sampled_turn
from didact.rollouts.multi_turn import revise
from didact.thoughts import UNFINISHED
from didact.types import Feedback, Ids, Provenance, Rollout, Turn

AUTHOR = f"policy:{load_prompt('critique_v1').label}"


class SampledCritique(Feedback):
    """A critique sampled from the trained policy, with its ids.

    A run directory stores only the `Feedback`: its text and its cost. The ids are needed in the step that
    trains them.
    """

    sampled: Annotated[Turn, Field(exclude=True)]
    """Prompt f_FeeMol(x₀, y₀), ids and log-probs as sampled; without a reward."""


def branch_id(rollout_id: str) -> str:
    """The id of a dialogue's self-critique branch."""
    return f"{rollout_id}/own"


def sampled_critique(rollout: Rollout) -> SampledCritique | None:
    """The critique of a self-critique branch; None for any other rollout."""
    return next((f for f in rollout.feedback if isinstance(f, SampledCritique)), None)


def self_critique_branches(
    ctx: StepContext, rollouts: Sequence[Rollout], *, max_tokens: int
) -> list[Rollout]:
    """The same first answers, each with the policy's own critique and a revision after it.

    The first answer of a branch has no log-probs: it is sampled, counted and trained in the dialogue that it
    comes from. A critique that was cut off or is empty is used unchanged: its revision's reward trains it.

    At most one rollout a dialogue, with the id `branch_id(...)` and the dialogue's group: none where the
    request for a critique of `max_tokens` does not fit into the model, one turn where the revision does not.
    """
    params = dataclasses.replace(ctx.sampling, max_tokens=max_tokens, stop=())
    requests: list[tuple[Rollout, Ids]] = []
    for rollout in rollouts:
        prompt = ctx.renderer.prompt(critique_messages(rollout.problem, rollout.turns[0].answer.strip()))
        if fits_context(ctx.engine, len(prompt) + max_tokens):
            requests.append((rollout, prompt))
    if not requests:
        return []
    samples = ctx.engine.sample(
        [prompt for _, prompt in requests],
        1,
        params,
        seed=derive_seed(ctx.seed, "own critique"),
        weights=ctx.weights,
    )
    branches = [
        _branch(ctx, rollout, prompt, sample)
        for (rollout, prompt), (sample,) in zip(requests, samples, strict=True)
    ]
    revise(ctx, branches, [i for i, b in enumerate(branches) if b.feedback[0].ok], 0, stream="own turn")
    return branches


def _branch(ctx: StepContext, rollout: Rollout, prompt: Ids, sample: Sample) -> Rollout:
    sampled = sampled_turn(ctx.renderer, prompt, sample, ctx.renderer.text(sample.ids))
    critique = SampledCritique(
        text=sampled.answer.strip(),
        source="self",
        status="failed" if sampled.only_thoughts else "ok",
        error=UNFINISHED.format(AUTHOR) if sampled.only_thoughts else None,
        saw_reference=False,
        provenance=Provenance(author=AUTHOR, tokens=len(sample.ids)),
        sampled=sampled,
    )
    first = rollout.turns[0].model_copy(update={"logprobs": None})
    return Rollout(
        id=branch_id(rollout.id),
        group=rollout.group,
        problem=rollout.problem,
        turns=(first,),
        feedback=(critique,),
    )


def critique_prompt(renderer: Renderer, turn: Turn) -> Ids:
    """The student's context before a turn, the turn, and the request to criticise it."""
    past = renderer.history(turn)
    ended = past[-1:] == (renderer.eos_id,) or turn.stop_reason == "eos"
    return (*past, *renderer.follow_up(CRITIQUE_REQUEST, ended=ended))


@dataclass(frozen=True)
class UnprivilegedCritic:
    """Criticises answers of `tutored_dialogues` with the policy's own weights.

    It conditions on ids that the student has seen or sampled, and neither on the reference nor on a reward. A
    critique that was cut off or is empty is used unchanged.
    """

    engine: Engine
    renderer: Renderer
    params: SamplingParams
    weights: Weights = POLICY

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """One feedback a request, in order; failed where the conversation leaves no room for it."""
        prompts = [critique_prompt(self.renderer, request.turn) for request in requests]
        seeds = [derive_seed(0, "public critic", *prompt) for prompt in prompts]
        samples = sample_fitting(self.engine, prompts, self.params, seeds=seeds, weights=self.weights)
        return [
            self._feedback(request, prompt, sample)
            for request, prompt, sample in zip(requests, prompts, samples, strict=True)
        ]

    def _feedback(self, request: FeedbackRequest, prompt: Ids, sample: Sample | None) -> Feedback:
        text, tokens, error = "", 0, None
        if sample is None:
            error = (
                f"{len(prompt)} tokens leave no room for a critique of {self.params.max_tokens} in the "
                f"model's context of {self.engine.max_length}"
            )
        else:
            turn = sampled_turn(self.renderer, prompt, sample, self.renderer.text(sample.ids))
            text, tokens = turn.answer.strip(), len(sample.ids)
            error = UNFINISHED.format(AUTHOR) if turn.only_thoughts else None
        return Feedback(
            turn=request.index,
            text=text,
            source="self",
            status="ok" if error is None else "failed",
            error=error,
            saw_reference=False,
            provenance=Provenance(author=f"{AUTHOR}:dialogue", tokens=tokens),
        )
