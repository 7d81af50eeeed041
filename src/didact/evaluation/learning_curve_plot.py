"""The curves: first-turn accuracy over sampled tokens, one line a method, with 95 % bands.

No line depends on colour alone: each has its own marker and dashes as well.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from didact.evaluation.results import ArmResult, Report
from didact.evaluation.text_sanitizer import plain_name
from didact.jsonl import read_package_yaml


class PlotStyle(NamedTuple):
    """Line style of an arm, in the figure and in the legend of a page."""

    light: str
    """On white: from the Okabe–Ito palette (2008), darkened to a contrast of 3 or more."""
    dark: str
    marker: str
    """matplotlib's name of it."""
    path: str
    """The same marker as an SVG path within [-5, 5]²."""
    dash: Sequence[float]


PLOT_STYLES = [PlotStyle(*row) for row in read_package_yaml("didact.evaluation", "plot_styles.yaml")]
"""One a method in the order of the report's arms; used again from the start after the last."""

_INK, _GRID = "#242424", "#dadada"
_STYLE = resources.files("didact.evaluation").joinpath("curves.mplstyle")


def plot_learning_curves(path: Path | str, report: Report) -> tuple[Path, Path]:
    """Write the curves as `path` with the suffixes .png and .svg, on white.

    Returns:
        The two paths that were written.
    """
    png, svg = Path(path).with_suffix(".png"), Path(path).with_suffix(".svg")
    with _style("path"):
        figure = _figure(report)
        figure.savefig(png, dpi=170, facecolor="white")
        figure.savefig(svg, facecolor="white", metadata={"Date": None})
    return png, svg


def inline_svg(report: Report, *, described_by: str) -> str:
    """The curves as an <svg> to put into a page: its colours are the page's --arm-N and currentColor.

    Args:
        described_by: The id of the element that describes the curves in text.
    """
    buffer = io.StringIO()
    with _style("none"):
        _figure(report).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # A page needs no namespaces, RDF or comments, and must hold no address.
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for index, arm_look in enumerate(PLOT_STYLES):
        svg = svg.replace(arm_look.light, f"var(--arm-{index})")
    svg = svg.replace(_INK, "currentColor").replace(_GRID, "var(--line)")
    return re.sub(
        r'<svg width="[^"]*" height="[^"]*"|<svg height="[^"]*"((?:.(?!width=))*) width="[^"]*"',
        r"<svg\1",
        svg,
        count=1,
    ).replace("<svg", f'<svg role="img" aria-labelledby="{described_by}"', 1)


@contextmanager
def _style(svg_fonttype: str) -> Iterator[None]:
    style: list[str | dict[str, Any]] = [str(_STYLE), {"svg.fonttype": svg_fonttype}]
    with matplotlib.style.context(style), warnings.catch_warnings():
        # A run may be named in a script that the bundled font lacks: a box in the PNG is no trouble.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _figure(report: Report) -> Figure:
    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    furthest = max((p.sampled_tokens for arm in report.arms for p in arm.curve), default=0)
    for index, arm in enumerate(report.arms):
        _draw(axes, arm, PLOT_STYLES[index % len(PLOT_STYLES)], furthest)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(-0.02 * max(furthest, 1), 1.03 * max(furthest, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("tokens sampled in training")
    axes.set_ylabel("first answers right, no feedback")
    axes.tick_params(length=0)
    handles, labels = axes.get_legend_handles_labels()
    by_accuracy = sorted(range(len(handles)), key=lambda i: -report.arms[i].accuracy)
    figure.legend(
        [handles[i] for i in by_accuracy],
        [labels[i] for i in by_accuracy],
        loc="outside right upper",
        frameon=False,
        handlelength=3.6,
        labelspacing=0.9,
    )
    return figure


def _draw(axes: matplotlib.axes.Axes, arm: ArmResult, arm_look: PlotStyle, furthest: int) -> None:
    style: dict[str, Any] = {
        "color": arm_look.light,
        "linestyle": (0, arm_look.dash) if arm_look.dash else "-",
        "linewidth": 2.0,
        "label": f"{plain_name(arm.method)}  {arm.accuracy:.0%}".replace("%", " %"),
    }
    if len(arm.curve) < 2:  # nothing was trained: a level to compare with
        axes.plot([0, max(furthest, 1)], [arm.accuracy] * 2, **style)
        return
    tokens = [p.sampled_tokens for p in arm.curve]
    axes.fill_between(
        tokens,
        [p.ci95[0] for p in arm.curve],
        [p.ci95[1] for p in arm.curve],
        color=arm_look.light,
        alpha=0.14,
        linewidth=0,
    )
    axes.plot(
        tokens,
        [p.accuracy for p in arm.curve],
        marker=arm_look.marker,
        markersize=6,
        markeredgewidth=1.4,
        markerfacecolor="none" if arm_look.dash else arm_look.light,
        **style,
    )
