"""`didact eval RUN_OR_MODEL`: accuracy without feedback, then with it, round by round or turn by turn."""

from __future__ import annotations

import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from didact.errors import UsageError

if TYPE_CHECKING:
    from didact.build.components import RunComponents
    from didact.config import RunConfig
    from didact.evaluation.evaluate import Evaluation
    from didact.run_dir import RunDir


class Protocol(StrEnum):
    """Who says what about an answer before the next one."""

    SINGLE = "single"
    FEEDBACK = "feedback"
    SELF_CRITIQUE = "self-critique"
    DIDACTIC = "didactic"
    RETRY = "retry"
    RESAMPLE = "resample"


DIALOGUES = (Protocol.DIDACTIC, Protocol.RETRY, Protocol.RESAMPLE)
"""Protocols that are one growing conversation, or stand beside one; self-critique is, with --turns."""
TURNS = 10


def eval_(
    run_or_model: Annotated[str, typer.Argument(help="A run directory, tiny, a folder or a hub id.")],
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            help="single: no critique. feedback: the configured critic, until an answer is right. "
            "self-critique: the model criticises itself, and nothing tells it when to stop. "
            "didactic, retry, resample: dialogues turn by turn with the teacher, with 'try again', or fresh "
            "answers; so is self-critique with --turns. "
            "[default: feedback, or single where eval.feedback is off]",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Critiques and further answers, at most.")] = 1,
    turns: Annotated[
        int | None,
        typer.Option(min=1, help=f"Answers in one conversation. [default: {TURNS}]", show_default=False),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, as in --set eval.problems=500.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Another task than the run's.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here.")] = None,
) -> None:
    """Answer evaluation problems without feedback, which is what counts, and again after critiques.

    The problems are the same for every model and seed, and training never sees them.
    """
    from didact.cli.models import config_of
    from didact.run_dir import RunDir, write_atomically

    config = config_of(run_or_model, set_ or [], task)
    if not config.eval.problems:
        raise UsageError("eval.problems is 0, so there is nothing to ask: --set eval.problems=200")
    protocol = protocol or (Protocol.FEEDBACK if config.eval.feedback else Protocol.SINGLE)
    dialogue = protocol in DIALOGUES or (protocol is Protocol.SELF_CRITIQUE and turns is not None)
    _check(protocol, rounds, turns, dialogue=dialogue)
    if dialogue:
        # Its critic is a teacher in a dialogue, whatever the method was.
        kept = config.eval.model_copy(update={"didactic_turns": turns or TURNS})
        config = config.model_copy(update={"eval": kept})
    parts, step = _built(config, RunDir(Path(run_or_model)))
    found = (
        _dialogues(parts, protocol, turns or TURNS, step)
        if dialogue
        else _answers(parts, protocol, rounds, step)
    )
    if json_ is not None:
        of = {"of": run_or_model, "task": config.task.name, "step": step, "protocol": protocol.value}
        write_atomically(json_, json.dumps({**of, **found}, indent=1) + "\n")


def _built(config: RunConfig, run: RunDir) -> tuple[RunComponents, int]:
    """What is evaluated, with its weights or its instruction, and the step that they are of."""
    from didact.build.components import build
    from didact.cli.models import load_newest
    from didact.descend.feedback_descent import NAME as DESCENT
    from didact.descend.run import instructed_parts

    if config.method == DESCENT:
        return instructed_parts(config, run)
    if not run.config.exists():
        return build(config, for_training=False), 0
    parts = build(config, for_training=False, home=run.path)
    return parts, load_newest(run, parts)


def _answers(parts: RunComponents, protocol: Protocol, rounds: int, step: int) -> dict[str, Any]:
    """Answers by a protocol, round by round, told as they are returned."""
    from didact.cli.progress import evaluation_line

    evaluation = _evaluated(parts, protocol, rounds, step)
    own = protocol is Protocol.SELF_CRITIQUE
    values = evaluation.metrics("own_critique" if own else "feedback")
    by_round = evaluation.rounds() if own or rounds > 1 else []
    typer.echo(evaluation_line(values))
    for record in by_round:
        typer.echo(_round_line(record))
    return {**values, **({"rounds": by_round} if by_round else {})}


def _check(protocol: Protocol, rounds: int, turns: int | None, *, dialogue: bool) -> None:
    """Refuse a number of rounds or turns that the protocol does not have."""
    if protocol is Protocol.SINGLE and rounds != 1:
        raise UsageError(
            f"--rounds {rounds} asks for critiques, and the protocol single has none: take --protocol "
            "feedback or self-critique, or leave --rounds out"
        )
    if dialogue and rounds != 1:
        raise UsageError(f"--rounds is not for dialogues: give --turns, as in --turns {rounds + 1}")
    if turns is not None and not dialogue:
        raise UsageError(
            f"--turns {turns} asks for a dialogue, and the protocol {protocol.value} is none: take "
            "--protocol didactic, self-critique, retry or resample, or give --rounds"
        )


def _dialogues(parts: RunComponents, protocol: Protocol, turns: int, step: int) -> dict[str, Any]:
    """Dialogues by a protocol, and the baselines beside it, told as they are returned."""
    from didact.training.evaluation_step import by_turn

    found = by_turn(parts, step, turns, [protocol.value])  # type: ignore[list-item]
    for name, table in found.items():
        typer.echo(f"{name}{' (held out)' if table['held_out'] else ''}")
        for kind, measured in table["protocols"].items():
            for record in measured["by_turn"]:
                typer.echo(_turn_line(kind, record))
    return {"temperature": parts.config.eval.temperature, "families": found}


def _turn_line(kind: str, record: dict[str, Any]) -> str:
    """One turn in a few words."""
    shares = ", ".join(
        f"{name} {record[name]:.1%} [{record[f'{name}_ci95'][0]:.1%}, {record[f'{name}_ci95'][1]:.1%}]"
        for name in ("solved", "final", "stopped", "majority")
        if name in record
    )
    return f"  {kind}, turn {record['turn']}: {shares}"


def _evaluated(parts: RunComponents, protocol: Protocol, rounds: int, step: int) -> Evaluation:
    """Answers by the protocol, with the weights that the engine holds."""
    from didact.evaluation.evaluate import evaluate
    from didact.training.evaluation_step import eval_context, eval_problems

    ctx, problems = eval_context(parts, step), eval_problems(parts)
    settings = parts.config.eval
    if protocol is Protocol.SINGLE:
        return evaluate(ctx, problems, temperature=settings.temperature, feedback=False)
    if protocol is Protocol.FEEDBACK:
        return evaluate(ctx, problems, temperature=settings.temperature, rounds=rounds)
    return _self_critique(parts, rounds, step)


def _self_critique(parts: RunComponents, rounds: int, step: int) -> Evaluation:
    """The model as its own critic, in as many tokens as the config allows it, or an answer."""
    from didact.evaluation.evaluate import evaluate
    from didact.training.evaluation_step import eval_context, eval_problems, self_critic

    settings = parts.config.eval
    tokens = settings.own_critique or parts.config.sampling.max_tokens
    return evaluate(
        dataclasses.replace(eval_context(parts, step), feedback=self_critic(parts, tokens)),
        eval_problems(parts),
        temperature=settings.temperature,
        rounds=rounds,
        early_stop=False,
    )


def _round_line(record: dict[str, Any]) -> str:
    """One round in a few words."""
    low, high = record["ci95"]
    line = f"  after {record['round']} critiques: {record['accuracy']:.1%} [{low:.1%}, {high:.1%}]"
    if record["round"]:
        line += (
            f", {record['mended']} mended, {record['spoilt']} spoilt, {record['solved']:.1%} solved so far"
        )
    return line
