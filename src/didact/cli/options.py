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
    "unsafe_local_exec": (
        "task__settings__unsafe_local_exec",
        bool,
        "Task code: run programs WITHOUT a sandbox if none works.",
    ),
}
"""Option → its config key as a keyword of `load_config`, type and help."""


def feedback_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of feedback sources to a command.

    Its parameter `changes` gets what they change in a config, as keyword values of `load_config`; None
    changes nothing.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters = [p for p in signature.parameters.values() if p.name != "changes"]
    for name, (_, kind, text) in _FEEDBACK.items():
        default, annotation = (False, bool) if kind is bool else (None, kind | None)
        option: Any = Annotated[annotation, typer.Option(help=text)]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)
        )

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        changes: dict[str, Any] = {}
        source = given["feedback"]
        for name, (key, _, text) in _FEEDBACK.items():
            value = given.pop(name)
            if value is not None and text.startswith(_SERVER) and source not in (None, _SERVER):
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} is for --feedback {_SERVER}, not {source!r}: leave it out")
            changes[key] = None if value is False else value
        command(**given, changes=changes)

    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def refuse_beside_resume(given: Iterable[Any]) -> None:
    """Refuse any other option than --resume."""
    if any(value not in (None, False) for value in given):
        raise UsageError("--resume takes its settings from the run: give nothing else beside it")
