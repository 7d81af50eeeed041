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

from didact.evaluation.learning_curve_plot import PLOT_STYLES, inline_svg
from didact.evaluation.results import CI, Report
from didact.evaluation.text_sanitizer import plain_name, plain_text
from didact.types import Feedback, Rollout


def write_report(path: Path | str, report: Report) -> Path:
    """Write the report as one HTML file; its directory is made where it is missing.

    Returns:
        The path that was written.
    """
    curves = Markup(inline_svg(report, described_by="curves-caption"))
    page = render("report.html.j2", {"report": report, "curves": curves, "looks": PLOT_STYLES})
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
    environment.filters |= {"percent": percent, "interval": _interval, "points": _points}
    environment.filters |= {"text": plain_text, "name": plain_name, "dialogue": dialogue}
    return environment.get_template(template).render(**view)


def percent(share: float, digits: int = 0) -> str:
    """A share in [0, 1] as the page shows it.

    >>> percent(0.987), percent(-0.25)
    ('99 %', '−25 %')
    """
    return f"{100 * share:.{digits}f} %".replace("-", "−")


def _interval(ci: CI) -> str:
    return f"{100 * ci[0]:.0f}–{100 * ci[1]:.0f} %"


def _points(share: float) -> str:
    return f"{round(100 * share):+d}".replace("-", "−")


def dialogue(rollout: Rollout) -> dict[str, Any]:
    """A rollout as the pages show it: what was asked, then answers and critiques in order, as plain text."""
    events: list[dict[str, str]] = []
    for number, turn in enumerate(rollout.turns):
        verdict = "unverified" if turn.reward is None else "right" if turn.correct else "wrong"
        name = ("First answer", "Revision")[number] if number < 2 else f"Revision {number}"
        events.append({"kind": "answer", "verdict": verdict, "name": name, "text": plain_text(turn.text)})
        events += [_critique(said) for said in rollout.feedback if said.turn == number]
    return {
        "id": plain_name(rollout.id, 80),
        "question": plain_text(rollout.problem.question),
        "events": events,
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
