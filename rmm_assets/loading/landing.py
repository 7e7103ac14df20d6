"""Describes what rows need to land, and what was found about them meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import dlt
import pyarrow as pa

from rmm_assets.reading.report import Report
from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.records import RecordSpool
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.spool import Spool
from rmm_assets.tables.differences import Differences, Spared
from rmm_assets.tables.existing import Existing
from rmm_assets.tables.tenants import GoneByTenant


class Publishing(NamedTuple):
    """How the rows of a read are written.

    Attributes:
        into_empty: Whether the table is empty and nobody else can write to it.
        wanted: A mask of the rows to write, in landing order; None for all.
        marked: Rows of the table to write once more, as they are now marked absent.
        scope: The SQL condition for rows that the load may delete or end; empty for those that its write disposition says.
        file_format: How Arrow tables are handed to the destination, if not as the plan says.
    """

    into_empty: bool
    wanted: Mask | None = None
    marked: Sequence[pa.Table] = ()
    scope: str = ""
    file_format: str | None = None


@dataclass
class Comparison:
    """How a finished read differs from its table.

    Attributes:
        differences: The differences; None if the two were not compared.
        spared: The parents whose children may be missing from the read.
        unproven: Why it is unknown which rows are gone; empty if it is known.
        rows_before: Number of rows of each tenant that was read, in a connection with tenants.
        gone_by_tenant: Which rows of these tenants are gone.
    """

    differences: Differences | None = None
    spared: Spared = field(default_factory=Spared)
    unproven: str = ""
    rows_before: Mapping[str, int] = field(default_factory=dict)
    gone_by_tenant: GoneByTenant | None = None


@dataclass(kw_only=True)
class Landing:
    """What rows need to land, and what was found meanwhile.

    Attributes:
        pipeline: Loads the rows.
        folder: Folder for rows before they land; the caller empties it.
        before_publishing: Called with rows that may land and their shape; raises to publish nothing.
        report: What is known of the read.
        log: Receives progress and warnings.
        existing: What the destination has that its dlt schema does not say.
        full: Whether the read is of everything, not of an incremental range.
        last_full_read: When the last complete read of everything started, if some reads are of a range.
        comparison: How what was read differs from the table.
        read_at: When the read started (UTC).
        load_id: Id of the load, once it is known.
        rejected: Number of rows that cannot land.
        used_values: A digest of the values that child resources use; empty if there is none.
        admitted: A mask of the rows in the incremental range, in landing order; None if all are.
        left_out: Number of rows that the API sent but that were outside an incremental range.
        changed_types: For each column, the type it had and the type received.
    """

    pipeline: dlt.Pipeline
    folder: Path
    before_publishing: Callable[[Spool | RecordSpool, RowShape], Publishing]
    report: Report
    log: logging.Logger
    existing: Existing = field(default_factory=Existing)
    full: bool = True
    last_full_read: datetime | None = None
    comparison: Comparison = field(default_factory=Comparison)
    read_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    load_id: str = ""
    rejected: int = 0
    used_values: str = ""
    admitted: Mask | None = None
    left_out: int = 0
    changed_types: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def warn(self, text: str) -> None:
        """Adds a warning about a read that lands nevertheless."""
        self.report.warnings.append(text)
        self.log.warning("%s: %s", self.report.resource, text)
