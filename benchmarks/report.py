"""Turns results into a Markdown table, a comparison with the goals, and a plot.

Usage: ``python -m benchmarks.report RESULT.json --markdown FILE --plot FILE.svg``
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.contenders.registry import CONTENDERS
from benchmarks.results import Cell, Results, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {"rows": "rows", "latency_ms": "latency, ms per page", "page": "rows per page"}
FIGURES = (("wall_s", "wall time, s"), ("peak_mb", "peak memory of the largest process, MB"))
LINES_FROM = 3
"""Fewer settings than this are drawn as bars."""


@dataclass(frozen=True)
class Goal:
    """A target for the ratio of two contenders' figures.

    Attributes:
        figure: The field of ``Run`` that is compared.
        over: Letters of the dividend; the smallest of their figures counts.
        under: Letter of the divisor.
        limit: The least value of the ratio, or the greatest if ``at_most`` is set.
        less: Letter whose figure is subtracted from the dividend first.
    """

    text: str
    figure: str
    over: str
    under: str
    limit: float
    at_most: bool = False
    less: str = ""


def goals(cell: Cell) -> list[Goal]:
    """Returns the project's goals for this setting."""
    if cell.resources and not cell.latency_ms:
        text = "time of ours through Dagster, without Dagster's start-up, divided by plain dlt's"
        return [Goal(text, "wall_s", "d", "a", 1, at_most=True, less="z")]
    if cell.second or cell.resources or (cell.rows, cell.page) != (100_000, 100):
        return []
    found = [
        Goal("plain dlt's time divided by ours without Dagster", "wall_s", "a", "e", 15),
        Goal("stock @dlt_assets' time divided by ours through Dagster", "wall_s", "c", "d", 9),
        Goal("our time without Dagster divided by the ceiling's", "wall_s", "e", "f", 1.5, at_most=True),
        Goal("plain dlt's peak memory divided by ours without Dagster", "peak_mb", "a", "e", 10),
        Goal("plain dlt's peak memory divided by ours through Dagster", "peak_mb", "a", "d", 10),
    ]
    peers = {0.0: 2.0, 20.0: 4.0}.get(cell.latency_ms)
    if peers is not None:
        text = "time of the faster of singer-sdk and PyAirbyte divided by ours through Dagster"
        found.append(Goal(text, "wall_s", "sp", "d", peers))
    return found


def _goal_lines(cell: Cell) -> Iterator[str]:
    for goal in goals(cell):
        over = [value for letter in goal.over if (value := cell.median(letter, goal.figure)) is not None]
        under = cell.median(goal.under, goal.figure)
        less = cell.median(goal.less, goal.figure) if goal.less else 0.0
        if over and under and less is not None:
            ratio = (min(over) - less) / under
            met = ratio <= goal.limit if goal.at_most else ratio >= goal.limit
            sign = "at most" if goal.at_most else "at least"
            yield f"| {goal.text} | {sign} {goal.limit:g} | {ratio:.1f} | {'met' if met else 'not met'} |"


def _spread(values: list[float], middle: float, digits: int) -> str:
    text = f"{middle:,.{digits}f}"
    return f"{text} ({min(values):,.{digits}f}–{max(values):,.{digits}f})" if len(values) > 1 else text


def _row(cell: Cell, letter: str, baseline: float | None) -> str:
    contender = CONTENDERS[letter]
    wall = cell.median(letter, "wall_s")
    problems = "; ".join(cell.problems(letter))
    name = f"({letter}) {contender.title}"
    if wall is None:
        return f"| {name} | – | – | – | – | – | – | {problems} |"
    figures = []
    for figure, digits in (("wall_s", 2), ("cpu_s", 2), ("peak_mb", 0), ("tree_mb", 0)):
        values = cell.values(letter, figure)
        middle = cell.median(letter, figure)
        assert middle is not None
        figures.append(_spread(values, middle, digits))
    speed = f"{cell.rows / wall:,.0f}" if contender.loads else "–"
    ratio = f"{baseline / wall:.1f}" if baseline and contender.loads else "–"
    return f"| {name} | {' | '.join(figures)} | {speed} | {ratio} | {problems or len(cell.good(letter))} |"


