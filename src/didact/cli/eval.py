"""`didact eval RUN_OR_MODEL`: accuracy without feedback, then with it, round by round."""

from __future__ import annotations

import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from didact.errors import DataError, UsageError

if TYPE_CHECKING:
    from didact.evaluation.evaluate import Evaluation
    from didact.training.run_dir import RunDir
    from didact.training.setup import Parts


class Protocol(StrEnum):
    """Who says what about an answer before the next one."""

    SINGLE = "single"
    FEEDBACK = "feedback"
    SELF_CRITIQUE = "self-critique"


def eval_(
    run_or_model: Annotated[str, typer.Argument(help="A run directory, tiny, a folder or a hub id.")],
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            help="single: no critique. feedback: the configured critic, until an answer is right. "
            "self-critique: the model criticises itself, and nothing tells it when to stop. "
            "[default: feedback, or single where eval.feedback is off]",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Critiques and further answers, at most.")] = 1,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, as in --set eval.problems=500.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Another task than the run's.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the numbers here.")] = None,
) -> None:
    """Answer evaluation problems without feedback, which is what counts, and again after critiques.

    The problems are the same for every model and seed, and training never sees them.
    """
    from didact.cli.progress import evaluation_line
    from didact.methods.feedback_descent import NAME as DESCENT
    from didact.training.config import load_config, read_yaml
    from didact.training.descend import instructed_parts
    from didact.training.run_dir import RunDir, write_atomically
    from didact.training.setup import build

    run = RunDir(Path(run_or_model))
    is_run = run.config.exists()
    if is_run:
        method = str(read_yaml(run.config)["method"])
        config = load_config(method, run.config, set_ or [], task__name=task)
    else:
        config = load_config("grpo", None, set_ or [], model__path=run_or_model, task__name=task)
    if not config.eval.problems:
        raise UsageError("eval.problems is 0, so there is nothing to ask: --set eval.problems=200")
    protocol = protocol or (Protocol.FEEDBACK if config.eval.feedback else Protocol.SINGLE)
    if protocol is Protocol.SINGLE and rounds != 1:
        raise UsageError(
            f"--rounds {rounds} asks for critiques, and the protocol single has none: take --protocol "
            "feedback or self-critique, or leave --rounds out"
        )
    if config.method == DESCENT:
        parts, step = instructed_parts(config, run)
    else:
        parts = build(config, for_training=False, home=run.path if is_run else None)
        step = _loaded(run, parts) if is_run else 0
    evaluation = _evaluated(parts, protocol, rounds, step)
    own = protocol is Protocol.SELF_CRITIQUE
    values = evaluation.metrics("own_critique" if own else "feedback")
    by_round = evaluation.rounds() if own or rounds > 1 else []
    typer.echo(evaluation_line(values))
    for record in by_round:
        typer.echo(_round_line(record))
    if json_ is not None:
        of: dict[str, Any] = {"of": run_or_model, "task": config.task.name, "step": step}
        record = {**of, "protocol": protocol.value, **values, **({"rounds": by_round} if by_round else {})}
        write_atomically(json_, json.dumps(record, indent=1) + "\n")


def _loaded(run: RunDir, parts: Parts) -> int:
    """Put the run's newest whole checkpoint into the engine; its step."""
    from didact.training.checkpoint import load_checkpoint

    state, torn = load_checkpoint(run.checkpoints, parts.engine)
    for sentence in torn:
        typer.echo(f"didact: {sentence}; taking the one before", err=True)
    if state is None:
        raise DataError(f"{run.path} has no whole checkpoint to evaluate")
    return state.step


def _evaluated(parts: Parts, protocol: Protocol, rounds: int, step: int) -> Evaluation:
    """Answers by the protocol, with the weights that the engine holds."""
    from didact.evaluation.evaluate import evaluate

    ctx, problems = parts.eval_context(step), parts.eval_problems()
    settings = parts.config.eval
    if protocol is Protocol.SINGLE:
        return evaluate(ctx, problems, temperature=settings.temperature, feedback=False)
    if protocol is Protocol.FEEDBACK:
        return evaluate(ctx, problems, temperature=settings.temperature, rounds=rounds)
    return _self_critique(parts, rounds, step)


def _self_critique(parts: Parts, rounds: int, step: int) -> Evaluation:
    """The model as its own critic, in as many tokens as the config allows it, or an answer."""
    from didact.evaluation.evaluate import evaluate

    settings = parts.config.eval
    tokens = settings.own_critique or parts.config.sampling.max_tokens
    chosen = settings.model_copy(update={"own_critique": tokens})
    config = parts.config.model_copy(update={"eval": chosen})
    critic = dataclasses.replace(parts, config=config).own_critic()
    return evaluate(
        dataclasses.replace(parts.eval_context(step), feedback=critic),
        parts.eval_problems(),
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
