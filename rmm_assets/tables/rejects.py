"""Keeps each rejected row once, whatever number of loads it was rejected in."""

from __future__ import annotations

from rmm_assets.tables.table import LOAD_ID, Table

REJECTION_ID = "rejection_id"
REJECTED_AT, FIRST_REJECTED_AT = "rejected_at", "first_rejected_at"


def keep_once(table: Table, load_id: str) -> None:
    """Deletes what earlier loads rejected and this one again, and hands on when that was first seen.

    Both statements may be repeated: a run that is killed between them is put right by the next one.

    Args:
        table: Of the rejected rows.
        load_id: Of this load.
    """
    columns = table.columns()
    if REJECTION_ID not in columns or FIRST_REJECTED_AT not in columns or not load_id:
        return
    load, rejection, first = (table.quote(name) for name in (LOAD_ID, REJECTION_ID, FIRST_REJECTED_AT))
    table.change(
        f"UPDATE {{table}} SET {first} = (SELECT min(other.{first}) FROM {table.qualified} AS other "
        f"WHERE other.{rejection} = {table.qualified}.{rejection}) WHERE {load} = %s",
        load_id,
    )
    table.change(
        f"DELETE FROM {{table}} WHERE {load} <> %s AND {rejection} IN "
        f"(SELECT {rejection} FROM {table.qualified} WHERE {load} = %s)",
        load_id, load_id,
    )  # fmt: skip
