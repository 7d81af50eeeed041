"""`didact eval RUN_OR_MODEL`: accuracy, dialogues turn by turn, suites of probes, or a text environment."""

from __future__ import annotations

import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from didact.cli.eval_environment import Episodes, eval_environment
from didact.cli.eval_suite import Answers, Suite, eval_suites
from didact.cli.options import JsonFileOption, SetOption, TaskOption
from didact.cli.terminal import evaluation_line, percent_interval
from didact.errors import UsageError

if TYPE_CHECKING:
    from didact.build.components import RunComponents
    from didact.evaluation.by_turn import DialogueProtocol


class Protocol(StrEnum):
    """Where the text between two answers comes from."""

    SINGLE = "single"
    FEEDBACK = "feedback"
    SELF_CRITIQUE = "self-critique"
    DIDACTIC = "didactic"
    RETRY = "retry"
    RESAMPLE = "resample"


DIALOGUES = (Protocol.DIDACTIC, Protocol.RETRY, Protocol.RESAMPLE)
"""Protocols that are dialogues; with --turns, self-critique is one too."""
TURNS, SUITE_TURNS = 10, 4
"""Defaults of --turns for dialogues and environments, and for suites."""


Models = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN_OR_MODEL...", help="Run directories, tiny, folders or hub ids; several for a --suite."
    ),
]
ProtocolOption = Annotated[
    Protocol | None,
    typer.Option(
        help="single: no critique. feedback: the configured critic, until an answer is right. "
        "self-critique: the model criticises itself, to the last round. didactic, retry, resample: "
        "dialogues turn by turn with the teacher, with 'try again', or independent answers; so is "
        "self-critique with --turns. [default: feedback, or single if eval.feedback is off]",
        show_default=False,
    ),
]
SamplesOption = Annotated[
    int,
    typer.Option(min=1, help="single: K answers a problem: mean@K and unbiased pass@k; needs a temperature."),
]
SuiteOption = Annotated[
    list[Suite] | None,
    typer.Option(
        help="sycophancy: flips after false corrections, fixes after true ones; needs a critic that uses "
        "references. plasticity: what critiques do to answers. May be repeated."
    ),
]
AnswersOption = Annotated[
    Answers | None,
    typer.Option(
        help="--suite sycophancy: given [default], the reference and a changed copy; own, first answers.",
        show_default=False,
    ),
]


def eval_(
    models: Models,
    protocol: ProtocolOption = None,
    samples: SamplesOption = 1,
    suite: SuiteOption = None,
    env: Annotated[
        str | None,
        typer.Option(help="A text environment: guess-number, guess-word, textarena:GAME or file.py:Class."),
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Problems (eval.problems), or episodes of --env [20].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws; the problems stay the same.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Of answers; 0 is greedy. [default: eval.temperature, or 0]")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="feedback, self-critique: maximum number of critiques [1].")
    ] = None,
    turns: Annotated[
        int | None,
        typer.Option(min=1, help="Answers per dialogue [10; --suite plasticity 4] or episode [10]."),
    ] = None,
    answers: AnswersOption = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="--env: a setting of it, as --setting guesses=8; repeatable.")
    ] = None,
    first: Annotated[int | None, typer.Option(min=0, help="--env: seed of the first episode [0].")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="--env: tokens per action [32].")] = None,
    transcripts: Annotated[
        Path | None, typer.Option(help="--env: also write the episodes here, one JSON line each.")
    ] = None,
    task: TaskOption = None,
    set_: SetOption = None,
    json_: JsonFileOption = None,
) -> None:
    """Evaluate models on problems that are the same for every model and seed, and never trained on.

    Without --suite or --env: accuracy of first answers, and after critiques. With --suite the task, the
    problems and the critic are those of the first run directory, for all models.
    """
    kind = "suite" if suite else "env" if env is not None else "protocol"
    of_env = {"env": env, "setting": setting, "first": first, "max-tokens": max_tokens}
    _refuse_others(kind, "protocol", {"protocol": protocol, "rounds": rounds, "samples": samples - 1 or None})
    _refuse_others(kind, "suite", {"suite": suite, "answers": answers})
    _refuse_others(kind, "env", {**of_env, "transcripts": transcripts})
    changes = {"task__name": task, "eval__problems": n, "eval__temperature": temperature}
    if env is not None:
        one = _only(models)
        episodes = Episodes(n or 20, first or 0, turns or TURNS, temperature or 0.0, max_tokens or 32, seed)
        eval_environment(one, env, setting or [], episodes, json_file=json_, transcripts=transcripts)
    elif suite:
        chosen, length = answers or Answers.GIVEN, turns or SUITE_TURNS
        eval_suites(models, set(suite), set_ or [], changes, chosen, length, seed=seed, json_file=json_)
    else:
        protocol = protocol or (Protocol.SINGLE if samples > 1 else None)
        counts = (rounds or 1, turns, samples)
        _eval_protocol(_only(models), protocol, *counts, set_ or [], changes, seed, json_)


