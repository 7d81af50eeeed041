"""`didact eval RUN_OR_MODEL… --suite NAME`: sycophancy and in-context plasticity, of one model or several."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from didact.cli.terminal import make_table, percent_interval, points
from didact.errors import UsageError
from didact.evaluation.text_sanitizer import plain_name

if TYPE_CHECKING:
    from didact.battery.sycophancy import SycophancyResult
    from didact.cli.models import LoadedModel


class Suite(StrEnum):
    """What is measured."""

    SYCOPHANCY = "sycophancy"
    PLASTICITY = "plasticity"


class Answers(StrEnum):
    """Whose answers are challenged."""

    GIVEN = "given"
    OWN = "own"


def eval_suites(
    models: Sequence[str],
    suites: Collection[Suite],
    overrides: Sequence[str],
    changes: Mapping[str, Any],
    answers: Answers,
    turns: int,
    *,
    seed: int,
    json_file: Path | None,
) -> None:
    """Measure all models with the task, problems and critic of the first run, and print tables."""
    from didact.battery.sycophancy import compare
    from didact.cli.models import each_model
    from didact.run_dir import write_atomically

    if turns < 2:
        raise UsageError(f"--turns {turns} has no answer to compare with the first one: give at least 2")
    if len(set(models)) < len(models):
        raise UsageError("a model is named twice: name each once")
    records, results = [], []
    for loaded in each_model(models, overrides, **changes):
        config = loaded.parts.config
        record: dict[str, Any] = {
            "of": loaded.name,
            "step": loaded.step,
            "task": config.task.name,
            "critic": config.feedback.source,
        }
        if Suite.SYCOPHANCY in suites:
            found = _sycophancy(loaded, answers, seed)
            results.append(found)
            record["sycophancy"] = {
                "answers": answers.value,
                "rates": found.rates(),
                "left_out": found.left_out,
                "trials": [trial._asdict() for trial in found.trials],
            }
        if Suite.PLASTICITY in suites:
            record["plasticity"] = {"turns": turns, **_plasticity(loaded, turns, seed)}
        records.append(record)
    differences: list[dict[str, Any]] = [
        {str(condition): value._asdict() for condition, value in compare(results[0], other).items()}
        for other in results[1:]
    ]
    console = Console()
    if Suite.SYCOPHANCY in suites:
        console.print(_sycophancy_table(records, differences))
    if Suite.PLASTICITY in suites:
        console.print(_plasticity_table(records))
    if json_file is not None:
        whole = {"models": records, "differences": differences}
        write_atomically(json_file, json.dumps(whole, indent=1) + "\n")


def _sycophancy(loaded: LoadedModel, answers: Answers, seed: int) -> SycophancyResult:
    from didact.battery.sycophancy import sycophancy
    from didact.registry import SOURCES
    from didact.training.evaluation_step import eval_context, eval_problems

    parts, chosen = loaded.parts, loaded.parts.config.feedback
    uses_reference = SOURCES.make(chosen.source, chosen.settings).needs_reference
    if not uses_reference or not parts.task.critic_uses_reference:
        raise UsageError(
            f"feedback.source={chosen.source} of task {parts.task.name!r} uses no reference, so it cannot "
            "be given a false one: take --set feedback.source=program, or --suite plasticity"
        )
    return sycophancy(
        eval_context(parts, loaded.step, seed=seed),
        eval_problems(parts),
        answers=answers.value,
        temperature=parts.config.eval.temperature,
        seed=seed,
    )


def _plasticity(loaded: LoadedModel, turns: int, seed: int) -> dict[str, Any]:
    from didact.battery.plasticity import critique_gains, moves, plasticity
    from didact.rollouts.tutored_dialogue import tutored_dialogues
    from didact.training.evaluation_step import eval_context, eval_problems

    parts, ctx = loaded.parts, eval_context(loaded.parts, loaded.step, seed=seed)
    ctx = ctx.with_temperature(parts.config.eval.temperature)
    rollouts = tutored_dialogues(ctx, eval_problems(parts), 1, turns=turns)
    return plasticity(moves(rollouts), critique_gains(parts.engine, parts.renderer, rollouts))


def _sycophancy_table(records: list[dict[str, Any]], differences: list[dict[str, Any]]) -> Table:
    names = [plain_name(record["of"]) for record in records]
    rows = []
    models = [{rate["condition"]: rate for rate in record["sycophancy"]["rates"]} for record in records]
    for condition in dict.fromkeys(name for rates in models for name in rates):
        measures = next(rates[condition]["measures"] for rates in models if condition in rates)
        cells = [
            f"{percent_interval(rate['rate'], *rate['ci95'])} of {rate['n']}" if rate else None
            for rate in (rates.get(condition) for rates in models)
        ]
        for difference in differences:
            of = difference.get(condition)
            cells.append(None if of is None else points(of["mean"], of["low"], of["high"]))
        rows.append([f"{condition.removesuffix(', wrong')}: {measures}", *cells])
    title = "Follow-up, and the answers that change after it, % [95 % interval] of n"
    return make_table(title, ["", *names, *["minus the first"] * len(differences)], rows)


_MEASURES = {
    "repeated": ("repeated word for word", 100),
    "edit_distance": ("edit distance", 100),
    "fixed": ("wrong, then right", 100),
    "flipped": ("right, then wrong", 100),
    "gain": ("Δ log p(correct), nats", 1),
}
"""Measure → heading and scale."""


def _plasticity_table(records: list[dict[str, Any]]) -> Table:
    names = [plain_name(record["of"]) for record in records]
    rows: list[list[str | None]] = []
    for key, (heading, scale) in _MEASURES.items():
        found = [record["plasticity"].get(key) for record in records]
        if any(found):
            rows.append([heading, *(None if of is None else _mean(of, scale) for of in found)])
    title = "From an answer to the next, % [95 % interval over problems] of n; the gain in nats"
    return make_table(title, ["", *names], rows)


def _mean(found: dict[str, Any], scale: int) -> str:
    interval = found["ci95"]
    within = "" if interval is None else f" [{scale * interval[0]:.2f}, {scale * interval[1]:.2f}]"
    return f"{scale * found['mean']:.2f}{within} of {found['n']}"
