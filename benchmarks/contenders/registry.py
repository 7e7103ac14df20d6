"""Lists the contenders by letter: the module to run, its environment, and its limits."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
_ENVIRONMENTS = _HERE.parent / ".venvs"


@dataclass(frozen=True)
class Contender:
    """One way to load the rows.

    Attributes:
        letter: Its name on the command line.
        title: Its name in tables and plots.
        module: The module in this package that runs it.
        environment: Name of its own environment; empty for the project's.
        max_rows: Maximum number of rows; None for no limit.
        why_max: The reason for the limit, for the report.
        loads: Whether it loads rows at all.
    """

    letter: str
    title: str
    module: str
    environment: str = ""
    max_rows: int | None = None
    why_max: str = ""
    loads: bool = True

    def python(self) -> str:
        """Returns the interpreter that runs it; creates its environment if needed."""
        return python_of(self.environment) if self.environment else sys.executable

    def requirements(self) -> list[str]:
        """Returns the pinned packages of its own environment; empty for the project's."""
        return _requirements(self.environment) if self.environment else []


_TOO_MUCH = "with its defaults for DuckDB, dlt takes about 75 MB of memory per 1,000 rows"

CONTENDERS = {
    contender.letter: contender
    for contender in (
        Contender("a", "plain dlt, defaults", "plain_dlt", max_rows=200_000, why_max=_TOO_MUCH),
        Contender("b", "plain dlt, parquet", "plain_dlt_parquet"),
        Contender("c", "stock @dlt_assets", "stock_dlt_assets", max_rows=200_000, why_max=_TOO_MUCH),
        Contender("d", "ours through Dagster", "ours_through_dagster"),
        Contender("e", "ours without Dagster", "ours_without_dagster"),
        Contender("f", "hand-written ceiling", "ceiling"),
        Contender("s", "singer-sdk, target-duckdb", "singer", environment="singer"),
        Contender("p", "PyAirbyte, manifest", "pyairbyte", environment="pyairbyte"),
        Contender("y", "Dagster alone, empty assets with checks", "dagster_checked", loads=False),
        Contender("z", "Dagster alone, one empty asset", "dagster_alone", loads=False),
    )
}


def _requirements(environment: str) -> list[str]:
    text = (_HERE / f"{environment}.requirements.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def python_of(environment: str) -> str:
    """Returns the interpreter of an environment under ``benchmarks/.venvs``, which it creates if missing."""
    folder = _ENVIRONMENTS / environment
    python = folder / "bin" / "python"
    installed = folder / "installed.txt"
    wanted = "\n".join(_requirements(environment))
    if not installed.is_file() or installed.read_text() != wanted:
        print(f"creating the environment of {environment}: {wanted.replace(chr(10), ', ')}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        file = str(_HERE / f"{environment}.requirements.txt")
        subprocess.run([str(python), "-m", "pip", "install", "-qq", "-r", file], check=True)
        installed.write_text(wanted)
    return str(python)
