"""`didact reward-model`: train a model that marks answers, and measure it on annotated ones."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from didact.cli.options import DryRunOption, JsonOption, ModelOption, OutOption, SeedOption, SetOption
from didact.cli.terminal import make_table
from didact.errors import DidactError, UsageError

if TYPE_CHECKING:
    from didact.reward_model.task import Annotated as Item
    from didact.reward_model.task import AnnotatedTask

LOG = logging.getLogger("didact")
reward_model = typer.Typer(
    help="Train a model that criticises answers and marks their passages, and measure it.",
    no_args_is_help=True,
)


@reward_model.command("train")
def train_(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Annotated answers: a data file or a run directory.")
    ],
    model: ModelOption = None,
    out: OutOption = None,
    eval_data: Annotated[
        Path | None, typer.Option(help="Other annotated answers to evaluate on; else a part of DATA.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="json_v1, or lines_v1 for small models.")
    ] = None,
    no_reasoning: Annotated[
        bool, typer.Option("--no-reasoning", help="Passages without a critique before them.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings.")] = None,
    set_: SetOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Train on answers whose passages are marked, as `didact critique run --spans` makes them.

    An ordinary supervised run (method sft, task annotated): every setting of `didact train` holds, and
    `didact train --resume` goes on with it. The loss is on the critique and the marks alone. A reply has at
    most sampling.max_tokens; a problem that leaves no room for it is cut in the middle, an answer never.
    """
    from didact.cli.train import start
    from didact.config import load_config

    changes: dict[str, Any] = {
        "task__name": "annotated",
        "task__settings__path": str(data),
        "task__settings__eval_path": None if eval_data is None else str(eval_data),
        "task__settings__format": format_,
        "task__settings__reasoning": False if no_reasoning else None,
        "model__path": model,
        "seed": seed,
        "eval__feedback": False,
    }
    start(load_config("sft", config, set_ or [], **changes), out, dry_run=dry_run)


@reward_model.command("eval")
def eval_(
    run_or_model: Annotated[
        Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run of `reward-model train`, or its model.")
    ],
    data: Annotated[
        Path | None,
        typer.Argument(metavar="[DATA]", help="Annotated answers; left out, what the run did not train on."),
    ] = None,
    draws: Annotated[
        int, typer.Option(min=0, help="Replies drawn for each answer to measure calibration; 0 for none.")
    ] = 8,
    n: Annotated[int | None, typer.Option(min=1, help="At most so many answers; all if left out.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Measure marks token by token against annotated answers that were not trained on."""
    from didact.build.engines import make_engine
    from didact.build.reward_models import make_prompter, reward_chat
    from didact.config import load_config
    from didact.evaluation.reward_model import evaluate_reward_model
    from didact.rendering.renderer import Renderer
    from didact.reward_model.model import Card, RewardModel, find_model

    folder = find_model(run_or_model)
    card = Card.read(folder)
    items = _items(folder, data)[:n]
    config = load_config("sft", None, set_ or [], model__path=str(folder))
    engine = make_engine(config.model)
    renderer = Renderer(engine.tokenizer, card.chat_template, engine.end_ids)
    prompter = make_prompter(card, renderer)
    greedy = RewardModel(reward_chat(engine, renderer, card), prompter)
    drawn = [
        RewardModel(reward_chat(engine, renderer, card, temperature=1.0, seed=seed), prompter)
        for seed in range(draws)
    ]
    found = evaluate_reward_model(greedy, items, renderer, draws=drawn)
    record = {"of": str(run_or_model), "format": card.format, "reasoning": card.reasoning, **plain(found)}
    if json_:
        typer.echo(json.dumps(record, indent=1))
        return
    Console().print(table(record))
    for line in lines(record):
        typer.echo(line)


def _items(folder: Path, data: Path | None) -> list[Item]:
    """The answers to measure on, none of which was trained on."""
    from didact.reward_model.task import read_annotated

    config = folder.parent / "config.yaml"
    if data is None:
        if not config.exists():
            raise UsageError(f"{folder} stands in no run, so it has no answers of its own: name DATA")
        return _trained(config).held_out
    items = read_annotated(data)
    if config.exists():
        try:
            task = _trained(config)
        except DidactError as error:
            LOG.warning("nobody can tell whether %s was trained on: %s", data, error)
        else:
            task.refuse_seen(items, str(data))
    return items


def _trained(config: Path) -> AnnotatedTask:
    """What a run was trained on."""
    from didact.build.components import run_task
    from didact.config import parse_config, read_yaml
    from didact.reward_model.task import AnnotatedTask

    task = run_task(parse_config(read_yaml(config)))
    if not isinstance(task, AnnotatedTask):
        raise UsageError(f"{config.parent} is no run of `didact reward-model train`")
    return task


def plain(found: Any) -> Any:
    """Numbers with intervals as JSON."""
    if hasattr(found, "_asdict"):
        return {"value": found.value, "ci95": None if found.low is None else [found.low, found.high]}
    return {k: plain(v) for k, v in found.items()} if isinstance(found, dict) else found


def table(record: dict[str, Any]) -> Table:
    """Precision, recall and F1 of both polarities, over the answer and in its thirds."""
    title = f"Marked tokens of {record['answers']} answers, 95 % intervals"
    rows = [
        [polarity, where, *(_shown(scores[key]) for key in ("precision", "recall", "f1"))]
        for polarity in ("good", "poor")
        for where, scores in record[polarity].items()
    ]
    return make_table(title, ("marks", "where", "precision", "recall", "F1"), rows)


def lines(record: dict[str, Any]) -> list[str]:
    """The lines under the table."""
    found = [
        f"replies that cannot be read: {_shown(record['failures'])}; mended {record['repaired']}; "
        f"answers too long to ask about: {record['too_long']}",
        f"IoU of marks: {_shown(record['iou'])}; answers marked exactly: {_shown(record['exact'])}",
        f"tokens marked: {_shown(record['coverage'])}, by the annotator {_shown(record['coverage_gold'])}; "
        f"{record['unplaced']} of {record['quotes']} quotes without a place",
    ]
    for polarity, scores in record.get("calibration", {}).items():
        found.append(
            f"calibration of {polarity}: error {_shown(scores['ece'])}, Brier {_shown(scores['brier'])}"
        )
    return found


def _shown(measured: dict[str, Any]) -> str:
    if measured["value"] is None:
        return "nothing to measure"
    low, high = measured["ci95"]
    return f"{measured['value']:.3f} [{low:.3f}, {high:.3f}]"
