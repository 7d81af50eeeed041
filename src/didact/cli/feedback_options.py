"""The options that say where critiques come from: the same for every verb that asks for some."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from didact.errors import UsageError
from didact.registry import SOURCES

FeedbackOption = Annotated[
    str | None,
    typer.Option(
        "--feedback",
        help=f"{SOURCES.help()} See docs/feedback.md.",
    ),
]
JudgeModelOption = Annotated[
    str | None,
    typer.Option(
        "--judge-model", help="The judge's model: a name on its server, or a folder; reward-model: its run."
    ),
]
BaseUrlOption = Annotated[
    str | None, typer.Option("--base-url", help="judge:openai: the server's URL, up to and including /v1.")
]
MaxCostOption = Annotated[
    float | None, typer.Option("--max-cost", help="judge:openai: USD that may be spent; needs both prices.")
]
PriceInOption = Annotated[
    float | None, typer.Option("--price-in", help="judge:openai: USD for a million tokens read.")
]
PriceOutOption = Annotated[
    float | None, typer.Option("--price-out", help="judge:openai: USD for a million tokens written.")
]
MaxRequestsOption = Annotated[
    int | None, typer.Option("--max-requests", help="judge:openai: requests that may be sent.")
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Answers and critiques that exist already: a file of `didact data import`."),
]
UnsafeOption = Annotated[
    bool,
    typer.Option("--unsafe-local-exec", help="Task code: run programs WITHOUT a sandbox if none works."),
]


def feedback_changes(
    *,
    feedback: str | None = None,
    judge_model: str | None = None,
    base_url: str | None = None,
    max_cost: float | None = None,
    max_requests: int | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    data: Path | None = None,
    unsafe_local_exec: bool = False,
) -> dict[str, Any]:
    """What the options change in a config, as keyword values of `load_config`; None changes nothing.

    Raises:
        UsageError: an option that the chosen source does not have.
    """
    of_servers = {
        "--base-url": base_url,
        "--max-cost": max_cost,
        "--max-requests": max_requests,
        "--price-in": price_in,
        "--price-out": price_out,
    }
    for option, value in of_servers.items():
        if value is not None and feedback not in (None, "judge:openai"):
            raise UsageError(f"{option} is for --feedback judge:openai, not {feedback!r}: leave it out")
    changes: dict[str, Any] = {
        "feedback__source": feedback,
        "feedback__settings__model": judge_model,
        "feedback__settings__base_url": base_url,
        "feedback__settings__max_cost": max_cost,
        "feedback__settings__max_requests": max_requests,
        "feedback__settings__price_in": price_in,
        "feedback__settings__price_out": price_out,
    }
    if data is not None:
        changes |= {"task__name": "offline", "task__settings__path": str(data)}
        if feedback in (None, "recorded", "human"):
            changes |= {"feedback__source": feedback or "recorded", "feedback__settings__path": str(data)}
        if feedback == "human":
            changes["task__settings__critique_sources"] = ["human"]
    if unsafe_local_exec:
        changes["task__settings__unsafe_local_exec"] = True
    return changes
