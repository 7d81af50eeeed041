"""Supervised fine-tuning on solved dialogues: the baseline that imitates what went well.

    L = −1/M Σ_{dialogues that ended right} Σ_{t ∈ S} log π(token_t | before)

S are the student's tokens, M all dialogues of the step. SML's offline arm (arXiv:2602.16488) keeps the
solved dialogues and trains on the student's turns; RL2F's paper (arXiv:2602.16066) compares with fine-tuning
too, and says no more about it. As switches: dialogues come from the weights that the run started from
(`sampler: start`, the offline arm) or from the live ones (`policy`, expert iteration); `learned: last` trains
the right answer alone. Leaks and the world model are as in methods/rl2f.py; a dialogue with a leak counts
under `leaks: keep` only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from didact.engines.base import REFERENCE, Loss
from didact.methods.base import Term
from didact.methods.dialogue_rows import dialogue_rows
from didact.methods.rl2f import RL2F, first_leak
from didact.rollouts.base import StepContext
from didact.types import Problem, Rollout, Row


class RejectionSFT(RL2F):
    """Cross-entropy on the student's side of dialogues that ended right. See the top of this file.

    Of the settings of `RL2F` it reads `samples`, `turns`, `window`, `leaks` and `lambda_wm` (0 unless set),
    and

    Attributes:
        sampler: Whose dialogues: those of the starting weights, or of the live ones.
        learned: All of the student's answers, or the last, right one.
    """

    samples: Annotated[int, Field(ge=1)] = 8
    lambda_wm: Annotated[float, Field(ge=0)] = 0.0
    sampler: Literal["start", "policy"] = "start"
    learned: Literal["all", "last"] = "all"

    @property
    def needs_reference(self) -> bool:
        return self.sampler == "start"

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        if self.sampler == "start":
            ctx = dataclasses.replace(ctx, weights=REFERENCE)
        return self.dialogues(ctx, problems)

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Term]:
        self._note(ctx, rollouts, self.advantages(rollouts))
        rows = []
        for rollout in rollouts:
            if not rollout.turns[-1].correct or (self.leaks != "keep" and first_leak(rollout) is not None):
                continue
            earlier = 1.0 if self.learned == "all" else 0.0
            counts_H = [*[earlier] * (len(rollout.turns) - 1), 1.0]
            rows += [_plain(r) for r in dialogue_rows(rollout.turns, counts_H, 1 / len(rollouts))]
        terms = [Term("sft", Loss("cross_entropy"), rows), self.world_model(ctx, rollouts)]
        return [term for term in terms if term.rows]


def _plain(row: Row) -> Row:
    """Without an advantage, which cross-entropy does not take."""
    return dataclasses.replace(row, fields={"weights": row.fields["weights"]})
