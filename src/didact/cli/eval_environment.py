"""`didact eval RUN_OR_MODEL --env NAME`: episodes in a text environment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer


class Episodes(NamedTuple):
    """Which episodes are played, and how."""

    n: int
    first: int
    """Seed of the first episode; the others follow."""
    turns: int
    temperature: float
    max_tokens: int
    seed: int
    """Of the draws."""


def eval_environment(
    model: str,
    environment: str,
    settings: Sequence[str],
    how: Episodes,
    *,
    json_file: Path | None,
    transcripts: Path | None,
) -> None:
    """Play episodes and print how many were solved; see `eval_`."""
    from didact.cli.models import each_model
    from didact.config import key_value
    from didact.engines.base import SamplingParams
    from didact.environments import make_environment
    from didact.environments.episodes import episode_metrics, play
    from didact.run_dir import write_atomically

    chosen = dict(key_value("--setting", word, "guesses=8") for word in settings)
    make_environment(environment, chosen)  # fail before the model is loaded
    [loaded] = each_model([model])
    found = play(
        loaded.parts.engine,
        loaded.parts.renderer,
        lambda: make_environment(environment, chosen),
        range(how.first, how.first + how.n),
        name=environment,
        sampling=SamplingParams(max_tokens=how.max_tokens, temperature=how.temperature),
        turns=how.turns,
        seed=how.seed,
    )
    values = episode_metrics(found)
    typer.echo(_line(values))
    if transcripts is not None:
        records = [{"total": e.total, "ending": e.ending, **e.rollout.model_dump(mode="json")} for e in found]
        write_atomically(transcripts, "".join(json.dumps(record) + "\n" for record in records))
    if json_file is not None:
        of = {"of": model, "step": loaded.step, "environment": environment, "settings": chosen}
        values = {**of, **how._asdict(), "max_turns": how.turns, **values}
        write_atomically(json_file, json.dumps(values, indent=1) + "\n")


def _line(values: dict[str, Any]) -> str:
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
