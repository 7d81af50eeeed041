"""`didact battery RUN_OR_MODEL…`: does a model stay with what is right, and do critiques move it?"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from didact.errors import UsageError
from didact.evaluation.text_sanitizer import plain_name

if TYPE_CHECKING:
    from didact.battery.sycophancy import Battery
    from didact.cli.models import LoadedModel


class Which(StrEnum):
    """What is measured."""

    SYCOPHANCY = "sycophancy"
    PLASTICITY = "plasticity"


class Answers(StrEnum):
    """Whose answers are spoken about."""

    GIVEN = "given"
    OWN = "own"


def battery(
    models: Annotated[
        list[str],
        typer.Argument(help="Run directories, tiny, folders or hub ids: one, or one before and one after."),
    ],
    which: Annotated[
        list[Which] | None, typer.Option("--battery", help="One of them. [default: both]", show_default=False)
    ] = None,
    answers: Annotated[
        Answers,
        typer.Option(
            help="given: the reference and a changed copy, the same for all models. own: first answers."
        ),
    ] = Answers.GIVEN,
    turns: Annotated[int, typer.Option(min=2, help="Of plasticity: answers a dialogue, at most.")] = 4,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, as in --set feedback.settings.level=hint.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Another task than the run's.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here.")] = None,
) -> None:
    """Measure flips after false corrections, fixes after true ones, and what critiques do to answers.

    Problems, task and critic are those of the first run directory, for all models. The critic has to go
    by a reference, as program and teacher do.
    """
    from didact.cli.models import each_model
    from didact.run_dir import write_atomically

    chosen = set(which or Which)
    if len(set(models)) < len(models):
        raise UsageError("a model is named twice: name each once")
    records, batteries = [], []
    for looked in each_model(models, set_ or [], task):
        record: dict[str, Any] = {
            "of": looked.name,
            "step": looked.step,
            "task": looked.parts.config.task.name,
            "critic": looked.parts.config.feedback.source,
        }
        if Which.SYCOPHANCY in chosen:
            found = _sycophancy(looked, answers)
            batteries.append(found)
            record["sycophancy"] = {
                "answers": answers.value,
                "rates": found.rates(),
                "left_out": found.left_out,
                "trials": [trial._asdict() for trial in found.trials],
            }
        if Which.PLASTICITY in chosen:
            record["plasticity"] = {"turns": turns, **_plasticity(looked, turns)}
        records.append(record)
    differences = _differences(batteries)
    console = Console()
    for table in _tables(records, differences):
        console.print(table)
    if json_ is not None:
        whole = {"models": records, "differences": differences}
        write_atomically(json_, json.dumps(whole, indent=1) + "\n")


def _sycophancy(looked: LoadedModel, answers: Answers) -> Battery:
    from didact.battery.sycophancy import sycophancy
    from didact.build.sources import make_source
    from didact.tasks.code import CodeTask
    from didact.training.evaluation_step import eval_context, eval_problems

    parts = looked.parts
    chosen = parts.config.feedback
    goes_by_reference = make_source(chosen.source, chosen.settings).needs_reference
    if not goes_by_reference or isinstance(parts.task, CodeTask):
        raise UsageError(
            f"feedback.source={chosen.source} of task {parts.task.name!r} goes by no reference, so it cannot "
            "be made to say what is false: take --set feedback.source=program, or --battery plasticity"
        )
    return sycophancy(
        eval_context(parts, looked.step),
        eval_problems(parts),
        answers=answers.value,
        temperature=parts.config.eval.temperature,
    )


def _plasticity(looked: LoadedModel, turns: int) -> dict[str, Any]:
    from didact.battery.plasticity import critique_gains, moves, plasticity
    from didact.rollouts.tutored_dialogue import tutored_dialogues
    from didact.training.evaluation_step import eval_context, eval_problems

    parts, ctx = looked.parts, eval_context(looked.parts, looked.step)
    ctx = ctx.with_temperature(parts.config.eval.temperature)
    rollouts = tutored_dialogues(ctx, eval_problems(parts), 1, turns=turns)
    return plasticity(moves(rollouts), critique_gains(parts.engine, parts.renderer, rollouts))


def _differences(batteries: list[Battery]) -> list[dict[str, Any]]:
    """Of every model after the first, minus the first, condition by condition."""
    from didact.battery.sycophancy import compared

    return [
        {condition: value._asdict() for condition, value in compared(batteries[0], other).items()}
        for other in batteries[1:]
    ]


def _tables(records: list[dict[str, Any]], differences: list[dict[str, Any]]) -> list[Table]:
    tables = []
    if "sycophancy" in records[0]:
        tables.append(_sycophancy_table(records, differences))
    if "plasticity" in records[0]:
        tables.append(_plasticity_table(records))
    return tables


def _sycophancy_table(records: list[dict[str, Any]], differences: list[dict[str, Any]]) -> Table:
    table = _table("What is said, and how many answers change by it, % [95 % interval] of n")
    for record in records:
        table.add_column(escape(plain_name(record["of"])), justify="right")
    for _ in differences:
        table.add_column("minus the first", justify="right")
    rates = [{rate["condition"]: rate for rate in record["sycophancy"]["rates"]} for record in records]
    for condition in dict.fromkeys(name for of in rates for name in of):
        measures = next(of[condition]["measures"] for of in rates if condition in of)
        cells = [_share(of[condition]) if condition in of else "" for of in rates]
        cells += [_points(of[condition]) if condition in of else "" for of in differences]
        table.add_row(f"{condition.removesuffix(', wrong')}: {measures}", *map(escape, cells))
    return table


_MEASURES = {
    "repeated": ("repeated word for word", 100),
    "edit_distance": ("edit distance", 100),
    "fixed": ("wrong, then right", 100),
    "flipped": ("right, then wrong", 100),
    "gain": ("Δ log p(correct), nats", 1),
}


def _plasticity_table(records: list[dict[str, Any]]) -> Table:
    table = _table("From an answer to the next, % [95 % interval over problems] of n; the gain in nats")
    for record in records:
        table.add_column(escape(plain_name(record["of"])), justify="right")
    for key, (heading, scale) in _MEASURES.items():
        cells = []
        for record in records:
            found = record["plasticity"].get(key)
            cells.append("" if found is None else _mean(found, scale))
        if any(cells):
            table.add_row(heading, *map(escape, cells))
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    return table


def _share(rate: dict[str, Any]) -> str:
    low, high = rate["ci95"]
    return f"{100 * rate['rate']:.1f} [{100 * low:.1f}, {100 * high:.1f}] of {rate['n']}"


def _points(of: dict[str, Any]) -> str:
    return f"{100 * of['mean']:+.0f} [{100 * of['low']:+.0f}, {100 * of['high']:+.0f}]"


def _mean(found: dict[str, Any], scale: int) -> str:
    interval = found["ci95"]
    within = "" if interval is None else f" [{scale * interval[0]:.2f}, {scale * interval[1]:.2f}]"
    return f"{scale * found['mean']:.2f}{within} of {found['n']}"
