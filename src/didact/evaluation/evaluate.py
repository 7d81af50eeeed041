"""Evaluation of answers: first answers without feedback, then further ones with critiques.

    single          y₀                                     no critique
    feedback        y₀ → c₀ → y₁ → …  up to K critiques    a truthful critic; stops at a right answer
    self-critique   y₀ → c̃₀ → ỹ₁ → …  K critiques          the model criticises itself, without early stopping
                                                           (RLTF, arXiv:2602.02482, Alg. 2)

Stopping at a right answer uses the verifier, which is not available in use: in self-critique right answers
are criticised and revised too, and the last answer counts.

Beside the share of answers that a judge calls good, its mean score is reported, in [0, 1] (of a rubric from 1
to 10, (score − 1) / 9). Judges prefer longer texts and revisions tend to be longer, so every turn's score is
also given at the mean length of first answers (`feedback.length_control`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from didact.errors import UsageError
from didact.evaluation.stats import over_problems, share
from didact.feedback.length_control import mean_interval, score_at
from didact.rollouts.base import StepContext, single_turn
from didact.rollouts.multi_turn import multi_turn
from didact.tasks.base import as_base_task
from didact.types import Problem, Rollout, Turn

MAX_MISSING = 0.1
"""Above this share of failed critiques no accuracy after feedback is reported: the rest is no fair sample."""
_RESAMPLES = 500
"""Of each bootstrap of scores."""


@dataclass(frozen=True)
class Evaluation:
    """Answers to a fixed set of problems.

    Attributes:
        first: [V] bool, the first answer is right, for the V problems whose first answer was verified.
        by_round: [K + 1, W] bool, the answer after k critiques is right, for the W problems of which every
            answer was verified and no critique failed; a dialogue that ended keeps its last answer. None
            without critiques, or if more than `MAX_MISSING` of the problems lack theirs.
        judged: A judge scores the answers; mean scores are reported beside accuracies.
    """

    rollouts: list[Rollout]
    first: NDArray[np.bool_]
    by_round: NDArray[np.bool_] | None
    judged: bool

    def metrics(self, critic: str = "feedback") -> dict[str, Any]:
        """Accuracies and the mean reward, with 95 % intervals, as a record for metrics.jsonl and result.json.

        With a judge, also its scores by turn; see `score_metrics`.

        Args:
            critic: Name of the critic in the keys, as "accuracy_after_feedback".
        """
        values = {"n": len(self.first), **share("accuracy", self.first, "ci95")}
        firsts = [r.turns[0] for r in self.rollouts if r.turns[0].reward is not None]
        values |= over_problems("reward", [t.reward for t in firsts if t.reward is not None])
        if self.by_round is not None:
            values |= share(f"accuracy_after_{critic}", self.by_round[-1], f"after_{critic}_ci95")
        if self.judged:
            rounds = range(0 if self.by_round is None else len(self.by_round))
            values |= score_metrics(
                firsts, [_answers_after(_whole(self.rollouts), k) for k in rounds], critic
            )
        return values

    def rounds(self) -> list[dict[str, Any]]:
        """A record per number of critiques, from 0 to K; empty without critiques.

        `accuracy` is of the current answers, `solved` of problems with a right answer so far, both with 95 %
        Wilson intervals; `mended` and `spoilt` count answers that the round turned right and wrong.
        """
        if self.by_round is None:
            return []
        solved_KW = np.logical_or.accumulate(self.by_round, axis=0)
        records = []
        for k, (right_W, solved_W) in enumerate(zip(self.by_round, solved_KW, strict=True)):
            before_W = self.by_round[max(0, k - 1)]
            records.append(
                {
                    "round": k,
                    "n": len(right_W),
                    **share("accuracy", right_W, "ci95"),
                    **share("solved", solved_W),
                    "mended": int((right_W & ~before_W).sum()),
                    "spoilt": int((before_W & ~right_W).sum()),
                }
            )
        return records


def evaluate(
    ctx: StepContext,
    problems: Sequence[Problem],
    *,
    temperature: float = 0.0,
    feedback: bool = True,
    rounds: int = 1,
    early_stop: bool = True,
) -> Evaluation:
    """Answer every problem once, and again after a critique where the answer is wrong.

    Args:
        ctx: Engine, task and (for `feedback`) a critic that tells the truth, or the model itself.
        problems: P problems, the same for whatever is compared.
        temperature: 0 is greedy; the same for all turns.
        feedback: Also ask for critiques and further answers.
        rounds: K ≥ 1, critiques a problem at most.
        early_stop: Stop at a right answer; off for self-critique.

    Raises:
        UsageError: no answer could be verified.
    """
    ctx = ctx.with_temperature(temperature)
    feedback = feedback and ctx.feedback is not None
    if feedback:
        rollouts = multi_turn(ctx, problems, 1, turns=rounds + 1, early_stop=early_stop)
    else:
        rollouts = single_turn(ctx, problems, 1)
    firsts = [r.turns[0] for r in rollouts if r.turns[0].reward is not None]
    if not firsts:
        raise UsageError(
            f"nothing verified any answer to {len(rollouts)} evaluation problems, so there is no accuracy: "
            "give the task a verifier that works, or switch evaluation off with --set eval.problems=0"
        )
    missing = sum(critic_failed(r) for r in rollouts)
    whole = _whole(rollouts)
    judged = as_base_task(ctx.task).needs_judge
    first = np.array([turn.correct for turn in firsts], dtype=np.bool_)
    if not (feedback and whole and missing <= MAX_MISSING * len(rollouts)):
        return Evaluation(rollouts, first, None, judged)
    right = [[turn.correct for turn in _answers_after(whole, k)] for k in range(rounds + 1)]
    return Evaluation(rollouts, first, np.array(right, dtype=np.bool_), judged)


def _whole(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Those with every answer verified and no critique failed."""
    return [r for r in rollouts if not critic_failed(r) and all(t.reward is not None for t in r.turns)]


