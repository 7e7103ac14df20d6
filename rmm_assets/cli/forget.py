"""`rmm remove` and `rmm reset`: drop tables together with dlt's state, so that nothing prevents a fresh load."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from rmm_assets.cli.arguments import connection_named
from rmm_assets.cli.instance import leave, wipe_assets

if TYPE_CHECKING:
    from rmm_assets.config import Connection
    from rmm_assets.tables.store import Store


@click.command()
@click.argument("connection")
@click.argument("resource", required=False)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def reset(connection: str, resource: str | None, yes: bool) -> None:
    """Drop the tables of CONNECTION, or of one RESOURCE; the next run loads everything from scratch.

    Also drops child tables, rejected rows, staging tables and dlt's state (such as the position of incremental reads).
    Keeps the history in Dagster.
    """
    _forget(connection, resource, yes=yes, history=False)


@click.command()
@click.argument("connection")
@click.argument("resource", required=False)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(connection: str, resource: str | None, yes: bool) -> None:
    """Drop the tables of CONNECTION, or of one RESOURCE, and delete their history in Dagster and rmm_syncs.

    Does not change the connection file: delete it, or the resource in it, afterwards.
    """
    _forget(connection, resource, yes=yes, history=True)


def _forget(connection: str, resource: str | None, *, yes: bool, history: bool) -> None:
    from rmm_assets.config.destinations import changes_rows
    from rmm_assets.config.store import store_of

    found = connection_named(connection)
    store = store_of(found)
    if not changes_rows(store.destination):
        raise click.UsageError(
            f"tables in {store.destination} cannot be dropped: delete the folder {found.dataset_name} there, or the folders of its "
            "tables"
        )
    tables, rows = _tables_and_rows(found, store, resource)
    click.echo(f"This will drop, in {store.place()}:")
    for name, number in rows.items():
        click.echo(f"  {found.dataset_name}.{name} ({number:,} rows)")
    if not rows:
        click.echo("  nothing: there are no tables")
    what = connection if resource is None else f"{connection}/{resource}"
    click.echo(f"and dlt's schema and state of {what}.")
    if history:
        click.echo(f"It will also delete the history of {what} in Dagster and in rmm_syncs.")
    else:
        click.echo("The next run loads everything from scratch.")
    if not yes:
        click.confirm("Continue?", abort=True)
    _delete(found, store, tables, whole=resource is None and history, history=history)
    if history:
        wipe_assets([connection] if resource is None else [connection, resource])
    click.echo("Done.")
    leave(0)


def _tables_and_rows(
    connection: Connection, store: Store, resource: str | None
) -> tuple[Mapping[str, list[str]], Mapping[str, int]]:
    """Returns the tables of each pipeline, and the rows of each table.

    Raises:
        click.UsageError: Neither the file nor the dataset has this resource.
    """
    from rmm_assets.loading.plan import plan_load
    from rmm_assets.tables.forgetting import schemas_like, tables_of
    from rmm_assets.tables.table import Table

    in_file = {each.name: plan_load(connection, each).source_name for each in connection.resources}
    with ExitStack() as stack:
        client = None
        if not store.is_missing:
            store.prepare()
            client = stack.enter_context(store.changing(f"{connection.name}__forget"))
        # Includes resources that are no longer in the file.
        stored = schemas_like(client, f"{connection.name}__") if client is not None else []
        wanted = sorted({*in_file.values(), *stored})
        if resource is not None:
            name = in_file.get(resource, f"{connection.name}__{resource}")
            if name not in wanted:
                known = ", ".join(sorted(in_file))
                raise click.UsageError(f"{connection.name} has no resource {resource}; its resources: {known}")
            wanted = [name]
        if client is None:
            return {}, {}
        tables = {name: tables_of(client, name) for name in wanted}
        rows = {table: Table(client, table).count() for names in tables.values() for table in names}
    return tables, rows


def _delete(
    connection: Connection, store: Store, tables: Mapping[str, list[str]], *, whole: bool, history: bool
) -> None:
    from rmm_assets.loading.plan import plan_load
    from rmm_assets.tables import syncs
    from rmm_assets.tables.forgetting import drop_own_tables, forget, schemas_like

    names_of = {plan_load(connection, each).source_name: each.name for each in connection.resources}
    for pipeline, names in tables.items():
        # Waits until a run in progress has ended.
        with (
            store.alone(pipeline),
            store.locked(pipeline),
            store.changing(f"{connection.name}__forget") as client,
        ):
            forget(client, pipeline, names)
            if history:
                syncs.forget(client, names_of.get(pipeline, pipeline.removeprefix(f"{connection.name}__")))
            if whole and not schemas_like(client, ""):
                drop_own_tables(client)
        shutil.rmtree(store.working_folder(pipeline), ignore_errors=True)
