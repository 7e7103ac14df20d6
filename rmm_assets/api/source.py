"""A connection's resource to a dlt source whose rows are proven complete before dlt sees the first one.

dlt's `rest_api` source takes ready-made resources beside declared ones: ours are read by `paging` and `completeness`,
landed as Arrow tables, and stand in a `rest_api` source like any other. The request is described by dlt's own words and
resolved by dlt's own functions: defaults, placeholders, parents, incremental ranges.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dlt
import pyarrow as pa
from dlt.common.configuration.container import Container
from dlt.common.storages.load_package import LoadPackageStateInjectableContext
from dlt.extract.incremental import Incremental
from dlt.extract.resource import DltResource
from dlt.extract.source import DltSource
from dlt.sources.rest_api import rest_api_source
from dlt.sources.rest_api.config_setup import (
    IncrementalParam,
    build_resource_dependency_graph,
    expand_placeholders,
    process_parent_data_item,
    setup_incremental_object,
)

from rmm_assets.api.completeness import Collector, IncompleteError, MemoryCollector, Report, read_complete
from rmm_assets.api.paging import Endpoint, Pager
from rmm_assets.connection_file import Connection, Resource
from rmm_assets.warehouse.pipeline import ABSENT_SINCE, LOAD_ID
from rmm_assets.warehouse.records import RecordSpool
from rmm_assets.warehouse.rows import Page, RowShape
from rmm_assets.warehouse.spool import Spool

REJECTED_SUFFIX = "_rejected"

# Where no real address is known yet (the embedded RMM starts with the run), dlt still wants one to describe the source.
_NO_ADDRESS = "http://127.0.0.1"


@dataclass
class Reading:
    """What reading one resource in one run needs, and what it found.

    Attributes:
        pager: Open for the run.
        folder: For pages on their way; emptied by the caller.
        before_publishing: Called with the report when the read is complete; raises to publish nothing.
        report: Filled in while reading.
        rejected: Rows that cannot land in the table.
        changed_types: By column, the type it had and the type that came.
    """

    pager: Pager
    folder: Path
    before_publishing: Callable[[Report], None]
    report: Report
    log: logging.Logger
    rejected: int = 0
    changed_types: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def source_name(connection: Connection, resource: Resource) -> str:
    """Name of a resource's dlt source, schema and pipeline: one each, so that none can hurt another."""
    return f"{connection.name}__{resource.table}"


def build_source(connection: Connection, resource: Resource, reading: Reading | None = None) -> DltSource:
    """The `rest_api` source of one resource.

    Args:
        reading: The run it is read in; without one the source shows its shape and cannot be read.
    """
    config = connection.rest_api_config()
    config["client"].setdefault("base_url", _NO_ADDRESS)
    ours = _dlt_resource(connection, resource, reading)
    client = {key: value for key, value in config["client"].items() if key in ("base_url", "headers")}
    return rest_api_source({"client": client, "resources": [ours]}, name=source_name(connection, resource))  # type: ignore[typeddict-item]


def uses_arrow(resource: Resource) -> bool:
    """Whether rows land as Arrow tables; what only dlt's own normalizer does goes there: history, incremental ranges, child
    tables.
    """
    special = resource.history or resource.strategy == "scd2" or resource.child_tables or is_incremental(resource)
    return resource.normalizer == "arrow" and not special


def is_incremental(resource: Resource) -> bool:
    """Whether a run reads only what changed."""
    params = resource.endpoint.params.values()
    return resource.endpoint.incremental is not None or any(
        isinstance(value, Mapping) and value.get("type") == "incremental" for value in params
    )


def marks_absences(resource: Resource) -> bool:
    """Whether the table tells rows that are gone at the source: only a full read that merges can."""
    return (
        resource.absent == "mark"
        and resource.disposition == "merge"
        and bool(resource.keys)
        and not resource.history
        and not is_incremental(resource)
    )


def _dlt_resource(connection: Connection, resource: Resource, reading: Reading | None) -> DltResource:
    hints = resource.as_dlt()
    for key in ("endpoint", "include_from_parent", "processing_steps"):
        hints.pop(key, None)
    if resource.disposition == "merge" and resource.strategy is None and not resource.merge_key:
        # Keys are unique by the time rows land, which is what upsert asks for and delete-insert pays to establish.
        strategy = "upsert" if uses_arrow(resource) else "delete-insert"
        hints["write_disposition"] = {**_as_mapping(hints.get("write_disposition")), "disposition": "merge",
                                      "strategy": strategy}  # fmt: skip
    hints.setdefault("write_disposition", resource.disposition)
    if not resource.child_tables:
        hints.setdefault("max_table_nesting", 0 if not uses_arrow(resource) else None)
    if uses_arrow(resource):
        hints.setdefault("file_format", "parquet")
        columns = dict(hints.get("columns") or {})
        if marks_absences(resource):
            columns[ABSENT_SINCE] = {"data_type": "timestamp", "nullable": True}
        hints["columns"] = columns
    hints = {key: value for key, value in hints.items() if value is not None}
    plan = _plan(connection, resource)

    def rows() -> Iterator[Any]:
        assert reading is not None, "a source that only shows its shape was read"
        yield from _rows(resource, plan, reading, None)

    # dlt finds an incremental range by the default of an argument.
    def rows_in_range(cursor: Incremental[Any] = plan.incremental) -> Iterator[Any]:  # type: ignore[assignment]
        assert reading is not None, "a source that only shows its shape was read"
        yield from _rows(resource, plan, reading, cursor)

    return dlt.resource(rows if plan.incremental is None else rows_in_range, **hints)()


