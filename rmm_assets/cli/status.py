"""`rmm status`: shows the state of every connection, and whether anything needs attention."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rmm_assets.cli.instance import dagster_instance, leave

if TYPE_CHECKING:
    from rmm_assets.orchestration.status import ConnectionStatus, ResourceStatus, Status


# Failed tenants that are shown; `--json` shows all.
_WORST = 10


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
def status(as_json: bool) -> None:
    """Show when each resource was last loaded, how many rows it has, and what failed last.

    Reads the tables `rmm_syncs` and Dagster's instance; sends no request to an API. Exits with 1 if something needs
    attention: a broken file, a failed load or check, a stale asset, or a run that hangs.
    """
    import dagster as dg

    from rmm_assets.definitions import build_defs, connections
    from rmm_assets.orchestration.status import status_of

    warnings.simplefilter("ignore", dg.BetaWarning)
    now = datetime.now(UTC)
    with dagster_instance() as instance:
        found = status_of(connections(), build_defs(), instance, now)
    if as_json:
        click.echo(json.dumps(found.as_json(now), indent=2))
    else:
        _print(found, now)
    leave(1 if found.needs_a_person else 0)


def _print(found: Status, now: datetime) -> None:
    from rmm_assets.orchestration.problems import ago

    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table()
    for name in ("asset", "last loaded", "rows", "rejected", "schedule"):
        table.add_column(name, justify="right" if name in ("rows", "rejected") else "left")
    for connection in found.connections:
        for resource in connection.resources:
            color = "red" if resource.needs_a_person else "green" if resource.last_success else "yellow"
            loaded = ago(now - resource.last_success) if resource.last_success else "never"
            numbers = ("" if number is None else f"{number:,}" for number in (resource.rows, resource.rejected))
            name = f"{connection.name}/{resource.name}"
            table.add_row(name, f"[{color}]{loaded}[/{color}]", *numbers, _schedule(connection))
    console.print(table)
    for connection in found.connections:
        if connection.problem:
            console.print(f"[red]{connection.name}[/red] {escape(connection.problem)}", highlight=False)
        failed = [tenant for tenant in connection.tenants if tenant.errors]
        for tenant in failed[:_WORST]:
            name, error = next(iter(tenant.errors.items()))
            more = f" (and {len(tenant.errors) - 1} more resources)" if len(tenant.errors) > 1 else ""
            since = f"last loaded {ago(now - tenant.last_success)}" if tenant.last_success else "never loaded in full"
            sentence = f"{name}: {error}{more}; {since}"
            console.print(f"[red]{connection.name}, tenant {tenant.name}[/red] {escape(sentence)}", highlight=False)
        if len(failed) > _WORST:
            console.print(
                f"[red]{connection.name}[/red] {len(failed) - _WORST} more of {len(connection.tenants)} tenants failed"
            )
        for resource in connection.resources:
            for sentence in _sentences(resource):
                console.print(f"[red]{connection.name}/{resource.name}[/red] {escape(sentence)}", highlight=False)
    for run, problem in found.runs.items():
        console.print(f"[red]run {run}[/red] {escape(problem)}", highlight=False)


def _schedule(connection: ConnectionStatus) -> str:
    return f"{connection.schedule}{'' if connection.running else ' (stopped)'}" if connection.schedule else ""


def _sentences(resource: ResourceStatus) -> Iterator[str]:
    if resource.error:
        yield f"{resource.verdict.replace('_', ' ')} in run {resource.last_run}: {resource.error}"
    if resource.failed_checks:
        yield f"failed checks: {', '.join(resource.failed_checks)}"
    if resource.stale:
        yield resource.stale
