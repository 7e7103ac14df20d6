"""Says what a run of one resource did, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rmm_assets.http.transport import Traffic
from rmm_assets.reading.report import Report
from rmm_assets.tables.absences import Absences


@dataclass
class Outcome:
    """What a run of one resource did, in numbers for people and sensors.

    Attributes:
        rows_loaded: Rows that this run brought into the table, rejects not included.
        rows_new: Rows that were not in the table before.
        rows_changed: Rows that were, with another content, or marked absent.
        rows_left_out: Rows that the API sent and that an incremental range did not let in.
        row_count: Rows in the table now.
        preview: Up to ten rows, in the order of `preview_columns`.
        seconds: From the first request to the settled table.
        table_name: `database.dataset.table`.
    """

    report: Report
    traffic: Traffic
    rows_loaded: int = 0
    rows_rejected: int = 0
    rows_new: int = 0
    rows_changed: int = 0
    rows_left_out: int = 0
    row_count: int = 0
    seconds: float = 0.0
    load_id: str = ""
    table_name: str = ""
    absences: Absences = field(default_factory=Absences)
    changed_types: dict[str, tuple[str, str]] = field(default_factory=dict)
    preview_columns: tuple[str, ...] = ()
    preview: tuple[tuple[Any, ...], ...] = ()
