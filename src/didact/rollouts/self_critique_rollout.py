"""y₀ → c̃₀ → ỹ₁: the policy criticises its own answers and answers again (RLTF, arXiv:2602.02482, Alg. 4).

The critique is asked for with `critique_messages`, the template of feedback modelling and of
`feedback.model_critic.SelfCritique`, and sampled like an answer, because its tokens are trained too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from didact.engines.base import Sample, takes
from didact.prompts import load_prompt
from didact.rendering.renderer import critique_messages
from didact.rng import derive_seed
from didact.rollouts.base import StepContext
from didact.rollouts.multi_turn import revise
from didact.types import Feedback, Ids, Provenance, Rollout, Turn

AUTHOR = f"policy:{load_prompt('critique_v1').label}"


class OwnCritique(Feedback):
    """A critique that the policy in training sampled, with its ids.

    What a run directory keeps of it is the `Feedback`: its text and its cost. The ids are for the step
    that trains them.
    """

    sampled: Annotated[Turn, Field(exclude=True)]
    """Prompt f_FeeMol(x₀, y₀), ids and log-probs, exactly as it was sampled; no reward of its own."""


def own_id(rollout_id: str) -> str:
    """The id of the branch in which a dialogue's first answer was criticised by the policy itself."""
    return f"{rollout_id}/own"


def own_critique(rollout: Rollout) -> OwnCritique | None:
    """The trained critique of a rollout that `own_branch` made; None for any other rollout."""
    return next((f for f in rollout.feedback if isinstance(f, OwnCritique)), None)


def own_branch(ctx: StepContext, rollouts: Sequence[Rollout], *, max_tokens: int) -> list[Rollout]:
    """The same first answers once more, each with the policy's own critique and a revision after it.

    The first answer of such a branch counts as given (no log-probs), for it was sampled, paid for and is
    trained in the dialogue that it comes from. A critique that was cut off, or is empty, is used as it is:
    what comes of it is what teaches the policy to write another.

    Args:
        ctx: This step's context; no feedback source is needed.
        rollouts: Dialogues whose first answers are criticised.
        max_tokens: At most this many tokens a critique.

    Returns:
        At most one rollout a dialogue, with the id `own_id(...)` and the dialogue's group. None where the
        critique request would not fit into the model, one turn where the revision would not.
    """
    params = dataclasses.replace(ctx.sampling, max_tokens=max_tokens, stop=())
    asked: list[tuple[Rollout, Ids]] = []
    for rollout in rollouts:
        prompt = ctx.renderer.prompt(critique_messages(rollout.problem, rollout.turns[0].text.strip()))
        if takes(ctx.engine, len(prompt) + max_tokens):
            asked.append((rollout, prompt))
    if not asked:
        return []
    samples = ctx.engine.sample(
        [prompt for _, prompt in asked],
        1,
        params,
        seed=derive_seed(ctx.seed, "own critique"),
        weights=ctx.weights,
    )
    branches = [
        _branch(ctx, rollout, prompt, sample)
        for (rollout, prompt), (sample,) in zip(asked, samples, strict=True)
    ]
    revise(ctx, branches, range(len(branches)), 0, stream="own turn")
    return branches


def _branch(ctx: StepContext, rollout: Rollout, prompt: Ids, sample: Sample) -> Rollout:
    text = ctx.renderer.text(sample.ids)
    critique = OwnCritique(
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
    given = rollout.turns[0].model_copy(update={"logprobs": None})
    return Rollout(
        id=own_id(rollout.id),
        group=rollout.group,
        problem=rollout.problem,
        turns=(given,),
        feedback=(critique,),
    )
