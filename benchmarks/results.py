"""Holds the results of a benchmark as plain values, and writes and reads them as JSON.

See ``benchmarks.process`` for how figures are measured, and ``benchmarks.report`` for how they are shown.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Run:
    """One run of one contender; see ``benchmarks.process.Usage`` for the units.

    Attributes:
        problem: Why the figures do not count: killed, failed, WRONG or skipped, with the reason; empty if they do.
        load: The machine's load average over the last minute, before the run.
    """

    contender: str
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    tree_mb: float = 0.0
    problem: str = ""
    load: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One setting, and all runs with it.

    Attributes:
        rows: Rows of the large resource, or of all small ones together.
        page: Rows per page.
        latency_ms: Milliseconds that the server waits before it sends a page.
        resources: Number of small resources; 0 for the one large resource.
        software: Whether the rows are those of the software table, with 12 columns, instead of devices.
        second: Whether the measured sync is the second, with 1 % of the rows changed since the first.
        server: The throughput of the server alone, as text.
    """

    rows: int
    page: int
    latency_ms: float
    resources: int = 0
    second: bool = False
    software: bool = False
    server: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def title(self) -> str:
        """Returns the setting as text."""
        what = f"{self.resources} resources, {self.rows:,} rows" if self.resources else f"{self.rows:,} rows"
        what += " of 12 columns" if self.software else ""
        second = ", second sync with 1 % changed" if self.second else ""
        return f"{what}, pages of {self.page}, {self.latency_ms:g} ms per page{second}"

    def good(self, contender: str) -> list[Run]:
        """Returns the contender's runs that count."""
        return [run for run in self.runs if run.contender == contender and not run.problem]

    def contenders(self) -> list[str]:
        """Returns the contenders' letters, in the order they first ran."""
        return list(dict.fromkeys(run.contender for run in self.runs))

    def problems(self, contender: str) -> list[str]:
        """Returns why some of the contender's runs do not count, each reason once."""
        mine = (run.problem for run in self.runs if run.contender == contender)
        return list(dict.fromkeys(problem for problem in mine if problem))

    def median(self, contender: str, figure: str) -> float | None:
        """Returns the median of one of ``Run``'s figures; None if no run counts."""
        values = self.values(contender, figure)
        return median(values) if values else None

    def values(self, contender: str, figure: str) -> list[float]:
        """Returns one of ``Run``'s figures for every run that counts."""
        return [float(getattr(run, figure)) for run in self.good(contender)]


@dataclass(frozen=True)
class Results:
    """The results of one command."""

    suite: str
    command: str
    machine: str
    versions: str
    baseline: str
    cells: list[Cell]


def write(results: Results, file: Path) -> None:
    """Writes ``results`` as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(results), indent=1) + "\n")


def read(file: Path) -> Results:
    """Reads results that ``write`` wrote."""
    raw = json.loads(file.read_text())
    cells = [Cell(**{**cell, "runs": [Run(**run) for run in cell["runs"]]}) for cell in raw.pop("cells")]
    return Results(**raw, cells=cells)
