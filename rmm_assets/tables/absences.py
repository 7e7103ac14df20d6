"""Marks or removes, after a complete load, the rows that the API no longer returns.

Which rows these are is known before the load (see `differences`). Marking is repeated in full by the next run, so a run may be
killed before, during or after it. Only rows that an earlier complete read marked are removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from rmm_assets.tables.differences import Differences, Key
from rmm_assets.tables.syncs import SYNCS
from rmm_assets.tables.table import ABSENT_SINCE, LOAD_ID, Table

Policy = Literal["keep", "mark", "remove"]

_LOADS = "_dlt_loads"
_ROW_ID, _PARENT_ID = "_dlt_id", "_dlt_parent_id"


class Nested(NamedTuple):
    """A child table and its parent."""

    table: Table
    parent: Table


_BATCH = 50_000
# Keys that one statement lists.
_KEYS_AT_ONCE = 500


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
    key: Sequence[str],
    found: Differences,
    policy: Policy,
    *,
    max_share: float,
    unproven: str = "",
    nested: Sequence[Nested] = (),
) -> Absences:
    """Marks rows that were not received; removes those that an earlier load had already marked.

    Args:
        table: The table.
        key: The primary key's columns.
        found: How a complete full read differs from the table.
        policy: What to do: `keep` does nothing, `mark` marks only, `remove` marks and removes.
        max_share: The share (0 to 1) of the rows not marked absent that one load may mark.
        unproven: Why it is unknown which rows are gone; empty if it is known.
        nested: The table's child tables, parents first; children of removed rows are removed, too.
    """
    if policy == "keep" or ABSENT_SINCE not in table.columns():
        return Absences()
    decided = decide(found, policy, max_share=max_share, unproven=unproven)
    if decided.removed:
        with table.client.begin_transaction():
            _change(table, "DELETE FROM {table}", key, found.still_gone)
            remove_orphans(nested)
    if decided.marked:
        _change(table, f"UPDATE {{table}} SET {table.quote(ABSENT_SINCE)} = %s", key, found.gone, datetime.now(UTC))
    return decided


def decide(found: Differences, policy: Policy, *, max_share: float, unproven: str = "") -> Absences:
    """Returns what is to be done, with the arguments of `mark_or_remove`."""
    gone = len(found.gone)
    if policy == "keep":
        return Absences()
    if gone > max_share * found.alive:
        unproven = f"more than max_absent_share ({max_share:.0%}) of the rows that were present"
    if unproven:
        return Absences(gone=gone, held_back=unproven if gone else "")
    return Absences(gone=gone, marked=gone, removed=len(found.still_gone) if policy == "remove" else 0)


def marked_rows(table: Table, key: Sequence[str], keys: Sequence[Key]) -> list[pa.Table]:
    """Returns the rows with these keys, marked absent, for destinations whose rows only a merge can change."""
    wanted, now, found = {*keys}, datetime.now(UTC), []
    with table.cursor("SELECT * FROM {table}") as cursor:
        for batch in cursor.iter_arrow(_BATCH) if wanted else ():
            mask = pa.array(
                [values in wanted for values in zip(*(batch[name].to_pylist() for name in key), strict=True)]
            )
            rows = batch.filter(mask)
            if ABSENT_SINCE in rows.column_names:  # not before the first load that marks
                rows = rows.drop_columns([ABSENT_SINCE])
            times = pa.array([now] * len(rows), pa.timestamp("us", tz="UTC"))
            found.append(rows.append_column(ABSENT_SINCE, times))
    return [rows for rows in found if len(rows)]


def _change(table: Table, statement: str, key: Sequence[str], keys: Sequence[Key], *parameters: Any) -> None:
    """Runs a statement on the rows with these keys."""
    quoted = list(map(table.quote, key))
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        if len(key) == 1:
            condition = f"{quoted[0]} IN ({', '.join(['%s'] * len(some))})"
        else:
            condition = " OR ".join(["(" + " AND ".join(f"{name} = %s" for name in quoted) + ")"] * len(some))
        table.change(f"{statement} WHERE {condition}", *parameters, *(value for values in some for value in values))


def in_staging(table: Table, columns: Sequence[str], key: Sequence[str]) -> str:
    """Returns dlt's condition for rows that have the same values in these columns as a row of the staging table.

    dlt itself compares the columns of a compound merge key as one text, in which ("a", 11) equals ("a1", 1) (1.31.0).

    Args:
        table: The table.
        columns: The columns.
        key: The columns that are never null.
    """
    equal = []
    for column in columns:
        name = table.client.escape_column_name(column)
        same = f"s.{name} = {{table}}.{name}"
        equal.append(same if column in key else f"({same} OR (s.{name} IS NULL AND {{table}}.{name} IS NULL))")
    return f"EXISTS (SELECT 1 FROM {{staging_table}} AS s WHERE {' AND '.join(equal)})"


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
                f"(SELECT {row_id} FROM {parent.source} WHERE {row_id} IS NOT NULL)"
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
    load_id, syncs = table.quote(LOAD_ID), Table(table.client, SYNCS)
    finished = {str(name) for (name,) in loads.rows("SELECT load_id FROM {table} WHERE status = 0")}
    if "load_id" in syncs.columns():
        verdicts = f"{syncs.quote('verdict')} NOT LIKE 'failed%%'"
        finished |= {
            str(name) for (name,) in syncs.rows(f"SELECT {syncs.quote('load_id')} FROM {{table}} WHERE {verdicts}")
        }
    ((last,),) = loads.rows("SELECT max(load_id) FROM {table} WHERE schema_name = %s AND status = 0", schema)
    found = [
        str(name)
        for (name,) in table.rows(f"SELECT DISTINCT {load_id} FROM {{table}} WHERE {load_id} > %s", last or "")
    ]
    # Only rows newer than the last finished load, so that no rows are lost if somebody empties dlt's own table.
    unfinished = [name for name in found if name not in finished] if last or len(found) == 1 else []
    if unfinished:
        table.change(f"DELETE FROM {{table}} WHERE {load_id} IN ({', '.join(['%s'] * len(unfinished))})", *unfinished)
    remove_orphans(nested)
