"""`rmm rename`: renames the tables, state and records of a connection or resource to the new name in its file."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from rmm_assets.cli.arguments import connection_named, known_connections
from rmm_assets.cli.instance import leave, wipe_assets

if TYPE_CHECKING:
    from rmm_assets.config import Connection
    from rmm_assets.loading.renaming import Move
    from rmm_assets.tables.store import Store


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="OLD NEW | CONNECTION OLD NEW")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def rename(names: tuple[str, ...], yes: bool) -> None:
    """Rename the tables of a connection, or of one of its resources, with their rows, marks and state.

    First stop their schedule and change the name in the connection file. The dataset is renamed, too, unless the file sets
    `dataset`. Dagster cannot move an asset's history to another key: it is deleted, and the next run starts a new one.
    """
    if len(names) not in (2, 3):
        raise click.UsageError("write the old and the new name; for a resource, put its connection before them")
    connection, (old, new) = names[0] if len(names) == 3 else None, names[-2:]
    if connection is None and old in known_connections():
        raise click.UsageError(f"write `name: {new}` in the connection file of {old} first, then run this again")
    found = connection_named(connection or new)
    if connection is not None:
        resources = {each.name for each in found.resources}
        if old in resources or new not in resources:
            raise click.UsageError(
                f"replace `{old}` with `{new}` in the connection file of {connection} first, then run this again"
            )
    _refuse_destination(found, old)
    try:
        _rename(found, old, new, resource=connection is not None, yes=yes)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    wipe_assets([connection, old] if connection is not None else [old])
    click.echo("Done.")
    leave(0)


def _refuse_destination(connection: Connection, old: str) -> None:
    from rmm_assets.loading.renaming import DESTINATIONS

    if connection.destination.type not in DESTINATIONS:
        raise click.UsageError(
            f"tables in {connection.destination.type} cannot be renamed, only those in {' and '.join(DESTINATIONS)}: keep the "
            f"name {old}, or load everything again under the new one"
        )


def _rename(connection: Connection, old: str, new: str, *, resource: bool, yes: bool) -> None:
    """Moves everything at the destination, after confirmation.

    Raises:
        ValueError: There is nothing to move, or the new name is taken.
    """
    from rmm_assets.config.store import store_of
    from rmm_assets.loading.renaming import carry_out, move_of_resource, moves_of_connection, refuse_taken
    from rmm_assets.tables.table import Table

    store = store_of(connection)
    store.prepare()
    if store.is_missing:
        raise ValueError(f"there is nothing to rename: {store.place()} does not exist")
    dataset = store.dataset
    if not resource and connection.dataset is None:
        store = replace(store, dataset=old)
    with store.changing(f"{connection.name}__rename") as client:
        if resource:
            moves = [move_of_resource(client, old, connection, new)]
        else:
            moves = moves_of_connection(client, old, connection)
        refuse_taken(client, dataset, moves)
        rows = {name: Table(client, name).count() for move in moves for name in move.tables}
    click.echo(f"This will rename, in {store.place()}:")
    for move in moves:
        for name, new_name in move.tables.items():
            click.echo(f"  {store.dataset}.{name} to {dataset}.{new_name} ({rows[name]:,} rows)")
    click.echo("and their dlt state and rows of rmm_syncs. Incremental ranges continue where they ended.")
    former = f"{connection.name}/{old}" if resource else old
    click.echo(f"Dagster cannot rename assets: the history of {former} is deleted, and the next run starts a new one.")
    for hint in _children_of(connection, new) if resource else ():
        click.echo(hint)
    if not yes:
        click.confirm("Continue?", abort=True)
    with ExitStack() as stack:
        for name in sorted({name for move in moves for name in (move.pipeline, move.new_pipeline)}):
            stack.enter_context(store.alone(name))  # waits until a run in progress has ended
        with store.changing(f"{connection.name}__rename") as client:
            refuse_taken(client, dataset, moves)
            carry_out(client, dataset, moves)
        _remove_working_folders(store, moves)


def _children_of(connection: Connection, parent: str) -> list[str]:
    return [
        f"{connection.name}/{each.name} has columns named after it (include_from_parent); to reload that table, run "
        f"rmm reset {connection.name} {each.name}."
        for each in connection.resources
        if each.parent == parent and each.include_from_parent
    ]


def _remove_working_folders(store: Store, moves: Sequence[Move]) -> None:
    for move in moves:
        shutil.rmtree(store.working_folder(move.pipeline), ignore_errors=True)
