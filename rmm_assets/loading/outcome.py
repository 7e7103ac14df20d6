"""Defines the outcome of one resource's run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rmm_assets.http.transport import Traffic
from rmm_assets.reading.report import Report
from rmm_assets.tables.absences import Absences


@dataclass
class TenantOutcome:
    """The outcome of one resource's run for one tenant.

    Attributes:
        error: Why its rows were not loaded, redacted; empty if they were.
        seconds: Time of its read.
        rows_received: Number of different rows that the API sent.
        rows_left_out: Number of rows that the API sent but that were outside an incremental range.
        last_full_read: When the last complete read of everything started (UTC), of an incremental resource with `full_every`.
        rows_new: Number of rows that were not in the table before.
        rows_absent: Number of rows that are gone at the source.
        held_back: Why these stay as they are; empty if they do not.
        row_count: Number of its rows in the table now; None if they were not loaded.
    """

    tenant: str
    report: Report
    traffic: Traffic
    error: str = ""
    seconds: float = 0.0
    rows_received: int = 0
    rows_left_out: int = 0
    last_full_read: datetime | None = None
    rows_written: int = 0
    rows_new: int = 0
    rows_absent: int = 0
    held_back: str = ""
    row_count: int | None = None


@dataclass
class Outcome:
    """The outcome of one resource's run, for people and sensors.

    Attributes:
        rows_loaded: Number of rows that this run received and that the table holds as received, without rejected ones.
        rows_written: Number of rows that were written for it: those that are new, have changed or are back.
        rows_new: Number of rows that were not in the table before.
        rows_changed: Number of rows whose content differs or that had been marked absent.
        last_full_read: When the last complete read of everything started (UTC), of an incremental resource with `full_every`.
        used_values: A digest of the values that child resources use, if the table has exactly the rows of a complete read.
        load_id: dlt's id of the load, `_dlt_load_id` of the rows that it wrote.
        rows_left_out: Number of rows that the API sent but that were outside an incremental range.
        row_count: Number of rows in the table now.
        preview: Up to ten rows, with values in the order of `preview_columns`.
        seconds: Time from the first request to the finished table.
        table_name: `database.dataset.table`.
        tenants: The outcome for each tenant of the run, failed ones included; empty in a connection without tenants.
    """

    report: Report
    traffic: Traffic
    rows_loaded: int = 0
    rows_written: int = 0
    rows_rejected: int = 0
    rows_new: int = 0
    rows_changed: int = 0
    rows_left_out: int = 0
    row_count: int = 0
    seconds: float = 0.0
    load_id: str = ""
    last_full_read: datetime | None = None
    used_values: str = ""
    table_name: str = ""
    absences: Absences = field(default_factory=Absences)
    changed_types: dict[str, tuple[str, str]] = field(default_factory=dict)
    preview_columns: tuple[str, ...] = ()
    preview: tuple[tuple[Any, ...], ...] = ()
    tenants: Sequence[TenantOutcome] = ()
