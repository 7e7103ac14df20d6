"""Marks or removes, after a complete load, the rows that the API no longer holds.

Every row of a load carries its load id, so what a complete full read did not bring is what carries another one. Marking
is one statement that a later run repeats in full: a run killed before, during or after it is put right by the next.
Nothing is removed that was not marked by an earlier complete read.
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
    """A child table, and the one above it."""

    table: Table
    parent: Table


# More keys than that are not put into a statement.
MOST_SPARED = 1000


@dataclass(frozen=True)
class Spared:
    """Rows that a load does not hold and that are not gone: the API sent them, or may hold them still.

    Attributes:
        columns: The columns that tell them: the primary key's, or those of a parent's key.
        keys: Their values, of the columns' types; at most one more than `MOST_SPARED` are looked at.
    """

    columns: tuple[str, ...] = ()
    keys: Sequence[tuple[Any, ...]] = ()


@dataclass(frozen=True)
class Absences:
    """What became of rows that are gone at the source.

    Attributes:
        gone: Rows that this read did not hold and that were there before it.
        marked: Rows newly marked `_absent_since`.
        removed: Rows deleted, because a complete read before this one did not hold them either.
        held_back: Why nothing was done about them; empty where it was.
    """

    gone: int = 0
    marked: int = 0
    removed: int = 0
    held_back: str = ""


def rows_of_last_load(table: Table) -> int:
    """Returns how many rows the last complete read held, 0 where there was none."""
    if LOAD_ID not in table.columns():
        return 0
    # Load ids are seconds since 1970 as text of one length, so the greatest one is the latest.
    load_id = table.quote(LOAD_ID)
    return table.count(f"{load_id} = (SELECT max({load_id}) FROM {table.qualified})")


def rows_alive(table: Table) -> int:
    """Returns how many rows are not marked absent, 0 where there is no table."""
    return table.count(f"{table.quote(ABSENT_SINCE)} IS NULL" if ABSENT_SINCE in table.columns() else "")


def rows_valid(table: Table, valid_to: str, open_end: str | None) -> int:
    """Returns how many rows of a table of versions are valid.

    Args:
        valid_to: The column that says when a version ended.
        open_end: What stands there while it is valid; None for null.
    """
    if valid_to not in table.columns():
        return 0
    condition, parameters = is_valid(table, valid_to, open_end)
    return int(table.rows(f"SELECT count(*) FROM {{table}} WHERE {condition}", *parameters)[0][0])


def is_valid(table: Table, valid_to: str, open_end: str | None) -> tuple[str, list[str]]:
    """Returns the condition that a version is valid, and its parameters."""
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
    """Marks what this load did not bring; removes what it did not bring and an earlier one had marked.

    Args:
        load_id: Of the load that holds a complete full read; empty where the API held nothing to load.
        max_share: The share (0 to 1) of the rows alive before that may go at once.
        alive_before: Rows that were alive before the load.
        spared: Rows that are not gone although this load does not hold them.
        unproven: Why it is not known which rows are gone; empty where it is.
        nested: The table's child tables, parents first; a removed row takes its children along.
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
        unproven = f"more than max_absent_share ({max_share:.0%}) of those that were there"
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
    """The condition that a row is neither of this load nor spared, and its parameters."""
    parameters: list[Any]
    condition, parameters = f"{table.quote(LOAD_ID)} <> %s", [load_id]
    for rows in spared:
        if rows.keys:
            # A row that has null there may be one of them: it is spared, too.
            one = " AND ".join(f"{table.quote(column)} = %s" for column in rows.columns)
            condition += f" AND NOT ({' OR '.join([f'({one})'] * len(rows.keys))})"
            parameters += [value for key in rows.keys for value in key]
    return condition, parameters


def remove_orphans(nested: Sequence[Nested]) -> None:
    """Deletes the children of rows that are no longer there.

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
    """Deletes the rows of loads that a killed run began and never finished: appended again, they would be there twice.

    Args:
        schema: Name of the dlt schema that the table belongs to.
        nested: The table's child tables, parents first.
    """
    if LOAD_ID not in table.columns():
        return
    loads = Table(table.client, _LOADS)
    if not loads.exists():
        return
    finished = f"SELECT load_id FROM {loads.qualified} WHERE status = 0"
    # Only what is newer than the last finished load: whoever empties dlt's own table must not lose rows by it.
    table.change(
        f"DELETE FROM {{table}} WHERE {table.quote(LOAD_ID)} NOT IN ({finished}) AND {table.quote(LOAD_ID)} > "
        f"(SELECT coalesce(max(load_id), '') FROM {loads.qualified} WHERE schema_name = %s AND status = 0)",
        schema,
    )
    remove_orphans(nested)
