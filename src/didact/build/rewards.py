"""Judges that score the answers of tasks without a verifier: the section `reward` of a config.

A judge scores every answer by `writing_rubric_v1`. Its critique is the critique of `feedback.source=reward`,
in the same reply; any other source may criticise instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from didact.build.sources import BuildContext, LocalModelConfig, OpenAIServerConfig
from didact.config import Positive, RunConfig
from didact.errors import BudgetExceeded, DataError, Interrupted, UsageError
from didact.evaluation.evaluate import Evaluation
from didact.feedback.length_control import LengthControlled, win_rate
from didact.feedback.model_critic import MAX_CHARS
from didact.feedback.writing_judge import HIGHEST, LOWEST, Pair, PairJudge, RubricJudge, symmetry
from didact.feedback_source import FAILURE_WINDOW, FeedbackRequest
from didact.llm.chat import ChatModel
from didact.registry import REWARDS
from didact.run_dir import RunDir
from didact.settings import Section
from didact.tasks.base import BaseTask, Verdict
from didact.types import Feedback, Problem, Rollout


class Rubric(Section):
    """Settings of every judge of rewards."""

    good: Annotated[int, Field(gt=LOWEST, le=HIGHEST)] = 9
    """From this score on an answer counts as right, which ends a two-turn dialogue early."""
    max_chars: Positive = MAX_CHARS
    """Longer texts are cut in the middle, with a notice."""

    def model_of(self, at: BuildContext) -> ChatModel:
        """The model that judges."""
        raise NotImplementedError


class LocalRubric(Rubric, LocalModelConfig):
    """A judge in this process. Its verdict is JSON, which small models cannot write."""

    model: str | None = None
    """A folder or hub id; None is a frozen copy of the model that is trained."""

    def model_of(self, at: BuildContext) -> ChatModel:
        return self.frozen(at, self.model)


class ServerRubric(Rubric, OpenAIServerConfig):
    """A judge behind an OpenAI-compatible server, with a budget of its own."""

    section: ClassVar[str] = "reward"
    ledger: ClassVar[str] = "reward-budget.json"

    def model_of(self, at: BuildContext) -> ChatModel:
        return self.chat(at)


class UsageCost(NamedTuple):
    """Cost of scores."""

    tokens: int = 0
    """Tokens that the judge generated."""
    cost_usd: float = 0.0

    def metrics(self) -> dict[str, float]:
        """As part of a line of metrics.jsonl; empty if no judge was asked."""
        return {"reward_tokens": self.tokens, "reward_cost_usd": self.cost_usd} if self.tokens else {}


class JudgeReward(RubricJudge):
    """A rubric judge as a run's scorer: it counts what scores cost, and stops where too many fail.

    Every score is counted at its price, also where a cache gave it, so that a resumed run counts alike.

    Args:
        good, max_chars: As of `RubricJudge`.
        max_failed: Share of the last `FAILURE_WINDOW` scores that may fail, in (0, 1]; 1 never stops. Below 1
            a judge that fails at all of the first batch stops at once: it will hardly do better.
    """

    def __init__(
        self, model: ChatModel, max_failed: float = 0.1, *, good: int = 9, max_chars: int = MAX_CHARS
    ) -> None:
        super().__init__(model, good=good, max_chars=max_chars)
        self.max_failed = max_failed
        self._recent: deque[bool] = deque(maxlen=FAILURE_WINDOW)
        self._owed = UsageCost()

    def score(self, asked: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each (problem, answer), in order; no reward where the judge failed.

        Raises:
            UsageError: no request can ever succeed, as with a key that the server refuses.
            BudgetExceeded: the judge's budget; resuming does not help until the limit is raised.
            Interrupted: too many scores failed.
        """
        ratings = self.rate(asked)
        self._owed = UsageCost(
            self._owed.tokens + sum(r.provenance.tokens for r in ratings),
            self._owed.cost_usd + sum(r.provenance.cost_usd for r in ratings),
        )
        verdicts = [self.verdict(rating) for rating in ratings]
        errors = [verdict.error for verdict in verdicts if verdict.error is not None]
        self._recent += [verdict.error is not None for verdict in verdicts]
        if exceeded := next((rating for rating in ratings if rating.error_kind == "budget"), None):
            raise BudgetExceeded(f"the judge of the rewards: {exceeded.error}")
        failed = sum(self._recent)
        if self.max_failed < 1 and 1 < failed == len(self._recent) == len(verdicts):
            raise Interrupted(
                f"the judge of the rewards, {self.model.name}, gave none of the first {failed} scores "
                f"(the last failure: {errors[-1]}): name another with reward.source and reward.settings, "
                "or say reward.max_failed=1 to go on all the same; stopped"
            )
        if failed > self.max_failed * FAILURE_WINDOW:
            raise Interrupted(
                f"{failed} of the last {len(self._recent)} scores failed, more than reward.max_failed = "
                f"{self.max_failed:g} of {FAILURE_WINDOW} allows (the last one: "
                f"{errors[-1] if errors else None}); stopped"
            )
        return verdicts

    def pop_cost(self) -> UsageCost:
        """What scores cost since the last call."""
        owed, self._owed = self._owed, UsageCost()
        return owed

    def critique(self, requests: Sequence[FeedbackRequest]) -> list[Feedback]:
        """The critiques of these answers; those that came with a score cost nothing again."""
        paid = [self.knows(request.problem, request.turn.answer) for request in requests]
        found = super().critique(requests)
        return [_free(f) if known else f for f, known in zip(found, paid, strict=True)]

    def inputs(self) -> dict[str, str]:
        """What scores depend on beside the config, one value a name; see `training.inputs`."""
        return {"rubric": self.prompt.label}


