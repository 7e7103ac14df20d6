"""Refuses a table that was loaded in another way than the connection file says now, and to which the next load would do harm.

It is asked before the first request, when nothing has changed. A change of the file that a table can take is not refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmm_assets.config.names import normalized_column
from rmm_assets.errors import ChildTablesError, MisfitError, TenantError
from rmm_assets.loading.plan import TENANT, LoadPlan
from rmm_assets.rows.contents import CONTENT_HASH
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.spool import ROOT_ID, ROW_ID
from rmm_assets.rows.targets import column_type
from rmm_assets.tables.inspection import repeated_keys
from rmm_assets.tables.table import Table

# What a column's type says in addition.
_DETAILS = ("precision", "scale", "timezone")


def refuse_misfits(plan: LoadPlan, shape: RowShape, tables: Mapping[str, Any], nested: Mapping[str, Any]) -> None:
    """Refuses a table whose columns do not fit the connection file.

    Args:
        plan: How the resource is landed now.
        shape: Describes the rows; with the columns of the table, if there is one.
        tables: The stored dlt schema's tables, by name.
        nested: Those of them that are child tables of the table.

    Raises:
        TenantError: Only one of the table and the file has tenants, or their columns for them differ.
        MisfitError: A column has another type than the file declares, or the rows of the table are not versions.
        ChildTablesError: Lists are in another place, or rows lack ids that link them to theirs.
    """
    if shape.known:
        _refuse_tenants(plan, shape.known)
        _refuse_types(plan, shape.known)
        _refuse_rows_without_versions(plan, shape.known)
        _refuse_lists(plan, shape, tables.get(plan.table, {}), nested)


def refuse_repeated_keys(plan: LoadPlan, table: Table, schema: Mapping[str, Any]) -> None:
    """Refuses to merge by a key that several rows of the table share, if each of them would stay.

    Args:
        plan: How the resource is landed now.
        table: The table.
        schema: Its stored dlt schema.

    Raises:
        MisfitError: It has such rows.
    """
    said: Any = plan.hints["write_disposition"]
    # Other strategies delete the rows with a key that was received.
    if not isinstance(said, Mapping) or said.get("strategy") not in ("upsert", "insert-only"):
        return
    columns: Mapping[str, Any] = schema.get("columns", {})
    key = {name for name, column in columns.items() if column.get("primary_key")}
    stored, versions = schema.get("write_disposition"), any(column.get("x-valid-to") for column in columns.values())
    if stored == "merge" and schema.get("x-merge-strategy") != "scd2" and key == {*plan.key}:
        return
    # The first load of a merge is stored as an append, but its rows have a hash, as no other append's have.
    merged = stored == "append" and not versions and key == {*plan.key} and CONTENT_HASH in columns
    if (number := repeated_keys(table, plan.key, without=CONTENT_HASH if merged else None)) > 0:
        raise MisfitError(
            f"{plan.resource.name}: {number} values of the key ({', '.join(plan.key)}) are in several rows of the table, as after "
            f"loads with history, with append or with another key, and a merge needs one row for each. {_anew(plan)}"
        )


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


def _refuse_types(plan: LoadPlan, known: Mapping[str, Mapping[str, Any]]) -> None:
    declared: Mapping[str, Mapping[str, Any]] = plan.hints.get("columns") or {}
    for source, hint in declared.items():
        name = normalized_column(source)
        there = known.get(name, {})
        if hint.get("data_type") and there.get("data_type") and _differ(there, hint):
            raise MisfitError(
                f"{plan.resource.name}: the column {name} of the table {plan.table} is {_type(there)}, and the file declares "
                f"{_type(hint)}. Declare {_type(there)} again, or no type: other values then get a column of their own. "
                f"{_anew(plan)}, for the new type"
            )


def _differ(there: Mapping[str, Any], declared: Mapping[str, Any]) -> bool:
    """Returns whether a column would be made in another way: with another type, or a text with another maximum."""
    if there["data_type"] == declared["data_type"] == "text":
        return there.get("precision") not in (None, declared.get("precision"))
    return bool(there["data_type"] != declared["data_type"] or column_type(there) != column_type(declared))


def _type(hint: Mapping[str, Any]) -> str:
    details = [f"{key} {hint[key]}" for key in _DETAILS if hint.get(key) is not None]
    return f"{hint['data_type']} ({', '.join(details)})" if details else str(hint["data_type"])


def _refuse_rows_without_versions(plan: LoadPlan, known: Mapping[str, Any]) -> None:
    # Not even with ids: PostgreSQL would keep them unique, and a version that returns has its former id.
    if plan.history is not None and plan.history.valid_to not in known:
        raise MisfitError(
            f"{plan.resource.name}: the table was loaded without history, so its rows are not versions: it has no column "
            f"{plan.history.valid_to}. {_anew(plan)}"
        )


def _refuse_lists(plan: LoadPlan, shape: RowShape, schema: Mapping[str, Any], nested: Mapping[str, Any]) -> None:
    resource, merges = plan.resource, plan.resource.disposition == "merge"
    flat = schema.get("x-normalizer", {}).get("max_nesting") == 0 and resource.max_table_nesting != 0
    if plan.child_tables and (ROW_ID not in shape.known or flat):
        raise ChildTablesError(
            f"{resource.name}: the table exists and its lists are JSON columns: with child_tables its rows would need ids, "
            f"which they do not have. {_anew(plan)}, or remove child_tables"
        )
    # dlt's normalizer gives each row an id, and only files without a schema of their own take a required column.
    takes_ids = not (plan.changes_rows or merges or resource.table_format == "iceberg")
    if not plan.arrow and ROW_ID not in shape.known and not takes_ids:
        raise MisfitError(
            f"{resource.name}: the rows of the table do not have the ids that dlt's normalizer gives them, which the file "
            f"needs now. {_anew(plan)}"
        )
    # Files have no merge that deletes the items of rows in other tables.
    if not plan.child_tables and merges and nested and not (plan.arrow and plan.changes_rows):
        again = "write `child_tables: true` again, or load the tables anew. " if plan.changes_rows else ""
        raise ChildTablesError(
            f"{resource.name}: the lists of the table are in child tables, where those of rows that do not change would stay: "
            f"{again}{_anew(plan, several=True)}"
        )
    rooted = (
        shape.nesting.rooted if shape.nesting is not None else plan.child_tables and merges and plan.history is None
    )
    for name in [name for name, child in nested.items() if rooted and ROOT_ID not in child["columns"]]:
        raise ChildTablesError(
            f"{resource.name}: the rows of the table {name} do not have the ids of their root rows, which this "
            f"write_disposition needs. {_anew(plan, several=True)}"
        )


def _anew(plan: LoadPlan, *, several: bool = False) -> str:
    what = "Drop the tables and load them again" if several else "Drop the table and load it again"
    return f"{what} (`rmm reset {plan.connection} {plan.resource.name}`), or set another `table_name`"