def _only(models: list[str]) -> str:
    if len(models) > 1:
        raise UsageError("several models are compared by a --suite: name one, or see `didact compare RUN…`")
    return models[0]


def _refuse_others(kind: str, owner: str, options: dict[str, Any]) -> None:
    """Refuse options of another kind of evaluation: "protocol", "suite" or "env"."""
    for option, value in options.items():
        if value not in (None, []) and owner != kind:
            cure = f"leave out --{kind}" if option == owner else f"give --{owner}"
            raise UsageError(f"--{option} is not for --{kind}: {cure}, or leave --{option} out")


def _eval_protocol(
    model: str,
    protocol: Protocol | None,
    rounds: int,
    turns: int | None,
    samples: int,
    overrides: list[str],
    changes: dict[str, Any],
    seed: int,
    json_file: Path | None,
) -> None:
    from didact.cli.models import config_of, load_model
    from didact.config import DialogueEvalConfig
    from didact.descend.feedback_descent import NAME as DESCENT
    from didact.descend.run import instructed_parts
    from didact.run_dir import RunDir, write_atomically

    config = config_of(model, overrides, **changes)
    if not config.eval.problems:
        raise UsageError("eval.problems is 0, so there is nothing to ask: --n 200")
    protocol = protocol or (Protocol.FEEDBACK if config.eval.feedback else Protocol.SINGLE)
    is_dialogue = protocol in DIALOGUES or (protocol is Protocol.SELF_CRITIQUE and turns is not None)
    _check_lengths(protocol, rounds, turns, is_dialogue=is_dialogue)
    if samples > 1 and not (protocol is Protocol.SINGLE and config.eval.temperature):
        raise UsageError(
            f"--samples {samples} counts independent answers: take --protocol single and --temperature 1"
        )
    if is_dialogue:
        # The critic becomes a teacher in a dialogue, for any method.
        given = config.eval.dialogue or DialogueEvalConfig()
        dialogue = given.model_copy(update={"turns": turns or TURNS, "problems": config.eval.problems})
        evaluation = config.eval.model_copy(update={"dialogue": dialogue})
        config = config.model_copy(update={"eval": evaluation})
    run = RunDir(Path(model))
    parts, step = instructed_parts(config, run) if config.method == DESCENT else load_model(config, run)
    if is_dialogue:
        found = _dialogues(parts, protocol, step, seed)
    elif samples > 1:
        found = _samples(parts, samples, step, seed)
    else:
        found = _answers(parts, protocol, rounds, step, seed)
    if json_file is not None:
        of = {"of": model, "task": config.task.name, "step": step, "protocol": protocol.value}
        write_atomically(json_file, json.dumps({**of, **found}, indent=1) + "\n")


