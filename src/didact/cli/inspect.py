"""`didact inspect RUN`: an answer token by token, with what each was credited with and how it moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from didact.cli.options import JsonOption
from didact.errors import UsageError
from didact.evaluation.text_sanitizer import plain_name, plain_text

if TYPE_CHECKING:
    from didact.evaluation.token_view import TurnView
    from didact.run_dir import RunDir

STYLES = {"good": "bold green", "poor": "underline red", "none": ""}


def inspect(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    rollout: Annotated[str | None, typer.Option(help="Which; without, they are listed.")] = None,
    json_: JsonOption = False,
    html: Annotated[Path | None, typer.Option(help="Write a page here as well.")] = None,
) -> None:
    """Show every token's label, credit and move; train with --set inspect=N to have the last two."""
    from didact.config import parse_config, read_yaml
    from didact.evaluation.token_view import inspectable, rollout_view, to_json, write_page
    from didact.methods import make_method
    from didact.run_dir import RunDir

    opened = RunDir.open(run)
    console = Console(highlight=False, soft_wrap=True)
    if rollout is None:
        if html is not None:
            raise UsageError("--html shows one rollout: name it with --rollout ID")
        listed = list(inspectable(opened))
        if json_:
            typer.echo(json.dumps(listed, indent=1))
            return
        for one in listed:
            mark = "measured" if one["measured"] else "labels only"
            reward = "?" if one["reward"] is None else f"{one['reward']:g}"
            line = f"{plain_name(one['rollout'], 200)}   step {one['step']}   reward {reward}   {mark}"
            console.print(Text(line))
        return
    config = parse_config(read_yaml(opened.config))
    method = make_method(config.method, config.settings)
    turns = rollout_view(opened, rollout, method, _tokenizer(opened, config.model.path))
    if html is not None:
        write_page(html, turns)
    if json_:
        typer.echo(to_json(turns))
        return
    for turn in turns:
        _print(console, turn)


def _print(console: Console, turn: TurnView) -> None:
    from didact.evaluation.token_view import sign, token_cells

    reward = "?" if turn.reward is None else f"{turn.reward:g}"
    console.print(
        Text(f"{plain_name(turn.rollout, 200)}, answer {turn.turn + 1}, step {turn.step}, reward {reward}")
    )
    console.print(Text(plain_text(turn.question)))
    for critique in turn.critiques:
        console.print(Text(f"critique: {plain_text(critique)}"))
    heading = ("token", "label", "credit", "log π", "moved", "critique")
    lines = [("none", heading), *((sign(token), token_cells(token)) for token in turn.tokens)]
    widths = [max(len(cells[i]) for _, cells in lines) for i in range(5)]
    for style, cells in lines:
        line = Text(cells[0].ljust(widths[0]), style=STYLES[style])
        rest = "".join(f"  {cell.rjust(width)}" for cell, width in zip(cells[1:5], widths[1:], strict=True))
        line.append(f"{rest}  {cells[5]}".rstrip())
        console.print(line)
    console.print()


def _tokenizer(run: RunDir, path: str) -> Any:
    """The run's tokenizer: of the trained model where there is one, else of the model it started from."""
    from transformers import AutoTokenizer

    from didact.build.engines import model_folder

    start = model_folder(path)
    source = str(run.model) if (run.model / "tokenizer_config.json").exists() else start
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # a broken file raises what its reader happens to
        raise UsageError(f"the tokenizer of {source!r} cannot be loaded: {error}") from None
