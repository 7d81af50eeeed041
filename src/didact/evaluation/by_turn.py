"""How does a dialogue help, turn by turn? Always beside what any further try would have given.

    didactic        u_1 c_1 u_2 c_2 …    the configured teacher; a right answer ends the dialogue
    self-critique   u_1 c̃_1 u_2 c̃_2 …    the student's own critiques, from the public conversation
    retry           u_1 r u_2 r …        "That is wrong. Try again."
    resample        u_1, u_2, …          independent answers to the question alone: pass@t

`solved` at turn t is the share of problems with a right answer among the first t, as if a verifier stopped
the dialogue. To stop so is to be told what nobody tells in use, so the last three are sampled blind: to the
last turn, with nothing verified before the last answer is there. They also have

    final      is the t-th answer right? (of `resample`, the commonest of the first t: `majority`)
    stopped    is the answer right at which the model stops, because its own critique calls it right, or else
               the t-th? (`self-critique`)
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from didact.engines.base import SamplingParams
from didact.errors import UsageError
from didact.evaluation.calibration import calibration, stated_verdict
from didact.evaluation.evaluate import critic_failed
from didact.evaluation.stats import wilson
from didact.feedback.teacher import OutcomeOnlyTeacher
from didact.feedback_source import FeedbackSource
from didact.rollouts.base import StepContext
from didact.rollouts.single_turn import single_turn
from didact.rollouts.tutored_dialogue import tutored_dialogues
from didact.rollouts.unprivileged_critic import UnprivilegedCritic
from didact.tasks.base import Task, Verdict, as_base_task, verify_all
from didact.types import Problem, Rollout

DialogueProtocol: TypeAlias = Literal["didactic", "self-critique", "retry", "resample"]
PROTOCOLS: tuple[DialogueProtocol, ...] = get_args(DialogueProtocol)
BASELINES: tuple[DialogueProtocol, ...] = ("retry", "resample")
"""What any second try has; they stand beside every other protocol."""
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class DialogueSettings:
    """How dialogues are held.

    Attributes:
        turns: T, answers a problem.
        temperature: Of answers; 0 is greedy, where `resample` draws at 1.
        window: At most so many earlier exchanges in view; None for all that fit the model.
        critique_tokens: At most so many tokens a self-critique, which is greedy.
    """

    turns: int = 10
    temperature: float = 1.0
    window: int | None = None
    critique_tokens: int = 256


@dataclass(frozen=True)
class ByTurn:
    """What became of V problems by turn; [T, V] bool each.

    Attributes:
        protocol: Who spoke between answers.
        rollouts: One a problem, all answers verified.
        right: Is the answer that stands after t turns right? Of a dialogue that ended, the last one stands.
        stopped: The same, where the model stops at the first answer that its own critique calls right.
        majority: Is the commonest of the first t answers right?
    """

    protocol: DialogueProtocol
    rollouts: list[Rollout]
    right: Bools
    stopped: Bools | None = None
    majority: Bools | None = None

    @property
    def solved(self) -> Bools:
        """[T, V]: was one of the first t answers right?"""
        found: Bools = np.logical_or.accumulate(self.right, axis=0)
        return found

    def records(self) -> list[dict[str, Any]]:
        """One record a turn, from 1 on: shares with 95 % Wilson intervals, and what a problem cost so far.

        `tokens` are the student's and `feedback_tokens` a speaking model's: means over problems, up to the
        first right answer.
        """
        solved_TV = self.solved
        tokens_TV, spoken_TV = self._costs()
        shares: dict[str, Bools | None] = {"solved": solved_TV}
        if self.protocol != "didactic":
            shares["final"] = self.right
        shares |= {"stopped": self.stopped, "majority": self.majority}
        records = []
        for t in range(len(solved_TV)):
            record: dict[str, Any] = {"turn": t + 1, "n": solved_TV.shape[1]}
            for name, right_TV in shares.items():
                if right_TV is not None:
                    record |= _share(name, right_TV[t])
            record["tokens"] = round(float(tokens_TV[: t + 1].sum(0).mean()), 2)
            record["feedback_tokens"] = round(float(spoken_TV[: t + 1].sum(0).mean()), 2)
            records.append(record)
        return records

    def to_json(self) -> dict[str, Any]:
        """The records, with the leak rate and how true the model's own verdicts were, where there are any."""
        said = [f.leaks for r in self.rollouts for f in r.feedback if f.leaks is not None]
        leaks = {"leak_rate": sum(said) / len(said)} if said else {}
        return {"by_turn": self.records(), **leaks, **calibration(self.rollouts)}

    def _costs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        tokens_TV = np.zeros(self.right.shape)
        spoken_TV = np.zeros(self.right.shape)
        for v, rollout in enumerate(self.rollouts):
            for t, turn in enumerate(rollout.turns):
                tokens_TV[t, v] = len(turn.completion_ids)
                if turn.correct:
                    break
                # What is said after the t-th answer is paid before the next one.
                for said in rollout.feedback:
                    if said.turn == t and t + 1 < len(self.right):
                        spoken_TV[t + 1, v] += said.provenance.tokens
        return tokens_TV, spoken_TV


class DeferredVerification:
    """A task whose verifier is not to be had: every answer is unverified.

    Args:
        task: Whose problems it has.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.name = task.name

    def train_problem(self, index: int) -> Problem:
        return self.task.train_problem(index)

    def eval_problems(self, n: int) -> Sequence[Problem]:
        return self.task.eval_problems(n)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Nothing."""
        return Verdict(None, False)


