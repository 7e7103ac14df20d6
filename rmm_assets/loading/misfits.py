"""Refuses a table that was loaded in another way than the connection file says now, and to which the next load would do harm.

It is asked before the first request, when nothing has changed. A change of the file that a table can take is not refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmm_assets.errors import ChildTablesError, TenantError
from rmm_assets.loading.plan import TENANT, LoadPlan
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.spool import ROOT_ID, ROW_ID


def refuse_misfits(plan: LoadPlan, shape: RowShape, nested: Mapping[str, Any]) -> None:
    """Refuses a table whose columns do not fit the connection file.

    Args:
        plan: How the resource is landed now.
        shape: Describes the rows; with the columns of the table, if there is one.
        nested: The stored dlt schema's child tables of the table, by name.

    Raises:
        TenantError: Only one of the table and the file has tenants, or their columns for them differ.
        ChildTablesError: Rows lack the ids that link them to their lists.
    """
    if shape.known:
        _refuse_tenants(plan, shape.known)
        _refuse_lists(plan, shape, nested)


def _refuse_tenants(plan: LoadPlan, known: Mapping[str, Mapping[str, Any]]) -> None:
    name = plan.resource.name
    there = next((column for column, hint in known.items() if hint.get(TENANT)), None)
    if plan.tenants is None:
        if there is not None:
            raise TenantError(
                f"{name}: the table was loaded with tenants, whose names are in its column {there}, and the file has none: write "
                "`tenants` again, set another `dataset` or `table_name`, or drop the table"
            )
    elif there not in (None, plan.tenants):
        raise TenantError(
            f"{name}: the names of the table's tenants are in its column {there}, not in {plan.tenants}: write `column: {there}` "
            "under `tenants`, set another `dataset` or `table_name`, or drop the table"
        )
    elif plan.tenants not in known:
        raise TenantError(
            f"{name}: the table was loaded without tenants, so it has no column {plan.tenants}: set another `dataset` or "
            "`table_name`, or drop the table"
        )


def _refuse_lists(plan: LoadPlan, shape: RowShape, nested: Mapping[str, Any]) -> None:
    if shape.nesting is not None and ROW_ID not in shape.known:
        raise ChildTablesError(
            f"{plan.resource.name}: the table exists and its lists are JSON columns: with child_tables its rows would need ids, "
            f"which they do not have. {_anew(plan)}, or remove child_tables"
        )
    rooted = shape.nesting is not None and shape.nesting.rooted
    for name in [name for name, child in nested.items() if rooted and ROOT_ID not in child["columns"]]:
        raise ChildTablesError(
            f"{plan.resource.name}: the rows of the table {name} do not have the ids of their root rows, which this "
            f"write_disposition needs. {_anew(plan, several=True)}"
        )


def _anew(plan: LoadPlan, *, several: bool = False) -> str:
    what = "Drop the tables and load them again" if several else "Drop the table and load it again"
    return f"{what} (`rmm reset {plan.connection} {plan.resource.name}`), or set another `table_name`"
