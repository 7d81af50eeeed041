"""`didact play RUN_OR_MODEL`: episodes in an environment that answers in text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from didact.engines.base import Engine
    from didact.rendering.renderer import Renderer


def play(
    run_or_model: Annotated[str, typer.Argument(help="A run directory, tiny, a folder or a hub id.")],
    environment: Annotated[
        str,
        typer.Option(
            help="guess-number, guess-word, textarena:GAME (textarena:GuessTheNumber-v0), or file.py:Class."
        ),
    ],
    episodes: Annotated[int, typer.Option(min=1, help="Episodes, of the seeds from --first on.")] = 20,
    first: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 0,
    turns: Annotated[int, typer.Option(min=1, help="Moves an episode, at most.")] = 10,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens a move, at most.")] = 32,
    setting: Annotated[
        list[str] | None, typer.Option("--setting", help="Of the environment, as --setting guesses=8.")
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here.")] = None,
    transcripts: Annotated[
        Path | None, typer.Option(help="Also write the episodes here, one JSON line each.")
    ] = None,
) -> None:
    """Let a model play, and count what it solved.

    An episode is one conversation: the environment's words are the user's, the model's moves its answers.
    The same seeds are the same episodes for every model.
    """
    from didact.config import key_value
    from didact.engines.base import SamplingParams
    from didact.environments import make_environment
    from didact.environments.episodes import play as played
    from didact.environments.evaluation import episode_metrics
    from didact.run_dir import write_atomically

    settings = dict(key_value("--setting", word, "guesses=8") for word in setting or [])
    make_environment(environment, settings)  # a wrong name should not wait for the model
    engine, renderer, step = _player(run_or_model)
    found = played(
        engine,
        renderer,
        lambda: make_environment(environment, settings),
        range(first, first + episodes),
        name=environment,
        sampling=SamplingParams(max_tokens=max_tokens, temperature=temperature),
        turns=turns,
    )
    values = episode_metrics(found)
    typer.echo(_line(values))
    if transcripts is not None:
        lines = [
            json.dumps({"total": e.total, "ending": e.ending, **e.rollout.model_dump(mode="json")})
            for e in found
        ]
        write_atomically(transcripts, "".join(line + "\n" for line in lines))
    if json_ is not None:
        of = {"of": run_or_model, "step": step, "environment": environment, "settings": settings}
        how = {"first": first, "max_turns": turns, "temperature": temperature, "max_tokens": max_tokens}
        write_atomically(json_, json.dumps({**of, **how, **values}, indent=1) + "\n")


def _player(name: str) -> tuple[Engine, Renderer, int]:
    """Who plays, and the step of its checkpoint; 0 of a model that is no run."""
    from didact.build.engines import make_engine
    from didact.cli.models import each_model
    from didact.config import ModelConfig
    from didact.rendering.renderer import Renderer
    from didact.run_dir import RunDir

    if RunDir(Path(name)).config.exists():
        (looked,) = each_model([name], [], None)
        return looked.parts.engine, looked.parts.renderer, looked.step
    engine = make_engine(ModelConfig(path=name))
    return engine, Renderer(engine.tokenizer, {}, engine.end_ids), 0


def _line(values: dict[str, Any]) -> str:
    """All episodes in a few words."""
    low, high = values["solved_ci95"]
    line = f"solved {values['solved']:.1%} [{low:.1%}, {high:.1%}] of {values['n']} episodes"
    line += f"; mean return {values['return']:.3f}"
    if values["return_ci95"] is not None:
        low, high = values["return_ci95"]
        line += f" [{low:.3f}, {high:.3f}]"
    line += f"; {values['turns']:.1f} moves an episode"
    if room := values["endings"].get("room"):
        line += f"; {room} ended because the conversation no longer fitted the model"
    return line
