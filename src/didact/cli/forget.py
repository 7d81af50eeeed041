"""`didact data forget --user U PATH…`: take a person's words out again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from didact.evaluation.text_sanitizer import plain_name

if TYPE_CHECKING:
    from didact.annotation.forget import Removed


def forget(
    paths: Annotated[
        list[Path], typer.Argument(help="Run directories, data files, and directories to search for both.")
    ],
    user: Annotated[str, typer.Option(help="The person's id, as annotator or as user of an example.")],
    drop_rollouts: Annotated[
        bool, typer.Option(help="Remove rollouts whole whose revision was prompted with the words.")
    ] = False,
) -> None:
    """Remove a person's words from runs and data files, and say which runs learned from them.

    Critiques that the person wrote go, and examples whose user they are. Prompts of revisions that spelt
    their critiques are emptied. Only the given paths are searched; files of JSON lines in them that are no
    data file, or a broken one, are named. Files that still hold the words to the
    letter (an exported table, a model's answer that repeats them) are named; what a model learned from
    them stays in its weights until it is trained again.
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
        typer.echo(f"{entry.path}: {_told(entry)}")
    for path in report.still:
        typer.echo(f"still holds some of these words to the letter: {path}")
    typer.echo("Copies outside these paths, and paraphrases, were not looked for.")


def _told(entry: Removed) -> str:
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