def _answers_after(rollouts: Sequence[Rollout], k: int) -> list[Turn]:
    """The answers after k critiques; of a dialogue that ended, the last one."""
    return [r.turns[min(k, len(r.turns) - 1)] for r in rollouts]


def critic_failed(rollout: Rollout) -> bool:
    """A critique failed; a failed self-critique counts as the model's own failure instead."""
    return any(not f.ok and f.source != "self" for f in rollout.feedback)


def score_metrics(
    firsts: Sequence[Turn], standing: Sequence[Sequence[Turn]], critic: str = "feedback"
) -> dict[str, Any]:
    """An evaluation's scores, as a part of its record.

    Args:
        standing: The W answers after k = 0, 1, … critiques, all with a score; empty without critiques.

    Returns:
        `score` and `length` (characters) of first answers, `score_after_FEEDBACK` of the final ones, 95 %
        bootstrap intervals over problems, and `scores`, a record for each number of critiques. No interval
        and no length control with fewer than two answers.
    """
    at = float(np.mean([len(turn.text) for turn in firsts]))
    first = _scores(firsts, at)
    rounds = [_scores(turns, at) for turns in standing] or [first]
    values: dict[str, Any] = {"score": first["score"], "length": at}
    if "ci95" in first:
        values["score_ci95"] = first["ci95"]
    if standing:
        values[f"score_after_{critic}"] = rounds[-1]["score"]
        if "ci95" in rounds[-1]:
            values[f"score_after_{critic}_ci95"] = rounds[-1]["ci95"]
    return {**values, "scores": [{"round": k, **record} for k, record in enumerate(rounds)]}


def _scores(turns: Sequence[Turn], at: float) -> dict[str, Any]:
    scored = [(turn.reward, len(turn.text)) for turn in turns if turn.reward is not None]
    scores, lengths = zip(*scored, strict=True)
    plain = {"n": len(scores), "score": float(np.mean(scores)), "length": float(np.mean(lengths))}
    if len(scores) < 2:
        return plain
    found = score_at(scores, lengths, at, n_resamples=_RESAMPLES)
    return {
        **plain,
        "ci95": list(mean_interval(scores, n_resamples=_RESAMPLES)),
        "at_equal_length": found.controlled,
        "at_equal_length_ci95": [found.low, found.high],
        "length_effect": found.length_effect,
        "extrapolated": found.extrapolated,
    }
