"""`report.html`: one self-contained file, without scripts and without an address in it.

Everything that a model, a critic or a user wrote goes through `plain_text` and the template's
autoescaping; the one ready-made piece is the SVG, which matplotlib escapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from didact.evaluation.learning_curve_plot import PLOT_STYLES, inline_svg, plot_style
from didact.evaluation.results import CI, ArmResult, Report
from didact.evaluation.text_sanitizer import plain_name, plain_text
from didact.types import Feedback, Rollout, Turn


def write_report(path: Path | str, report: Report) -> Path:
    """Write the report as one HTML file; its directory is made where it is missing.

    Returns:
        The path that was written.
    """
    page = render("report.html.j2", _view(report))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    return target


def render(template: str, view: Mapping[str, Any]) -> str:
    """A page of this package's templates with its words escaped and made visible, none of them missing."""
    environment = Environment(
        loader=PackageLoader("didact.evaluation"),
        autoescape=True,
        finalize=lambda word: plain_text(word, len(word)) if type(word) is str else word,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "text": plain_text, "name": plain_name, "dialogue": dialogue}
    return environment.get_template(template).render(**view)


def percent(share: float, digits: int = 0) -> str:
    """A share in [0, 1] as the page shows it.

    >>> percent(0.987), percent(-0.25)
    ('99 %', '−25 %')
    """
    return f"{100 * share:.{digits}f} %".replace("-", "−")


def _interval(ci: CI) -> str:
    return f"{100 * ci[0]:.0f}–{100 * ci[1]:.0f} %"


def _points(difference: tuple[float, float, float]) -> dict[str, str]:
    mean, low, high = (f"{round(100 * x):+d}".replace("-", "−") for x in difference)
    return {"mean": mean, "interval": f"{low} to {high}"}


def _view(report: Report) -> dict[str, Any]:
    """The template's words: only plain text and numbers."""
    return {
        "title": plain_text(report.title),
        "summary": plain_text(report.summary),
        "task": plain_name(report.task, 120),
        "n_eval": report.n_eval,
        "seed": report.seed,
        "baseline": plain_name(report.baseline),
        "curves": Markup(inline_svg(report, described_by="curves-caption")),
        "looks": PLOT_STYLES,
        "arms": [_arm(index, arm) for index, arm in enumerate(report.arms)],
        "alarms": [
            {
                "arm": plain_name(arm.method),
                "name": a.name,
                "step": a.step,
                "text": plain_text(a.message) + ("." if a.stands else ". It has passed since."),
            }
            for arm in report.arms
            for a in arm.alarms
        ],
        "details": {plain_text(k): plain_text(v) for k, v in report.details.items()},
    }


def _arm(index: int, arm: ArmResult) -> dict[str, Any]:
    return {
        "index": index % len(PLOT_STYLES),
        "look": plot_style(index),
        "method": plain_name(arm.method),
        "accuracy": arm.accuracy,
        "ci95": arm.ci95,
        "interval": _interval(arm.ci95),
        "after": arm.accuracy_after_feedback,
        "after_interval": _interval(arm.after_ci95) if arm.after_ci95 else None,
        "own": arm.accuracy_after_own_critique,
        "own_interval": _interval(arm.own_critique_ci95) if arm.own_critique_ci95 else None,
        "difference": _points(arm.difference) if arm.difference else None,
        "seconds": arm.seconds,
        "sampled_tokens": arm.sampled_tokens,
        "feedback_tokens": arm.feedback_tokens,
        "steps": arm.steps,
        "curve": [
            {
                "step": p.step,
                "tokens": p.sampled_tokens,
                "seconds": p.seconds,
                "accuracy": p.accuracy,
                "interval": _interval(p.ci95),
            }
            for p in arm.curve
        ],
        "rollouts": [dialogue(rollout) for rollout in arm.rollouts],
    }


def dialogue(rollout: Rollout) -> dict[str, Any]:
    """A rollout as the pages show it: what was asked, then answers and critiques in order, as plain text."""
    events: list[dict[str, str]] = []
    for number, turn in enumerate(rollout.turns):
        events.append(_answer(number, turn))
        events += [_critique(said) for said in rollout.feedback if said.turn == number]
    return {
        "id": plain_name(rollout.id, 80),
        "question": plain_text(rollout.problem.question),
        "events": events,
    }


def _answer(number: int, turn: Turn) -> dict[str, str]:
    names = ("First answer", "Revision")
    verdict = "unverified" if turn.reward is None else "right" if turn.correct else "wrong"
    return {
        "kind": "answer",
        "verdict": verdict,
        "name": names[number] if number < len(names) else f"Revision {number}",
        "text": plain_text(turn.text),
    }


def _critique(said: Feedback) -> dict[str, str]:
    text = said.text if said.ok else f"The critic failed: {said.error}"
    knows = "saw the reference" if said.saw_reference else "did not see the reference"
    return {
        "kind": "critique",
        "verdict": "",
        "name": "Critique",
        "by": f"{plain_name(said.provenance.label, 60)}, {knows}",
        "text": plain_text(text),
    }
