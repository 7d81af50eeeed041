"""Evaluation of dialogues turn by turn, beside two baselines.

    didactic        u_1 c_1 u_2 c_2 …    critiques of the configured teacher; stops at a right answer
    self-critique   u_1 c̃_1 u_2 c̃_2 …    critiques of the policy itself, without private information
    retry           u_1 r u_2 r …        baseline: "That is wrong. Try again."
    resample        u_1, u_2, …          baseline: independent answers, pass@t

`solved` at turn t is the share of problems with a right answer among the first t, as if a verifier stopped
the dialogue. A verifier is not available in use, so all protocols but `didactic` are sampled to the last turn
before any answer is verified. They also report

    final      the t-th answer is right (`resample`: the most common of the first t, `majority`)
    stopped    `self-critique`: the first answer that its own critique calls right, else the t-th, is right
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from didact.config import DialogueEvalConfig
from didact.engines.base import SamplingParams
from didact.errors import UsageError
from didact.evaluation.calibration import calibration, stated_verdict
from didact.evaluation.evaluate import critic_failed
from didact.evaluation.stats import share
from didact.feedback.program import OutcomeOnlyTeacher
from didact.feedback_source import FeedbackSource
from didact.rollouts.base import StepContext, single_turn
from didact.rollouts.self_critique_rollout import UnprivilegedCritic
from didact.rollouts.tutored_dialogue import tutored_dialogues
from didact.tasks.base import Task, Verdict, as_base_task, verify_turns
from didact.types import Problem, Rollout

DialogueProtocol: TypeAlias = Literal["didactic", "self-critique", "retry", "resample"]
PROTOCOLS: tuple[DialogueProtocol, ...] = get_args(DialogueProtocol)
BASELINES: tuple[DialogueProtocol, ...] = ("retry", "resample")
"""Reported beside every other protocol."""
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class ByTurn:
    """Results of V dialogues by turn.

    Attributes:
        shares: What is counted, by name as at the top of this file: [T, V] bool.
    """

    rollouts: list[Rollout]
    shares: dict[str, Bools]

    def records(self) -> list[dict[str, Any]]:
        """One record per turn, from 1: shares with 95 % Wilson intervals, and the mean cost per problem so
        far.

        `tokens` are the policy's and `feedback_tokens` the critic's, up to the first right answer.
        """
        turns, n = self.shares["solved"].shape
        tokens_TV, feedback_TV = self._costs(turns)
        records = []
        for t in range(turns):
            record: dict[str, Any] = {"turn": t + 1, "n": n}
            for name, right_TV in self.shares.items():
                record |= share(name, right_TV[t])
            record["tokens"] = round(float(tokens_TV[: t + 1].sum(0).mean()), 2)
            record["feedback_tokens"] = round(float(feedback_TV[: t + 1].sum(0).mean()), 2)
            records.append(record)
        return records

    def to_json(self) -> dict[str, Any]:
        """The records, with the leak rate and the calibration of self-critiques where they apply."""
        leaks = [f.leaks for r in self.rollouts for f in r.feedback if f.leaks is not None]
        leak_rate = {"leak_rate": sum(leaks) / len(leaks)} if leaks else {}
        return {"by_turn": self.records(), **leak_rate, **calibration(self.rollouts)}

    def _costs(self, turns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        tokens_TV, feedback_TV = np.zeros((2, turns, len(self.rollouts)))
        for v, rollout in enumerate(self.rollouts):
            for t, turn in enumerate(rollout.turns):
                tokens_TV[t, v] = len(turn.completion_ids)
                if turn.correct:
                    break
                # The critique of the t-th answer is a cost of the next one.
                for critique in rollout.feedback:
                    if critique.turn == t and t + 1 < turns:
                        feedback_TV[t + 1, v] += critique.provenance.tokens
        return tokens_TV, feedback_TV


class DeferredVerification:
    """A task that verifies nothing, for sampling without a verifier."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.name = task.name

    def train_problem(self, index: int) -> Problem:
        return self.task.train_problem(index)

    def eval_problems(self, n: int) -> Sequence[Problem]:
        return self.task.eval_problems(n)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """No verdict."""
        return Verdict(None, False)


def family_tables(
    task: Task,
    ctx: StepContext,
    families: Mapping[str, Sequence[Problem]],
    protocols: Collection[DialogueProtocol],
    dialogue: DialogueEvalConfig,
    temperature: float = 1.0,
) -> dict[str, dict[str, Any]]:
    """A record per family of problems, of the given protocols and the baselines.

    `held_out` marks families outside the training problems.
    """
    wanted = [p for p in PROTOCOLS if p in protocols or p in BASELINES]
    return {
        name: {
            "held_out": name in as_base_task(task).held_out_families,
            "turns": dialogue.turns,
            "temperature": temperature,
            "protocols": {p: by_turn(ctx, problems, p, dialogue, temperature).to_json() for p in wanted},
        }
        for name, problems in families.items()
    }


