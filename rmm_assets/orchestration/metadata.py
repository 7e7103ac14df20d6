"""What a run did to what Dagster shows and keeps of it: a contract that sensors and dashboards read.

Small: numbers, the column schema, no paths, no job dumps. Every key is there on every run, zero rows included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._serdes import serialize_value
from dlt.common.schema.typing import TTableSchemaColumns

from rmm_assets.connection_file import Resource
from rmm_assets.sync import Outcome

# A run's metadata in Dagster's own form: what the UI loads for each dot of a plot. The preview takes what is left; the
# column schema, 200 bytes a column, is never cut, so that from some thirty columns on there is more.
MAX_BYTES = 8000


def materialization(outcome: Outcome, columns: TTableSchemaColumns, resource: Resource) -> dict[str, Any]:
    """Metadata of a materialization.

    Args:
        columns: The table's columns in dlt's schema, after the load.
    """
    report, traffic = outcome.report, outcome.traffic
    found: dict[str, Any] = {
        "dagster/row_count": outcome.row_count,
        "dagster/column_schema": column_schema(columns, resource),
        "dagster/table_name": outcome.table_name,
        "rows_loaded": outcome.rows_loaded,
        "rows_new": outcome.rows_new,
        "rows_changed": outcome.rows_changed,
        "rows_rejected": outcome.rows_rejected,
        "rows_absent": outcome.absences.gone,
        "absences_held_back": outcome.absences.held_back,
        "rows_repeated": max(report.duplicates, 0),
        "pages": report.pages,
        "passes": report.passes,
        "requests": traffic.requests,
        "retries": traffic.retries,
        "complete": report.complete,
        "completeness": report.reason,
        "changed_types": [f"{name}: {was} to {came}" for name, (was, came) in outcome.changed_types.items()],
        "load_id": outcome.load_id,
        "seconds": round(outcome.seconds, 3),
        "seconds_waiting": round(traffic.seconds_waiting, 3),
        "rows_per_second": round(report.rows / outcome.seconds, 1),
    }
    # As Dagster stores it: every value in an envelope of its own.
    stored: Any = dg.AssetMaterialization("any", metadata=found).metadata
    return {**found, "preview": _preview(outcome, resource, MAX_BYTES - len(serialize_value(stored)))}


def _preview(outcome: Outcome, resource: Resource, most_bytes: int) -> dg.TableMetadataValue:
    """Rows of the table for people, sensitive columns masked, as many columns and rows as there is room for."""
    masked = {name for name, column in resource.columns.items() if column.sensitive}
    names = [name for name in outcome.preview_columns if not name.startswith("_")]
    rows = [
        {
            name: "***" if name in masked else _cell(value)
            for name, value in zip(outcome.preview_columns, row, strict=True)
        }
        for row in outcome.preview
    ]
    while True:
        table = dg.MetadataValue.table(
            records=[dg.TableRecord({name: row[name] for name in names}) for row in rows],
            schema=dg.TableSchema(columns=[dg.TableColumn(name) for name in names]),
        )
        if len(serialize_value(table)) <= most_bytes or (len(names) <= 1 and len(rows) <= 1):
            return table
        if len(names) > 6:
            names.pop()
        elif len(rows) > 3:
            rows.pop()
        elif len(names) > 1:
            names.pop()
        else:
            rows.pop()


def _cell(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


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
