"""Keeps each rejected row only once, however many loads rejected it, and deletes those that landed later."""

from __future__ import annotations

from collections.abc import Sequence

from rmm_assets.tables.table import LOAD_ID, Table

REJECTION_ID = "rejection_id"
_MOST_PARAMETERS = 500
REJECTED_AT, FIRST_REJECTED_AT = "rejected_at", "first_rejected_at"


def keep_once(table: Table, load_id: str) -> None:
    """Deletes the earlier copies of rows that this load rejected again, keeping the time of their first rejection.

    Both statements can be repeated, so the next run repairs what a run killed between them left behind.

    Args:
        table: The table of rejected rows.
        load_id: Id of this load.
    """
    # MySQL reads the table that it changes only in a subquery of a subquery.
    columns = table.columns()
    if REJECTION_ID not in columns or FIRST_REJECTED_AT not in columns or not load_id:
        return
    load, rejection, first = (table.quote(name) for name in (LOAD_ID, REJECTION_ID, FIRST_REJECTED_AT))
    table.change(
        f"UPDATE {{table}} SET {first} = (SELECT min(other.first_) FROM "
        f"(SELECT {rejection} AS same_, {first} AS first_ FROM {{table}}) AS other "
        f"WHERE other.same_ = {rejection}) WHERE {load} = %s",
        load_id,
    )
    table.change(
        f"DELETE FROM {{table}} WHERE {load} <> %s AND {rejection} IN "
        f"(SELECT {rejection} FROM (SELECT {rejection} FROM {{table}} WHERE {load} = %s) AS latest)",
        load_id, load_id,
    )  # fmt: skip


def forget_rejections(table: Table, rejection_ids: Sequence[str], load_id: str, *, until: bool = False) -> None:
    """Deletes rejections, except those of one load.

    Args:
        table: The table of rejected rows.
        rejection_ids: The rejections.
        load_id: Id of the load whose rejections stay.
        until: Deletes those of this load and of earlier ones instead.
    """
    load, rejection, which = table.quote(LOAD_ID), table.quote(REJECTION_ID), "<=" if until else "<>"
    for start in range(0, len(rejection_ids), _MOST_PARAMETERS):
        some = rejection_ids[start : start + _MOST_PARAMETERS]
        marks = ", ".join(["%s"] * len(some))
        table.change(f"DELETE FROM {{table}} WHERE {load} {which} %s AND {rejection} IN ({marks})", load_id, *some)
