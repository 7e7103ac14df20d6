"""Measures two syncs into PostgreSQL, of which the second finds 1 % of the rows changed.

    python -m benchmarks.postgres [--rows 100000] [--runs 3]

Contenders are plain dlt with Parquet files and ADBC, its fastest way into PostgreSQL, and this project without Dagster. Both
are whole processes that take turns, each with a dataset of its own on one server of Debian's `postgresql`. CPU is the
client's; rows written are PostgreSQL's own count of inserts and updates in the table, which is checked after each sync.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

import click
import psycopg2

from benchmarks.contenders.task import API_KEY, Task
from benchmarks.process import Usage, run_measured
from benchmarks.run import environment
from benchmarks.server import RunningServer, expected
from rmm_assets_tests.postgres import postgresql

PAGE = 100
PLAIN, OURS = "plain dlt, parquet, ADBC", "ours without Dagster"


def plain(task: Task, url: str, dataset: str) -> None:
    """Loads with plain dlt."""
    import dlt
    from dlt.sources.rest_api import rest_api_source

    from benchmarks.contenders.generic import rest_api_config

    pipeline = dlt.pipeline("plain", destination=dlt.destinations.postgres(url), dataset_name=dataset)
    pipeline.run(rest_api_source(rest_api_config(task)), loader_file_format="parquet")


def ours(task: Task, url: str, dataset: str) -> None:
    """Loads with this project."""
    import yaml

    from benchmarks.contenders.ours_connection import connection_file
    from rmm_assets.config import Connection
    from rmm_assets.loading.run import sync
    from rmm_assets.tables.store import Store

    attributes = yaml.safe_load(connection_file(task))["attributes"]
    connection = Connection.model_validate({**attributes, "destination": {"type": "postgres"}, "dataset": dataset})
    store = Store("postgres", url, dataset, Path("work").absolute())
    for resource in connection.resources:
        sync(connection, resource, API_KEY, store=store)


LOADS = {PLAIN: plain, OURS: ours}


def written(url: str, dataset: str) -> tuple[int, tuple[int, ...] | None]:
    """Returns how many rows of the table were ever inserted or updated, and its rows, ids and sum of revisions."""
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(
            "SELECT n_tup_ins + n_tup_upd FROM pg_stat_all_tables WHERE schemaname = %s AND relname = 'resource'",
            [dataset],
        )
        [(count,)] = cursor.fetchall()
        cursor.execute(f'SELECT count(*), count(DISTINCT id), sum(revision) FROM "{dataset}".resource')
        return int(count), cursor.fetchone()


def one_sync(name: str, url: str, dataset: str, server: RunningServer, rows: int, folder: Path) -> Usage:
    """Runs one sync in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.postgres", "--load", name, "--url", url, "--dataset", dataset]
    command += ["--base-url", server.base_url, "--rows", str(rows)]
    log = folder / "log.txt"
    usage = run_measured(
        command, folder=folder, environment=environment(folder), timeout_s=1800, memory_mb=1e6, log=log
    )
    if usage.problem:
        raise click.ClickException(f"{name}: {usage.problem}\n{log.read_text(errors='replace')[-2000:]}")
    return usage


@click.command(help=__doc__)
@click.option("--rows", default=100_000)
@click.option("--runs", default=3)
@click.option("--load", hidden=True)
@click.option("--url", hidden=True)
@click.option("--dataset", hidden=True)
@click.option("--base-url", hidden=True)
def main(rows: int, runs: int, load: str | None, url: str, dataset: str, base_url: str) -> None:
    if load is not None:
        LOADS[load](Task(base_url, Path("unused"), rows, PAGE, 0, concurrency=8), url, dataset)
        return
    figures: dict[tuple[str, int], list[tuple[float, float, float, int]]] = {}
    with postgresql() as url:
        for number in range(runs):
            for place, name in enumerate(LOADS):
                dataset = f"bench_{number}_{place}"
                with (
                    tempfile.TemporaryDirectory() as made,
                    RunningServer(rows=rows, page_size=PAGE, latency_ms=0, resources=0) as server,
                ):
                    before = 0
                    for revision in (0, 1):
                        server.set_revision(revision)
                        usage = one_sync(name, url, dataset, server, rows, Path(made))
                        count, found = written(url, dataset)
                        if found != expected(rows, revision):
                            raise click.ClickException(f"{name}: the table is wrong: {found}")
                        line = (usage.wall_s, usage.cpu_s, usage.peak_mb, count - before)
                        figures.setdefault((name, revision), []).append(line)
                        before = count
    click.echo(f"\n{rows:,} rows, pages of {PAGE}, 1 % changed; medians of {runs}\n")
    click.echo("| contender | sync | wall s | client CPU s | peak MB | rows written |\n|---|---|---|---|---|---|")
    for (name, revision), lines in figures.items():
        wall, cpu, peak, count = (median(values) for values in zip(*lines, strict=True))
        click.echo(
            f"| {name} | {('first', 'second')[revision]} | {wall:.1f} | {cpu:.1f} | {peak:,.0f} | {count:,.0f} |"
        )


if __name__ == "__main__":
    main()
