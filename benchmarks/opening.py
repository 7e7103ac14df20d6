"""Measures what it takes to open and close a DuckDB file of 60 tables: `python -m benchmarks.opening`."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import duckdb

from rmm_assets.tables.duckdb_file import OpenFile

RUNS = 20


def by_duckdb(path: str) -> None:
    """Opens the file in a database of its own, as DuckDB and dlt do."""
    duckdb.connect(path).close()


def by_attaching(path: str) -> None:
    """Opens the file as loads do: in a database that the process keeps."""
    with closing(OpenFile(path)) as file:
        file.cursor().close()


def milliseconds(way: Callable[[str], None], path: str) -> float:
    """Returns the median CPU time of one time."""
    figures = []
    for _ in range(RUNS):
        began = time.process_time()
        way(path)
        figures.append(1000 * (time.process_time() - began))
    return statistics.median(figures)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "rmm.duckdb")
        with duckdb.connect(path) as connection:
            for number in range(60):
                connection.execute(f"CREATE TABLE t{number} AS SELECT i AS id, 'PC-' || i AS name FROM range(200) r(i)")
        for way in (by_duckdb, by_attaching):
            print(f"{milliseconds(way, path):6.1f} ms CPU  {way.__name__}")


if __name__ == "__main__":
    main()