def _as_mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


@dataclass(frozen=True)
class _Plan:
    """A resource's requests as dlt resolved them: its own, and its parent's where it has one."""

    endpoint: Endpoint
    parent: Endpoint | None
    resolved_params: list[Any]
    include_from_parent: list[str]
    incremental: Incremental[Any] | None
    incremental_param: IncrementalParam | None


def _plan(connection: Connection, resource: Resource) -> _Plan:
    config = connection.rest_api_config()
    _, endpoints, resolved = build_resource_dependency_graph({}, config["resources"])
    found: Any = endpoints[resource.name]
    params = dict(found["endpoint"].get("params") or {})
    incremental, param, _ = setup_incremental_object(params, found["endpoint"].get("incremental"))
    if param is not None:
        params.pop(str(param.start), None)
    resolved_params = resolved[resource.name] or []
    for bound in resolved_params:
        params.pop(bound.param_name, None)
    parent = None
    if resolved_params:
        name = resolved_params[0].resolve_config["resource"]
        above: Any = endpoints[name]
        parent = _endpoint(connection.resource(name), above["endpoint"], dict(above["endpoint"].get("params") or {}))
    return _Plan(
        endpoint=_endpoint(resource, found["endpoint"], params),
        parent=parent,
        resolved_params=resolved_params,
        include_from_parent=list(found.get("include_from_parent") or []),
        incremental=incremental,
        incremental_param=param,
    )


def _endpoint(resource: Resource, config: Mapping[str, Any], params: dict[str, Any]) -> Endpoint:
    paginator = resource.endpoint.paginator
    assert paginator is not None, "a paginator left to guessing is refused at load"
    return Endpoint(
        name=resource.name,
        path=config["path"],
        paginator=paginator.model_dump(),
        method=config.get("method", "GET"),
        params=params,
        headers=dict(config.get("headers") or {}),
        json=config.get("json"),
        data=config.get("data"),
        data_selector=config.get("data_selector"),
        total_path=resource.total_path,
        ignore=tuple(config.get("response_actions") or ()),
        shape=row_shape(resource, {}),
    )


def _rows(
    resource: Resource, plan: _Plan, reading: Reading, incremental: Incremental[Any] | None
) -> Iterator[Any]:
    """Read until proven complete, then hand on what landed on disk meanwhile."""
    shape = row_shape(resource, _known_columns(resource.table))
    spool = (Spool if uses_arrow(resource) else RecordSpool)(shape, reading.folder)
    endpoint = replace(_with_range(plan, incremental), shape=shape)
    try:
        if plan.parent is None:
            _read(resource, endpoint, reading, spool)
        else:
            _read_children(resource, plan, endpoint, reading, spool, incremental)
    except IncompleteError as error:
        if resource.on_incomplete == "fail":
            raise
        reading.log.warning("%s; landing what came, because on_incomplete is warn", error)
    reading.before_publishing(reading.report)
    reading.rejected = spool.rejected_rows
    reading.changed_types = spool.changed_types()
    load_id = Container()[LoadPackageStateInjectableContext].load_id
    if isinstance(spool, RecordSpool):
        yield from spool.records()
    else:
        dlt.current.resource().apply_hints(columns=spool.columns())
        for table in spool.tables():
            yield _stamped(table, load_id, marks_absences(resource))
    hints = dlt.mark.make_hints(
        table_name=resource.table + REJECTED_SUFFIX, write_disposition="append", primary_key=(), columns={}
    )
    for rejected in spool.rejected():
        yield dlt.mark.with_hints(_rejects(rejected, load_id), hints, create_table_variant=True)


def row_shape(resource: Resource, known: Mapping[str, Mapping[str, Any]]) -> RowShape:
    """What the connection file says of a table's rows, and what the table says itself."""
    columns = resource.as_dlt().get("columns") or {}
    return RowShape(
        table=resource.table,
        primary_key=resource.keys,
        columns=columns,
        max_table_nesting=resource.max_table_nesting,
        known=known,
    )


def _read(resource: Resource, endpoint: Endpoint, reading: Reading, collector: Collector) -> None:
    read_complete(
        reading.pager, endpoint, collector, reading.report,
        unique=bool(resource.keys), verify=resource.verify, log=reading.log,
    )  # fmt: skip


