"""Turns a contender's command line into what it has to load.

Every contender takes the same arguments, so that ``benchmarks.run`` can start any of them. How rows are
loaded is each contender's own business. Standard library only: peers run in environments of their own.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

API_KEY = "benchmark-key"
DATASET = "bench"
"""The database schema that every contender loads into."""


@dataclass(frozen=True)
class Task:
    """One load, from the API into a DuckDB file.

    Attributes:
        base_url: Where the API listens, without a trailing slash.
        database: The DuckDB file, absolute; made if it is not there.
        rows: Rows that ``/v1/resource`` holds.
        page: Rows a page.
        resources: How many small resources to load; 0 is the one large ``/v1/resource``.
        concurrency: Pages in flight at once, for contenders that can.
    """

    base_url: str
    database: Path
    rows: int
    page: int
    resources: int
    concurrency: int

    @property
    def names(self) -> list[str]:
        """The resources to load, which are also their table names; each has the path ``/v1/<name>``."""
        return [f"resource_{number:02d}" for number in range(self.resources)] or ["resource"]

    def environment(self) -> dict[str, str]:
        """The task as environment variables, for code that a tool imports instead of running it."""
        return {
            "BENCH_BASE_URL": self.base_url,
            "BENCH_DATABASE": str(self.database),
            "BENCH_ROWS": str(self.rows),
            "BENCH_PAGE": str(self.page),
            "BENCH_RESOURCES": str(self.resources),
            "BENCH_CONCURRENCY": str(self.concurrency),
        }


def task_from_arguments() -> Task:
    """Read the task from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--database", required=True, type=Path, help="DuckDB file")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--page", type=int, default=100, help="rows a page")
    parser.add_argument("--resources", type=int, default=0, help="load so many small resources instead")
    parser.add_argument("--concurrency", type=int, default=8, help="pages in flight at once")
    given = parser.parse_args()
    return Task(given.base_url, given.database.resolve(), given.rows, given.page, given.resources, given.concurrency)


def task_from_environment() -> Task:
    """Read the task that a parent process passed with ``Task.environment``."""
    read = os.environ
    return Task(
        read["BENCH_BASE_URL"],
        Path(read["BENCH_DATABASE"]),
        int(read["BENCH_ROWS"]),
        int(read["BENCH_PAGE"]),
        int(read["BENCH_RESOURCES"]),
        int(read["BENCH_CONCURRENCY"]),
    )
