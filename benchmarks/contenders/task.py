"""Parses a contender's command line into the load that it has to run.

Every contender takes the same arguments, so ``benchmarks.run`` can start any of them. This module only uses the standard
library, because some contenders run in their own environments.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

API_KEY = "b3nchm4rk-9f2c71e8d05a"  # long enough to be redacted from rows
DATASET = "bench"
"""The database schema that every contender loads into."""


@dataclass(frozen=True)
class Task:
    """One load, from the API into a DuckDB file.

    Attributes:
        base_url: The API's URL, without a trailing slash.
        database: Absolute path of the DuckDB file; created if missing.
        rows: Number of rows of ``/v1/resource``.
        page: Rows per page.
        resources: Number of small resources to load; 0 for the one large ``/v1/resource``.
        concurrency: Concurrent pages, for contenders that support it.
    """

    base_url: str
    database: Path
    rows: int
    page: int
    resources: int
    concurrency: int

    @property
    def names(self) -> list[str]:
        """Returns the names of the resources, which are also their tables; each has the path ``/v1/<name>``."""
        return [f"resource_{number:02d}" for number in range(self.resources)] or ["resource"]

    def environment(self) -> dict[str, str]:
        """Returns the task as environment variables, for code that a tool imports instead of running."""
        return {
            "BENCH_BASE_URL": self.base_url,
            "BENCH_DATABASE": str(self.database),
            "BENCH_ROWS": str(self.rows),
            "BENCH_PAGE": str(self.page),
            "BENCH_RESOURCES": str(self.resources),
            "BENCH_CONCURRENCY": str(self.concurrency),
        }


def task_from_arguments() -> Task:
    """Parses the task from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--database", required=True, type=Path, help="DuckDB file")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--page", type=int, default=100, help="rows per page")
    parser.add_argument("--resources", type=int, default=0, help="load this many small resources instead")
    parser.add_argument("--concurrency", type=int, default=8, help="concurrent pages")
    given = parser.parse_args()
    return Task(given.base_url, given.database.resolve(), given.rows, given.page, given.resources, given.concurrency)


def task_from_environment() -> Task:
    """Reads the task that a parent process passed in ``Task.environment``."""
    read = os.environ
    return Task(
        read["BENCH_BASE_URL"],
        Path(read["BENCH_DATABASE"]),
        int(read["BENCH_ROWS"]),
        int(read["BENCH_PAGE"]),
        int(read["BENCH_RESOURCES"]),
        int(read["BENCH_CONCURRENCY"]),
    )
