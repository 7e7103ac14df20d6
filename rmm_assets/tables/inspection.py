"""Finds rows that break a rule, in SQL at the destination: returns their number and up to five example keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rmm_assets.tables.absences import is_valid, rows_valid
from rmm_assets.tables.dialects import translated
from rmm_assets.tables.query import only_reading
from rmm_assets.tables.table import Table

EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    Attributes:
        looked_at: Number of rows that were checked.
        at_fault: Number of rows that break the rule.
        examples: Keys of up to five of them, as text.
        note: Why the rule could not be checked; empty if it was.
    """

    looked_at: int
    at_fault: int
    examples: tuple[str, ...] = ()
    note: str = ""

    @property
    def passed(self) -> bool:
        return not self.at_fault and not self.note


def duplicates(table: Table, columns: Sequence[str], versions: tuple[str, str | None] | None = None) -> Finding:
    """Finds rows that share their values in these columns with another row; rows with a null in them are ignored.

    Args:
        table: The table.
        columns: The columns to compare.
        versions: For a table of versions, the column with the end of a version's validity and its value while the version is
            valid. Only valid versions are checked, as old ones have the same key.
    """
    if (missing := _missing(table, columns)) is not None:
        return missing
    listed = ", ".join(table.quote(column) for column in columns)
    present = " AND ".join(f"{table.quote(column)} IS NOT NULL" for column in columns)
    parameters: list[str] = []
    looked_at = table.count() if versions is None else rows_valid(table, *versions)
    if versions is not None:
        if (missing := _missing(table, [versions[0]])) is not None:
            return missing
        valid, parameters = is_valid(table, *versions)
        present = f"{present} AND {valid}"
    groups = f"SELECT {listed}, count(*) AS n FROM {{table}} WHERE {present} GROUP BY {listed} HAVING count(*) > 1"
    at_fault = int(table.rows(f"SELECT coalesce(sum(n), 0) FROM ({groups}) AS repeated", *parameters)[0][0])
    examples = table.rows(f"{groups} ORDER BY {listed} LIMIT {EXAMPLES}", *parameters) if at_fault else []
    return Finding(looked_at, at_fault, tuple(_text(row[:-1]) for row in examples))


def repeated_keys(table: Table, columns: Sequence[str], *, without: str | None = None) -> int:
    """Returns the number of keys that several rows have; 0 if the table lacks a column of the key.

    Args:
        table: The table.
        columns: The columns of the key.
        without: A column; only keys count of which a row has null there.
    """
    if not {*columns} <= {*table.columns()}:
        return 0
    listed = ", ".join(map(table.quote, columns))
    some = "" if without is None else f" AND count({table.quote(without)}) < count(*)"
    groups = f"SELECT {listed} FROM {{table}} GROUP BY {listed} HAVING count(*) > 1{some}"
    return int(table.rows(f"SELECT count(*) FROM ({groups}) AS repeated")[0][0])


def nulls(table: Table, column: str, key: Sequence[str]) -> Finding:
    """Finds rows with a null in the column."""
    return _at_fault(table, [column], f"{table.quote(column)} IS NULL", key)


def unaccepted(table: Table, column: str, accepted: Sequence[Any], key: Sequence[str]) -> Finding:
    """Finds rows whose value is not one of the accepted ones; nulls are ignored."""
    marks = ", ".join(["%s"] * len(accepted))
    quoted = table.quote(column)
    condition = f"{quoted} IS NOT NULL" + (f" AND {quoted} NOT IN ({marks})" if accepted else "")
    return _at_fault(table, [column], condition, [*key, column], *accepted)


def dangling(
    table: Table, column: str, other: Table, other_column: str, key: Sequence[str], within: str | None = None
) -> Finding:
    """Finds rows whose value is missing from the other table's column; nulls are ignored.

    Args:
        within: A column in which the other table's row must have the same value, that of the tenant.
    """
    if not other.columns():
        rows = table.count()
        return Finding(rows, rows, note=f"the table {other.name} does not exist yet" if rows else "")
    if (missing := _missing(other, [other_column])) is not None and missing.note:
        return Finding(table.count(), missing.at_fault, note=missing.note)
    quoted = table.quote(column)
    # Inside, a column's name can only be that of the outer table: dlt's names do not end in an underscore.
    more = "" if within is None else f", {other.quote(within)} AS within_"
    condition = "" if within is None else f" AND other.within_ = {table.quote(within)}"
    found = (
        f"SELECT 1 FROM (SELECT {other.quote(other_column)} AS found_{more} FROM {other.source}) AS other "
        f"WHERE other.found_ = {quoted}{condition}"
    )
    return _at_fault(table, [column], f"{quoted} IS NOT NULL AND NOT EXISTS ({found})", [*key, column])


def selected(table: Table, query: str) -> Finding:
    """Runs a user's query; every row that it selects is at fault.

    Raises:
        QueryError: The query is not one SELECT that only reads tables.
    """
    text = query.replace("{table}", table.qualified).strip().rstrip(";")
    with only_reading(table.client, text) as rows:
        # The query may end with a comment.
        at_fault = int(rows(f"SELECT count(*) FROM ({text}\n) AS at_fault")[0][0])
        first, _ = translated(f"SELECT * FROM at_fault LIMIT {EXAMPLES}", table.client.capabilities.sqlglot_dialect)
        examples = rows(first.replace("at_fault", f"({text}\n) AS at_fault")) if at_fault else []
    return Finding(table.count(), at_fault, tuple(_text(row) for row in examples))


def _at_fault(table: Table, columns: Sequence[str], condition: str, key: Sequence[str], *parameters: Any) -> Finding:
    if (missing := _missing(table, columns)) is not None:
        return missing
    at_fault = int(table.rows(f"SELECT count(*) FROM {{table}} WHERE {condition}", *parameters)[0][0])
    examples: list[tuple[Any, ...]] = []
    known = [column for column in key if column in table.columns()]
    if at_fault and known:
        listed = ", ".join(table.quote(column) for column in known)
        examples = table.rows(
            f"SELECT {listed} FROM {{table}} WHERE {condition} ORDER BY {listed} LIMIT {EXAMPLES}", *parameters
        )
    return Finding(table.count(), at_fault, tuple(_text(row) for row in examples))


def _missing(table: Table, columns: Sequence[str]) -> Finding | None:
    """Returns the finding for a missing table (no rows at fault) or column (cannot be checked); None if all exist."""
    there = table.columns()
    if not there:
        return Finding(0, 0)
    absent = [column for column in columns if column not in there]
    if absent:
        rows = table.count()
        # dlt creates a column with its first value, so every row is null here.
        return Finding(rows, rows, note=f"the table has no column {', '.join(absent)}" if rows else "")
    return None


def _text(values: Sequence[Any]) -> str:
    return ", ".join("null" if value is None else str(value) for value in values)