def _read_children(
    resource: Resource, plan: _Plan, endpoint: Endpoint, reading: Reading, spool: Spool | RecordSpool,
    incremental: Incremental[Any] | None,
) -> None:  # fmt: skip
    """Each parent row's requests, several parents at once, each read proven complete by itself."""
    assert plan.parent is not None
    report = reading.report

    def read_one(parent_row: Mapping[str, Any]) -> tuple[Report, MemoryCollector, dict[str, Any]]:
        filled = process_parent_data_item(
            path=endpoint.path, item=dict(parent_row), resolved_params=plan.resolved_params,
            headers=dict(endpoint.headers), params=dict(endpoint.params), request_json=endpoint.json,
            request_data=endpoint.data, include_from_parent=plan.include_from_parent,
            incremental=incremental,
        )  # fmt: skip
        mine = replace(
            endpoint, path=filled.path, headers=filled.headers or {}, params=filled.params or {}, json=filled.json,
            data=filled.data,
        )  # fmt: skip
        collector, own = MemoryCollector(endpoint.shape), Report(resource.name)
        read_complete(reading.pager, mine, collector, own, unique=bool(resource.keys), verify=resource.verify,
                      log=reading.log)  # fmt: skip
        return own, collector, filled.parent_record

    parents = MemoryCollector(plan.parent.shape)
    read_complete(reading.pager, plan.parent, parents, Report(plan.parent.name), log=reading.log)
    rows = [row for page in parents.pages for row in page.objects()]
    report.complete = True
    report.reason = f"every one of {len(rows)} {plan.parent.name} was read to the end"
    # Parents are walked by workers of their own: those of the pager are busy with pages.
    with ThreadPoolExecutor(max_workers=reading.pager.width, thread_name_prefix="rmm-parent") as workers:
        for own, collector, parent_record in workers.map(read_one, rows):
            for page in collector.pages:
                spool.add(_with_parent(page, parent_record) if parent_record else page)
            _add_up(report, own)
    report.rows, report.distinct = spool.rows, spool.distinct
    report.duplicates = spool.rows - spool.distinct - spool.keyless


def _with_parent(page: Page, parent_record: Mapping[str, Any]) -> Page:
    """The page with fields of the parent in each row."""
    rows = [{**row, **parent_record} if isinstance(row, dict) else row for row in page.objects()]
    return Page(len(rows), None, page.size, None, b"", None, rows)


def _add_up(report: Report, own: Report) -> None:
    report.pages += own.pages
    report.passes = max(report.passes, own.passes)
    report.partial |= own.partial
    report.warnings += own.warnings
    if own.last_total is not None:
        report.first_total = (report.first_total or 0) + (own.first_total or 0)
        report.last_total = (report.last_total or 0) + own.last_total


def _with_range(plan: _Plan, incremental: Incremental[Any] | None) -> Endpoint:
    """The endpoint with the range to read filled in, as dlt fills it in."""
    endpoint = plan.endpoint
    if incremental is None:
        if plan.parent is not None:
            return endpoint
        return replace(
            endpoint, path=expand_placeholders(endpoint.path, {}), params=expand_placeholders(endpoint.params, {}),
            json=expand_placeholders(endpoint.json, {}, preserve_value_type=True),
        )  # fmt: skip
    params = dict(endpoint.params)
    if plan.incremental_param is not None:
        if plan.incremental_param.start:
            params[plan.incremental_param.start] = incremental.last_value
        if plan.incremental_param.end:
            params[plan.incremental_param.end] = incremental.end_value
    if plan.parent is not None:
        return replace(endpoint, params=params)
    values = {"incremental": incremental}
    return replace(
        endpoint, path=expand_placeholders(endpoint.path, values), params=expand_placeholders(params, values),
        headers=expand_placeholders(endpoint.headers, values),
        json=expand_placeholders(endpoint.json, values, preserve_value_type=True),
        data=expand_placeholders(endpoint.data, values),
    )  # fmt: skip


def _known_columns(table: str) -> Mapping[str, Mapping[str, Any]]:
    """The table's columns as the destination's schema, restored before the read, has them."""
    pipeline = dlt.current.pipeline()
    if not pipeline.default_schema_name:
        return {}
    found: Any = pipeline.default_schema.tables.get(table)
    return dict(found["columns"]) if found else {}


def _stamped(table: pa.Table, load_id: str, absences: bool) -> pa.Table:
    """The table with its load id, and with an empty absence mark that clears the one in the destination."""
    constant = pa.DictionaryArray.from_arrays(pa.array([0] * table.num_rows, pa.int8()), pa.array([load_id], pa.string()))
    table = table.append_column(pa.field(LOAD_ID, pa.string(), nullable=False), constant.cast(pa.string()))
    if absences:
        table = table.append_column(ABSENT_SINCE, pa.nulls(table.num_rows, pa.timestamp("us", tz="UTC")))
    return table


def _rejects(rejected: pa.Table, load_id: str) -> pa.Table:
    now = pa.scalar(dlt.common.pendulum.now("UTC"), pa.timestamp("us", tz="UTC"))
    rejected = rejected.append_column(LOAD_ID, pa.array([load_id] * rejected.num_rows, pa.string()))
    return rejected.append_column("rejected_at", pa.array([now.as_py()] * rejected.num_rows, now.type))