def make_scoring(config: RunConfig, at: BuildContext) -> JudgeReward | None:
    """The configured judge of rewards; None where the config has none."""
    if config.reward is None:
        return None
    settings: Rubric = REWARDS.make(config.reward.source, config.reward.settings)
    return JudgeReward(
        settings.model_of(at), config.reward.max_failed, good=settings.good, max_chars=settings.max_chars
    )


def check_reward(config: RunConfig, task: BaseTask) -> None:
    """Refuse a task without verifier and judge, and a judge that would not be used, before a model loads."""
    if task.needs_judge:
        if config.reward is None and task.judge is None:
            raise UsageError(
                f"task {task.name!r} has no verifier, and no judge scores its answers: name one, as with "
                "--set reward.source=judge:local or --set reward.source=judge:openai "
                "--set reward.settings.base_url=URL; in Python also task.bind_judge(RubricJudge(chat_model))"
            )
    elif config.reward is not None:
        raise UsageError(
            f"task {task.name!r} verifies its answers itself, so the judge of `reward` would not be asked: "
            "remove that section, or take --task writing"
        )
    if config.reward is not None:
        REWARDS.make(config.reward.source, config.reward.settings)


def against_start(
    scoring: JudgeReward, pairwise: bool, run: RunDir, evaluation: Evaluation
) -> dict[str, Any]:
    """How often the judge prefers the first answers of this evaluation to those of step 0.

    Returns:
        `win_rate`, by the scores of both; `win_rate_pairwise`, where it is asked for, by the judge's own
        comparison in both orders, with how many of its verdicts survive the swap; and what the
        evaluation's scores and comparisons cost. No rate without a step 0, or with fewer than two
        preferences.
    """
    start = {r.problem.id: r for r in run.read_evaluation(0)}
    pairs = [(r, start[r.problem.id]) for r in evaluation.rollouts if r.problem.id in start]
    found: dict[str, Any] = {}
    if pairs:
        found |= _won("win_rate", [_by_scores(now, then) for now, then in pairs], pairs)
    bill = scoring.pop_cost()
    if pairs and pairwise:
        judge = PairJudge(scoring.model, max_chars=scoring.max_chars)
        asked = [Pair(now.problem, now.turns[0].text, then.turns[0].text) for now, then in pairs]
        compared = judge.compare(asked)
        preferences = [float("nan") if c.preference is None else c.preference for c in compared]
        won = _won("win_rate_pairwise", preferences, pairs)
        measured = symmetry(compared)
        for values in won.values():
            values |= {"survived_swap": measured.share, "first_place_bias": measured.bias}
        found |= won
        bill = UsageCost(
            bill.tokens + sum(c.tokens for c in compared), bill.cost_usd + sum(c.cost_usd for c in compared)
        )
    return {**found, **bill.metrics()}


def _by_scores(now: Rollout, then: Rollout) -> float:
    """1 where the later answer has the higher score, ½ for a tie, NaN where a score is missing."""
    a, b = now.turns[0].reward, then.turns[0].reward
    if a is None or b is None:
        return float("nan")
    return 1.0 if a > b else 0.5 if a == b else 0.0


def _won(
    name: str, preferences: Sequence[float], pairs: Sequence[tuple[Rollout, Rollout]]
) -> dict[str, dict[str, Any]]:
    lengths = [[len(rollout.turns[0].answer) for rollout in side] for side in zip(*pairs, strict=True)]
    try:
        found: LengthControlled = win_rate(preferences, *lengths, n_resamples=500)
    except DataError:  # fewer than two preferences
        return {}
    return {name: found._asdict()}


def _free(feedback: Feedback) -> Feedback:
    bare = feedback.provenance.model_copy(update={"tokens": 0, "cost_usd": 0.0})
    return feedback.model_copy(update={"provenance": bare})
