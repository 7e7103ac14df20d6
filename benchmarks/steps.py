"""Measures how long each step of a load without Dagster takes: the profile in docs/performance.md.

    python -m benchmarks.steps                  # 100,000 rows
    python -m benchmarks.steps --resources 20   # the fixed cost of a small resource
    python -m benchmarks.steps --keys '{"child_tables": true}'   # with further keys of each resource

Steps are timed by wrapping the functions that perform them; the line before the total is the remaining time.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

from benchmarks.contenders.task import API_KEY, Task
from benchmarks.server import SMALL_ROWS, RunningServer


class Stopwatch:
    """Counts seconds by step. The time of a step within another counts only for the inner one."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._running: list[str] = []
        self._since = time.perf_counter()

    def _lap(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def timed(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a function so that its time counts as a step."""

        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            self._lap()
            self._running.append(step)
            try:
                return function(*args, **options)
            finally:
                self._lap()
                self._running.pop()

        return run


def main() -> None:
    """Loads once and prints the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--page", type=int, default=100, help="rows per page")
    parser.add_argument("--latency", type=float, default=0, help="ms per page")
    parser.add_argument("--resources", type=int, default=0, help="load this many resources of 200 rows instead")
    parser.add_argument("--keys", type=json.loads, default={}, help="further keys of each resource, as JSON")
    parser.add_argument("--times", type=int, default=1, help="load this many times; the last time is shown")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        RunningServer(
            rows=SMALL_ROWS if given.resources else given.rows, page_size=given.page, latency_ms=given.latency,
            resources=given.resources,
        ) as server,
    ):  # fmt: skip
        os.chdir(folder)
        os.environ.update(DLT_DATA_DIR=f"{folder}/dlt", RUNTIME__DLTHUB_TELEMETRY="false")
        database = Path(folder) / "loaded.duckdb"
        task = Task(server.base_url, database, given.rows, given.page, given.resources, concurrency=8)
        _load(task, given.keys, given.times)


def _load(task: Task, keys: dict[str, Any], times: int) -> None:
    watch = Stopwatch()
    began = time.perf_counter()
    watch.timed("imports", _imports)()
    import dlt
    import yaml

    import rmm_assets.loading.run
    import rmm_assets.loading.source
    from benchmarks.contenders.ours_connection import connection_file
    from rmm_assets.config import Connection

    pipeline: Any = dlt.Pipeline
    for place, name, step in (
        (rmm_assets.loading.source, "read", "requests, decoding, columns, keys"),
        (pipeline, "_sync_destination", "dlt: state and schema from the destination"),
        (pipeline, "extract", "types resolved, parquet written"),
        (pipeline, "normalize", "dlt: normalize step"),
        (pipeline, "load", "dlt: load step, including DuckDB's insert"),
        (rmm_assets.loading.run.Run, "finish", "counts, changes, preview"),
    ):
        setattr(place, name, watch.timed(step, getattr(place, name)))
    os.environ["RMM_DATABASE"] = str(task.database)
    attributes = yaml.safe_load(connection_file(task))["attributes"]
    for resource in attributes["resources"]:
        endpoint = {**resource["endpoint"], **keys.get("endpoint", {})}
        resource.update({**keys, "endpoint": endpoint})
    connection = Connection.model_validate(attributes)
    for number in range(times):
        if number:
            watch.seconds.clear()
            began = time.perf_counter()
        for one in connection.resources:
            rmm_assets.loading.run.sync(connection, one, API_KEY)
    whole = time.perf_counter() - began
    count = max(task.resources, 1)
    for step, seconds in watch.seconds.items():
        each = f"{seconds / count * 1000:8.0f} ms per resource" if task.resources and step != "imports" else ""
        print(f"{seconds:7.2f} s  {step}{each}")
    print(f"{whole - sum(watch.seconds.values()):7.2f} s  creating pipelines, opening and closing DuckDB's file")
    peak_mb = getrusage(RUSAGE_SELF).ru_maxrss / 1024
    print(f"{whole:7.2f} s  total; {peak_mb:,.0f} MB at the peak")


def _imports() -> None:
    import rmm_assets.loading.run  # noqa: F401


if __name__ == "__main__":
    main()
