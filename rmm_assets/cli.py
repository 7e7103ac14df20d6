"""`rmm`: the few things that Dagster's own commands do not do.

`rmm sync` materializes connections and ends with a table that people can read; `rmm simulate` runs the embedded RMM.
"""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import dagster as dg
    from rich.table import Table


@click.group()
def main() -> None:
    """Any RMM API into a warehouse, as Dagster assets."""


@main.command()
@click.argument("connections", nargs=-1)
def sync(connections: tuple[str, ...]) -> None:
    """Materialize every asset of CONNECTIONS (all of them by default), and check it.

    Runs in this process, against the Dagster instance of $DAGSTER_HOME, so that `dagster dev` shows the runs.
    """
    import dagster as dg

    from rmm_assets.definitions import build_defs

    warnings.simplefilter("ignore", dg.BetaWarning)
    definitions = build_defs()
    jobs = {
        job.tags["rmm_assets/connection"]: job.name
        for job in definitions.resolve_all_job_defs()
        if "rmm_assets/connection" in job.tags
    }
    unknown = [name for name in connections if name not in jobs]
    if unknown:
        raise click.UsageError(f"no connection {', '.join(unknown)}; there are: {', '.join(sorted(jobs)) or 'none'}")
    succeeded = True
    with dg.DagsterInstance.get() as instance:
        for name in connections or sorted(jobs):
            succeeded &= _sync_one(definitions, jobs[name], name, instance)
    sys.stdout.flush()
    # Not sys.exit: DuckDB's binding, unloaded after Dagster, prints a page of leaks that are none.
    os._exit(0 if succeeded else 1)


@dataclass
class _Line:
    """One asset of the table that `rmm sync` ends with."""

    rows: int | None = None
    before: int | None = None
    absent: int = 0
    pages: int = 0
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    problem: str = ""

    @property
    def change(self) -> str:
        """What is different from the run before."""
        if self.rows is None:
            return ""
        if self.before is None:
            return "first load"
        parts = [f"{self.rows - self.before:+,} rows" if self.rows != self.before else "same number"]
        return ", ".join(parts + ([f"{self.absent:,} gone at the source"] if self.absent else []))


def _sync_one(definitions: dg.Definitions, job_name: str, connection: str, instance: dg.DagsterInstance) -> bool:
    """Run a connection's job and print what came of it; whether everything succeeded, checks included."""
    from rich.console import Console

    job = definitions.resolve_job_def(job_name)
    lines = {key: _Line(before=_row_count(instance, key)) for key in sorted(job.asset_layer.executable_asset_keys)}
    # Dagster's own log lines stay in the instance, where `dagster dev` shows them.
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    result = job.execute_in_process(instance=instance, raise_on_error=False, run_config=quiet)
    asset_of = {assets.op.name: key for assets in definitions.resolve_asset_graph().assets_defs for key in assets.keys}
    for event in result.get_asset_materialization_events():
        metadata = {name: value.value for name, value in event.materialization.metadata.items()}
        line = lines[event.materialization.asset_key]
        line.rows, line.absent = metadata["dagster/row_count"], metadata["rows_absent"]
        line.pages, line.seconds = metadata["pages"], metadata["seconds"]
    for check in result.get_asset_check_evaluations():
        line = lines[check.asset_key]
        if check.passed:
            line.passed += 1
        else:
            line.failed.append(check.check_name)
    for event in result.get_step_failure_events():
        failure = event.step_failure_data.user_failure_data
        lines[asset_of[str(event.step_key)]].problem = (failure and failure.description) or event.message or "failed"
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_table(lines))
    for key, line in lines.items():
        if line.problem:
            console.print(f"[red]{key.to_user_string()}[/red] {line.problem}", highlight=False)
    places = {spec.metadata.get("rmm_assets/place") for spec in definitions.resolve_all_asset_specs() if spec.key in lines}
    place = ", ".join(sorted(str(place) for place in places))
    console.print(f"The tables of [bold]{connection}[/bold] are in [bold]{place}[/bold].", highlight=False)
    return result.success and not any(line.failed for line in lines.values())


def _table(lines: dict[dg.AssetKey, _Line]) -> Table:
    from rich.table import Table

    table = Table()
    for name in ("asset", "rows", "since the run before", "pages", "checks passed", "seconds"):
        table.add_column(name, justify="left" if name in ("asset", "since the run before") else "right")
    for key, line in lines.items():
        checks = f"{line.passed} of {line.passed + len(line.failed)}"
        failed = f" [red]({', '.join(line.failed)})[/red]" if line.failed else ""
        rows = f"{line.rows:,}" if line.rows is not None else "[red]failed[/red]"
        table.add_row(key.to_user_string(), rows, line.change, str(line.pages), checks + failed, f"{line.seconds:.1f}")
    return table


def _row_count(instance: dg.DagsterInstance, key: dg.AssetKey) -> int | None:
    """Rows of the asset's table after its last materialization; None where there is none."""
    event = instance.get_latest_materialization_event(key)
    value = event.asset_materialization.metadata.get("dagster/row_count") if event and event.asset_materialization else None
    return int(value.value) if value is not None else None  # type: ignore[call-overload]


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8099, show_default=True)
@click.option("--seed", default=7, show_default=True, help="Two servers with one seed hold the same rows.")
@click.option("--tick-seconds", default=60.0, show_default=True, help="How often the fleet moves on.")
def simulate(host: str, port: int, seed: int, tick_seconds: float) -> None:
    """Run the embedded RMM alone, until it is interrupted."""
    from rmm_assets.simulator import run

    run(host=host, port=port, seed=seed, tick_seconds=tick_seconds)

