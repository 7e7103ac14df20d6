"""Builds the metadata of a materialization from a run's outcome: a contract that sensors and dashboards rely on.

The metadata is small: numbers and the column schema, but no paths and no job dumps. Every run has every key, even with
zero rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dagster as dg
from dlt.common.schema.typing import TTableSchemaColumns

from rmm_assets.config import Resource
from rmm_assets.config.names import normalized_column
from rmm_assets.loading.outcome import Outcome
from rmm_assets.orchestration.column_schema import COLUMN_SCHEMA, column_schema
from rmm_assets.orchestration.dagster_internals import short_column, stored_bytes
from rmm_assets.reading.report import Report

# A run's metadata as Dagster stores it, which the UI loads for every point of a plot. The numbers take 1,500 bytes and
# the columns, which are never truncated, some 75 each; the preview gets the rest.
MAX_BYTES = 8000


def materialization(outcome: Outcome, columns: TTableSchemaColumns, resource: Resource) -> dict[str, Any]:
    """Returns the metadata of a materialization.

    Args:
        columns: The table's columns in dlt's schema, after the load.
    """
    report, traffic = outcome.report, outcome.traffic
    metadata: dict[str, Any] = {
        "dagster/row_count": outcome.row_count,
        COLUMN_SCHEMA: column_schema(columns, resource),
        "dagster/table_name": outcome.table_name,
        "rows_loaded": outcome.rows_loaded,
        "rows_written": outcome.rows_written,
        "rows_new": outcome.rows_new,
        "rows_changed": outcome.rows_changed,
        "rows_left_out": outcome.rows_left_out,
        "rows_rejected": outcome.rows_rejected,
        "rows_absent": outcome.absences.gone,
        "absences_held_back": bool(outcome.absences.held_back),
        "rows_repeated": max(report.duplicates, 0),
        "parents": _parents(report),
        "pages": report.pages,
        "passes": report.passes,
        "requests": traffic.requests,
        "retries": traffic.retries,
        "complete": report.complete,
        "completeness": report.reason,
        "evidence": report.evidence.name.lower() if report.evidence is not None else "",
        "signals": list(report.signals),
        "changed_types": [f"{name}: {old} to {new}" for name, (old, new) in outcome.changed_types.items()],
        "load_id": outcome.load_id,
        "seconds": round(outcome.seconds, 3),
        "seconds_waiting": round(traffic.seconds_waiting, 3),
        "rows_per_second": round(report.rows / outcome.seconds, 1),
    }
    # Measured as Dagster stores it, with every value in an envelope.
    stored: Any = dg.AssetMaterialization("any", metadata=metadata).metadata
    room = MAX_BYTES - stored_bytes(stored) - len(', "preview": ')
    return {**metadata, "preview": _preview(outcome, resource, room)}


def _parents(report: Report) -> dict[str, Any]:
    """Returns how many parents were requested, missing and refused; empty without a parent. One key takes less space."""
    if not report.parents_from:
        return {}
    counts = {"requested": report.parents, "missing": report.parents_missing, "refused": report.parents_refused}
    return {**counts, "from": report.parents_from}


def _preview(outcome: Outcome, resource: Resource, most_bytes: int) -> dg.TableMetadataValue:
    """Returns a readable sample of rows, sensitive columns masked: as many columns and rows as fit."""
    masked = sensitive_columns(resource, outcome.preview_columns)
    names = [name for name in outcome.preview_columns if not name.startswith("_")]
    rows = [
        {
            name: "***" if name in masked and value is not None else _cell(value)
            for name, value in zip(outcome.preview_columns, row, strict=True)
        }
        for row in outcome.preview
    ]
    while True:
        table = dg.MetadataValue.table(
            records=[dg.TableRecord({name: row[name] for name in names}) for row in rows],
            schema=dg.TableSchema(columns=[short_column(name) for name in names]),
        )
        if not names or stored_bytes(table) <= most_bytes:
            return table
        # Ten rows of a few columns are more useful than one row of many.
        if len(names) > 3 or not rows:
            names.pop()
        else:
            rows.pop()


def sensitive_columns(resource: Resource, columns: Iterable[str]) -> set[str]:
    """Returns the columns that the file marks as sensitive; marking a nested object includes its fields."""
    marked = [normalized_column(name) for name, hints in resource.columns.items() if hints.sensitive]
    return {name for name in columns if any(name == mark or name.startswith(f"{mark}__") for mark in marked)}


def _cell(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    return shorten(str(value), 40)


def shorten(text: str, letters: int) -> str:
    """Truncates a text to the given number of characters."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"
