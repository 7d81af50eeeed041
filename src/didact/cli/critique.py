"""`didact critique`: answers out to people or judges, their critiques back, and how good these are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from didact.cli.feedback_options import (
    BaseUrlOption,
    FeedbackOption,
    JudgeModelOption,
    MaxCostOption,
    MaxRequestsOption,
    PriceInOption,
    PriceOutOption,
    UnsafeOption,
    feedback_changes,
)
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
    n: Annotated[int, typer.Option(min=1, help="At most so many answers, drawn by --seed.")] = 200,
    only_wrong: WrongOption = False,
    with_reference: Annotated[
        bool, typer.Option("--with-reference", help="Show the private reference too.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Another draw.")] = 0,
) -> None:
    """Write answers to criticise as a table.

    Fill in critique (words), score (a number), label (as "wrong") or spans (quotes from the answer, one a
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
    """Take in what people wrote.

    Every quote is checked against the answer. Rows that cannot be used are written beside with their
    errors; mend them there and import that file. Nobody's words are replaced: changed ones are added as a
    newer version, and an annotator's latest counts.
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
        for what in done.rejected[:10]:
            typer.echo(f"  {plain_name(str(what), 300)}", err=True)
        if len(done.rejected) > 10:
            typer.echo(f"  … and {len(done.rejected) - 10} more", err=True)
        raise DataError(
            f"{len(done.rejected)} rows of {table} cannot be used: mend them in {done.rejected_file}, then "
            f"`didact critique import {run_or_file} {done.rejected_file}`"
        )


@critique.command()
def run(
    run_or_file: Where,
    feedback: FeedbackOption = None,
    judge_model: JudgeModelOption = None,
    base_url: BaseUrlOption = None,
    max_cost: MaxCostOption = None,
    max_requests: MaxRequestsOption = None,
    price_in: PriceInOption = None,
    price_out: PriceOutOption = None,
    task: Annotated[
        str | None, typer.Option(help="Of a data file: the task whose program criticises, as code.")
    ] = None,
    unsafe_local_exec: UnsafeOption = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting, as in --set feedback.leaks=drop."),
    ] = None,
    spans: Annotated[
        bool,
        typer.Option(
            "--spans",
            help="Also mark the good and poor passages of each answer that its critique is about.",
        ),
    ] = False,
    step: StepOption = None,
    n: Annotated[int | None, typer.Option(min=1, help="At most so many answers; all if left out.")] = None,
    only_wrong: WrongOption = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Answers asked about at once.")] = 32,
    seed: Annotated[int, typer.Option(help="Another draw, with --n.")] = 0,
) -> None:
    """Have a source criticise answers that are there already.

    Every batch is kept before the next is asked for. Begin again after a stop: answers that the source has
    criticised are passed over, and failed critiques are asked for again. When more than feedback.max_failed
    (0.1) of a judge's last 64 critiques failed, or its budget is spent, this stops with exit code 75. Replies
    of a server, and what was spent, are kept in RUN/replies or FILE.didact/replies: none is paid for twice.

    --spans: a judge writes a critique, then quotes the passages that it is about. A quote without a certain
    place in the answer is asked for once more, then left out and counted. Without the critique before them:
    --set feedback.settings.reasoning=false.
    """
    changes = feedback_changes(
        feedback=feedback,
        judge_model=judge_model,
        base_url=base_url,
        max_cost=max_cost,
        max_requests=max_requests,
        price_in=price_in,
        price_out=price_out,
        unsafe_local_exec=unsafe_local_exec,
    )
    changes["task__name"] = task
    chosen = {"n": n, "step": step, "only_wrong": only_wrong, "seed": seed}
    _criticise(run_or_file, chosen, changes, set_ or [], batch_size=batch_size, spans=spans)


def _criticise(
    run_or_file: Path,
    chosen: dict[str, Any],
    changes: dict[str, Any],
    overrides: list[str],
    *,
    batch_size: int,
    spans: bool,
) -> None:
    """Ask the source that the settings make about the chosen answers, and say what came of it."""
    from didact.annotation.batch import criticise_answers
    from didact.annotation.io import choose_answers
    from didact.annotation.targets import cache_folder, open_answers
    from didact.build.components import make_critic
    from didact.feedback.span_judge import SpanJudge

    store = open_answers(run_or_file)
    answers = choose_answers(store.answers(), **chosen)
    config, made = make_config(run_or_file, changes, overrides)
    if spans:
        config = with_spans(config)
    critic = make_critic(config, made, None, cache_folder(run_or_file))
    done = criticise_answers(
        store,
        critic,
        answers=answers,
        batch_size=batch_size,
        max_failed=config.feedback.max_failed,
        spans=spans,
        progress=lambda done, of: typer.echo(f"{done} of {of} answers", err=True),
    )
    typer.echo(f"{run_or_file}: {_counted(done)}")
    if spans:
        judge = getattr(critic, "source", None)
        typer.echo(
            f"spans: {judge.report}; {judge.repairs} replies were asked for again"
            if isinstance(judge, SpanJudge)
            else f"spans: {done.good} good, {done.poor} poor"
        )
    if done.asked and done.failed == done.asked:
        raise DataError(f"every critique failed, the first because: {plain_name(done.error or '', 300)}")


@critique.command()
def quality(
    run_or_file: Where,
    threshold: Annotated[
        float, typer.Option(help='A score below it says "wrong", where no label says more.')
    ] = 0.5,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure critiques: is what they call wrong wrong, do annotators agree, what did they cost?"""
    from didact.annotation.quality import measure_quality
    from didact.annotation.targets import open_answers

    found = measure_quality(open_answers(run_or_file).answers(), threshold=threshold)
    if json_:
        typer.echo(found.model_dump_json(indent=1))
        return
    typer.echo(f"{found.criticised} of {found.answers} answers have a critique")
    if found.authors:
        Console().print(quality_table(found))
        typer.echo(
            f"agreement on labels: {_alpha(found.labels)}; among people: {_alpha(found.people_labels)}"
        )
        typer.echo(
            f"agreement on scores: {_alpha(found.scores)}; among people: {_alpha(found.people_scores)}"
        )


def make_config(
    run_or_file: Path, changes: dict[str, Any], overrides: list[str]
) -> tuple[RunConfig, BaseTask | None]:
    """The settings that the options make, and the task; of a run, what it was made with.

    Raises:
        UsageError: a setting or a source that is not there, or nobody says which model criticises a file.
    """
    from didact.annotation.targets import is_run
    from didact.build.reward_models import run_task
    from didact.config import load_config, read_yaml
    from didact.run_dir import RunDir

    if not is_run(run_or_file):
        if changes["feedback__source"] is None and not any("feedback.source" in o for o in overrides):
            raise UsageError("who criticises? For example --feedback judge:openai --base-url URL")
        config = load_config("grpo", None, overrides, **changes)
        _check_model(config, overrides)
        named = changes["task__name"] is not None
        return config, run_task(config) if named else None
    file = RunDir.open(run_or_file).config
    config = load_config(str(read_yaml(file)["method"]), file, overrides, **changes)
    return config, run_task(config)


def with_spans(config: RunConfig) -> RunConfig:
    """The settings with a source that says where, too.

    Raises:
        UsageError: a source that cannot.
    """
    feedback = config.feedback
    if feedback.source.startswith("judge:"):
        asked: dict[str, Any] = {"output": "spans"}
    elif feedback.source == "program":
        asked = {"spans": True}
    elif feedback.source == "reward-model":
        asked = {}
    else:
        raise UsageError(
            f"--spans is for program, judge:openai, judge:local and reward-model, not {feedback.source!r}; "
            "people mark passages in the column `spans` of `didact critique export`"
        )
    changed = feedback.model_copy(update={"settings": {**feedback.settings, **asked}})
    return config.model_copy(update={"feedback": changed})


def _check_model(config: RunConfig, overrides: list[str]) -> None:
    """Refuse a critic in this process without a model: a data file has none that it could be a copy of."""
    source, settings = config.feedback.source, config.feedback.settings
    frozen = source == "judge:local" or (source == "teacher" and settings.get("who") == "frozen")
    chosen = settings.get("model") is not None or any(o.startswith("model.path=") for o in overrides)
    if frozen and not chosen:
        raise UsageError(
            f"which model is {source}? A data file has none: give --judge-model a folder or hub id"
        )


def quality_table(found: Quality) -> Table:
    """The authors, one a row."""
    table = Table(title='Critiques by author; precision and recall of "wrong"', title_justify="left")
    table.add_column("author", no_wrap=True)
    for heading in (
        "source",
        "critiques",
        "share",
        "failed",
        "judged",
        "precision",
        "recall",
        "tokens",
        "USD",
    ):
        table.add_column(heading, justify="right")
    for author in found.authors:
        cells = (
            plain_name(author.author), author.source, f"{author.critiques:,}", f"{author.share:.0%}",
            f"{author.failed:.0%}", f"{author.judged:,}", _share(author.precision), _share(author.recall),
            f"{author.tokens:,}", f"{author.cost_usd:.4f}",
        )  # fmt: skip
        table.add_row(*map(escape, cells))
    return table


def _counted(done: CritiqueRunReport) -> str:
    each = f", {done.seconds / done.asked:.2f} s each" if done.asked else ""
    return (
        f"{done.asked} answers criticised{each}, {done.failed} failed, {done.skipped} had a critique "
        f"already; {done.tokens:,} tokens, {done.cost_usd:.4f} USD"
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _alpha(agreement: Agreement) -> str:
    if agreement.alpha is None:
        return "nothing to compare"
    return f"α = {agreement.alpha:.3f} ({agreement.annotators} annotators on {agreement.answers} answers)"
