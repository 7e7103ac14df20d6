"""Marks or removes, after a complete load, the rows that the API no longer returns.

Every row carries the id of its last load, so rows missing from a complete full read are those with another load id. Marking
is one statement that the next run repeats in full, so a run may be killed before, during or after it. Only rows that an
earlier complete read marked are removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rmm_assets.tables.table import ABSENT_SINCE, LOAD_ID, Table

Policy = Literal["keep", "mark", "remove"]

_LOADS = "_dlt_loads"
_ROW_ID, _PARENT_ID = "_dlt_id", "_dlt_parent_id"


class Nested(NamedTuple):
    """A child table and its parent."""

    table: Table
    parent: Table


# A statement lists at most this many keys.
MOST_SPARED = 1000


@dataclass(frozen=True)
class Spared:
    """Rows that are missing from a load but not gone: the API sent them or may still have them.

    Attributes:
        columns: The columns that identify them: those of the primary key or of a parent's key.
        keys: The values of these columns, in the columns' types; at most `MOST_SPARED` + 1 are needed.
    """

    columns: tuple[str, ...] = ()
    keys: Sequence[tuple[Any, ...]] = ()


@dataclass(frozen=True)
class Absences:
    """What was done with rows that are gone at the source.

    Attributes:
        gone: Number of rows that were present before this read and are missing from it.
        marked: Number of rows newly marked `_absent_since`.
        removed: Number of rows deleted, as the previous complete read lacked them, too.
        held_back: Why nothing was marked or removed; empty if it was.
    """

    gone: int = 0
    marked: int = 0
    removed: int = 0
    held_back: str = ""


def rows_of_last_load(table: Table) -> int:
    """Returns the number of rows in the last complete read, 0 if there was none."""
    if LOAD_ID not in table.columns():
        return 0
    # Load ids are seconds since 1970 as text of equal length, so the greatest is the latest.
    load_id = table.quote(LOAD_ID)
    return table.count(f"{load_id} = (SELECT max({load_id}) FROM {table.qualified})")


def rows_alive(table: Table) -> int:
    """Returns the number of rows that are not marked absent, 0 if there is no table."""
    return table.count(f"{table.quote(ABSENT_SINCE)} IS NULL" if ABSENT_SINCE in table.columns() else "")


def rows_valid(table: Table, valid_to: str, open_end: str | None) -> int:
    """Returns the number of valid rows in a table of versions.

    Args:
        table: The table.
        valid_to: The column with the end of a version's validity.
        open_end: Its value while the version is valid; None means null.
    """
    if valid_to not in table.columns():
        return 0
    condition, parameters = is_valid(table, valid_to, open_end)
    return int(table.rows(f"SELECT count(*) FROM {{table}} WHERE {condition}", *parameters)[0][0])


def is_valid(table: Table, valid_to: str, open_end: str | None) -> tuple[str, list[str]]:
    """Returns the SQL condition for a valid version and its parameters."""
    column = table.quote(valid_to)
    return (f"{column} IS NULL", []) if open_end is None else (f"{column} = %s", [open_end])


def mark_or_remove(
    table: Table,
    load_id: str,
    policy: Policy,
    *,
    max_share: float,
    alive_before: int,
    spared: Sequence[Spared] = (),
    unproven: str = "",
    nested: Sequence[Nested] = (),
) -> Absences:
    """Marks rows that are missing from this load; removes those that an earlier load had already marked.

    Args:
        table: The table.
        load_id: Id of the load, a complete full read; empty if the API returned no rows.
        policy: What to do: `keep` does nothing, `mark` marks only, `remove` marks and removes.
        max_share: The share (0 to 1) of `alive_before` that one load may mark.
        alive_before: Number of rows not marked absent before the load.
        spared: Rows that are missing from this load but not gone.
        unproven: Why it is unknown which rows are gone; empty if it is known.
        nested: The table's child tables, parents first; children of removed rows are removed, too.
    """
    if policy == "keep":
        return Absences()
    columns = table.columns()
    if LOAD_ID not in columns or ABSENT_SINCE not in columns:
        return Absences()
    other, parameters = _other(table, load_id, spared)
    since = table.quote(ABSENT_SINCE)
    newly, before = f"{other} AND {since} IS NULL", f"{other} AND {since} IS NOT NULL"
    gone = int(table.rows(f"SELECT count(*) FROM {{table}} WHERE {newly}", *parameters)[0][0])
    if gone > max_share * alive_before:
        unproven = f"more than max_absent_share ({max_share:.0%}) of the rows that were present"
    elif any(len(rows.keys) > MOST_SPARED for rows in spared):
        unproven = f"more than {MOST_SPARED:,} rows did not land, or belong to parents that could not be read"
    if unproven:
        return Absences(gone=gone, held_back=unproven if gone else "")
    removed = 0
    if policy == "remove":
        removed = int(table.rows(f"SELECT count(*) FROM {{table}} WHERE {before}", *parameters)[0][0])
    if removed:
        with table.client.begin_transaction():
            table.change(f"DELETE FROM {{table}} WHERE {before}", *parameters)
            remove_orphans(nested)
    if gone:
        table.change(f"UPDATE {{table}} SET {since} = CURRENT_TIMESTAMP WHERE {newly}", *parameters)
    return Absences(gone=gone, marked=gone, removed=removed)


def _other(table: Table, load_id: str, spared: Sequence[Spared]) -> tuple[str, list[Any]]:
    """Returns the SQL condition for rows that are neither in this load nor spared, and its parameters."""
    parameters: list[Any]
    condition, parameters = f"{table.quote(LOAD_ID)} <> %s", [load_id]
    for rows in spared:
        if rows.keys:
            # NULL makes the condition NULL, so a row with a null in these columns is spared, too.
            one = " AND ".join(f"{table.quote(column)} = %s" for column in rows.columns)
            condition += f" AND NOT ({' OR '.join([f'({one})'] * len(rows.keys))})"
            parameters += [value for key in rows.keys for value in key]
    return condition, parameters


def remove_orphans(nested: Sequence[Nested]) -> None:
    """Deletes child rows whose parent row no longer exists.

    Args:
        nested: Child tables, parents first.
    """
    for child, parent in nested:
        if _PARENT_ID in child.columns():
            row_id = parent.quote(_ROW_ID)
            child.change(
                f"DELETE FROM {{table}} WHERE {child.quote(_PARENT_ID)} NOT IN "
                f"(SELECT {row_id} FROM {parent.qualified} WHERE {row_id} IS NOT NULL)"
            )


def forget_unfinished(table: Table, schema: str, nested: Sequence[Nested] = ()) -> None:
    """Deletes the rows of loads that a killed run left unfinished; the next run appends them again.

    Args:
        table: The table.
        schema: Name of the dlt schema that the table belongs to.
        nested: The table's child tables, parents first.
    """
    if LOAD_ID not in table.columns():
        return
    loads = Table(table.client, _LOADS)
    if not loads.exists():
        return
    finished = f"SELECT load_id FROM {loads.qualified} WHERE status = 0"
    # Only rows newer than the last finished load, so that no rows are lost if somebody empties dlt's own table.
    table.change(
        f"DELETE FROM {{table}} WHERE {table.quote(LOAD_ID)} NOT IN ({finished}) AND {table.quote(LOAD_ID)} > "
        f"(SELECT coalesce(max(load_id), '') FROM {loads.qualified} WHERE schema_name = %s AND status = 0)",
        schema,
    )
    remove_orphans(nested)
