"""Rejection-sampling fine-tuning on solved dialogues.

    L = −1/M Σ_{dialogues that ended correct} Σ_{t ∈ S} log π(token_t | before)

S are the student's tokens, M the step's dialogues that are not missing. SML's offline arm (arXiv:2602.16488)
keeps the solved dialogues and trains on the student's turns; RL2F's paper (arXiv:2602.16066) compares with
fine-tuning too, without details. `sampler: start` samples the dialogues from the initial weights (the offline
arm), `policy` from the current ones (expert iteration); `learned: last` trains the correct answer only. Leaks
and the world model are as in methods/rl2f.py; a dialogue with a leak is used under `leaks: keep` only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from didact.engines.base import REFERENCE, Loss
from didact.methods.base import LossTerm, Method
from didact.methods.rl2f import (
    DialogueLeaks,
    dialogue_metrics,
    dialogue_rows,
    first_leak,
    present,
    world_model_term,
)
from didact.rollouts.base import StepContext
from didact.rollouts.tutored_dialogue import tutored_dialogues
from didact.types import Problem, Rollout


class RejectionSFT(Method):
    """Cross-entropy on the student's side of dialogues that ended correct.

    Attributes:
        samples: g ≥ 1, dialogues a problem.
        turns: T, answers a dialogue.
        window: Maximum number of earlier exchanges in view; None for all that fit the model.
        leaks: `keep` uses dialogues in which the teacher stated the answer.
        lambda_wm: λ_WM ≥ 0 of the world model.
        sampler: Sample from the initial weights, or from the current ones.
        learned: Train all of the student's answers, or the last, correct one.
    """

    samples: Annotated[int, Field(ge=1)] = 8
    turns: Annotated[int, Field(ge=1)] = 4
    window: Annotated[int, Field(ge=1)] | None = None
    leaks: DialogueLeaks = "drop"
    lambda_wm: Annotated[float, Field(ge=0)] = 0.0
    sampler: Literal["start", "policy"] = "start"
    learned: Literal["all", "last"] = "all"

    @property
    def needs_feedback(self) -> bool:
        return self.turns > 1

    @property
    def needs_reference(self) -> bool:
        return self.sampler == "start"

    @property
    def uses_dialogue_teacher(self) -> bool:
        return True

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        if self.sampler == "start":
            ctx = dataclasses.replace(ctx, weights=REFERENCE)
        return tutored_dialogues(ctx, problems, self.samples, turns=self.turns, window=self.window)

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[LossTerm]:
        ctx.metrics.update(dialogue_metrics(rollouts, self.turns))
        rows = []
        kept = present(rollouts, self.turns, self.leaks)
        for rollout in kept:
            if not rollout.turns[-1].correct or (self.leaks == "zero" and first_leak(rollout) is not None):
                continue
            earlier = 1.0 if self.learned == "all" else 0.0
            selected_H = [*[earlier] * (len(rollout.turns) - 1), 1.0]
            rows += [
                # Cross-entropy takes no advantages.
                dataclasses.replace(row, fields={"weights": row.fields["weights"]})
                for row in dialogue_rows(rollout.turns, selected_H, lambda _: len(kept))
            ]
        terms = [
            LossTerm("sft", Loss("cross_entropy"), rows),
            world_model_term(ctx, kept, self.lambda_wm, leaks=self.leaks),
        ]
        return [term for term in terms if term.rows]
