"""Defines the `rmm` command, for the few things that Dagster's own commands do not do.

`rmm sync` materializes connections and prints a readable summary; `rmm audit` compares tables with the API;
`rmm simulate` runs the embedded RMM.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import dagster as dg
    from rich.table import Table

    from rmm_assets.audit import Audit


@click.group()
def main() -> None:
    """Loads any RMM API into a warehouse, as Dagster assets."""


@main.command()
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
    _prepare_dagster_home()
    with dg.DagsterInstance.get() as instance:
        succeeded = [_sync_one(definitions, jobs[name], name, instance) for name in connections or sorted(jobs)]
    sys.stdout.flush()
    # Not sys.exit: when the interpreter shuts down, DuckDB's binding reports objects that Python's caches of generic
    # types still reference as leaks, and prints a page about them.
    os._exit(0 if all(succeeded) else 1)


def _prepare_dagster_home() -> None:
    """Uses the Dagster instance in this folder, as `make dev` does, unless `DAGSTER_HOME` is set."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").absolute())))
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists() and Path("dagster.yaml").exists():
        shutil.copy("dagster.yaml", home)


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


@main.command()
@click.argument("connection")
@click.argument("resource", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def audit(connection: str, resource: str | None, as_json: bool) -> None:
    """Read CONNECTION from the API once more, another way, and compare it with its tables; of one RESOURCE, or of all.

    Writes nothing. Ends with 0 where all is equal, with 1 where something differs, and with 2 where nothing differs and
    something could not be verified.
    """
    import dagster as dg

    from rmm_assets.audit import unreadable
    from rmm_assets.definitions import connections
    from rmm_assets.orchestration.audits import audit_resource
    from rmm_assets.orchestration.resources import api_resource

    warnings.simplefilter("ignore", dg.BetaWarning)
    known = connections()
    if connection not in known:
        raise click.UsageError(f"no connection {connection}; there are: {', '.join(sorted(known)) or 'none'}")
    found = known[connection]
    names = [one.name for one in found.resources if one.selected]
    if resource is not None and resource not in names:
        raise click.UsageError(f"{connection} has no resource {resource}; there are: {', '.join(sorted(names))}")
    results = []
    for name in names if resource is None else [resource]:
        try:
            results.append(audit_resource(found, found.resource(name), api_resource(found)))
        except dg.Failure as failure:
            results.append(unreadable(found, found.resource(name), str(failure.description)))
    _print_audits(results, as_json=as_json)
    verdicts = {result.verdict for result in results}
    sys.stdout.flush()
    # As in `sync`.
    os._exit(1 if "differences" in verdicts else 2 if "unverified" in verdicts else 0)


def _print_audits(results: Sequence[Audit], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([result.as_json() for result in results], indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table()
    for name in ("asset", "verdict", "rows of the API", "rows of the table", "table loaded", "requests"):
        table.add_column(name, justify="right" if name.startswith("r") else "left")
    colors = {"equal": "green", "differences": "red", "unverified": "yellow"}
    for result in results:
        loaded = f"{result.loaded_at:%Y-%m-%d %H:%M} UTC" if result.loaded_at else "never"
        verdict = f"[{colors[result.verdict]}]{result.verdict}[/]"
        numbers = (f"{result.rows_api:,}", f"{result.rows_table:,}", loaded, f"{result.requests:,}")
        table.add_row(f"{result.connection}/{result.resource}", verdict, *numbers)
    console.print(table)
    for result in results:
        for sentence in result.sentences():
            console.print(f"[bold]{result.connection}/{result.resource}[/bold] {escape(sentence)}", highlight=False)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8099, show_default=True)
@click.option("--seed", default=7, show_default=True, help="Servers with the same seed hold the same rows.")
@click.option("--tick-seconds", default=60.0, show_default=True, help="How often the fleet changes.")
def simulate(host: str, port: int, seed: int, tick_seconds: float) -> None:
    """Run the embedded RMM on its own until it is interrupted."""
    from rmm_assets.simulator import run

    run(host=host, port=port, seed=seed, tick_seconds=tick_seconds)
