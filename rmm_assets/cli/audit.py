"""`rmm audit`: compares tables with the API."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from rmm_assets.cli.arguments import connection_named, resources_named, tenants_named
from rmm_assets.cli.instance import leave

if TYPE_CHECKING:
    from rmm_assets.audit import Audit


@click.command()
@click.argument("connection")
@click.argument("resource", required=False)
@click.option("--tenant", "tenants", multiple=True, help="Only this tenant of the CONNECTION; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def audit(connection: str, resource: str | None, tenants: tuple[str, ...], as_json: bool) -> None:
    """Re-read CONNECTION, or one RESOURCE, from the API by a different route and compare the rows with its tables.

    Writes nothing. Exits with 0 if everything matches, 1 if there are differences, and 2 if there are none but something
    could not be verified. Of a connection with tenants, those whose rows differ most are first.
    """
    import dagster as dg

    from rmm_assets.audit import unreadable, worst_first
    from rmm_assets.orchestration.audits import audit_resource, audit_tenant
    from rmm_assets.orchestration.resources import api_resource

    found = connection_named(connection)
    chosen, results, api = tenants_named(found, tenants), [], api_resource(found)
    for name in resources_named(found, resource):
        if found.tenants is not None:
            results += [
                audit_tenant(found, found.resource(name), tenant, tokens=api.shared.tokens) for tenant in chosen
            ]
            continue
        try:
            results.append(audit_resource(found, found.resource(name), api))
        except dg.Failure as failure:
            results.append(unreadable(found, found.resource(name), str(failure.description)))
    _print_audits(worst_first(results) if chosen else results, as_json=as_json)
    verdicts = {result.verdict for result in results}
    leave(1 if "differences" in verdicts else 2 if "unverified" in verdicts else 0)


def _print_audits(results: Sequence[Audit], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([result.as_json() for result in results], indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table()
    for name in ("asset", "verdict", "rows in API", "rows in table", "last loaded", "requests"):
        table.add_column(name, justify="right" if name.startswith("r") else "left")
    colors = {"equal": "green", "differences": "red", "unverified": "yellow"}
    for result in results:
        loaded = f"{result.loaded_at:%Y-%m-%d %H:%M} UTC" if result.loaded_at else "never"
        verdict = f"[{colors[result.verdict]}]{result.verdict}[/]"
        numbers = (f"{result.rows_api:,}", f"{result.rows_table:,}", loaded, f"{result.requests:,}")
        table.add_row(_named(result), verdict, *numbers)
    console.print(table)
    for result in results:
        for sentence in result.sentences():
            console.print(f"[bold]{_named(result)}[/bold] {escape(sentence)}", highlight=False)


def _named(result: Audit) -> str:
    return f"{result.connection}/{result.resource}" + (f", {result.tenant}" if result.tenant is not None else "")
