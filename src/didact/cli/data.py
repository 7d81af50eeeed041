"""`didact data`: feedback from logs, public sets and spreadsheets, made fit for training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from didact.cli.forget import forget
from didact.errors import DataError, UsageError

if TYPE_CHECKING:
    from didact.data.inspection import Inspection, Located

data_app = typer.Typer(
    help="Import, check, split, inspect and forget answers with feedback.", no_args_is_help=True
)
data_app.command()(forget)


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
    from didact.data.importers import parse_map
    from didact.data.importing import import_files

    typer.echo(_safe(import_files(kind, files, out, parse_map(map_)).render()))
    typer.echo(f"next: didact data validate {out}")


@data_app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A data file.")],
    out: Annotated[Path | None, typer.Option(help="Write the good rows here.")] = None,
) -> None:
    """Check every row; name the row, the column, what was expected and the cure. Exit 3 if one fails."""
    from didact.data.validate import validate_file

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
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all of it here.")] = None,
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
        json_file.write_text(
            json.dumps(found.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    console = Console()
    for table in inspection_tables(found):
        console.print(table)
    for warning in found.warnings:
        console.print(f"[yellow]![/] {escape(_safe(warning))}")


def inspection_tables(found: Inspection) -> list[Table]:
    """What was found, as tables for the terminal."""
    head = _table(f"{found.file}: {found.rows:,} answers", "", "")
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
    lengths = _table("Characters", "", "lowest", "5 %", "median", "95 %", "highest")
    for name, quantiles in found.lengths.items():
        if quantiles:
            lengths.add_row(name, *(f"{n:,}" for n in quantiles.values()))
    if lengths.row_count:
        tables.append(lengths)
    if found.scores or found.labels:
        labels = _table("Scores and labels", "", "")
        if found.scores:
            low, mean, high = (found.scores[key] for key in ("lowest", "mean", "highest"))
            labels.add_row(f"{found.scores['n']:,.0f} scores", f"{low:g} … {high:g}, mean {mean:.3g}")
        for label, n in found.labels.items():
            labels.add_row(_cell(label), f"{n:,}")
        tables.append(labels)
    return [*tables, *_hazard_tables(found), *_author_tables(found)]


def _hazard_tables(found: Inspection) -> list[Table]:
    tables = []
    clusters = _table("Duplicates", "", "clusters", "rows", "first rows")
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
    authors = _table("Authors", "", "feedbacks", "share", "mean score")
    for author in found.influence.authors[:10]:
        mean = "" if author.mean_score is None else f"{author.mean_score:.3g}"
        authors.add_row(_cell(author.name), f"{author.feedback:,}", f"{author.share:.1%}", mean)
    tables = [authors]
    if found.influence.phrases:
        phrases = _table("Phrases of one author", "author", "phrase", "in", "others", "mean score", "others'")
        for p in found.influence.phrases[:10]:
            means = ("" if m is None else f"{m:.3g}" for m in (p.mean_score, p.mean_score_of_others))
            phrases.add_row(
                _cell(p.author), _cell(p.phrase), f"{p.share:.0%}", f"{p.share_of_others:.1%}", *means
            )
        tables.append(phrases)
    if found.influence.bursts:
        bursts = _table("Repeated critiques", "", "times", "authors")
        for burst in found.influence.bursts:
            bursts.add_row(_cell(burst.start), f"{burst.critiques:,}", f"{burst.authors:,}")
        tables.append(bursts)
    return tables


def _located(title: str, found: dict[str, Located]) -> Table:
    table = _table(title, "", "count", "first rows")
    for kind, located in found.items():
        table.add_row(kind, f"{located.count:,}", _rows(located.rows))
    return table


def _rows(rows: list[int] | tuple[int, ...]) -> str:
    return ", ".join(map(str, rows[:6])) + (", …" if len(rows) > 6 else "")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=escape(_safe(title)), title_justify="left", show_header=any(columns))
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 else "right")
    return table


def _cell(text: str) -> str:
    """A text of people or models for the terminal: no markup, no control characters, not long."""
    safe = _safe(text)
    return escape(safe if len(safe) <= 60 else f"{safe[:59]}…")


def _safe(text: str) -> str:
    """Text without what a terminal would obey: escape sequences and characters that reorder."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
