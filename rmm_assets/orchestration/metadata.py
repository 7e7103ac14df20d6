"""What a run did to what Dagster shows and keeps of it: a contract that sensors and dashboards read.

Small: numbers, the column schema, no paths, no job dumps. Every key is there on every run, zero rows included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dlt.common.schema.typing import TTableSchemaColumns

from rmm_assets.connection_file import Resource
from rmm_assets.sync import Outcome


def materialization(outcome: Outcome, columns: TTableSchemaColumns, resource: Resource) -> dict[str, Any]:
    """Metadata of a materialization.

    Args:
        columns: The table's columns in dlt's schema, after the load.
    """
    report, traffic = outcome.report, outcome.traffic
    return {
        "dagster/row_count": outcome.row_count,
        "dagster/column_schema": column_schema(columns, resource),
        "dagster/table_name": outcome.table_name,
        "rows_loaded": outcome.rows_loaded,
        "rows_rejected": outcome.rows_rejected,
        "rows_absent": outcome.absences.gone,
        "rows_repeated": max(report.duplicates, 0),
        "pages": report.pages,
        "passes": report.passes,
        "requests": traffic.requests,
        "retries": traffic.retries,
        "complete": report.complete,
        "completeness": report.reason,
        "load_id": outcome.load_id,
        "seconds": round(outcome.seconds, 3),
        "seconds_waiting": round(traffic.seconds_waiting, 3),
        "rows_per_second": round(report.rows / outcome.seconds, 1),
    }


def column_schema(columns: TTableSchemaColumns, resource: Resource) -> dg.TableSchema:
    """A table's columns with types, nullability and what the connection file says of them."""
    described = {name: column.description for name, column in resource.columns.items()}
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=name,
                type=str(column.get("data_type", "text")),
                description=described.get(name),
                constraints=dg.TableColumnConstraints(
                    nullable=bool(column.get("nullable", True)),
                    unique=bool(column.get("unique") or (column.get("primary_key") and len(resource.keys) == 1)),
                ),
            )
            for name, column in columns.items()
            if "data_type" in column
        ]
    )


def schema_of(metadata: Mapping[str, Any]) -> dict[str, str] | None:
    """Column types by name that an earlier materialization noted; None where it noted none."""
    value = metadata.get("dagster/column_schema")
    schema = getattr(value, "value", value)
    return {column.name: column.type for column in schema.columns} if isinstance(schema, dg.TableSchema) else None
