"""RL2F: reinforcement learning of the skill to use feedback inside one conversation.

Paper: "Improving Interactive In-Context Learning from Natural Language Feedback" (arXiv:2602.16066). A
dialogue (`rollouts/tutored_dialogue.py`): question, answer u_1, critique c_1, …, up to T answers; it ends
at the first right one, the τ-th. S are its student tokens, o_t all that the student saw before u_t; M
dialogues a step, g a question.

    R  = γ^(τ−1) if the dialogue ended right, else 0      (τ: from there on all answers are right)
    A  = (R − mean R) / std R over the g dialogues of one question
    L  = −1/M Σ_dialogues [ Σ_{t ∈ S} A log π(token_t | before) + λ_WM Σ_{h<τ} log π(c_h | o_h, u_h) ]

The first sum is over student tokens only; the second is the world model, cross-entropy on the teacher's words
from the public conversation, where the teacher also had the reference or the test output. With T = 1 and
λ_WM = 0 this is single-turn GRPO row by row.

**The paper gives neither optimiser nor hyperparameters nor prompts.** What stands here follows its companion
SML (arXiv:2602.16488: GRPO, 8 samples, γ = 0.7, no KL, 4 turns in training and 10 in evaluation). Every
choice is a switch:

    credit: conversation    every answer of a dialogue has A of its R            (default)
            to_go           answer h has γ^(τ−h), centred over the dialogues that had an answer h
    divide_by_std           on; off is Dr. GRPO's
    normalise: dialogues    1/M, token sums, as in methods/grpo.py               (default)
               tokens       1 / Σ|S|, a mean over the step's student tokens
    clip, kl_coef           off
    leaks: drop             a dialogue in which the teacher stated the answer leaves everything    (default)
           zero             its R is 0 from the leak on
           keep             it counts as any other
    resample                0; so many more tries at questions whose dialogues all came out alike
    band                    none; questions outside this range of solved shares have no row
    lambda_wm               0.2, RLTF's λ_FM; the paper names none
    window                  none; at most so many exchanges in view
    who teaches             `feedback.source`; a model teacher that names nobody is the policy as it
                            started (`teacher` with who: policy is the live one)

Departures from what is known of the paper: 1. the critique is asked for ("criticise this", the prompt of
`rollouts/unprivileged_critic.py`) and answered as the assistant, where the paper may predict it as
the other's turn; 2. R is γ^(τ−1) times the last answer's reward, for tasks that give parts of one; 3. a
critique that leaks is not learned unless `leaks: keep`; 4. earlier answers stay in view whole, thinking
included. A dialogue whose teacher failed is missing: it leaves every mean and has no row.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from didact.advantages import Array, group_advantages, group_mean, last_reward_returns, returns_to_go
from didact.engines.base import Loss, takes
from didact.errors import UsageError
from didact.feedback_source import critiques_correct_answers
from didact.methods.base import Term
from didact.methods.dialogue_rows import dialogue_rows
from didact.methods.grpo import GRPO, num_valid_rollouts, rewards_by_turn, with_reference
from didact.rng import derive_seed
from didact.rollouts.base import StepContext
from didact.rollouts.tutored_dialogue import tutored_dialogues
from didact.rollouts.unprivileged_critic import critique_prompt
from didact.types import Problem, Rollout, Row

Credit: TypeAlias = Literal["conversation", "to_go"]
DialogueLeaks: TypeAlias = Literal["zero", "drop", "keep"]


class RL2F(GRPO):
    """GRPO over didactic dialogues, with a world model of the teacher. See the top of this file.

    The settings of `GRPO`, with other defaults, and

    Attributes:
        turns: T, answers a dialogue.
        gamma: γ ∈ [0, 1], what each further turn costs.
        credit: The whole conversation's return for every answer, or what is still to come for each.
        normalise: By dialogues, or by student tokens.
        lambda_wm: λ_WM ≥ 0; 0 switches the world model off.
        leaks: What becomes of a dialogue in which the teacher stated the answer.
        window: At most so many earlier exchanges in view; None for all that fit the model.
        resample: So many more tries at questions whose dialogues all came out alike.
        band: Only questions of which this share of dialogues was solved, both ends included.
    """

    turns: Annotated[int, Field(ge=1)] = 4
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.7
    early_stop: Literal[True] = True
    divide_by_std: bool = True
    credit: Credit = "conversation"
    normalise: Literal["dialogues", "tokens"] = "dialogues"
    lambda_wm: Annotated[float, Field(ge=0)] = 0.2
    leaks: DialogueLeaks = "drop"
    window: Annotated[int, Field(ge=1)] | None = None
    resample: Annotated[int, Field(ge=0)] = 0
    band: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] | None = None

    @model_validator(mode="after")
    def _band_in_order(self) -> RL2F:
        if self.band is not None and self.band[0] > self.band[1]:
            raise ValueError("the band's lower end comes first")
        return self

    @property
    def uses_dialogue_teacher(self) -> bool:
        return True

    def collect(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        """Dialogues with the teacher; of questions without a signal more, where `resample` says so.

        Those that taught nothing are kept, because they were paid for.
        """
        if self.credit == "to_go" and critiques_correct_answers(ctx.feedback):
            raise UsageError(
                "settings.credit=to_go has no return for a dialogue that goes on after a right answer: take "
                "credit=conversation, or feedback.control.after_right=false"
            )
        rollouts = self.dialogues(ctx, problems)
        latest = rollouts
        for number in range(1, self.resample + 1):
            dull = without_signal(self.advantages(latest), latest)
            again = {r.group: r.problem for r in latest if r.group in dull}
            if not again:
                break
            other = dataclasses.replace(ctx, seed=derive_seed(ctx.seed, "resample", number))
            latest = [_renamed(r, number) for r in self.dialogues(other, list(again.values()))]
            rollouts = [*rollouts, *latest]
        return rollouts

    def dialogues(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        """`samples` dialogues of each problem."""
        return tutored_dialogues(ctx, problems, self.samples, turns=self.turns, window=self.window)

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[Term]:
        advantages_NH = self.advantages(rollouts)
        self._note(ctx, rollouts, advantages_NH)
        rows = self.student_rows(ctx, rollouts, advantages_NH)
        terms = [Term("rl", self.loss, rows), self.world_model(ctx, rollouts)]
        return [term for term in terms if term.rows]

    def advantages(self, rollouts: Sequence[Rollout]) -> Array:
        """A of every answer, [N, T]; NaN where there is none, or where it is missing."""
        rewards_NH = self.dialogue_rewards(rollouts)
        turns_N = np.array([len(rollout.turns) for rollout in rollouts])
        tau_N = np.array(list(map(turns_to_solve, rollouts)))
        groups = [rollout.group for rollout in rollouts]
        if self.credit == "to_go":
            returns_NH = returns_to_go(rewards_NH, turns_N, self.gamma)
            by_turn = [group_advantages(g, groups, divide_by_std=self.divide_by_std) for g in returns_NH.T]
            advantages_NH = np.stack(by_turn, axis=1)
        else:
            returns_N = last_reward_returns(rewards_NH, tau_N, self.gamma)
            whole_N = group_advantages(returns_N, groups, divide_by_std=self.divide_by_std)
            came_NH = np.arange(self.turns) < turns_N[:, None]
            advantages_NH = np.where(came_NH, whole_N[:, None], np.nan)
        advantages_NH[self._out_of_band(rollouts)] = np.nan
        return advantages_NH

    def dialogue_rewards(self, rollouts: Sequence[Rollout]) -> Array:
        """r of every answer, [N, T], as the leak policy leaves it; NaN where missing."""
        rewards_NH = rewards_by_turn(rollouts, self.turns)
        for i, rollout in enumerate(rollouts):
            leak = first_leak(rollout)
            if leak is not None and self.leaks == "drop":
                rewards_NH[i] = np.nan
            elif leak is not None and self.leaks == "zero":
                rewards_NH[i, leak + 1 :] = np.minimum(rewards_NH[i, leak + 1 :], 0.0)
        return rewards_NH

    def student_rows(self, ctx: StepContext, rollouts: Sequence[Rollout], advantages_NH: Array) -> list[Row]:
        """One row a dialogue (more, where it was shortened), weighted on the student's tokens alone."""
        if self.normalise == "dialogues":
            scale = num_valid_rollouts(advantages_NH[:, 0])
        else:
            known = ~np.isnan(advantages_NH[:, 0])
            scale = max(1, sum(r.sampled_tokens for r, k in zip(rollouts, known, strict=True) if k))
        keep_zero = self.kl_coef > 0
        rows = [
            row
            for rollout, advantages_H in zip(rollouts, advantages_NH, strict=True)
            for row in dialogue_rows(
                rollout.turns, advantages_H, 1 / scale, old=self.clip is not None, keep_zero=keep_zero
            )
        ]
        return with_reference(ctx, rows) if self.kl_coef and rows else rows

    def world_model(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> Term:
        """Rows (o_h, u_h, request) → c_h with weight λ_WM / M, without private input."""
        weight = self.lambda_wm / max(1, len(rollouts))
        rows = []
        for rollout in rollouts if self.lambda_wm else ():
            for said in rollout.feedback:
                learned = said.ok and said.text and (self.leaks == "keep" or not said.leaks)
                if not learned or said.turn >= len(rollout.turns):
                    continue
                prompt = critique_prompt(ctx.renderer, rollout.turns[said.turn])
                rows.append(Row.from_completion(prompt, ctx.renderer.answer(said.text), weights=weight))
        # How long an answer or a critique is, is the models' doing, and must not end the run.
        return Term("wm", Loss("cross_entropy"), [row for row in rows if takes(ctx.engine, len(row))])

    def _out_of_band(self, rollouts: Sequence[Rollout]) -> NDArray[np.bool_]:
        """[N] bool: is the share of the group's dialogues that were solved outside the band?"""
        if self.band is None:
            return np.zeros(len(rollouts), dtype=np.bool_)
        solved_N = [float(r.turns[-1].correct) for r in rollouts]
        share_N = group_mean(solved_N, [r.group for r in rollouts])
        outside_N: NDArray[np.bool_] = (share_N < self.band[0]) | (share_N > self.band[1])
        return outside_N

    def _note(self, ctx: StepContext, rollouts: Sequence[Rollout], advantages_NH: Array) -> None:
        """What a reader of metrics.jsonl wants to know of the dialogues."""
        solved = [r for r in rollouts if r.turns[-1].correct]
        groups = {r.group for r in rollouts}
        notes = {
            "solved": len(solved) / len(rollouts),
            "turns": float(np.mean([len(r.turns) for r in rollouts])),
            "groups_without_signal": float(len(without_signal(advantages_NH, rollouts))),
            "groups": float(len(groups)),
            "dialogues_leaked": float(sum(first_leak(r) is not None for r in rollouts)),
        }
        if solved:
            notes["turns_to_solve"] = float(np.mean(list(map(turns_to_solve, solved))))
        for h in range(1, self.turns):
            notes[f"solved_by_{h + 1}"] = sum(turns_to_solve(r) <= h + 1 for r in solved) / len(rollouts)
        ctx.notes.update(notes)


def turns_to_solve(rollout: Rollout) -> int:
    """τ, counted from 1: the answer from which on all are right; the last one where that is wrong.

    They differ where the teacher speaks after right answers: to have stayed right costs nothing.
    """
    since = correct_from_turn(rollout)
    return len(rollout.turns) if since is None else since + 1


def correct_from_turn(rollout: Rollout) -> int | None:
    """The turn from which on all answers are correct, or None if the last one is wrong.

    >>> from didact.types import Problem, Turn
    >>> def turn(reward):
    ...     return Turn(prompt_ids=(1,), completion_ids=(2,), logprobs=None, text="", stop_reason="eos",
    ...                 reward=reward)
    >>> p = Problem.ask("?", id="p")
    >>> [correct_from_turn(Rollout(id="r", group="g", problem=p, turns=tuple(map(turn, rewards))))
    ...  for rewards in ([0, 1], [0, 1, 1], [1, 0, 1], [1, 0])]
    [1, 1, 2, None]
    """
    wrong = [h for h, turn in enumerate(rollout.turns) if not turn.correct]
    since = wrong[-1] + 1 if wrong else 0
    return since if since < len(rollout.turns) else None


def first_leak(rollout: Rollout) -> int | None:
    """The first turn of which a critique stated the answer, if an answer followed it."""
    leaked = [f.turn for f in rollout.feedback if f.leaks and f.ok and f.turn < len(rollout.turns) - 1]
    return min(leaked, default=None)


def without_signal(advantages_NH: Array, rollouts: Sequence[Rollout]) -> set[str]:
    """Groups all of whose advantages are 0 or missing."""
    signal: dict[str, bool] = defaultdict(bool)
    for rollout, advantages_H in zip(rollouts, advantages_NH, strict=True):
        signal[rollout.group] |= bool(np.any(np.nan_to_num(advantages_H) != 0))
    return {group for group, found in signal.items() if not found}


def _renamed(rollout: Rollout, number: int) -> Rollout:
    """The same under names of its own, for a further try at a question."""
    return rollout.model_copy(update={"id": f"{rollout.id}+{number}", "group": f"{rollout.group}+{number}"})
