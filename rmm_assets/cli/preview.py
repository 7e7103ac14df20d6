"""`rmm preview`: shows a page of a resource as the table that a load would make of it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from rmm_assets.cli.arguments import connection_named, for_requests
from rmm_assets.cli.check import doing
from rmm_assets.cli.instance import leave

if TYPE_CHECKING:
    from rmm_assets.config import Resource
    from rmm_assets.loading.sample import Sample

# Characters of a value that are shown; `--json` has all rows and values of the page.
_WIDEST = 24


@click.command()
@click.argument("connection")
@click.argument("resource")
@click.option("--tenant", help="The tenant to ask; by default the first one.")
@click.option("--json", "as_json", is_flag=True, help="Print all rows of the page as JSON.")
def preview(connection: str, resource: str, tenant: str | None, as_json: bool) -> None:
    """Show the first page of a RESOURCE of CONNECTION as a table, with types, and load nothing.

    Names the rows that would be rejected, and why. Values of columns that the file marks as sensitive are masked. Exits with
    0 only if the page could be loaded as it is.
    """
    import dagster as dg

    from rmm_assets.loading.sample import sample
    from rmm_assets.orchestration.resources import api_resource

    found = for_requests(connection_named(connection), tenant)
    names = [each.name for each in found.resources]
    if resource not in names:
        raise click.UsageError(f"{connection} has no resource {resource}; its resources: {', '.join(sorted(names))}")
    try:
        with api_resource(found).session() as (base_url, secrets), doing(f"{connection}/{resource}"):
            shown = sample(found, found.resource(resource), secrets, base_url=base_url)
    except dg.Failure as failure:
        raise click.ClickException(str(failure.description)) from None
    except KeyboardInterrupt:
        click.echo("\nInterrupted.", err=True)
        leave(130)
    rows = _masked(shown, found.resource(resource))
    if as_json:
        click.echo(json.dumps({**shown.as_json(), "table": rows}, indent=2, default=str))
    else:
        _print(shown, rows)
    leave(1 if shown.problems else 0)


def _masked(shown: Sample, resource: Resource) -> list[dict[str, Any]]:
    from rmm_assets.orchestration.metadata import sensitive_columns

    hidden = sensitive_columns(resource, shown.table.column_names)
    names = [column.name for column in shown.columns if column.name in shown.table.column_names]
    return [
        {name: "***" if name in hidden and row[name] is not None else row[name] for name in names}
        for row in shown.table.to_pylist()
    ]


def _print(shown: Sample, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from rmm_assets.orchestration.metadata import shorten

    console = Console(width=None if sys.stdout.isatty() else 120)
    # A row of the page becomes a column, because resources have more columns than a screen.
    table, fitting = Table(), max((console.width - 50) // (_WIDEST + 3), 1)
    table.add_column("column", no_wrap=True)
    table.add_column("type", no_wrap=True)
    for number in range(1, min(len(rows), fitting) + 1):
        table.add_column(f"row {number}", max_width=_WIDEST, no_wrap=True)
    for column in shown.columns:
        cells = ["" if row.get(column.name) is None else str(row[column.name]) for row in rows[:fitting]]
        kind = column.data_type or f"{column.declared} (not in the rows)"
        table.add_row(column.name, kind, *(escape(shorten(cell, _WIDEST)) for cell in cells))
    console.print(table)
    console.print(
        f"{shown.rows:,} rows on the first page, {shown.table.num_rows:,} of them shown or counted as loadable."
    )
    for reason, number in shown.rejected.items():
        console.print(f"[red]{number} rows would be rejected:[/red] {escape(reason)}", highlight=False)
    for problem in shown.problems:
        console.print(f"[red]{shown.resource}[/red] {escape(problem)}", highlight=False)
    for note in shown.notes:
        console.print(f"[yellow]{shown.resource}[/yellow] {escape(note)}", highlight=False)
