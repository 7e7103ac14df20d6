"""Decides once how a resource is read and landed; all later steps use the decision.

A plan is made from the connection file alone, without a run, a secret or a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

from rmm_assets.config import Connection, Resource
from rmm_assets.config.destinations import changes_rows, merge_strategies, merges_at_once, stores_nul
from rmm_assets.config.names import normalized_column
from rmm_assets.errors import IncompleteError, SuspiciousLossError
from rmm_assets.loading.cursor import Cursor
from rmm_assets.loading.dlt_internals import VALIDITY_COLUMNS
from rmm_assets.reading.report import Report
from rmm_assets.rows.contents import CONTENT_HASH
from rmm_assets.rows.shape import Nesting, RowShape
from rmm_assets.rows.spool import ROOT_ID, ROW_ID
from rmm_assets.rows.stamps import Stamp, Unit
from rmm_assets.tables.existing import INSTEAD_OF_PARQUET
from rmm_assets.tables.table import ABSENT_SINCE

REJECTED_SUFFIX = "_rejected"
# Marks the column of tenants in dlt's schema, so that later loads know it from a column of the API.
TENANT = "x-rmm-tenant"

_FIELD = r"[A-Za-z_]\w*"

Baseline = Literal["none", "open versions", "rows present", "last read"]


class Validity(NamedTuple):
    """The validity columns of a table of versions.

    Attributes:
        valid_to: The column with the end of a version's validity.
        open_end: Its value while the version is valid; None means null.
    """

    valid_from: str
    valid_to: str
    open_end: str | None


@dataclass(frozen=True)
class LoadPlan:
    """How one resource is read and landed.

    Attributes:
        connection: Name of the connection.
        resource: The resource in the connection file.
        source_name: Name of the resource's own dlt source, schema and pipeline, so that resources cannot affect each other.
        table: Name of the table.
        rejected_table: Name of the table of rejected rows.
        key: The primary key's columns in the table.
        arrow: Whether rows land as Arrow tables; else they go through dlt's own normalizer.
        cursor: How it is read incrementally; None if every run reads everything.
        full_seconds: Seconds after which an incremental resource is read in full again; None if never.
        appends_into_empty: Whether a merge into an empty table appends, as every key occurs once and meets no other.
        absences: What happens to rows missing from a complete full read.
        removes_orphans: Whether children whose row is gone are deleted after a merge. dlt's normalizer may have given the
            rows of an earlier load other ids, by which an upsert finds children.
        changes_rows: Whether SQL at the destination can update and delete rows, which it cannot in files.
        stores_nul: Whether texts at the destination may contain the character NUL.
        compares: Whether a read is compared with the table, in which each row has a hash of its content.
        writes_changes: Whether only rows that are new, changed or back are written.
        history: The validity columns if every version of a row is kept; else None.
        child_tables: Whether lists become child tables.
        row_ids: How rows get ids if the table has ids.
        loss_baseline: The rows with which this read is compared to notice a sudden loss.
        deletes_rows: Whether a load deletes or ends rows that it lacks.
        tenants: The column of tenants; None without tenants.
        scope: The column of tenants, if it must name those whose rows these are; else None.
        compared: The columns of a compound merge key by which a load finds the rows that it deletes or ends; else empty.
        read_at: The column with the time of the read; None if there is none.
        hints: Arguments of `dlt.resource`.
    """

    connection: str
    resource: Resource
    source_name: str
    table: str
    rejected_table: str
    key: tuple[str, ...]
    arrow: bool
    cursor: Cursor | None
    full_seconds: int | None
    appends_into_empty: bool
    absences: Literal["keep", "mark", "remove"]
    removes_orphans: bool
    changes_rows: bool
    stores_nul: bool
    compares: bool
    writes_changes: bool
    history: Validity | None
    child_tables: bool
    row_ids: Literal["key", "random"]
    loss_baseline: Baseline
    deletes_rows: bool
    tenants: str | None
    scope: str | None
    compared: tuple[str, ...]
    read_at: str | None
    hints: Mapping[str, Any] = field(compare=False)

    @property
    def marks_absences(self) -> bool:
        """Whether the table has a column with the time since which a row is gone at the source."""
        return self.absences != "keep"

    @property
    def loses_rows(self) -> bool:
        """Whether a load deletes or ends rows because they were not received."""
        return (
            self.deletes_rows or self.resource.strategy == "cdc" or (self.cursor is None and self.history is not None)
        )

    def reads_everything(self, now: datetime, last_full_read: datetime | None) -> bool:
        """Returns whether `full_every` is due: the last complete read of everything is long ago, or there was none."""
        if self.full_seconds is None:
            return False
        return last_full_read is None or (now - last_full_read).total_seconds() >= self.full_seconds

    def refuse_loss(self, now: int, before: int) -> None:
        """Refuses a read with far fewer rows than the last one.

        Raises:
            SuspiciousLossError: More than `max_absent_share` of the rows of the last read are gone.
        """
        resource = self.resource
        if before and now < before * (1 - resource.max_absent_share):
            raise SuspiciousLossError(
                f"{resource.name}: the API sent {now} rows but the last read had {before}: more than "
                f"{resource.max_absent_share:.0%} are gone. This also happens if the key has lost permissions. If the rows "
                "are really gone, raise max_absent_share for one run"
            )

    def refuse_unproven_ends(self, report: Report) -> None:
        """Refuses a read that is not complete, if history would end every row that it lacks.

        Raises:
            IncompleteError: It is not complete, whatever `on_incomplete` says.
        """
        if self.history is not None and self.cursor is None and (report.partial or not report.complete):
            raise IncompleteError(
                f"{self.resource.name}: {report.reason}; history would end every row missing from this read"
            )


def plan_load(connection: Connection, resource: Resource) -> LoadPlan:
    """Returns how a resource is read and landed."""
    versions, cursor = resource.strategy == "scd2", _cursor(resource)
    full_seconds = resource.incremental.full_seconds if resource.incremental is not None else None
    never_full = cursor is not None and full_seconds is None
    arrow = _lands_as_arrow(resource, cursor)
    kind = connection.destination.type
    strategy, changes = _strategy(resource, arrow, kind), changes_rows(kind)
    # Without SQL, rows are marked by merging them once more, as Arrow.
    marks = changes or (arrow and resource.absent == "mark")
    absences = resource.absent if marks and _absences_show(resource, never_full=never_full) else "keep"
    deletes = _deletes_rows(resource, cursor)
    tenants = connection.tenants.column if connection.tenants is not None else None
    scope = tenants if deletes else None
    compares = resource.disposition == "merge" and bool(resource.keys) and not versions
    return LoadPlan(
        connection=connection.name,
        resource=resource,
        source_name=f"{connection.name}__{resource.table}",
        table=resource.table,
        rejected_table=resource.table + REJECTED_SUFFIX,
        key=tuple(normalized_column(key) for key in resource.keys),
        arrow=arrow,
        cursor=cursor,
        full_seconds=full_seconds,
        appends_into_empty=strategy == "upsert" and not resource.child_tables,
        absences=absences,
        removes_orphans=arrow and resource.child_tables and resource.disposition == "merge",
        changes_rows=changes,
        stores_nul=stores_nul(kind),
        compares=compares,
        writes_changes=compares and not deletes and _may_skip_rows(resource, kind),
        history=_validity(resource) if versions else None,
        child_tables=resource.child_tables,
        row_ids="random" if resource.disposition == "append" or not resource.keys else "key",
        loss_baseline=_loss_baseline(resource, cursor, never_full=never_full),
        deletes_rows=deletes,
        tenants=tenants,
        scope=scope,
        compared=_compared(resource, cursor),
        read_at=None if resource.read_at_column is None else normalized_column(resource.read_at_column),
        hints=_hints(
            resource,
            arrow,
            strategy,
            cursor,
            marks=absences != "keep",
            hashes=compares,
            file_format=_file_format(connection),
            tenants=tenants,
            scoped=scope is not None,
        ),
    )


def shape_of(
    plan: LoadPlan,
    known: Mapping[str, Mapping[str, Any]] | None = None,
    nested: Mapping[str, Mapping[str, Any]] | None = None,
    max_identifier_length: int | None = None,
    decimal_digits: int | None = None,
) -> RowShape:
    """Describes a resource's rows by the connection file and the table at the destination.

    Args:
        plan: How the resource is landed.
        known: The columns of the table at the destination.
        nested: The schemas of its child tables there.
        max_identifier_length: Longest name that the destination accepts; None means no limit.
        decimal_digits: How many digits of a decimal the destination keeps; None if all that its type has.
    """
    resource, known, nested = plan.resource, known or {}, nested or {}
    nesting: Nesting | None = None
    if plan.child_tables and plan.arrow:
        # If child rows ever had the id of their root, dlt requires it from then on.
        rooted = (
            resource.disposition == "merge"
            or plan.scope is not None
            or any(ROOT_ID in child["columns"] for child in nested.values())
        )
        nesting = Nesting(nested, rooted)
    return RowShape(
        table=plan.table,
        primary_key=resource.keys,
        columns=_columns(resource, plan.tenants),
        stamps=resource.stamps,
        added=frozenset() if plan.read_at is None else frozenset({plan.read_at}),
        max_table_nesting=resource.max_table_nesting,
        known=known,
        max_identifier_length=max_identifier_length,
        decimal_digits=decimal_digits,
        row_ids=plan.row_ids if nesting is not None or ROW_ID in known else None,
        nesting=nesting,
        raw_paths=plan.cursor.columns if plan.cursor is not None and plan.arrow else (),
        keeps_repeats=_dedup_sorts(resource),
        hashes_contents=plan.compares,
    )


def _deletes_rows(resource: Resource, cursor: Cursor | None) -> bool:
    """Returns whether a load deletes or ends rows that it lacks; a merge key limits that to rows that share it."""
    said = resource.write_disposition
    if resource.disposition == "replace" or (said is not None and said.destination_scope is not None):
        return True
    ends = resource.strategy == "cdc" or (resource.strategy == "scd2" and cursor is None)
    return ends and not resource.merge_key


def _compared(resource: Resource, cursor: Cursor | None) -> tuple[str, ...]:
    said = resource.write_disposition
    if resource.strategy not in ("scd2", "cdc") or (said is not None and said.destination_scope is not None):
        return ()
    names = resource.merge_key or (resource.keys if resource.strategy == "scd2" and cursor is not None else ())
    return tuple(map(normalized_column, names)) if len(names) > 1 else ()


def _columns(resource: Resource, tenants: str | None) -> Mapping[str, Mapping[str, Any]]:
    """Returns the column hints. Only a merge deletes rows flagged as deleted; otherwise they land like any other row."""
    columns: Mapping[str, Mapping[str, Any]] = resource.as_dlt().get("columns") or {}
    if tenants is not None:
        columns = {**columns, tenants: {**columns[tenants], TENANT: True}}
    if resource.disposition == "merge":
        return columns
    return {name: {key: value for key, value in hint.items() if key != "hard_delete"} for name, hint in columns.items()}


def _cursor(resource: Resource) -> Cursor | None:
    said: Mapping[str, Any] | None = None
    if resource.endpoint.incremental is not None:
        said = resource.endpoint.incremental.model_dump()
    for name, value in resource.endpoint.params.items() if said is None else ():
        if isinstance(value, Mapping) and value.get("type") == "incremental":
            said = {**value, "start_param": name}
    if said is None:
        return None
    path, given = str(said.get("cursor_path", "")), said.get("primary_key")
    names = list(resource.keys) if given is None else [given] if isinstance(given, str) else list(given)
    key = None if given is None and not names else tuple(map(str, names))
    plain = re.fullmatch(rf"{_FIELD}(\.{_FIELD})*", path) and all(re.fullmatch(_FIELD, name) for name in key or ())
    return Cursor(
        path=path,
        # Without a key, the whole row identifies it.
        columns=(tuple(path.split(".")), *((name,) for name in key)) if plain and key is not None else (),
        key=key,
        initial=said.get("initial_value"),
        end=said.get("end_value"),
        start_param=said.get("start_param"),
        end_param=said.get("end_param"),
        newest="min" if said.get("last_value_func") == "min" else "max",
        lag=said.get("lag"),
        missing=said.get("on_cursor_value_missing") or "raise",
        open_start=said.get("range_start") == "open",
        closed_end=said.get("range_end") == "closed",
        keeps_all=resource.disposition == "merge",
        stamp=resource.stamp_of(path),
        sent_as=_sent_as(said),
    )


def _sent_as(said: Mapping[str, Any]) -> Stamp | None:
    """Returns how the timestamps in requests are written; None if they are like the field's."""
    name, zone = said.get("start_format"), said.get("start_timezone") or "UTC"
    if name is None:
        return None
    units: dict[str, Unit] = {"epoch_s": "s", "epoch_ms": "ms"}
    if name in units:
        return Stamp(unit=units[name])
    return Stamp(format=None if name == "iso" else str(name), zone=zone)


