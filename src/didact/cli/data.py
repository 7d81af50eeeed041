"""`didact data`: feedback from logs, public sets and spreadsheets, made fit for training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from didact.cli.options import JsonFileOption
from didact.cli.terminal import make_table
from didact.errors import DataError, UsageError
from didact.evaluation.text_sanitizer import plain_name

if TYPE_CHECKING:
    from didact.annotation.forget import Removed
    from didact.data.inspection import Inspection, Located

data_app = typer.Typer(
    help="Import, check, split, inspect and forget answers with feedback.", no_args_is_help=True
)


@data_app.command("import")
def import_(
    kind: Annotated[
        str,
        typer.Argument(
            help="csv, jsonl, helpsteer3, slf5k, ultrafeedback, langfuse, phoenix, mlflow or weave."
        ),
    ],
    files: Annotated[
        list[Path], typer.Argument(help="The export; logs may have answers and feedback in several files.")
    ],
    out: Annotated[Path, typer.Option(help="The data file to make, as fb.jsonl.")],
    map_: Annotated[
        str | None,
        typer.Option(
            "--map",
            help="Where things are: prompt=question,completion=answer,feedback=comment; also id, user, "
            "score, label, reference, author. For logs a path: prompt=inputs.question.",
        ),
    ] = None,
) -> None:
    """Turn an export into JSON lines of answers with feedback. Rows that cannot be used are kept beside."""
    from didact.data.files import import_files
    from didact.data.importers import parse_map

    typer.echo(_safe(import_files(kind, files, out, parse_map(map_)).render()))
    typer.echo(f"next: didact data validate {out}")


@data_app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A data file.")],
    out: Annotated[Path | None, typer.Option(help="Write the good rows here.")] = None,
) -> None:
    """Check every row; name the row, the column, what was expected and the cure. Exit 3 if one fails."""
    from didact.data.files import validate_file

    found = validate_file(file, out=out)
    typer.echo(_safe(found.render()))
    if found.rejected:
        raise typer.Exit(DataError.exit_code)


@data_app.command()
def split(
    file: Annotated[Path, typer.Argument(help="A data file.")],
    by: Annotated[str, typer.Option(help="What may not be on both sides: problem, or user.")] = "problem",
    test: Annotated[float, typer.Option(help="The test side's share of the rows.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Another seed is another split.")] = 0,
    out_dir: Annotated[
        Path | None, typer.Option(help="Where the two files go; beside FILE if left out.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="The similarity from which texts are near-duplicates; 1 is equal texts.")
    ] = 0.8,
) -> None:
    """Split into FILE.train.jsonl and FILE.test.jsonl; equal and near-equal texts stay on one side."""
    from didact.data.split import split_file

    if by not in ("problem", "user"):
        raise UsageError(f"--by must be problem or user, not {by!r}")
    made = split_file(
        file,
        by="user" if by == "user" else "problem",
        test=test,
        seed=seed,
        folder=out_dir,
        threshold=threshold,
    )
    typer.echo(made.render())


@data_app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A data file.")],
    near_duplicates: Annotated[bool, typer.Option(help="Look for near-duplicate texts.")] = True,
    pii: Annotated[bool, typer.Option(help="Look for personal data and keys.")] = True,
    injection: Annotated[bool, typer.Option(help="Look for critiques that give orders.")] = True,
    author_cap: Annotated[float, typer.Option(help="Warn of an author with more than this share.")] = 0.25,
    json_file: JsonFileOption = None,
) -> None:
    """Count what is in a data file, and look for what should worry its reader."""
    from didact.data.files import refuse_existing
    from didact.data.inspection import inspect_file

    if json_file is not None:
        refuse_existing(json_file)
    found = inspect_file(
        file, near_duplicates=near_duplicates, pii=pii, injection=injection, author_cap=author_cap
    )
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(found), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console = Console()
    for table in inspection_tables(found):
        console.print(table)
    for warning in found.warnings:
        console.print(f"[yellow]![/] {escape(_safe(warning))}")


@data_app.command()
def forget(
    paths: Annotated[
        list[Path], typer.Argument(help="Run directories, data files, and directories to search for both.")
    ],
    user: Annotated[str, typer.Option(help="The person's id, as annotator or user.")],
    drop_rollouts: Annotated[
        bool, typer.Option(help="Remove whole rollouts whose revision was prompted with the text.")
    ] = False,
) -> None:
    """Remove a person's data from runs and data files, and list the runs that learned from it.

    Removes critiques by the person and examples whose user they are, and empties prompts that contain their
    critiques. Only the given paths are searched. Broken JSONL files, and files that still contain the text
    verbatim (an exported table, an answer that repeats it), are listed. Trained weights are not changed.
    """
    from didact.annotation.forget import forget as forget_words

    report = forget_words(user, paths, drop_rollouts=drop_rollouts)
    for path, why in report.unsearched:
        typer.echo(f"not searched: {plain_name(str(path), 300)} ({plain_name(why, 300)})")
    if not any(report.removed):
        typer.echo(
            f"nothing by {plain_name(user)!r} in {report.searched} run directories and data files: "
            f"{plain_name(report.near, 400)}"
        )
        return
    for entry in report.removed:
        typer.echo(f"{entry.path}: {_removed_counts(entry)}")
    for path in report.still:
        typer.echo(f"still holds some of these words to the letter: {path}")
    typer.echo("Copies outside these paths, and paraphrases, were not looked for.")


def _removed_counts(entry: Removed) -> str:
    counts = {
        "critiques removed": entry.feedback,
        "whole examples removed": entry.examples,
        "prompts emptied that spelt them": entry.prompts,
        "rollouts removed": entry.rollouts,
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count] or ["nothing of theirs in it"]
    if entry.learned:
        parts.append(
            f"but {entry.learned}: its model/ and checkpoints/ stay as they are, so train again without them"
        )
    return ", ".join(parts)


def inspection_tables(found: Inspection) -> list[Table]:
    """What was found, as tables for the terminal."""
    head = make_table(f"{found.file}: {found.rows:,} answers", "", "")
    counts = {
        "distinct prompts": found.prompts,
        "users": found.users,
        "feedbacks": found.feedback,
        "  without text": found.text_free_feedback,
        "  failed": found.failed_feedback,
        "answers without feedback": found.without_feedback,
    }
    for name, n in counts.items():
        head.add_row(name, f"{n:,}")
    for name, source_n in found.sources.items():
        head.add_row(f"  from {name}", f"{source_n:,}")
    tables = [head]
    lengths = make_table("Characters", "", "lowest", "5 %", "median", "95 %", "highest")
    for name, quantiles in found.lengths.items():
        if quantiles:
            lengths.add_row(name, *(f"{n:,}" for n in quantiles.values()))
    if lengths.row_count:
        tables.append(lengths)
    if found.scores or found.labels:
        labels = make_table("Scores and labels", "", "")
        if found.scores:
            low, mean, high = (found.scores[key] for key in ("lowest", "mean", "highest"))
            labels.add_row(f"{found.scores['n']:,.0f} scores", f"{low:g} … {high:g}, mean {mean:.3g}")
        for label, n in found.labels.items():
            labels.add_row(_cell(label), f"{n:,}")
        tables.append(labels)
    return [*tables, *_hazard_tables(found), *_author_tables(found)]


def _hazard_tables(found: Inspection) -> list[Table]:
    tables = []
    clusters = make_table("Duplicates", "", "clusters", "rows", "first rows")
    for name, groups in (
        ("near-duplicate prompts", found.duplicate_prompts),
        ("near-duplicate answers", found.duplicate_answers),
        ("contradictory feedback", found.contradictions),
    ):
        if groups:
            first = "; ".join(_rows(group) for group in groups[:3])
            clusters.add_row(name, f"{len(groups):,}", f"{sum(map(len, groups)):,}", first)
    if clusters.row_count:
        tables.append(clusters)
    for title, located in (
        ("Possible personal data (never shown)", found.personal_data),
        ("Critiques that seem to give orders", found.instructions),
    ):
        if located:
            tables.append(_located(title, located))
    return tables


def _author_tables(found: Inspection) -> list[Table]:
    if found.influence is None or not found.influence.authors:
        return []
    authors = make_table("Authors", "", "feedbacks", "share", "mean score")
    for author in found.influence.authors[:10]:
        mean = "" if author.mean_score is None else f"{author.mean_score:.3g}"
        authors.add_row(_cell(author.name), f"{author.feedback:,}", f"{author.share:.1%}", mean)
    tables = [authors]
    if found.influence.phrases:
        phrases = make_table(
            "Phrases of one author", "author", "phrase", "in", "others", "mean score", "others'"
        )
        for p in found.influence.phrases[:10]:
            means = ("" if m is None else f"{m:.3g}" for m in (p.mean_score, p.mean_score_of_others))
            phrases.add_row(
                _cell(p.author), _cell(p.phrase), f"{p.share:.0%}", f"{p.share_of_others:.1%}", *means
            )
        tables.append(phrases)
    if found.influence.bursts:
        bursts = make_table("Repeated critiques", "", "times", "authors")
        for burst in found.influence.bursts:
            bursts.add_row(_cell(burst.start), f"{burst.critiques:,}", f"{burst.authors:,}")
        tables.append(bursts)
    return tables


def _located(title: str, found: dict[str, Located]) -> Table:
    table = make_table(title, "", "count", "first rows")
    for kind, located in found.items():
        table.add_row(kind, f"{located.count:,}", _rows(located.rows))
    return table


def _rows(rows: list[int] | tuple[int, ...]) -> str:
    return ", ".join(map(str, rows[:6])) + (", …" if len(rows) > 6 else "")


def _cell(text: str) -> str:
    """Text of people or models for a table cell: without markup and control characters, cut at 60."""
    safe = _safe(text)
    return escape(safe if len(safe) <= 60 else f"{safe[:59]}…")


def _safe(text: str) -> str:
    """Text with unprintable characters escaped."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
