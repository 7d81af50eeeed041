"""`didact critique`: export answers to annotators, import or generate critiques, and measure these."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from didact.cli.options import JsonOption, SetOption, feedback_options
from didact.cli.terminal import make_table
from didact.errors import DataError, UsageError
from didact.evaluation.text_sanitizer import plain_name

if TYPE_CHECKING:
    from didact.annotation.batch import CritiqueRunReport
    from didact.annotation.quality import Agreement, Quality
    from didact.config import RunConfig
    from didact.tasks.base import BaseTask

critique = typer.Typer(help="Have answers criticised, by people or by a judge.", no_args_is_help=True)

Where = Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="A run directory or a data file.")]
StepOption = Annotated[int | None, typer.Option(help="Only answers sampled at this step of the run.")]
WrongOption = Annotated[bool, typer.Option("--only-wrong", help="Only answers that the verifier refused.")]


@critique.command()
def export(
    run_or_file: Where,
    out: Annotated[Path, typer.Option(help="A new .csv (for a spreadsheet) or .jsonl file.")],
    step: StepOption = None,
    n: Annotated[int, typer.Option(min=1, help="At most this many answers, drawn by --seed.")] = 200,
    only_wrong: WrongOption = False,
    with_reference: Annotated[
        bool, typer.Option("--with-reference", help="Show the private reference too.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Write answers to a table for annotators.

    Fill in critique (text), score (a number), label (as "wrong") or spans (quotes from the answer, one a
    line, as "poor: is 7"); any of them may stay empty. Then `didact critique import`.
    """
    from didact.annotation.io import choose_answers, export_answers
    from didact.annotation.targets import open_answers

    answers = open_answers(run_or_file).answers()
    chosen = choose_answers(answers, n=n, step=step, only_wrong=only_wrong, seed=seed)
    export_answers(chosen, out, with_reference=with_reference)
    typer.echo(f"{out}: {len(chosen)} of {len(answers)} answers")


@critique.command("import")
def import_(
    run_or_file: Where,
    table: Annotated[Path, typer.Argument(help="The table as it came back.")],
    annotator: Annotated[
        str | None, typer.Option(help="Who wrote the rows whose column `annotator` is empty.")
    ] = None,
) -> None:
    """Import an annotated table.

    Every quote is checked against the answer. Invalid rows go to a file beside the table, with their errors;
    mend them there and import that file. A changed critique is added as a new version; the latest counts.
    """
    from didact.annotation.io import import_critiques
    from didact.annotation.targets import open_answers

    done = import_critiques(open_answers(run_or_file), table, annotator=annotator)
    counts = done.merged
    typer.echo(
        f"{run_or_file}: {counts.added} critiques added, {counts.changed} changed (the latest counts), "
        f"{counts.known} already there, {done.blank} rows left empty"
    )
    if done.rejected:
        for row in done.rejected[:10]:
            typer.echo(f"  {plain_name(str(row), 300)}", err=True)
        if len(done.rejected) > 10:
            typer.echo(f"  … and {len(done.rejected) - 10} more", err=True)
        raise DataError(
            f"{len(done.rejected)} rows of {table} cannot be used: mend them in {done.rejected_file}, then "
            f"`didact critique import {run_or_file} {done.rejected_file}`"
        )


@critique.command()
@feedback_options
def run(
    run_or_file: Where,
    changes: dict[str, Any],
    task: Annotated[
        str | None, typer.Option(help="Of a data file: the task whose program criticises, as code.")
    ] = None,
    set_: SetOption = None,
    spans: Annotated[bool, typer.Option(help="Also mark the good and poor passages of each answer.")] = False,
    step: StepOption = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="At most this many answers. [default: all]")
    ] = None,
    only_wrong: WrongOption = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Answers per batch.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the draw, with --n.")] = 0,
) -> None:
    """Have a source criticise existing answers.

    Every batch is saved before the next. Run again after a stop: criticised answers are skipped, failed
    critiques repeated. Stops with exit code 75 if more than feedback.max_failed (0.1) of a judge's last 64
    critiques failed, or its budget is spent. A server's replies and costs are cached in RUN/replies or
    FILE.didact/replies.

    --spans: a judge writes a critique, then quotes the passages. A quote that cannot be located is asked for
    once more, then dropped and counted. Without the critique: --set feedback.settings.reasoning=false.
    """
    from didact.annotation.batch import criticise_answers
    from didact.annotation.io import choose_answers
    from didact.annotation.targets import cache_folder, open_answers
    from didact.build.components import build_context, make_critic

    store = open_answers(run_or_file)
    config, made = make_config(run_or_file, {"task__name": task} | changes, set_ or [])
    if spans:
        config = with_spans(config)
    critic = make_critic(config, build_context(config, made, None, cache_folder(run_or_file)))
    done = criticise_answers(
        store,
        critic,
        answers=choose_answers(store.answers(), n=n, step=step, only_wrong=only_wrong, seed=seed),
        batch_size=batch_size,
        max_failed=config.feedback.max_failed,
        spans=spans,
        progress=lambda done, of: typer.echo(f"{done} of {of} answers", err=True),
    )
    _show_counts(run_or_file, done, getattr(critic, "source", None), spans=spans)


