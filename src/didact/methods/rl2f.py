"""RL2F: reinforcement learning of the skill to use feedback within one conversation.

Paper: "Improving Interactive In-Context Learning from Natural Language Feedback" (arXiv:2602.16066). A
dialogue (`rollouts/tutored_dialogue.py`): question, answer u_1, critique c_1, …, up to T answers; it ends
at the first correct one, the τ-th. S are its student tokens, o_t the student's context before u_t; M
dialogues a step, g a question.

    R  = γ^(τ−1) if the dialogue ended correct, else 0    (τ: from there on all answers are correct)
    A  = (R − mean R) / std R over the g dialogues of one question
    L  = −1/M Σ_dialogues [ Σ_{t ∈ S} A log π(token_t | before) + λ_WM Σ_{h<τ} log π(c_h | o_h, u_h) ]

The first sum is over student tokens only. The second is the world model: cross-entropy on the teacher's
critiques given the public conversation, where the teacher also had the reference or the test output. With
T = 1 and λ_WM = 0 this is single-turn GRPO row by row.

**The paper gives neither optimiser nor hyperparameters nor prompts.** The defaults follow its companion SML
(arXiv:2602.16488); λ_WM is RLTF's λ_FM. Every choice is a setting of `RL2F`. Departures from what is known
of the paper are in docs/algorithms/rl2f.md.

A dialogue whose teacher failed is missing, as is one that is dropped for a leak: it is in no mean and no
divisor, its critiques are not learned, and it counts neither as solved nor as unsolved.

Shapes: N dialogues, H turns.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from didact.advantages import Array, group_advantages, group_mean, last_reward_returns
from didact.engines.base import Loss, fits_context
from didact.errors import UsageError
from didact.feedback_source import critiques_correct_answers
from didact.methods.base import LossTerm
from didact.methods.grpo import GroupPolicyGradient, rewards_by_turn
from didact.rng import derive_seed
from didact.rollouts.base import StepContext
from didact.rollouts.self_critique_rollout import critique_prompt
from didact.rollouts.tutored_dialogue import tutored_dialogues
from didact.types import Ids, Problem, Rollout, Row, Turn

DialogueLeaks: TypeAlias = Literal["zero", "drop", "keep"]


class RL2F(GroupPolicyGradient):
    """GRPO over tutored dialogues, with a world model of the teacher.

    The settings of `GroupPolicyGradient`, and

    Attributes:
        credit: `conversation`: every answer of a dialogue has A of its R. `to_go`: answer h has γ^(τ−h),
            centred over the dialogues that had an answer h.
        lambda_wm: λ_WM ≥ 0; 0 switches the world model off.
        leaks: A dialogue in which the teacher stated the answer is not used (`drop`), has R = 0 from the leak
            on (`zero`), or is used like any other (`keep`).
        window: Maximum number of earlier exchanges in view; None for all that fit the model.
        resample: Number of further tries at questions whose dialogues all have the same return.
        band: Train only questions with a share of solved dialogues in [low, high].
    """

    turns: Annotated[int, Field(ge=1)] = 4
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.7
    divide_by_std: bool = True
    credit: Literal["conversation", "to_go"] = "conversation"
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
        """Dialogues, then with `resample` further ones of problems without a signal.

        Dialogues without a signal are kept, because their tokens count.

        Raises:
            UsageError: the teacher also criticises correct answers, which `credit: to_go` cannot credit.
        """
        if self.credit == "to_go" and critiques_correct_answers(ctx.feedback):
            raise UsageError(
                "settings.credit=to_go has no return for a dialogue that goes on after a right answer: take "
                "credit=conversation, or feedback.control.after_right=false"
            )
        rollouts = latest = self._dialogues(ctx, problems)
        for number in range(1, self.resample + 1):
            groups = without_signal(self.advantages(latest), latest)
            again = {r.group: r.problem for r in latest if r.group in groups}
            if not again:
                break
            other = dataclasses.replace(ctx, seed=derive_seed(ctx.seed, "resample", number))
            # A further try has an id and a group of its own.
            latest = [
                r.model_copy(update={"id": f"{r.id}+{number}", "group": f"{r.group}+{number}"})
                for r in self._dialogues(other, list(again.values()))
            ]
            rollouts = [*rollouts, *latest]
        return rollouts

    def _dialogues(self, ctx: StepContext, problems: Sequence[Problem]) -> list[Rollout]:
        return tutored_dialogues(ctx, problems, self.samples, turns=self.turns, window=self.window)

    def rows(self, ctx: StepContext, rollouts: Sequence[Rollout]) -> list[LossTerm]:
        advantages_NH = self.advantages(rollouts)
        ctx.metrics.update(dialogue_metrics(rollouts, self.turns))
        ctx.metrics["groups_without_signal"] = float(len(without_signal(advantages_NH, rollouts)))
        trained = [r for r, a in zip(rollouts, advantages_NH[:, 0], strict=True) if not np.isnan(a)]
        terms = [
            LossTerm("rl", self.policy_gradient, self._student_rows(ctx, rollouts, advantages_NH)),
            world_model_term(ctx, trained, self.lambda_wm, leaks=self.leaks),
        ]
        return [term for term in terms if term.rows]

    def advantages(self, rollouts: Sequence[Rollout]) -> Array:
        """A of every answer, [N, H]; NaN where there is none, or where it is missing."""
        rewards_NH = without_leaks(rewards_by_turn(rollouts, self.turns), rollouts, self.leaks)
        groups = [rollout.group for rollout in rollouts]
        turns_N = np.array([len(rollout.turns) for rollout in rollouts])
        if self.credit == "to_go":
            advantages_NH = self.turn_advantages(rewards_NH, rollouts)
        else:
            tau_N = np.array([turns_to_solve(rollout) for rollout in rollouts])
            returns_N = last_reward_returns(rewards_NH, tau_N, self.gamma)
            whole_N = group_advantages(returns_N, groups, divide_by_std=self.divide_by_std)
            came_NH = np.arange(self.turns) < turns_N[:, None]
            advantages_NH = np.where(came_NH, whole_N[:, None], np.nan)
        if self.band is not None:
            solved_N = [float(r.turns[-1].correct) for r in rollouts]
            share_N = group_mean(np.where(np.isnan(advantages_NH[:, 0]), np.nan, solved_N), groups)
            advantages_NH[(share_N < self.band[0]) | (share_N > self.band[1])] = np.nan
        return advantages_NH

    def _student_rows(self, ctx: StepContext, rollouts: Sequence[Rollout], advantages_NH: Array) -> list[Row]:
        """One row a dialogue (more, where it was shortened), with weight on the student's tokens only."""
        divisor = self.divide(rollouts, advantages_NH)
        rows = [
            row
            for rollout, advantages_H in zip(rollouts, advantages_NH, strict=True)
            for row in dialogue_rows(
                rollout.turns,
                advantages_H,
                divisor,
                old_logprobs=self.clip is not None,
                keep_zero=self.keeps_zero,
            )
        ]
        return self.with_reference(ctx, rows)


