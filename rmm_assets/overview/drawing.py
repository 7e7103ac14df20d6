"""Draws a chart as an SVG image that is readable in light and dark mode.

Text stays text and is rendered by the viewer: it supports any script, embeds no fonts, and takes a few kB. Background
and text colours are CSS variables that follow the viewer's colour scheme. See `charts` for the numbers.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from io import StringIO
from typing import TYPE_CHECKING, Any

from rmm_assets.overview.charts import NOT_STATED, Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholder colours, which are replaced by CSS variables: matplotlib supports only one colour scheme at a time.
_GROUND, _INK, _FAINT, _GRID = "#fffffe", "#010203", "#5a6b7c", "#d0d7de"
_VARIABLES = {_GROUND: "ground", _INK: "ink", _FAINT: "faint", _GRID: "grid"}
LIGHT = {"ground": "#ffffff", "ink": "#1f2328", "faint": "#59636e", "grid": "#dfe3e8"}
DARK = {"ground": "#16191e", "ink": "#e6e9ee", "faint": "#9aa4b1", "grid": "#2e343d"}

# Of medium lightness, for contrast with both backgrounds; they differ in lightness as well as in hue.
_COLOURS = {
    "online": "#2f9e78", "warning": "#e0a526", "offline": "#c2554d",
    "critical": "#b8322f", "high": "#dd6b20", "error": "#dd6b20", "major": "#e07b39", "important": "#e07b39",
    "moderate": "#e0a526", "medium": "#e0a526", "minor": "#e0b84a", "low": "#7fa7d1",
    "information": "#5b8def", "informational": "#5b8def", "info": "#5b8def", NOT_STATED: "#8b949e",
}  # fmt: skip
_OTHERS = ("#5b8def", "#8e6bbf", "#3aa6a6", "#c77dba", "#a07d4f", "#6f8f3a")

_WIDTH = 7.6  # inches, of 72 points
_FONT = 10.0  # points
_LEFT, _RIGHT = 0.07, 0.97  # edges of the plot area, as shares of the width
_LONGEST = 34  # cells of a label; a wide character takes two
_STYLE = """<style>
:root {{ color-scheme: light dark; {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
text {{ font-family: system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif }}
</style>"""


def draw(chart: Chart) -> str:
    """Draws a chart as SVG text; the same numbers give the same text.

    Raises:
        ValueError: The chart has no series.
    """
    # Imported here, because it is slow to import and loads do not need it.
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    if not chart.series:
        raise ValueError(f"{chart.name} has nothing to draw")
    horizontal = chart.bars == "horizontal"
    legend = 0.42 if len(chart.series) > 1 else 0.08
    height = 0.58 + legend + 0.27 * len(chart.labels) if horizontal else 2.76 + legend
    settings: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": chart.name, "font.size": _FONT, "text.color": _INK,
        "axes.labelcolor": _FAINT, "xtick.color": _GRID, "ytick.color": _GRID,
        "xtick.labelcolor": _FAINT, "ytick.labelcolor": _INK if horizontal else _FAINT,
    }  # fmt: skip
    with mpl.rc_context(settings):
        figure = Figure(figsize=(_WIDTH, height), facecolor=_GROUND)
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_subplot(facecolor=_GROUND)
        (_horizontal if horizontal else _vertical)(axes, chart)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_axisbelow(True)
        left = (max(map(_cells, chart.labels)) * 0.54 * _FONT + 18) / (72 * _WIDTH) if horizontal else _LEFT
        top = 1 - legend / height
        figure.subplots_adjust(left=left, right=_RIGHT, top=top, bottom=(0.52 if horizontal else 0.58) / height)
        if len(chart.series) > 1:
            _legend(axes, list(chart.series), left=left, top=top + 0.14 / height)
        text = StringIO()
        with warnings.catch_warnings():
            # matplotlib measures text in its own font, which lacks some characters; the viewer's font has them.
            warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
            canvas.print_svg(text, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return _themed(text.getvalue())


def _horizontal(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import MaxNLocator

    places = range(len(chart.labels))
    reached = [0.0] * len(chart.labels)
    for number, (name, counts) in enumerate(chart.series.items()):
        nonzero = [place for place in places if counts[place]]
        axes.barh(
            nonzero, [counts[place] for place in nonzero], left=[reached[place] for place in nonzero], height=0.68,
            color=_colour(name, number), edgecolor=_GROUND, lw=0.8,
        )  # fmt: skip
        reached = [one + other for one, other in zip(reached, counts, strict=True)]
    for place, total in zip(places, reached, strict=True):
        axes.annotate(
            f"{total:,.0f}", (total, place), (4, 0), textcoords="offset points",
            va="center", color=_FAINT, fontsize=_FONT - 1,
        )  # fmt: skip
    axes.set_yticks(places, [_short(label) for label in chart.labels])
    axes.set_ylim(len(chart.labels) - 0.4, -0.6)
    axes.margins(x=0.07)
    axes.xaxis.grid(color=_GRID, lw=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel(chart.unit, loc="right", fontsize=_FONT - 1)


def _vertical(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import MaxNLocator

    places = range(len(chart.labels))
    reached = [0.0] * len(chart.labels)
    # The most severe series is at the bottom, where bars are easiest to compare.
    for number, (name, counts) in enumerate(chart.series.items()):
        nonzero = [place for place in places if counts[place]]
        axes.bar(
            nonzero, [counts[place] for place in nonzero], bottom=[reached[place] for place in nonzero], width=0.8,
            color=_colour(name, number), edgecolor=_GROUND, lw=0.8,
        )  # fmt: skip
        reached = [one + other for one, other in zip(reached, counts, strict=True)]
    step = -(-len(chart.labels) // 6)
    # Labels are centered below their bars; the last one may not fit on the right.
    width = 72 * _WIDTH
    bar = (_RIGHT - _LEFT) * width / (len(chart.labels) + 0.4)
    labelled = [
        place for place in places[::step]
        if step == 1
        or (len(chart.labels) - 0.3 - place) * bar + (1 - _RIGHT) * width >= _cells(chart.labels[place]) * 0.28 * _FONT
    ]  # fmt: skip
    axes.set_xticks(labelled, [chart.labels[place] for place in labelled])
    axes.tick_params(axis="x", pad=8)  # below the 0 of the other axis, which the first label may reach
    axes.set_xlim(-0.7, len(chart.labels) - 0.3)
    axes.margins(y=0.06)
    axes.yaxis.grid(color=_GRID, lw=0.8)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel(chart.unit, loc="right", fontsize=_FONT - 1)


def _legend(axes: Axes, names: list[str], *, left: float, top: float) -> None:
    from matplotlib.patches import Rectangle

    figure = axes.figure
    height = float(figure.get_figheight())  # type: ignore[union-attr]
    place = left
    for number, name in enumerate(names):
        figure.add_artist(
            Rectangle((place, top), 0.014, 0.12 / height, color=_colour(name, number), transform=figure.transFigure)
        )
        figure.text(place + 0.02, top + 0.06 / height, _short(name), va="center", fontsize=_FONT - 0.5)
        place += 0.04 + _cells(_short(name)) * 0.56 * _FONT / (72 * _WIDTH)


def _colour(name: str, number: int) -> str:
    return _COLOURS.get(name, _OTHERS[number % len(_OTHERS)])


def _cells(text: str) -> int:
    return min(sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text), _LONGEST)


def _short(text: str) -> str:
    taken, cells = "", 0
    for letter in text:
        cells += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if cells > _LONGEST:
            return taken[:-1].rstrip() + "…"
        taken += letter
    # matplotlib would parse text between two dollar signs as a formula.
    return taken.replace("$", r"\$")


def _themed(svg: str) -> str:
    # Only tags are edited from here on: the text between them may contain names from the API.
    svg = re.sub(r"<metadata>.*?</metadata>|<clipPath.*?</clipPath>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: _short_tag(tag[0]), svg)
    svg = re.sub(r"(</?g/?>|\s)+(?=<)", "", svg)  # groups without an id have no effect
    style = _STYLE.format(light=_declared(LIGHT), dark=_declared(DARK))
    return re.sub(r"<svg[^>]*>", lambda opened: f"{opened[0]}\n{style}", svg, count=1)


def _short_tag(tag: str) -> str:
    """Shortens a tag and replaces placeholder colours by variables."""
    for colour, name in _VARIABLES.items():
        tag = tag.replace(colour, f"var(--{name})")
    tag = re.sub(r' font-family: [^;]*;| clip-path="[^"]*"| id="[^"]*"| transform="rotate\(-0 [^"]*"', "", tag)
    return re.sub(r"(\.\d)\d+", r"\1", " ".join(tag.split()))


def _declared(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
