"""Counts the versions that a load added to a table that keeps every version of a row."""

from __future__ import annotations

from collections.abc import Sequence

from rmm_assets.tables.table import LOAD_ID, Table


def new_versions(table: Table, keys: Sequence[str], load_id: str) -> tuple[int, int]:
    """Returns the number of versions that a load added of new rows and of known rows.

    Args:
        table: The table after the load.
        keys: The primary key's columns.
        load_id: Id of the load.
    """
    [(versions,)] = table.rows(f"SELECT count(*) FROM {{table}} WHERE {table.quote(LOAD_ID)} = %s", load_id)
    [(changed,)] = table.rows(f"SELECT count(*) {_of_known_rows(table, keys)}", load_id)
    return int(versions) - int(changed), int(changed)


def changed_versions(table: Table, keys: Sequence[str], load_id: str, column: str) -> dict[str, int]:
    """Returns the number of versions of known rows that a load added, by the values of a column that have any."""
    name = f"new.{table.quote(column)}"
    rows = table.rows(f"SELECT {name}, count(*) {_of_known_rows(table, keys)} GROUP BY {name}", load_id)
    return {str(value): int(count) for value, count in rows}


def _of_known_rows(table: Table, keys: Sequence[str]) -> str:
    """Returns the end of a query for a load's versions of rows that earlier loads have versions of."""
    quote = table.quote
    same_row = " AND ".join(f"old.{quote(key)} = new.{quote(key)}" for key in keys) or "1 = 0"
    old = f"SELECT 1 FROM {{table}} AS old WHERE {same_row} AND old.{quote(LOAD_ID)} <> new.{quote(LOAD_ID)}"
    return f"FROM {{table}} AS new WHERE new.{quote(LOAD_ID)} = %s AND EXISTS ({old})"
