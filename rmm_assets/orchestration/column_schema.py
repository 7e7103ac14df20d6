"""Builds Dagster's column schema of a table: the declared columns for the asset, the actual ones for each run.

Dagster's UI combines the columns of the latest run with the descriptions of the asset. So only the asset has
descriptions, and a run stores what can change from run to run: names, types and constraints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dlt.common.schema.typing import TTableSchemaColumns

from rmm_assets.config import Resource
from rmm_assets.config.names import normalized_column
from rmm_assets.loading.plan import LoadPlan
from rmm_assets.orchestration.dagster_internals import short_column

COLUMN_SCHEMA = "dagster/column_schema"


# Columns that a load adds.
_OURS = {
    "_dlt_load_id": ("text", "The load that last changed the row: `load_id` of its run."),
    "_absent_since": ("timestamp", "When the row was first missing from the API; null while the API returns it."),
    "_content_hash": (
        "bigint",
        "A hash of the row as the API sent it, by which the next load tells whether it has changed.",
    ),
}


def declared_columns(plan: LoadPlan) -> dg.TableSchema:
    """Returns the columns that the connection file declares, with their descriptions, and those that a load adds."""
    columns = [
        dg.TableColumn(
            name=normalized_column(name),
            type=hints.data_type or ("timestamp" if hints.stamp else "inferred from the rows"),
            description=hints.description,
            constraints=dg.TableColumnConstraints(nullable=hints.nullable is not False),
        )
        for name, hints in plan.resource.columns.items()
    ]
    left_out = {*(() if plan.marks_absences else ["_absent_since"]), *(() if plan.compares else ["_content_hash"])}
    ours = [name for name in _OURS if name not in left_out]
    return dg.TableSchema(columns=[*columns, *(dg.TableColumn(name, *_OURS[name]) for name in ours)])


def column_schema(columns: TTableSchemaColumns, resource: Resource) -> dg.TableSchema:
    """Returns the columns of a table after a run.

    Args:
        columns: The table's columns in dlt's schema, after the load.
    """
    return dg.TableSchema(columns=[_column(column, resource) for column in columns.values() if "data_type" in column])


def _column(column: Mapping[str, Any], resource: Resource) -> dg.TableColumn:
    name, kind = str(column["name"]), str(column.get("data_type"))
    nullable = bool(column.get("nullable", True))
    unique = bool(column.get("unique") or (column.get("primary_key") and len(resource.keys) == 1))
    if nullable and not unique:
        return short_column(name, kind)
    return dg.TableColumn(name, kind, constraints=dg.TableColumnConstraints(nullable=nullable, unique=unique))


def schema_of(metadata: Mapping[str, Any]) -> dict[str, str] | None:
    """Returns the column types by name from a materialization's metadata; None if it has no column schema."""
    value = metadata.get(COLUMN_SCHEMA)
    schema = getattr(value, "value", value)
    return {column.name: column.type for column in schema.columns} if isinstance(schema, dg.TableSchema) else None
