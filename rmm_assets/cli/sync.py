"""`rmm sync`: materializes connections in this process and prints a readable summary."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from rmm_assets.cli.instance import prepare_dagster_home

if TYPE_CHECKING:
    import dagster as dg
    from rich.table import Table


@click.command()
@click.argument("connections", nargs=-1)
def sync(connections: tuple[str, ...]) -> None:
    """Materialize and check every asset of CONNECTIONS (default: all connections).

    Runs in this process, against the Dagster instance in $DAGSTER_HOME, so that `dagster dev` shows the runs.
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
        known = ", ".join(sorted(jobs)) or "none"
        raise click.UsageError(f"unknown connection {', '.join(unknown)}; known connections: {known}")
    prepare_dagster_home()
    with dg.DagsterInstance.get() as instance:
        succeeded = [_sync_one(definitions, jobs[name], name, instance) for name in connections or sorted(jobs)]
    sys.stdout.flush()
    # Not sys.exit: when the interpreter shuts down, DuckDB's binding reports objects that Python's caches of generic
    # types still reference as leaks, and prints a page about them.
    os._exit(0 if all(succeeded) else 1)


@dataclass
class _AssetSummary:
    """One row of the table that `rmm sync` prints."""

    before: int | None = None
    loaded: dict[str, Any] = field(default_factory=dict)
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    problem: str = ""

    def cells(self) -> tuple[str, ...]:
        """Returns the cells that follow the asset's name."""
        checks = f"{self.passed} of {self.passed + len(self.failed)}" if self.passed or self.failed else ""
        failed = f" [red]({', '.join(self.failed)})[/red]" if self.failed else ""
        if self.problem:
            return "[red]failed[/red]", "", "", checks + failed, ""
        if "dagster/row_count" not in self.loaded:  # no table, or skipped because an upstream asset failed
            return "" if self.loaded else "not run", "", "", checks + failed, ""
        return (
            f"{self.loaded['dagster/row_count']:,}",
            self._change(),
            str(self.loaded["pages"]),
            checks + failed,
            f"{self.loaded['seconds']:.1f}",
        )

    def _change(self) -> str:
        counts = {"rejected": "rows_rejected", "repeated": "rows_repeated"}
        if self.before is not None:
            counts = {"new": "rows_new", "changed": "rows_changed", "gone at the source": "rows_absent", **counts}
        parts = [f"{self.loaded[key]:,} {word}" for word, key in counts.items() if self.loaded[key]]
        if self.before is None:
            parts.insert(0, "first load")
        return ", ".join(parts) or "no changes"


def _sync_one(definitions: dg.Definitions, job_name: str, connection: str, instance: dg.DagsterInstance) -> bool:
    """Runs a connection's job, prints its results, and returns whether everything succeeded, checks included."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(width=None if sys.stdout.isatty() else 120)
    job = definitions.resolve_job_def(job_name)
    keys = sorted(job.asset_layer.executable_asset_keys)
    lines = {key: _AssetSummary(before=_row_count(instance, key)) for key in keys}
    # Dagster's log lines are not printed; they are stored in the instance, where `dagster dev` shows them.
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    result = job.execute_in_process(instance=instance, raise_on_error=False, run_config=quiet)
    asset_of = {assets.op.name: key for assets in definitions.resolve_asset_graph().assets_defs for key in assets.keys}
    for event in result.get_asset_materialization_events():
        metadata = event.materialization.metadata
        lines[event.materialization.asset_key].loaded = {name: value.value for name, value in metadata.items()}
    for check in result.get_asset_check_evaluations():
        line = lines[check.asset_key]
        if check.passed:
            line.passed += 1
        else:
            line.failed.append(check.check_name)
    for event in result.get_step_failure_events():
        failure = event.step_failure_data.user_failure_data
        lines[asset_of[str(event.step_key)]].problem = (failure and failure.description) or event.message or "failed"
    console.print(_table(lines))
    for key, line in lines.items():
        if line.problem:
            console.print(f"[red]{key.to_user_string()}[/red] {escape(line.problem)}", highlight=False)
    specs = [spec for spec in definitions.resolve_all_asset_specs() if spec.key in lines]
    places = {spec.metadata["rmm_assets/place"] for spec in specs if "rmm_assets/place" in spec.metadata}
    place = ", ".join(sorted(map(str, places)))
    console.print(f"The tables of [bold]{connection}[/bold] are in [bold]{escape(place)}[/bold].", highlight=False)
    for page in (line.loaded["page"] for line in lines.values() if "page" in line.loaded):
        console.print(f"The fleet charts are in [bold]{escape(page)}[/bold].", highlight=False)
    return result.success and not any(line.failed for line in lines.values())


def _table(lines: dict[dg.AssetKey, _AssetSummary]) -> Table:
    from rich.table import Table

    table = Table()
    for name in ("asset", "rows", "since last run", "pages", "checks passed", "seconds"):
        table.add_column(name, justify="left" if name in ("asset", "since last run") else "right")
    for key, line in lines.items():
        table.add_row(key.to_user_string(), *line.cells())
    return table


def _row_count(instance: dg.DagsterInstance, key: dg.AssetKey) -> int | None:
    """Returns the row count noted by the asset's last materialization, or None if there is none."""
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return None
    count: Any = event.asset_materialization.metadata.get("dagster/row_count")
    return None if count is None else int(count.value)
