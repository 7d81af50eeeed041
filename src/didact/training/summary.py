"""A finished run as one arm of a comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from didact.config import read_yaml
from didact.errors import DataError, UsageError
from didact.evaluation.results import CI, ArmResult, CurvePoint
from didact.evaluation.stats import paired_difference
from didact.run_dir import RunDir, read_jsonl
from didact.training.monitors import run_alarms
from didact.types import Turn

READABLE = 6
"""Rollouts an arm that a report shows: the first ones, so that all arms show the same problems."""


def arm_result(path: Path, name: str | None = None, *, step: int | None = None) -> ArmResult:
    """A run's numbers and a few of its rollouts, named after its method unless it has another `name`.

    The evaluation at `step` counts, by default the last one; 0 is the model before training.

    Raises:
        UsageError: no run there, or it was not evaluated at that step.
    """
    run = RunDir.open(path)
    curve = _curve(run)
    if not curve:
        raise UsageError(f"{path} has no evaluation: train with eval.problems above 0")
    step = curve[-1].step if step is None else step
    evaluations = [r for r in read_jsonl(run.metrics) if "eval" in r and r["step"] == step]
    if not evaluations:
        raise UsageError(f"{path} was not evaluated at step {step}")
    values = evaluations[-1]["eval"]
    point = next(p for p in curve if p.step == step)
    steps = [r for r in read_jsonl(run.metrics) if "eval" not in r and r["step"] <= step]
    return ArmResult(
        method=name or str(read_yaml(run.config)["method"]),
        accuracy=values["accuracy"],
        ci95=(values["ci95"][0], values["ci95"][1]),
        reward=values.get("reward"),
        accuracy_after_feedback=values.get("accuracy_after_feedback"),
        after_ci95=_ends(values.get("after_feedback_ci95")),
        accuracy_after_own_critique=values.get("accuracy_after_own_critique"),
        own_critique_ci95=_ends(values.get("after_own_critique_ci95")),
        seconds=point.seconds,
        sampled_tokens=point.sampled_tokens,
        feedback_tokens=steps[-1]["feedback_tokens"] if steps else 0,
        steps=step,
        curve=[p for p in curve if p.step <= step] if step else [],
        rollouts=run.read_evaluation(step)[:READABLE],
        alarms=run_alarms(run, step),
    )


def with_differences(paths: Sequence[Path], arms: Sequence[ArmResult], baseline: int) -> list[ArmResult]:
    """The arms with their paired difference to one of them, problem by problem.

    Args:
        arms: The arms; `steps` selects the evaluation.
        baseline: Index of the arm that the others are compared with.

    Raises:
        DataError: two runs answered different problems.
    """
    evaluations = [(path, arm.steps) for path, arm in zip(paths, arms, strict=True)]
    right = right_answers(evaluations, "evaluate both with the same task and the same eval.problems")
    compared = list(arms)
    for i, arm in enumerate(arms):
        if i != baseline:
            difference = paired_difference(right[i], right[baseline], seed=0)[:3]
            compared[i] = dataclasses.replace(arm, difference=difference)
    return compared


def right_answers(evaluations: Sequence[tuple[Path, int]], cure: str) -> list[list[float]]:
    """For evaluations, each of a run directory at a step, which first answers are right; NaN if unverified.

    Raises:
        DataError: two of them asked different problems; it ends in `cure`.
    """
    asked, right = [], []
    for path, step in evaluations:
        rollouts = RunDir.open(path).read_evaluation(step)
        asked.append([(r.problem.id, r.problem.messages) for r in rollouts])
        if asked[-1] != asked[0]:
            raise DataError(
                f"{path} and {evaluations[0][0]} were evaluated on different problems, so they cannot be "
                f"compared: {cure}"
            )
        right.append([correct_or_nan(r.turns[0]) for r in rollouts])
    return right


def correct_or_nan(turn: Turn) -> float:
    """1 or 0, or NaN for an unverified answer."""
    return float("nan") if turn.reward is None else float(turn.correct)


def _curve(run: RunDir) -> list[CurvePoint]:
    """One point for every evaluation; seconds are those of training, evaluation aside."""
    seconds = {r["step"]: r["seconds"] for r in read_jsonl(run.timing) if "seconds" in r}
    points = []
    for record in read_jsonl(run.metrics):
        if "eval" in record:
            low, high = record["eval"]["ci95"]
            points.append(
                CurvePoint(
                    step=record["step"],
                    sampled_tokens=record["sampled_tokens"],
                    seconds=sum(s for step, s in seconds.items() if step <= record["step"]),
                    accuracy=record["eval"]["accuracy"],
                    ci95=(low, high),
                )
            )
    return points


def _ends(interval: Sequence[float] | None) -> CI | None:
    return None if interval is None else (interval[0], interval[1])