def _show_counts(run_or_file: Path, done: CritiqueRunReport, source: Any, *, spans: bool) -> None:
    """Print what was criticised; an error if nothing could be."""
    from didact.feedback.judge import SpanJudge

    each = f", {done.seconds / done.asked:.2f} s each" if done.asked else ""
    typer.echo(
        f"{run_or_file}: {done.asked} answers criticised{each}, {done.failed} failed, {done.skipped} had a "
        f"critique already; {done.tokens:,} tokens, {done.cost_usd:.4f} USD"
    )
    if spans:
        typer.echo(
            f"spans: {source.report}; {source.repairs} replies were asked for again"
            if isinstance(source, SpanJudge)
            else f"spans: {done.good} good, {done.poor} poor"
        )
    if done.asked and done.failed == done.asked:
        raise DataError(f"every critique failed, the first because: {plain_name(done.error or '', 300)}")


@critique.command()
def quality(
    run_or_file: Where,
    threshold: Annotated[
        float, typer.Option(help='A score below it means "wrong", if there is no label.')
    ] = 0.5,
    json_: JsonOption = False,
) -> None:
    """Measure critiques: precision and recall of "wrong", agreement of annotators, cost."""
    from didact.annotation.quality import measure_quality
    from didact.annotation.targets import open_answers

    found = measure_quality(open_answers(run_or_file).answers(), threshold=threshold)
    if json_:
        typer.echo(found.model_dump_json(indent=1))
        return
    typer.echo(f"{found.criticised} of {found.answers} answers have a critique")
    if found.authors:
        Console().print(quality_table(found))
        pairs = {"labels": (found.labels, found.people_labels), "scores": (found.scores, found.people_scores)}
        for name, (whole, people) in pairs.items():
            typer.echo(f"agreement on {name}: {_alpha(whole)}; among people: {_alpha(people)}")


def make_config(
    run_or_file: Path, changes: dict[str, Any], overrides: list[str]
) -> tuple[RunConfig, BaseTask | None]:
    """The settings and the task that the options and the run's config make; a data file may have no task."""
    from didact.annotation.targets import is_run
    from didact.build.components import run_task
    from didact.cli.models import config_of
    from didact.config import load_config
    from didact.run_dir import RunDir

    if is_run(run_or_file):
        config = config_of(str(RunDir.open(run_or_file).path), overrides, **changes)
        return config, run_task(config)
    if changes["feedback__source"] is None and not any("feedback.source" in o for o in overrides):
        raise UsageError("who criticises? For example --feedback judge:openai --base-url URL")
    config = load_config("grpo", None, overrides, **changes)
    source, settings = config.feedback.source, config.feedback.settings
    frozen = source == "judge:local" or (source == "teacher" and settings.get("who") == "frozen")
    chosen = settings.get("model") is not None or any(o.startswith("model.path=") for o in overrides)
    if frozen and not chosen:  # there is no policy to copy
        raise UsageError(
            f"which model is {source}? A data file has none: give --judge-model a folder or hub id"
        )
    return config, None if changes["task__name"] is None else run_task(config)


def with_spans(config: RunConfig) -> RunConfig:
    """The settings with a source that also gives spans; an error for one that cannot."""
    feedback = config.feedback
    judged = {"output": "spans"}
    asks: dict[str, dict[str, Any]] = {
        "judge:openai": judged, "judge:local": judged, "program": {"spans": True}, "reward-model": {},
    }  # fmt: skip
    if feedback.source not in asks:
        raise UsageError(
            f"--spans is for program, judge:openai, judge:local and reward-model, not {feedback.source!r}; "
            "people mark passages in the column `spans` of `didact critique export`"
        )
    settings = {**feedback.settings, **asks[feedback.source]}
    return config.model_copy(update={"feedback": feedback.model_copy(update={"settings": settings})})


def quality_table(found: Quality) -> Table:
    """One row per author."""
    headings = (
        "author", "source", "critiques", "share", "failed", "judged", "precision", "recall", "tokens", "USD",
    )  # fmt: skip
    rows = [
        (
            plain_name(author.author), author.source, f"{author.critiques:,}", f"{author.share:.0%}",
            f"{author.failed:.0%}", f"{author.judged:,}", _share(author.precision), _share(author.recall),
            f"{author.tokens:,}", f"{author.cost_usd:.4f}",
        )
        for author in found.authors
    ]  # fmt: skip
    return make_table('Critiques by author; precision and recall of "wrong"', headings, rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _alpha(agreement: Agreement) -> str:
    if agreement.alpha is None:
        return "nothing to compare"
    return f"α = {agreement.alpha:.3f} ({agreement.annotators} annotators on {agreement.answers} answers)"
