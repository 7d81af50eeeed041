"""A sweep's page: one self-contained file, without scripts and without an address in it.

Whatever a model, a critic or a file wrote goes through `plain_text` and autoescaping in the template; the
ready-made pieces are the SVGs of the curves, which matplotlib escapes.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from markupsafe import Markup

from didact.evaluation.learning_curve_plot import PLOT_STYLES, inline_svg
from didact.evaluation.report import percent, render
from didact.evaluation.results import Report
from didact.evaluation.stats import Estimate
from didact.jsonl import write_atomically
from didact.sweep.results import COLUMNS, SweepResults, TaskResults


def write_sweep_report(path: Path, results: SweepResults) -> Path:
    """Write the page, whole or not at all, into a directory that is made where it is missing."""
    view = {
        "results": results,
        "summary": summary(results),
        "looks": PLOT_STYLES,
        "columns": COLUMNS,
        "curves": _curves,
        "interval": interval,
        "points": _points,
    }
    page = render("sweep.html.j2", view)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


def summary(results: SweepResults) -> str:
    """One sentence per task: the arm with the highest final accuracy, beside the baseline."""
    found = [_finding(task, results.baseline) for task in results.tasks]
    return " ".join(found) or "No run has finished yet."


def _finding(task: TaskResults, baseline: str) -> str:
    def share(estimate: Estimate) -> str:
        ends = interval(estimate)
        return percent(estimate.value, 1) + (f" [{ends}]" if ends else "")

    best = max(task.arms, key=lambda arm: arm.final.value)
    found = f"On {task.task}, {best.arm} ends highest: {share(best.final)} of first answers right"
    other = next((arm for arm in task.arms if arm.arm == baseline), best)
    return f"{found}." if other is best else f"{found}; {baseline} has {share(other.final)}."


def interval(estimate: Estimate) -> str:
    """The ends of an interval in per cent; empty where there is none.

    >>> interval(Estimate(0.5, 0.25, 0.75, 4)), interval(Estimate(0.5, None, None, 1))
    ('25–75 %', '')
    """
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{100 * estimate.low:.0f}–{100 * estimate.high:.0f} %"


def _points(difference: tuple[float, float, float]) -> list[str]:
    return [f"{100 * x:+.1f}".replace("-", "−") for x in difference]


def _curves(task: TaskResults, name: str) -> Markup:
    """The curves of a task as an SVG with ids that no other figure has; the caption's id is the page's."""
    arms = [dataclasses.replace(a.shown, accuracy=a.final.value, curve=a.curve) for a in task.arms]
    drawn = Report(title="", task=task.task, n_eval=task.n_eval, seed=0, arms=arms, summary="")
    svg = inline_svg(drawn, described_by=f"{name}-caption")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    return Markup(re.sub(r'href="#', f'href="#{name}-', svg))
