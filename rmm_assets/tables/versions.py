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
    quote = table.quote
    same_row = " AND ".join(f"old.{quote(key)} = new.{quote(key)}" for key in keys) or "1 = 0"
    old = f"SELECT 1 FROM {{table}} AS old WHERE {same_row} AND old.{quote(LOAD_ID)} <> new.{quote(LOAD_ID)}"
    [(versions, changed)] = table.rows(
        f"SELECT count(*), coalesce(sum(known), 0) FROM (SELECT CASE WHEN EXISTS ({old}) THEN 1 ELSE 0 END AS known "
        f"FROM {{table}} AS new WHERE new.{quote(LOAD_ID)} = %s) AS counted",
        load_id,
    )
    return int(versions) - int(changed), int(changed)