def _check_lengths(protocol: Protocol, rounds: int, turns: int | None, *, is_dialogue: bool) -> None:
    """Refuse a number of rounds or turns that the protocol does not have."""
    if protocol is Protocol.SINGLE and rounds != 1:
        raise UsageError(
            f"--rounds {rounds} asks for critiques, and the protocol single has none: take --protocol "
            "feedback or self-critique, or leave --rounds out"
        )
    if is_dialogue and rounds != 1:
        raise UsageError(f"--rounds is not for dialogues: give --turns, as in --turns {rounds + 1}")
    if turns is not None and not is_dialogue:
        raise UsageError(
            f"--turns {turns} asks for a dialogue, and the protocol {protocol.value} is none: take "
            "--protocol didactic, self-critique, retry or resample, or give --rounds"
        )


def _samples(parts: RunComponents, samples: int, step: int, seed: int) -> dict[str, Any]:
    """Evaluate K answers a problem; prints and returns the record."""
    from didact.evaluation.pass_at_k import sampled_metrics
    from didact.rollouts.base import single_turn
    from didact.training.evaluation_step import eval_context, eval_problems

    ctx = eval_context(parts, step, seed=seed).with_temperature(parts.config.eval.temperature)
    values = sampled_metrics(single_turn(ctx, eval_problems(parts), samples), samples)
    shares = [(f"mean@{samples}", values["accuracy"], values["ci95"])]
    shares += [(f"pass@{record['k']}", record["pass"], record["ci95"]) for record in values["pass_at"]]
    for name, share, ends in shares:
        typer.echo(f"{name}: {percent_interval(share, *(ends or (None, None)))} %")
    typer.echo(f"mean reward {values['reward']:.3f} on {values['n']} problems")
    return {"temperature": parts.config.eval.temperature, **values}


def _answers(parts: RunComponents, protocol: Protocol, rounds: int, step: int, seed: int) -> dict[str, Any]:
    """Evaluate answers, round by round; prints and returns the record."""
    from didact.evaluation.evaluate import evaluate
    from didact.training.evaluation_step import eval_context, eval_problems, self_critic

    ctx, problems, settings = eval_context(parts, step, seed=seed), eval_problems(parts), parts.config.eval
    own = protocol is Protocol.SELF_CRITIQUE
    if own:
        tokens = settings.own_critique or parts.config.sampling.max_tokens
        ctx = dataclasses.replace(ctx, feedback=self_critic(parts, tokens))
    evaluation = evaluate(
        ctx,
        problems,
        temperature=settings.temperature,
        feedback=protocol is not Protocol.SINGLE,
        rounds=rounds,
        early_stop=not own,
    )
    values = evaluation.metrics("own_critique" if own else "feedback")
    typer.echo(evaluation_line(values))
    by_round = evaluation.rounds() if own or rounds > 1 else []
    if by_round:
        values["rounds"] = by_round
    for record in by_round:
        low, high = record["ci95"]
        line = f"  after {record['round']} critiques: {record['accuracy']:.1%} [{low:.1%}, {high:.1%}]"
        if record["round"]:
            line += f", {record['mended']} mended, {record['spoilt']} spoilt"
            line += f", {record['solved']:.1%} solved so far"
        typer.echo(line)
    return values


def _dialogues(parts: RunComponents, protocol: Protocol, step: int, seed: int) -> dict[str, Any]:
    """Evaluate dialogues and the baselines turn by turn; prints and returns the record."""
    from didact.training.evaluation_step import by_turn

    chosen = parts.config.eval
    assert chosen.dialogue is not None
    name: DialogueProtocol = protocol.value  # type: ignore[assignment]
    found = by_turn(parts, step, chosen.dialogue, [name], seed=seed)
    for family, table in found.items():
        typer.echo(f"{family}{' (held out)' if table['held_out'] else ''}")
        for kind, measured in table["protocols"].items():
            for record in measured["by_turn"]:
                names = [n for n in ("solved", "final", "stopped", "majority") if n in record]
                shares = ", ".join(
                    "{} {:.1%} [{:.1%}, {:.1%}]".format(n, record[n], *record[f"{n}_ci95"]) for n in names
                )
                typer.echo(f"  {kind}, turn {record['turn']}: {shares}")
    return {"temperature": chosen.temperature, "families": found}
