"""Counts the new and changed rows of a load, in SQL at the destination.

The table is copied to dlt's staging dataset before the merge; afterwards the two are compared and the copy is dropped. A
first load copies nothing. The next run replaces a copy that a killed run left behind.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from rmm_assets.tables.table import ABSENT_SINCE, LOAD_ID, Table

_SUFFIX = "__before"


class Changes(NamedTuple):
    """What a load changed.

    Attributes:
        new: Number of rows whose key was not in the table.
        changed: Number of rows whose content differs or that had been marked absent.
    """

    new: int
    changed: int


def remember(table: Table) -> bool:
    """Copies the table before a load; returns False if it does not exist yet."""
    forget(table)
    if not table.columns():
        return False
    with table.client.with_staging_dataset():
        if not table.client.has_dataset():
            table.client.create_dataset()
        copy = table.client.make_qualified_table_name(table.name + _SUFFIX)
    table.rows(f"CREATE TABLE {copy} AS SELECT * FROM {{table}}")
    return True


def forget(table: Table) -> None:
    """Drops the copy if it exists."""
    with table.client.with_staging_dataset():
        if table.client.has_dataset():
            table.client.drop_tables(table.name + _SUFFIX)


def compare(table: Table, keys: Sequence[str], load_id: str, documents: Collection[str] = ()) -> Changes:
    """Compares the rows of a load with the copy and drops the copy.

    Args:
        table: The table after the load.
        keys: The primary key's columns.
        load_id: Id of the load.
        documents: JSON columns, which are compared as text: PostgreSQL's `json` has no equality.
    """
    with table.client.with_staging_dataset():
        copy = table.client.make_qualified_table_name(table.name + _SUFFIX)
        before = Table(table.client, table.name + _SUFFIX).columns()
    ours = (LOAD_ID, ABSENT_SINCE, "_dlt_id")
    quote = table.quote

    def value(side: str, name: str) -> str:
        return table.as_text(name, side) if name in documents else f"{side}.{quote(name)}"

    differs = [
        f"{value('new', name)} IS DISTINCT FROM {value('old', name)}"
        if name in before
        else f"new.{quote(name)} IS NOT NULL"
        for name in table.columns()
        if name not in ours and name not in keys
    ]
    if ABSENT_SINCE in before:
        differs.append(f"old.{quote(ABSENT_SINCE)} IS NOT NULL")
    same_row = " AND ".join(f"new.{quote(key)} = old.{quote(key)}" for key in keys)
    unknown = f"old.{quote(keys[0])} IS NULL"
    [(new, changed)] = table.rows(
        f"SELECT coalesce(sum(CASE WHEN {unknown} THEN 1 ELSE 0 END), 0), "
        f"coalesce(sum(CASE WHEN NOT ({unknown}) AND ({' OR '.join(differs) or '1 = 0'}) THEN 1 ELSE 0 END), 0) "
        f"FROM {{table}} AS new LEFT JOIN {copy} AS old ON {same_row} WHERE new.{quote(LOAD_ID)} = %s",
        load_id,
    )
    forget(table)
    return Changes(int(new), int(changed))


def compare_versions(table: Table, keys: Sequence[str], load_id: str) -> Changes:
    """Counts the versions that a load added to a table that keeps every version: of new rows and of known rows.

    Args:
        table: The table after the load.
        keys: The primary key's columns.
        load_id: Id of the load.
    """
    quote = table.quote
    same_row = " AND ".join(f"old.{quote(key)} = new.{quote(key)}" for key in keys) or "1 = 0"
    known = f"EXISTS (SELECT 1 FROM {table.qualified} AS old WHERE {same_row} AND old.{quote(LOAD_ID)} <> new.{quote(LOAD_ID)})"
    [(versions, changed)] = table.rows(
        f"SELECT count(*), coalesce(sum(CASE WHEN {known} THEN 1 ELSE 0 END), 0) FROM {{table}} AS new "
        f"WHERE new.{quote(LOAD_ID)} = %s",
        load_id,
    )
    return Changes(int(versions) - int(changed), int(changed))