def dialogue_table(
    ctx: StepContext,
    problems: Sequence[Problem],
    protocols: Sequence[DialogueProtocol],
    settings: DialogueSettings,
) -> dict[str, Any]:
    """The protocols that were asked for, and the baselines, as a record for a JSON file."""
    wanted = [p for p in PROTOCOLS if p in protocols or p in BASELINES]
    found = {p: by_turn(ctx, problems, p, settings).to_json() for p in wanted}
    return {"turns": settings.turns, "temperature": settings.temperature, "protocols": found}


def family_tables(
    task: Task,
    ctx: StepContext,
    asked: Mapping[str, Sequence[Problem]],
    protocols: Sequence[DialogueProtocol],
    settings: DialogueSettings,
) -> dict[str, dict[str, Any]]:
    """A `dialogue_table` for each family of problems; `held_out` marks those that training never sees."""
    others = as_base_task(task).held_out_families
    return {
        name: {"held_out": name in others, **dialogue_table(ctx, problems, protocols, settings)}
        for name, problems in asked.items()
    }


def by_turn(
    ctx: StepContext, problems: Sequence[Problem], protocol: DialogueProtocol, settings: DialogueSettings
) -> ByTurn:
    """Hold one dialogue a problem by a protocol.

    Args:
        ctx: Engine, task and (for `didactic`) a teacher that tells the truth.
        problems: V problems, the same for whatever is compared.
        protocol: Who speaks between answers.
        settings: How long and how.

    Raises:
        UsageError: nothing verified the answers.
    """
    temperature = settings.temperature
    if protocol == "resample" and temperature == 0:
        temperature = 1.0  # a greedy answer given twice is one answer
    ctx = dataclasses.replace(ctx.with_temperature(temperature), offline=None)
    if protocol == "didactic":
        rollouts = tutored_dialogues(ctx, problems, 1, turns=settings.turns, window=settings.window)
    else:
        blind = dataclasses.replace(ctx, task=DeferredVerification(ctx.task))
        rollouts = verified(ctx.task, _blindly(blind, problems, protocol, settings))
    whole = [r for r in rollouts if all(t.reward is not None for t in r.turns) and not critic_failed(r)]
    if not whole:
        raise UsageError(
            f"of {len(rollouts)} dialogues none was verified and criticised to its end, so there is nothing "
            f"to count: give the task a verifier that works{_why(rollouts)}"
        )
    right = [[_standing(r, t) for r in whole] for t in range(settings.turns)]
    stopped = [[_self_stopped(r, t) for r in whole] for t in range(settings.turns)]
    majority = [[_commonest(r, t) for r in whole] for t in range(settings.turns)]
    return ByTurn(
        protocol,
        whole,
        np.array(right, dtype=np.bool_),
        np.array(stopped, dtype=np.bool_) if protocol == "self-critique" else None,
        np.array(majority, dtype=np.bool_) if protocol == "resample" else None,
    )


def verified(task: Task, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts with every answer's verdict; only to be asked for once all is sampled."""
    asked = [(r.problem, turn.text) for r in rollouts for turn in r.turns]
    verdicts = iter(verify_all(task, asked))
    return [
        r.model_copy(
            update={
                "turns": tuple(
                    turn.model_copy(update={"reward": v.reward, "correct": v.correct})
                    for turn, v in zip(r.turns, verdicts, strict=False)
                )
            }
        )
        for r in rollouts
    ]


def _blindly(
    ctx: StepContext, problems: Sequence[Problem], protocol: DialogueProtocol, settings: DialogueSettings
) -> list[Rollout]:
    """All answers of a protocol, with a task that verifies none."""
    if protocol == "resample":
        tries = single_turn(ctx, problems, settings.turns)
        firsts = tries[:: settings.turns]
        return [
            first.model_copy(update={"turns": tuple(r.turns[0] for r in tries[i : i + settings.turns])})
            for first, i in zip(firsts, range(0, len(tries), settings.turns), strict=True)
        ]
    speaker: FeedbackSource = OutcomeOnlyTeacher()
    if protocol == "self-critique":
        params = SamplingParams(max_tokens=settings.critique_tokens, temperature=0.0)
        speaker = UnprivilegedCritic(ctx.engine, ctx.renderer, params=params, weights=ctx.weights)
    ctx = dataclasses.replace(ctx, feedback=speaker)
    return tutored_dialogues(ctx, problems, 1, turns=settings.turns, window=settings.window, early_stop=False)


def _share(name: str, right_V: Bools) -> dict[str, Any]:
    n = len(right_V)
    return {name: float(right_V.mean()), f"{name}_ci95": list(wilson(int(right_V.sum()), n))}


def _why(rollouts: Sequence[Rollout]) -> str:
    errors = [f.error for r in rollouts for f in r.feedback if f.error]
    return f", or mend the teacher ({errors[0]})" if errors else ""


def _standing(rollout: Rollout, t: int) -> bool:
    return rollout.turns[min(t, len(rollout.turns) - 1)].correct


def _self_stopped(rollout: Rollout, t: int) -> bool:
    for h in range(min(t, len(rollout.turns) - 1)):
        said = rollout.feedback_on(h)
        if said is not None and stated_verdict(said.text):
            return rollout.turns[h].correct
    return _standing(rollout, t)


def _commonest(rollout: Rollout, t: int) -> bool:
    texts = [turn.text.strip() for turn in rollout.turns[: t + 1]]
    chosen = Counter(texts).most_common(1)[0][0]  # the first of those that are as common
    return rollout.turns[texts.index(chosen)].correct