def turns_to_solve(rollout: Rollout) -> int:
    """τ, counted from 1: the answer from which on all are correct; the last one if that is wrong.

    Where the teacher also criticises correct answers, staying correct thus costs no discount.
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
    """The first turn whose critique stated the answer and was followed by another answer."""
    leaked = [f.turn for f in rollout.feedback if f.leaks and f.ok and f.turn < len(rollout.turns) - 1]
    return min(leaked, default=None)


def without_leaks(rewards_NH: Array, rollouts: Sequence[Rollout], leaks: DialogueLeaks) -> Array:
    """The rewards under a leak policy, [N, H]: NaN for dropped dialogues, at most 0 from a leak on."""
    kept_NH = rewards_NH.copy()
    for i, rollout in enumerate(rollouts):
        leak = first_leak(rollout)
        if leak is not None and leaks == "drop":
            kept_NH[i] = np.nan
        elif leak is not None and leaks == "zero":
            kept_NH[i, leak + 1 :] = np.minimum(kept_NH[i, leak + 1 :], 0.0)
    return kept_NH


def present(rollouts: Sequence[Rollout], turns: int, leaks: DialogueLeaks) -> list[Rollout]:
    """The dialogues that are not missing: every reward is known, and none is dropped for a leak."""
    rewards_NH = without_leaks(rewards_by_turn(rollouts, turns), rollouts, leaks)
    known_N = [not np.isnan(r_H[: len(r.turns)]).any() for r, r_H in zip(rollouts, rewards_NH, strict=True)]
    return [rollout for rollout, known in zip(rollouts, known_N, strict=True) if known]


def without_signal(advantages_NH: Array, rollouts: Sequence[Rollout]) -> set[str]:
    """Groups all of whose advantages are 0 or missing."""
    signal: dict[str, bool] = defaultdict(bool)
    for rollout, advantages_H in zip(rollouts, advantages_NH, strict=True):
        signal[rollout.group] |= bool(np.any(np.nan_to_num(advantages_H) != 0))
    return {group for group, found in signal.items() if not found}


def dialogue_rows(
    turns: Sequence[Turn],
    advantages_H: Sequence[float] | Array,
    divisor: Callable[[Turn], int],
    *,
    old_logprobs: bool = False,
    keep_zero: bool = False,
) -> list[Row]:
    """Rows of one dialogue.

    Turns that continue each other token by token share a row; a turn whose prompt was shortened starts a new
    one. A turn's tokens have weight 1 / divisor, prompts and critiques weight 0. Turns with advantage NaN are
    left out, and with advantage 0 unless `keep_zero`, for a loss with another term.
    """
    credited = [
        (turn, float(advantage))
        for turn, advantage in zip(turns, advantages_H, strict=False)
        # A dataset answer is no sample of π, so its likelihood has no policy gradient.
        if turn.logprobs is not None and not np.isnan(advantage) and (keep_zero or advantage != 0.0)
    ]
    runs: list[list[tuple[Turn, float]]] = []
    whole: Ids = ()
    for turn, advantage in credited:
        if runs and turn.prompt_ids[: len(whole)] == whole:
            runs[-1].append((turn, advantage))
        else:
            runs.append([(turn, advantage)])
        whole = (*turn.prompt_ids, *turn.completion_ids)
    return [_dialogue_row(run, divisor, old_logprobs) for run in runs]


def _dialogue_row(
    run: Sequence[tuple[Turn, float]], divisor: Callable[[Turn], int], old_logprobs: bool
) -> Row:
    last = run[-1][0]
    ids = np.asarray([*last.prompt_ids, *last.completion_ids], dtype=np.int64)
    names = ("weights", "advantages", *(("old_logprobs",) if old_logprobs else ()))
    fields = {name: np.zeros(len(ids) - 1, dtype=np.float32) for name in names}
    for turn, advantage in run:
        first = len(turn.prompt_ids) - 1  # predicts the answer's first token
        answer = slice(first, first + len(turn.completion_ids))
        fields["weights"][answer] = 1 / divisor(turn)
        fields["advantages"][answer] = advantage
        if old_logprobs:
            assert turn.logprobs is not None, "only sampled turns are trained by RL"
            fields["old_logprobs"][answer] = turn.logprobs
    return Row(ids[:-1], ids[1:], fields)


def world_model_term(
    ctx: StepContext, rollouts: Sequence[Rollout], lambda_wm: float, *, leaks: DialogueLeaks
) -> LossTerm:
    """Rows (o_h, u_h, request) → c_h with weight λ_WM / M, without private input.

    Args:
        rollouts: The M dialogues that are not missing.
        leaks: Critiques that leak are learned with "keep" only.
    """
    weight = lambda_wm / max(1, len(rollouts))
    rows = []
    for rollout in rollouts if lambda_wm else ():
        for critique in rollout.feedback:
            trained = critique.ok and critique.text and (leaks == "keep" or not critique.leaks)
            if not trained or critique.turn >= len(rollout.turns):
                continue
            prompt = critique_prompt(ctx.renderer, rollout.turns[critique.turn])
            rows.append(Row.from_completion(prompt, ctx.renderer.answer(critique.text), weights=weight))
    # The length of an answer or a critique is up to the models and must not end the run.
    return LossTerm("wm", Loss("cross_entropy"), [row for row in rows if fits_context(ctx.engine, len(row))])


def dialogue_metrics(rollouts: Sequence[Rollout], turns: int) -> dict[str, float]:
    """Means over the step's dialogues whose teacher did not fail, and counts over all."""
    known = present(rollouts, turns, "keep")
    solved = [r for r in known if r.turns[-1].correct]
    metrics = {
        "groups": float(len({r.group for r in rollouts})),
        "dialogues_leaked": float(sum(first_leak(r) is not None for r in rollouts)),
    }
    if known:
        metrics["solved"] = len(solved) / len(known)
        metrics["turns"] = float(np.mean([len(r.turns) for r in known]))
        for h in range(1, turns):
            metrics[f"solved_by_{h + 1}"] = sum(turns_to_solve(r) <= h + 1 for r in solved) / len(known)
    if solved:
        metrics["turns_to_solve"] = float(np.mean([turns_to_solve(r) for r in solved]))
    return metrics