def by_turn(
    ctx: StepContext,
    problems: Sequence[Problem],
    protocol: DialogueProtocol,
    dialogue: DialogueEvalConfig,
    temperature: float = 1.0,
) -> ByTurn:
    """Sample one dialogue per problem.

    Args:
        ctx: Engine, task and (for `didactic`) a truthful teacher.
        problems: V problems.
        protocol: Source of the text between answers.
        temperature: Of answers; 0 is greedy, except that `resample` samples at 1 then.

    Raises:
        UsageError: no dialogue was verified and criticised to its end.
    """
    if protocol == "resample" and temperature == 0:
        temperature = 1.0  # greedy answers are all the same
    ctx = dataclasses.replace(ctx.with_temperature(temperature), offline=None)
    if protocol == "didactic":
        rollouts = tutored_dialogues(ctx, problems, 1, turns=dialogue.turns, window=dialogue.window)
    else:
        unverified = dataclasses.replace(ctx, task=DeferredVerification(ctx.task))
        rollouts = _verified(ctx.task, _sample_unverified(unverified, problems, protocol, dialogue))
    whole = [r for r in rollouts if all(t.reward is not None for t in r.turns) and not critic_failed(r)]
    if not whole:
        raise UsageError(
            f"of {len(rollouts)} dialogues none was verified and criticised to its end, so there is nothing "
            f"to count: give the task a verifier that works{_first_error(rollouts)}"
        )

    def table(is_right: Callable[[Rollout, int], bool]) -> Bools:
        return np.array([[is_right(r, t) for r in whole] for t in range(dialogue.turns)], dtype=np.bool_)

    right = table(_right_after)
    shares = {"solved": np.logical_or.accumulate(right, axis=0)}
    if protocol != "didactic":
        shares["final"] = right
    if protocol == "self-critique":
        shares["stopped"] = table(_right_when_stopped)
    if protocol == "resample":
        shares["majority"] = table(_majority_right)
    return ByTurn(whole, shares)


def _verified(task: Task, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts with a verdict on every answer."""
    verdicts = iter(verify_turns(task, [(r.problem, turn) for r in rollouts for turn in r.turns]))
    found = []
    for r in rollouts:
        judged = zip(r.turns, verdicts, strict=False)
        turns = [t.model_copy(update={"reward": v.reward, "correct": v.correct}) for t, v in judged]
        found.append(r.model_copy(update={"turns": tuple(turns)}))
    return found


def _sample_unverified(
    ctx: StepContext, problems: Sequence[Problem], protocol: DialogueProtocol, dialogue: DialogueEvalConfig
) -> list[Rollout]:
    turns = dialogue.turns
    if protocol == "resample":
        samples = single_turn(ctx, problems, turns)
        groups = [samples[i : i + turns] for i in range(0, len(samples), turns)]
        return [group[0].model_copy(update={"turns": tuple(r.turns[0] for r in group)}) for group in groups]
    critic: FeedbackSource = OutcomeOnlyTeacher()
    if protocol == "self-critique":
        limit = dialogue.critique_tokens or ctx.sampling.max_tokens
        params = SamplingParams(max_tokens=limit, temperature=0.0)
        critic = UnprivilegedCritic(ctx.engine, ctx.renderer, params=params, weights=ctx.weights)
    ctx = dataclasses.replace(ctx, feedback=critic)
    return tutored_dialogues(ctx, problems, 1, turns=turns, window=dialogue.window, early_stop=False)


def _first_error(rollouts: Sequence[Rollout]) -> str:
    errors = [f.error for r in rollouts for f in r.feedback if f.error]
    return f", or mend the teacher ({errors[0]})" if errors else ""


def _right_after(rollout: Rollout, t: int) -> bool:
    return rollout.turns[min(t, len(rollout.turns) - 1)].correct


def _right_when_stopped(rollout: Rollout, t: int) -> bool:
    for h in range(min(t, len(rollout.turns) - 1)):
        critique = rollout.feedback_on(h)
        if critique is not None and stated_verdict(critique.text):
            return rollout.turns[h].correct
    return _right_after(rollout, t)


def _majority_right(rollout: Rollout, t: int) -> bool:
    texts = [turn.answer.strip() for turn in rollout.turns[: t + 1]]
    chosen = Counter(texts).most_common(1)[0][0]  # ties: the first
    return rollout.turns[texts.index(chosen)].correct
