"""`didact data`: feedback from logs, public sets and spreadsheets, made fit for training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from didact.cli.options import JsonFileOption
from didact.cli.terminal import make_table
from didact.errors import DataError, UsageError
from didact.evaluation.text_sanitizer import plain_name

if TYPE_CHECKING:
    from didact.data.inspection import Inspection

Rows: TypeAlias = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A table's title, headings and rows."""
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
    side: Literal["user", "problem"] = "user" if by == "user" else "problem"
    made = split_file(file, by=side, test=test, seed=seed, folder=out_dir, threshold=threshold)
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
        counts = {
            "critiques removed": entry.feedback,
            "whole examples removed": entry.examples,
            "prompts emptied that spelt them": entry.prompts,
            "rollouts removed": entry.rollouts,
        }
        parts = [f"{count} {what}" for what, count in counts.items() if count] or ["nothing of theirs in it"]
        if entry.learned:
            stays = "its model/ and checkpoints/ stay as they are, so train again without them"
            parts.append(f"but {entry.learned}: {stays}")
        typer.echo(f"{entry.path}: {', '.join(parts)}")
    for path in report.still:
        typer.echo(f"still holds some of these words to the letter: {path}")
    typer.echo("Copies outside these paths, and paraphrases, were not looked for.")


def inspection_tables(found: Inspection) -> list[Table]:
    """What was found, as tables for the terminal."""
    counts = {
        "distinct prompts": found.prompts,
        "users": found.users,
        "feedbacks": found.feedback,
        "  without text": found.text_free_feedback,
        "  failed": found.failed_feedback,
        "answers without feedback": found.without_feedback,
        **{f"  from {name}": n for name, n in found.sources.items()},
    }
    quantiles = ("lowest", "5 %", "median", "95 %", "highest")
    lengths = [[name, *(f"{n:,}" for n in of.values())] for name, of in found.lengths.items() if of]
    labels = [(_cell(label), f"{n:,}") for label, n in found.labels.items()]
    if found.scores:
        low, mean, high = (found.scores[key] for key in ("lowest", "mean", "highest"))
        labels.insert(0, (f"{found.scores['n']:,.0f} scores", f"{low:g} … {high:g}, mean {mean:.3g}"))
    tables: list[Rows] = [
        (f"{found.file}: {found.rows:,} answers", ("", ""), [(name, f"{n:,}") for name, n in counts.items()]),
        ("Characters", ("", *quantiles), lengths),
        ("Scores and labels", ("", ""), labels),
        *_hazards(found),
        *_authors(found),
    ]
    return [make_table(title, headings, rows) for title, headings, rows in tables if rows]


def _hazards(found: Inspection) -> list[Rows]:
    clusters = {
        "near-duplicate prompts": found.duplicate_prompts,
        "near-duplicate answers": found.duplicate_answers,
        "contradictory feedback": found.contradictions,
    }
    duplicates = [
        (name, f"{len(groups):,}", f"{sum(map(len, groups)):,}", "; ".join(map(_rows, groups[:3])))
        for name, groups in clusters.items()
        if groups
    ]
    kinds = {
        "Possible personal data (never shown)": found.personal_data,
        "Critiques that seem to give orders": found.instructions,
    }
    tables: list[Rows] = [("Duplicates", ("", "clusters", "rows", "first rows"), duplicates)]
    for title, located in kinds.items():
        rows = [(kind, f"{of.count:,}", _rows(of.rows)) for kind, of in located.items()]
        tables.append((title, ("", "count", "first rows"), rows))
    return tables


def _authors(found: Inspection) -> list[Rows]:
    influence = found.influence
    if influence is None or not influence.authors:
        return []
    authors = [
        (_cell(a.name), f"{a.feedback:,}", f"{a.share:.1%}", _score(a.mean_score))
        for a in influence.authors[:10]
    ]
    phrases = [
        (_cell(p.author), _cell(p.phrase), f"{p.share:.0%}", f"{p.share_of_others:.1%}",
         _score(p.mean_score), _score(p.mean_score_of_others))
        for p in influence.phrases[:10]
    ]  # fmt: skip
    bursts = [(_cell(b.start), f"{b.critiques:,}", f"{b.authors:,}") for b in influence.bursts]
    return [
        ("Authors", ("", "feedbacks", "share", "mean score"), authors),
        ("Phrases of one author", ("author", "phrase", "in", "others", "mean score", "others'"), phrases),
        ("Repeated critiques", ("", "times", "authors"), bursts),
    ]


def _score(mean: float | None) -> str:
    return "" if mean is None else f"{mean:.3g}"


def _rows(rows: list[int] | tuple[int, ...]) -> str:
    return ", ".join(map(str, rows[:6])) + (", …" if len(rows) > 6 else "")


def _cell(text: str) -> str:
    """Text of people or models for a table cell: without control characters, cut at 60."""
    safe = _safe(text)
    return safe if len(safe) <= 60 else f"{safe[:59]}…"


def _safe(text: str) -> str:
    """Text with unprintable characters escaped."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
