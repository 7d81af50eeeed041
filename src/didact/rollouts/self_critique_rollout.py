"""y₀ → c̃₀ → ỹ₁: the policy criticises its own answers and answers again (RLTF, arXiv:2602.02482, Alg. 4).

The critique is requested with `critique_messages`, the template of feedback modelling and of
`feedback.model_critic.ModelCritic`, and sampled like an answer, because its tokens are trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from didact.engines.base import Sample, fits_context
from didact.prompts import critique_messages, load_prompt
from didact.rng import derive_seed
from didact.rollouts.base import StepContext
from didact.rollouts.multi_turn import revise
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

    Args:
        ctx: The step's context; no feedback source is needed.
        rollouts: Dialogues whose first answers are criticised.
        max_tokens: Maximum number of tokens of a critique.

    Returns:
        At most one rollout a dialogue, with the id `branch_id(...)` and the dialogue's group: none where the
        critique request does not fit into the model, one turn where the revision does not.
    """
    params = dataclasses.replace(ctx.sampling, max_tokens=max_tokens, stop=())
    requests: list[tuple[Rollout, Ids]] = []
    for rollout in rollouts:
        prompt = ctx.renderer.prompt(critique_messages(rollout.problem, rollout.turns[0].text.strip()))
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
    revise(ctx, branches, range(len(branches)), 0, stream="own turn")
    return branches


def _branch(ctx: StepContext, rollout: Rollout, prompt: Ids, sample: Sample) -> Rollout:
    text = ctx.renderer.text(sample.ids)
    critique = SampledCritique(
        text=text.strip(),
        source="self",
        saw_reference=False,
        provenance=Provenance(author=AUTHOR, tokens=len(sample.ids)),
        sampled=Turn(
            prompt_ids=prompt,
            completion_ids=sample.ids,
            logprobs=sample.logprobs,
            text=text,
            stop_reason=sample.stop_reason,
        ),
    )
    first = rollout.turns[0].model_copy(update={"logprobs": None})
    return Rollout(
        id=branch_id(rollout.id),
        group=rollout.group,
        problem=rollout.problem,
        turns=(first,),
        feedback=(critique,),
    )
