"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from didact.errors import UsageError
from didact.registry import SOURCES, TASKS

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A setting, as in --set optim.lr=1e-4 or --set eval.problems=500; repeatable."
    ),
]
ModelOption = Annotated[str | None, typer.Option(help="tiny (bundled), a folder or a hub id.")]
TaskOption = Annotated[str | None, typer.Option(help=f"A reasoning-gym generator, {TASKS.help()}")]
SeedOption = Annotated[int | None, typer.Option(help="0 to 99.")]
ConfigOption = Annotated[
    str | None, typer.Option(help="A YAML file, or recipe:NAME (see `didact recipes list`).")
]
OutOption = Annotated[Path | None, typer.Option(help="A new run directory.")]
DryRunOption = Annotated[bool, typer.Option(help="Check and show everything, write nothing.")]
ResumeOption = Annotated[Path | None, typer.Option(help="Resume this run.")]
JsonFileOption = Annotated[Path | None, typer.Option("--json", help="Also write the numbers here.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_SERVER = "judge:openai"
_FEEDBACK: dict[str, tuple[str, type, str]] = {
    "feedback": ("feedback__source", str, f"{SOURCES.help()} See docs/feedback.md."),
    "judge_model": (
        "feedback__settings__model",
        str,
        "The judge's model: a name on its server, or a folder; reward-model: its run.",
    ),
    "base_url": ("feedback__settings__base_url", str, f"{_SERVER}: the server's URL, up to and with /v1."),
    "max_cost": ("feedback__settings__max_cost", float, f"{_SERVER}: budget in USD; needs both prices."),
    "max_requests": ("feedback__settings__max_requests", int, f"{_SERVER}: maximum number of requests."),
    "price_in": ("feedback__settings__price_in", float, f"{_SERVER}: USD per million input tokens."),
    "price_out": ("feedback__settings__price_out", float, f"{_SERVER}: USD per million output tokens."),
}
"""Option → its config key as a keyword of `load_config`, type and help."""
_FOR_SERVERS = ("base_url", "max_cost", "max_requests", "price_in", "price_out")


def feedback_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of feedback sources to a command.

    Args:
        command: Gets what the options change in a config as its parameter `changes`, as keyword values of
            `load_config`; None changes nothing.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters = [p for p in signature.parameters.values() if p.name != "changes"]
    for name, (_, kind, text) in _FEEDBACK.items():
        annotation: Any = Annotated[kind | None, typer.Option(help=text)]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    parameters.append(
        inspect.Parameter(
            "unsafe_local_exec",
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[
                bool, typer.Option(help="Task code: run programs WITHOUT a sandbox if none works.")
            ],
        )
    )

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        changes: dict[str, Any] = {key: given[name] for name, (key, _, _) in _FEEDBACK.items()}
        for name in _FOR_SERVERS:
            if given[name] is not None and given["feedback"] not in (None, _SERVER):
                option = f"--{name.replace('_', '-')}"
                raise UsageError(
                    f"{option} is for --feedback {_SERVER}, not {given['feedback']!r}: leave it out"
                )
        if given["unsafe_local_exec"]:
            changes["task__settings__unsafe_local_exec"] = True
        kept = {name: value for name, value in given.items() if name in signature.parameters}
        command(**kept, changes=changes)

    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def refuse_beside_resume(given: Iterable[Any]) -> None:
    """Refuse any other option than --resume.

    Raises:
        UsageError: one was given.
    """
    if any(value not in (None, False) for value in given):
        raise UsageError("--resume takes its settings from the run: give nothing else beside it")