def markdown(results: Results) -> str:
    """Returns the results as Markdown: machine, command, one table per setting, and the goals that were measured."""
    facts = (f"Machine: {results.machine}", f"Versions: {results.versions}", f"    {results.command}")
    lines = [line for fact in facts for line in (fact, "")]
    for cell in results.cells:
        baseline = cell.median(results.baseline, "wall_s")
        lines += [f"### {cell.title()}", ""]
        lines += [f"Server's own ceiling: {'; '.join(cell.server)}.", ""] if cell.server else []
        lines += [
            "| contender | wall s | CPU s | peak MB, largest process | peak MB, all processes "
            f"| rows/s | times faster than ({results.baseline}) | runs |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_row(cell, letter, baseline) for letter in cell.contenders()]
        lines.append("")
        judged = list(_goal_lines(cell))
        if judged:
            lines += ["| goal | target | measured | |", "|---|---|---|---|", *judged, ""]
    lines += _summary(results)
    lines += _growth(results)
    return "\n".join(lines)


def _summary(results: Results) -> list[str]:
    """Returns a table of every contender's wall time, one line per setting; empty if there are fewer than three."""
    letters = list(dict.fromkeys(letter for cell in results.cells for letter in cell.contenders()))
    if len(results.cells) < LINES_FROM:
        return []
    titles = " | ".join(f"({letter}) {CONTENDERS[letter].title}" for letter in letters)
    lines = ["### Wall time, s", "", f"| setting | {titles} |", "|---|" + "---|" * len(letters)]
    for cell in results.cells:
        found = [cell.median(letter, "wall_s") for letter in letters]
        shown = " | ".join("–" if value is None else f"{value:.1f}" for value in found)
        lines.append(f"| {cell.title()} | {shown} |")
    return [*lines, ""]


def _growth(results: Results) -> list[str]:
    """Returns a table of how memory and CPU per row grow from 100,000 to 1,000,000 rows, if both were measured."""
    by_rows = {cell.rows: cell for cell in results.cells if not cell.second and not cell.resources}
    small, large = by_rows.get(100_000), by_rows.get(1_000_000)
    if small is None or large is None:
        return []
    lines = ["### 1,000,000 rows against 100,000", ""]
    lines += ["| contender | peak memory, times | CPU per row, times |", "|---|---|---|"]
    for letter in small.contenders():
        pairs = [(small.median(letter, name), large.median(letter, name)) for name in ("peak_mb", "cpu_s")]
        if CONTENDERS[letter].loads and all(low and high for low, high in pairs):
            memory, cpu = ((high or 0) / (low or 1) for low, high in pairs)
            lines.append(f"| ({letter}) {CONTENDERS[letter].title} | {memory:.2f} | {cpu / 10:.2f} |")
    return [*lines, ""]


def plot(results: Results, file: Path) -> None:
    """Draws wall time and peak memory as an SVG.

    Draws lines if at least three settings differ in one value, else bars with the spread.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    axis = next((name for name in AXES if _varies(results.cells, name)), None)
    height = 4.5 if axis else sum(1.0 + 0.35 * len(cell.contenders()) for cell in results.cells)
    count = 1 if axis else len(results.cells)
    drawing, grid = plt.subplots(count, 2, figsize=(11, height), layout="constrained", squeeze=False)
    if axis:
        for place, (figure, title) in zip(grid[0], FIGURES, strict=True):
            _draw_lines(place, results.cells, axis, figure, title)
        drawing.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    else:
        for places, cell in zip(grid, results.cells, strict=True):
            for place, (figure, title) in zip(places, FIGURES, strict=True):
                _draw_bars(place, cell, figure, title)
    file.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(file, format="svg", metadata={"Date": None})
    plt.close(drawing)


def _varies(cells: Sequence[Cell], name: str) -> bool:
    return len({getattr(cell, name) for cell in cells}) == len(cells) >= LINES_FROM


def _colour(letter: str) -> str:
    return f"C{list(CONTENDERS).index(letter)}"


def _draw_lines(place: Axes, cells: Sequence[Cell], axis: str, figure: str, title: str) -> None:
    for letter in dict.fromkeys(letter for cell in cells for letter in cell.contenders()):
        known = [(getattr(cell, axis), cell.median(letter, figure)) for cell in cells]
        points = [(x, y) for x, y in known if y is not None]
        if points:
            x, y = zip(*points, strict=True)
            place.plot(x, y, "o-", color=_colour(letter), label=CONTENDERS[letter].title)
    place.set(xlabel=AXES[axis], title=title, yscale="log", xscale="linear" if axis == "latency_ms" else "log")
    place.grid(alpha=0.3)


def _draw_bars(place: Axes, cell: Cell, figure: str, title: str) -> None:
    shown = [letter for letter in reversed(cell.contenders()) if cell.good(letter)]
    values = [cell.values(letter, figure) for letter in shown]
    middles = [median(each) for each in values]
    below = [middle - min(each) for middle, each in zip(middles, values, strict=True)]
    above = [max(each) - middle for middle, each in zip(middles, values, strict=True)]
    titles = [CONTENDERS[letter].title for letter in shown]
    bars = place.barh(titles, middles, xerr=(below, above), color=[_colour(letter) for letter in shown])
    digits = 1 if figure == "wall_s" else 0
    place.bar_label(bars, [f"{middle:,.{digits}f}" for middle in middles], padding=6)
    place.margins(x=0.2)
    place.set_title(f"{title}\n{cell.title()}", fontsize="small")


def main() -> None:
    """Writes the report of results that were measured earlier."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="JSON file of benchmarks.run")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--plot", type=Path, help="SVG file")
    given = parser.parse_args()
    results = read(given.results)
    if given.plot:
        plot(results, given.plot)
    if given.markdown:
        given.markdown.write_text(markdown(results))
    else:
        print(markdown(results))


if __name__ == "__main__":
    main()