def _lands_as_arrow(resource: Resource, cursor: Cursor | None) -> bool:
    # Only dlt's own normalizer supports history, cursors that only a JSONPath finds, a choice among rows that share a key, and
    # child tables with a schema contract or hints of their own.
    if resource.normalizer != "arrow" or resource.strategy == "scd2" or (cursor is not None and not cursor.columns):
        return False
    if _dedup_sorts(resource):
        return False
    ruled = resource.schema_contract is not None or resource.nested_hints is not None
    return not (resource.child_tables and ruled)


def _strategy(resource: Resource, arrow: bool, kind: str) -> str | None:
    """Returns the merge strategy if the file does not set one; else None.

    Args:
        kind: dlt's name of the destination.
    """
    if resource.disposition != "merge" or resource.strategy is not None or resource.merge_key:
        return None
    # Keys are unique when rows land, which upsert requires and delete-insert spends time on. But dlt's upsert inserts a row
    # flagged as deleted and deletes it only at the next load.
    deletes = any(column.hard_delete for column in resource.columns.values())
    first = "upsert" if arrow and not deletes else "delete-insert"
    known = merge_strategies(kind, resource.table_format)
    return next((strategy for strategy in (first, "delete-insert", "upsert") if strategy in known), first)


def _dedup_sorts(resource: Resource) -> bool:
    """Returns whether a column decides which of several rows with one key stays."""
    return any(column.dedup_sort for column in resource.columns.values())


