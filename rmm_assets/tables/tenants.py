"""Counts the rows of tenants, which share a table, and decides which are gone, each tenant by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rmm_assets.tables.differences import Differences
from rmm_assets.tables.table import ABSENT_SINCE, Table

# Names that one statement lists.
_AT_ONCE = 500


class Scope(NamedTuple):
    """The rows of some tenants.

    Attributes:
        column: The column with the tenant's name.
        names: The tenants.
    """

    column: str
    names: tuple[str, ...]

    def condition(self, table: Table) -> str:
        """Returns the SQL condition for the rows; its parameters are the names."""
        return f"{table.quote(self.column)} IN ({', '.join(['%s'] * len(self.names))})" if self.names else "1 = 0"

    def literal(self, table: Table) -> str:
        """Returns the same condition without parameters, in the destination's SQL; the pattern of names allows no quote."""
        names = ", ".join(f"'{name}'" for name in self.names)
        return f"{table.client.escape_column_name(self.column)} IN ({names})" if names else "1 = 0"


def rows_by_tenant(table: Table, scope: Scope, condition: str = "1 = 1", *parameters: Any) -> dict[str, int]:
    """Returns the number of rows of each tenant that meet a condition; 0 for a tenant without any."""
    found = dict.fromkeys(scope.names, 0)
    if scope.column not in table.columns():
        return found
    name = table.quote(scope.column)
    found |= {
        str(tenant): int(count)
        for tenant, count in table.rows(
            f"SELECT {name}, count(*) FROM {{table}} WHERE {condition} AND {scope.condition(table)} GROUP BY {name}",
            *parameters, *scope.names,
        )
    }  # fmt: skip
    return found


def alive_by_tenant(table: Table, scope: Scope) -> dict[str, int]:
    """Returns the number of rows of each tenant that are not marked absent."""
    marks = ABSENT_SINCE in table.columns()
    return rows_by_tenant(table, scope, f"{table.quote(ABSENT_SINCE)} IS NULL" if marks else "1 = 1")


class GoneByTenant(NamedTuple):
    """Which rows of tenants are gone.

    Attributes:
        differences: How the reads differ from the table, without the rows that stay as they are.
        rows: The number of rows gone at the source, by tenant.
        held_back: Why the rows of a tenant stay as they are although some were not received, by tenant.
    """

    differences: Differences
    rows: Mapping[str, int]
    held_back: Mapping[str, str]


def gone_by_tenant(
    differences: Differences, alive: Mapping[str, int], max_share: float, unproven: Mapping[str, str]
) -> GoneByTenant:
    """Decides for each tenant whether rows that were not received are gone.

    Args:
        differences: How the reads differ from the table; a key begins with the tenant.
        alive: Number of rows of each tenant that are not marked absent.
        max_share: The share (0 to 1) of these that one load may mark.
        unproven: Why it is unknown which rows of a tenant are gone, by tenant; empty if only a range was read.
    """
    ranges = {tenant for tenant, why in unproven.items() if not why}
    gone = Counter(str(key[0]) for key in differences.gone if key[0] not in ranges)
    held_back = {tenant: why for tenant, why in unproven.items() if gone[tenant]}
    for tenant, rows in gone.items():
        if tenant not in held_back and rows > max_share * alive.get(tenant, 0):
            held_back[tenant] = f"more than max_absent_share ({max_share:.0%}) of the rows that were present"
    kept = {*held_back, *unproven}
    left = replace(
        differences,
        gone=[key for key in differences.gone if key[0] not in kept],
        still_gone=[key for key in differences.still_gone if key[0] not in kept],
    )
    return GoneByTenant(left, gone, held_back)


def mark_those_gone(table: Table, column: str, current: Set[str], max_share: float) -> tuple[list[str], str]:
    """Marks the rows of tenants that are no longer tenants as absent.

    Args:
        table: The table.
        column: The column with the tenant's name.
        current: All tenants.
        max_share: The share (0 to 1) of the tenants in the table that one load may mark.

    Returns:
        The tenants whose rows were marked, and why none were although some are gone.
    """
    if not {column, ABSENT_SINCE} <= {*table.columns()}:
        return [], ""
    name, absent = table.quote(column), table.quote(ABSENT_SINCE)
    there = [str(row[0]) for row in table.rows(f"SELECT DISTINCT {name} FROM {{table}} WHERE {absent} IS NULL")]
    gone = sorted({*there} - current)
    if not gone:
        return [], ""
    if len(gone) > max_share * len(there):
        return [], f"{len(gone)} of {len(there)} tenants are gone, more than max_absent_share ({max_share:.0%})"
    for start in range(0, len(gone), _AT_ONCE):
        some = gone[start : start + _AT_ONCE]
        marks = ", ".join(["%s"] * len(some))
        table.change(
            f"UPDATE {{table}} SET {absent} = %s WHERE {absent} IS NULL AND {name} IN ({marks})",
            datetime.now(UTC), *some,
        )  # fmt: skip
    return gone, ""