def _absences_show(resource: Resource, *, never_full: bool) -> bool:
    """Returns whether rows can be marked absent: only a full read shows which, and a row that is back must be merged."""
    contract = resource.schema_contract
    return (
        resource.disposition == "merge"
        and bool(resource.keys)
        # Other strategies and filters leave out rows of a load.
        and resource.strategy in (None, "upsert", "delete-insert")
        and not (resource.write_disposition and resource.write_disposition.source_filter)
        and not never_full
        and not (contract is not None and "discard_row" in (contract.columns, contract.data_type))
    )


def _may_skip_rows(resource: Resource, kind: str) -> bool:
    """Returns whether rows that have not changed need not be merged.

    Args:
        kind: dlt's name of the destination.
    """
    # A merge key replaces all rows that share it, and a column picks among rows that share the primary key.
    if resource.merge_key or _dedup_sorts(resource):
        return False
    # Without transactions, a killed run may leave a row whose hash is new but whose children are old.
    return not resource.child_tables or merges_at_once(kind)


def _validity(resource: Resource) -> Validity:
    said = resource.write_disposition
    names = (said.validity_column_names if said else None) or VALIDITY_COLUMNS
    return Validity(
        normalized_column(names[0]), normalized_column(names[1]), said.active_record_timestamp if said else None
    )


def _loss_baseline(resource: Resource, cursor: Cursor | None, *, never_full: bool) -> Baseline:
    if never_full or resource.disposition == "append":
        return "none"
    if resource.strategy == "scd2":
        return "open versions"  # an unchanged row keeps the load id of its version
    return "last read" if resource.disposition == "merge" and cursor is None else "rows present"


def _named(hint: Mapping[str, Any]) -> dict[str, Any]:
    """Returns hints for a nested table whose columns have names, without which dlt fails (1.31.0)."""
    columns = hint.get("columns")
    if not isinstance(columns, Mapping):
        return dict(hint)
    return {**hint, "columns": {name: {"name": name, **column} for name, column in columns.items()}}


def _file_format(connection: Connection) -> str:
    """How Arrow tables are handed to the destination."""
    # Without the ADBC driver, dlt fills PostgreSQL by COPY with FORCE_NULL, which makes null of every empty text (1.31.0).
    if connection.destination.type == "postgres" and find_spec("adbc_driver_postgresql") is None:
        return INSTEAD_OF_PARQUET
    return "parquet"


def _hints(
    resource: Resource, arrow: bool, strategy: str | None, cursor: Cursor | None, *, marks: bool, hashes: bool,
    file_format: str, tenants: str | None, scoped: bool,
) -> dict[str, Any]:  # fmt: skip
    hints = {**resource.as_dlt(), "columns": _columns(resource, tenants) or None}
    for key in ("endpoint", "include_from_parent", "processing_steps"):
        hints.pop(key, None)
    if strategy is not None:
        said = hints.get("write_disposition")
        # Keys of Arrow's rows are unique when they land. MariaDB takes keys for repeated that share their first 1,024 bytes.
        unique = {"deduplicated": True} if arrow and strategy == "delete-insert" and resource.keys else {}
        hints["write_disposition"] = {
            **unique, **(said if isinstance(said, Mapping) else {}), "disposition": "merge", "strategy": strategy
        }  # fmt: skip
    if resource.nested_hints is not None:
        hints["nested_hints"] = {path: _named(hint) for path, hint in resource.nested_hints.items()}
    hints.setdefault("write_disposition", resource.disposition)
    if scoped and resource.disposition == "replace":
        # Keys are unique when rows land.
        hints["write_disposition"] = {"disposition": "merge", "strategy": "delete-insert", "deduplicated": True}
    if not resource.child_tables:
        hints.setdefault("max_table_nesting", None if arrow else 0)
    if arrow:
        hints.setdefault("file_format", file_format)
    own = {ABSENT_SINCE: "timestamp"} if marks else {}
    if resource.read_at_column is not None:
        own[normalized_column(resource.read_at_column)] = "timestamp"
    if hashes:
        own[CONTENT_HASH] = "bigint"
    for name, data_type in own.items():
        hints["columns"] = {**(hints.get("columns") or {}), name: {"data_type": data_type, "nullable": True}}
    if resource.strategy == "scd2" and cursor is not None:
        # Otherwise dlt ends every row that is not in the range.
        hints.setdefault("merge_key", list(resource.keys))
    return {key: value for key, value in hints.items() if value is not None}
