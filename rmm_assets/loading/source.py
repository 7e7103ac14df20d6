"""A connection's resource to a dlt source whose rows are proven complete before dlt sees the first one.

dlt's `rest_api` source takes ready-made resources beside declared ones: ours are read by `paging` and `completeness`,
landed as Arrow tables, and stand in a `rest_api` source like any other. The request is described by dlt's own words and
resolved by dlt's own functions: defaults, placeholders, parents, incremental ranges.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from types import SimpleNamespace
from typing import Any, Literal

import dlt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dlt.common.configuration.container import Container
from dlt.common.schema.utils import get_nested_tables
from dlt.common.storages.load_package import LoadPackageStateInjectableContext
from dlt.extract.incremental import Incremental
from dlt.extract.items import ResolvablePipeItem
from dlt.extract.resource import DltResource
from dlt.extract.source import DltSource
from dlt.sources.rest_api import rest_api_source
from dlt.sources.rest_api.config_setup import (
    IncrementalParam,
    build_resource_dependency_graph,
    expand_placeholders,
    make_parent_key_name,
    process_parent_data_item,
    setup_incremental_object,
)

from rmm_assets.config import Connection, Resource
from rmm_assets.errors import ChildTablesError, IncompleteError, SchemaContractError
from rmm_assets.reading.completeness import Collector, MemoryCollector, Report, read_complete
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.fetch import Pager
from rmm_assets.rows.decode import Page
from rmm_assets.rows.layout import Nesting, RowShape
from rmm_assets.rows.records import RecordSpool
from rmm_assets.rows.spool import ROOT_ID, ROW_ID, Spool
from rmm_assets.tables.absences import MOST_PRESENT, Present
from rmm_assets.tables.table import ABSENT_SINCE, LOAD_ID

REJECTED_SUFFIX = "_rejected"


# No field is named so.
_NUMBER = " number"
_FIELD = r"[A-Za-z_]\w*"

# Where no real address is known yet (the embedded RMM starts with the run), dlt still wants one to describe the source.
_NO_ADDRESS = "http://127.0.0.1"


@dataclass
class Reading:
    """What reading one resource in one run needs, and what it found.

    Attributes:
        pager: Open for the run.
        folder: For pages on their way; emptied by the caller.
        before_publishing: Called with the report when the read is complete; raises to publish nothing. Whether the
            table is empty, and nobody else can write to it meanwhile.
        report: Filled in while reading.
        rejected: Rows that cannot land in the table.
        rejected_keys: Those among them that have a primary key.
        changed_types: By column, the type it had and the type that came.
    """

    pager: Pager
    folder: Path
    before_publishing: Callable[[Report], bool]
    report: Report
    log: logging.Logger
    rejected: int = 0
    rejected_keys: Present = field(default_factory=lambda: Present((), ()))
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
    """Whether rows land as Arrow tables. What only dlt's own normalizer does goes there: history, incremental ranges that
    are not told by plain fields, and child tables that have a schema contract or hints of their own.
    """
    special = (
        resource.history or resource.strategy == "scd2" or (is_incremental(resource) and not range_paths(resource))
    )
    ruled = resource.schema_contract is not None or resource.nested_hints is not None
    return resource.normalizer == "arrow" and not special and not (resource.child_tables and ruled)


def is_incremental(resource: Resource) -> bool:
    """Whether a run reads only what changed."""
    return _range_config(resource) is not None


def _range_config(resource: Resource) -> Mapping[str, Any] | None:
    if resource.endpoint.incremental is not None:
        return resource.endpoint.incremental.model_dump()
    params = resource.endpoint.params.values()
    return next((value for value in params if isinstance(value, Mapping) and value.get("type") == "incremental"), None)


def range_paths(resource: Resource) -> tuple[tuple[str, ...], ...]:
    """Where in a row the fields are that an incremental range goes by: the cursor, then the key by which rows at the border
    are told apart. None where it is not incremental, or where only dlt finds them.
    """
    config = _range_config(resource) or {}
    key = config.get("primary_key")
    keys = tuple(resource.keys if key is None else [key] if isinstance(key, str) else key)
    cursor = str(config.get("cursor_path", ""))
    plain = re.fullmatch(rf"{_FIELD}(\.{_FIELD})*", cursor) and all(re.fullmatch(_FIELD, name) for name in keys)
    # Without a key, rows are told apart by all that they hold.
    return (tuple(cursor.split(".")), *((name,) for name in keys)) if plain and (keys or key is not None) else ()


def skips_unchanged(resource: Resource) -> bool:
    """Whether rows that did not change keep the load id that they have."""
    return resource.write_disposition is not None and bool(resource.write_disposition.skip_unchanged_rows)


def settles_absences(resource: Resource) -> bool:
    """Whether load ids tell rows that are gone at the source: only a full read that merges all of them can."""
    contract = resource.schema_contract
    return (
        resource.absent != "keep"
        and resource.disposition == "merge"
        and bool(resource.keys)
        and resource.strategy != "scd2"
        and not is_incremental(resource)
        and not skips_unchanged(resource)
        # Rows that the contract keeps out are not gone.
        and not (contract is not None and "discard_row" in (contract.columns, contract.data_type))
    )


def marks_absences(resource: Resource) -> bool:
    """Whether the table has a mark for rows that are gone at the source."""
    return resource.absent == "mark" and settles_absences(resource)


def _dlt_resource(connection: Connection, resource: Resource, reading: Reading | None) -> DltResource:
    hints = resource.as_dlt()
    for key in ("endpoint", "include_from_parent", "processing_steps"):
        hints.pop(key, None)
    if _chooses_strategy(resource):
        strategy = "upsert" if _upserts(resource) else "delete-insert"
        hints["write_disposition"] = {**_as_mapping(hints.get("write_disposition")), "disposition": "merge",
                                      "strategy": strategy}  # fmt: skip
    hints.setdefault("write_disposition", resource.disposition)
    if not resource.child_tables:
        hints.setdefault("max_table_nesting", 0 if not uses_arrow(resource) else None)
    if uses_arrow(resource):
        hints.setdefault("file_format", "parquet")
    if marks_absences(resource):
        hints["columns"] = {**(hints.get("columns") or {}), ABSENT_SINCE: {"data_type": "timestamp", "nullable": True}}
    if resource.strategy == "scd2" and is_incremental(resource):
        # Else dlt ends every row that the range does not hold.
        hints.setdefault("merge_key", list(resource.keys))
    hints = {key: value for key, value in hints.items() if value is not None}
    plan = _plan(connection, resource)

    def rows() -> Iterator[Any]:
        assert reading is not None, "a source that only shows its shape was read"
        yield from _rows(resource, plan, reading, None)

    # dlt finds an incremental range by the default of an argument.
    def rows_in_range(cursor: Incremental[Any] = plan.incremental) -> Iterator[Any]:  # type: ignore[assignment]
        assert reading is not None, "a source that only shows its shape was read"
        yield from _rows(resource, plan, reading, cursor)

    made: DltResource = dlt.resource(rows if plan.incremental is None else rows_in_range, **hints)()
    return made


def _chooses_strategy(resource: Resource) -> bool:
    """Whether how a merge is done is left to us."""
    return resource.disposition == "merge" and resource.strategy is None and not resource.merge_key


def _upserts(resource: Resource) -> bool:
    """Whether a merge is an upsert. Keys are unique by the time rows land, which is what upsert asks for and delete-insert
    pays to establish. dlt's upsert puts a row in that comes with the mark of a deleted one, and takes it out the next time.
    """
    marked = any(column.hard_delete for column in resource.columns.values())
    return _chooses_strategy(resource) and uses_arrow(resource) and not marked


def _may_append(resource: Resource) -> bool:
    """Whether a merge into an empty table comes to the same as an append."""
    return _upserts(resource) and not resource.child_tables


def _as_mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


@dataclass(frozen=True)
class _Plan:
    """A resource's requests as dlt resolved them.

    Attributes:
        endpoint: Its own, placeholders not yet filled in.
        above: The resource whose rows fill them in, if there is one.
        resolved_params: What to take from a row of that one, in dlt's words.
        include_from_parent: Fields of such a row that each row gets.
    """

    resource: Resource
    endpoint: Endpoint
    above: _Plan | None
    resolved_params: list[Any]
    include_from_parent: list[str]
    incremental: Incremental[Any] | None
    incremental_param: IncrementalParam | None


def _plan(connection: Connection, resource: Resource) -> _Plan:
    config = connection.rest_api_config()
    _, endpoints, resolved = build_resource_dependency_graph({}, config["resources"])

    def plan(resource: Resource) -> _Plan:
        found: Any = endpoints[resource.name]
        params = dict(found["endpoint"].get("params") or {})
        incremental, param, _ = setup_incremental_object(params, found["endpoint"].get("incremental"))
        if param is not None:
            params.pop(str(param.start), None)
        if incremental is not None:
            # All pages are here before the first row is handed on, so that nothing is saved by an early end, and rejected
            # rows would be lost.
            incremental.row_order = None
        resolved_params = resolved[resource.name] or []
        for bound in resolved_params:
            params.pop(bound.param_name, None)
        parent = resolved_params[0].resolve_config["resource"] if resolved_params else None
        return _Plan(
            resource=resource,
            endpoint=_endpoint(resource, found["endpoint"], params),
            above=plan(connection.resource(parent)) if parent else None,
            resolved_params=resolved_params,
            include_from_parent=list(found.get("include_from_parent") or []),
            incremental=incremental,
            incremental_param=param,
        )

    return plan(resource)


def _endpoint(resource: Resource, config: Mapping[str, Any], params: dict[str, Any]) -> Endpoint:
    paginator = resource.endpoint.paginator
    assert paginator is not None, "a paginator left to guessing is refused at load"
    return Endpoint(
        name=resource.name,
        path=config["path"],
        paginator=paginator,
        method=config.get("method", "GET"),
        params=params,
        headers=dict(config.get("headers") or {}),
        json=config.get("json"),
        data=config.get("data"),
        data_selector=config.get("data_selector"),
        total_path=resource.total_path,
        gate=BoundedSemaphore(resource.max_concurrency) if resource.max_concurrency else nullcontext(),
        ignore=tuple(config.get("response_actions") or ()),
        shape=row_shape(resource, {}),
    )


def _rows(resource: Resource, plan: _Plan, reading: Reading, incremental: Incremental[Any] | None) -> Iterator[Any]:
    """Read until proven complete, then hand on what landed on disk meanwhile."""
    shape = row_shape(resource, *_known_tables(resource.table), dlt.current.source_schema().naming.max_length)
    if shape.nesting is not None and shape.known and ROW_ID not in shape.known:
        raise ChildTablesError(
            f"{resource.name}: the table is there already, and its lists are JSON columns: with child_tables its rows would "
            "need ids that they do not have. Drop the table and load it anew, or leave child_tables out"
        )
    plan = replace(plan, endpoint=replace(plan.endpoint, shape=shape))
    spool = (Spool if uses_arrow(resource) else RecordSpool)(shape, reading.folder)
    try:
        _read(plan, reading, spool, reading.report, incremental, reading.folder / "parents")
    except IncompleteError as error:
        if resource.on_incomplete == "fail":
            raise
        reading.log.warning("%s; landing what came, because on_incomplete is warn", error)
    report = reading.report
    if resource.strategy == "scd2" and incremental is None and (report.partial or not report.complete):
        raise IncompleteError(
            f"{resource.name}: {report.reason}; history would end every row that this read did not hold"
        )
    if reading.before_publishing(reading.report) and _may_append(resource):
        # Each key came once and meets no other: without a staging table, one statement fills the table.
        dlt.current.resource().apply_hints(write_disposition="append")
    reading.rejected = spool.rejected_rows
    reading.changed_types = spool.changed_types()
    load_id = Container()[LoadPackageStateInjectableContext].load_id
    if isinstance(spool, RecordSpool):
        yield from spool.records()
    else:
        columns: Any = spool.columns()
        refused = _refused_variants(resource, columns, reading.changed_types, shape.known)
        discards = resource.schema_contract is not None and resource.schema_contract.data_type == "discard_row"
        dlt.current.resource().apply_hints(columns={k: v for k, v in columns.items() if k not in refused})
        children = spool.children()
        choose = None if incremental is None else partial(_in_range, incremental, range_paths(resource))
        for name, table in spool.tables(choose):
            if name == shape.table:
                table = _stamped(_without(table, refused, rows=discards), load_id, marks_absences(resource))
                yield table if incremental is None else _at_the_end(table)
                continue
            if name in children:
                _declare_child(name, *children.pop(name))
            marked = dlt.mark.with_table_name(table, name)
            yield marked if incremental is None else _at_the_end(marked.data, marked.meta)
    if not spool.rows and shape.known and incremental is None:
        # Of nothing, dlt makes no load: versions would stay valid although their rows are gone.
        yield dlt.mark.materialize_table_schema()
    hints = dlt.mark.make_hints(
        table_name=resource.table + REJECTED_SUFFIX, write_disposition="append", primary_key=(), columns={}
    )
    keys = spool.rejected_keys()
    reading.rejected_keys = Present(
        tuple(keys.column_names), [tuple(row.values()) for row in keys.slice(0, MOST_PRESENT + 1).to_pylist()]
    )
    for rejected in spool.rejected():
        marked = dlt.mark.with_hints(_rejects(rejected, load_id), hints, create_table_variant=True)
        yield _at_the_end(marked.data, marked.meta)


def _at_the_end(data: Any, meta: Any = None) -> ResolvablePipeItem:
    """Rows that go to the pipe's end at once: on the way, dlt looks for the range's cursor in every row."""
    pipe = dlt.current.resource()._pipe
    return ResolvablePipeItem(data, len(pipe) - 1, pipe, meta)


def _in_range(
    incremental: Incremental[Any], paths: tuple[tuple[str, ...], ...], rows: list[list[Any]]
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows dlt's range lets in, and its state moved on.

    Args:
        paths: What `range_paths` says.
        rows: By row, the values at these paths, as they came.
    """
    shown = []
    for number, values in enumerate(rows):
        row: dict[str, Any] = {_NUMBER: number}
        for path, value in zip(paths, values, strict=True):
            inner = row
            for name in path[:-1]:
                inner = inner.setdefault(name, {})
            inner[path[-1]] = value
        shown.append(row)
    wanted = np.zeros(len(rows), np.bool_)
    wanted[[row[_NUMBER] for row in incremental(shown) or []]] = True
    return wanted


class _ChildTable(dict[str, Any]):
    """The schema of a child table. dlt asks each table that rows are handed on for by which resource it is, and a child
    table must not say so itself (dlt-hub/dlt#2106): this one answers without saying.
    """

    def __init__(self, resource: str, schema: Mapping[str, Any]) -> None:
        super().__init__(schema)
        self._resource = resource

    def __missing__(self, key: str) -> str:
        if key != "resource":
            raise KeyError(key)
        return self._resource


def _declare_child(name: str, above: str, columns: dict[str, Any]) -> None:
    """Have dlt take the tables of that name for rows of a child table."""
    # Not through `apply_hints`: child tables would copy the write disposition, and keep it when it changes.
    hints: Any = dlt.mark.make_hints(table_name=name, parent_table_name=above, columns=columns)
    resource = dlt.current.resource()
    resource._set_hints(hints, create_table_variant=True)
    tables: dict[str, Any] = dlt.current.source_schema().tables
    tables[name] = _ChildTable(resource.name, tables.get(name) or {"name": name, "parent": above, "columns": {}})


def _refused_variants(
    resource: Resource, columns: Iterable[str], changed: Iterable[str], known: Mapping[str, Any]
) -> list[str]:
    """New columns for values of another type that the schema contract does not let in.

    Raises:
        SchemaContractError: it lets no such value in at all.
    """
    mode = resource.schema_contract.data_type if resource.schema_contract else None
    if mode in (None, "evolve"):
        return []
    variants = [c for c in columns if c not in known and any(c.startswith(f"{name}__v_") for name in changed)]
    if variants and mode == "freeze":
        raise SchemaContractError(
            f"{resource.name}: values came that need the columns {', '.join(variants)}, because their type is another one "
            "than the table's, and schema_contract freezes data_type"
        )
    return variants


def _without(table: pa.Table, columns: list[str], *, rows: bool) -> pa.Table:
    """The table without these columns, and, if asked, without the rows that have a value there."""
    for name in columns if rows else ():
        table = table.filter(pc.is_null(table[name]))
    return table.drop_columns(columns)


def row_shape(
    resource: Resource,
    known: Mapping[str, Mapping[str, Any]],
    nested: Mapping[str, Mapping[str, Any]] | None = None,
    max_identifier_length: int | None = None,
) -> RowShape:
    """What the connection file says of a table's rows, and what the table says itself.

    Args:
        known: The columns of the table at the destination.
        nested: The schemas of its child tables there.
    """
    columns = resource.as_dlt().get("columns") or {}
    nesting: Nesting | None = None
    row_ids: Literal["key", "random"] | None = None
    if resource.child_tables and uses_arrow(resource):
        # Where child rows had the id of their root once, dlt wants it for ever.
        rooted = resource.disposition == "merge" or any(
            ROOT_ID in child["columns"] for child in (nested or {}).values()
        )
        nesting = Nesting(nested or {}, rooted)
    if nesting is not None or ROW_ID in known:
        row_ids = "random" if resource.disposition == "append" or not resource.keys else "key"
    return RowShape(
        table=resource.table,
        primary_key=resource.keys,
        columns=columns,
        max_table_nesting=resource.max_table_nesting,
        known=known,
        max_identifier_length=max_identifier_length,
        row_ids=row_ids,
        nesting=nesting,
        raw_paths=range_paths(resource) if uses_arrow(resource) else (),
    )


def _read(
    plan: _Plan,
    reading: Reading,
    collector: Collector,
    report: Report,
    incremental: Incremental[Any] | None,
    folder: Path,
) -> None:
    """Read a resource until it is proven complete: once, or once for each row of the resource above.

    Args:
        collector: Holds the rows then.
        report: Filled in.
        incremental: The range to read; None reads all of it.
        folder: For the rows of the resources above.

    Raises:
        IncompleteError, TransportError, PagingError: it is not complete; the collector holds what came.
    """
    resource = plan.resource
    endpoint = _with_range(plan, incremental)
    if plan.above is None:
        _read_one(endpoint, resource, reading, collector, report)
        return
    # A row above that came twice is read once.
    above = RecordSpool(plan.above.endpoint.shape, folder)
    parents = Report(plan.above.resource.name)
    _read(plan.above, reading, above, parents, None, folder / "parents")
    collector.clear()
    report.complete, report.partial = True, parents.partial
    report.reason = f"every one of {above.distinct or above.rows} {plan.above.resource.name} was read to the end"
    problems: list[str] = []
    rows = (row for batch in above.records() for row in batch)
    for own, mine, parent_record, problem in _children(plan, endpoint, reading, rows, incremental):
        for page in mine.pages:
            collector.add(_with_parent(page, parent_record) if parent_record else page)
        _add_up(report, own)
        problems += [problem] if problem else []
    report.rows, report.distinct = collector.rows, collector.distinct
    report.duplicates = collector.rows - collector.distinct - collector.keyless
    if problems:
        report.complete = False
        report.reason = problems[0] if len(problems) == 1 else f"{problems[0]}; and {len(problems) - 1} more like this"
        raise IncompleteError(report.reason)


def _read_one(endpoint: Endpoint, resource: Resource, reading: Reading, collector: Collector, report: Report) -> None:
    read_complete(
        reading.pager, endpoint, collector, report, unique=bool(endpoint.shape.primary_key), verify=resource.verify,
        to_the_end=resource.on_incomplete == "warn", log=reading.log,
    )  # fmt: skip


_Child = tuple[Report, MemoryCollector, dict[str, Any], str]


def _children(
    plan: _Plan, endpoint: Endpoint, reading: Reading, rows: Iterable[Mapping[str, Any]],
    incremental: Incremental[Any] | None,
) -> Iterator[_Child]:  # fmt: skip
    """What each row above leads to, in the order of these rows, several at once; each read is proven by itself.

    Yields:
        Its report, its rows, the fields of the row above to add to them, and what speaks against it, where the
        connection wants the rows all the same.
    """
    assert plan.above is not None
    resource = plan.resource
    # One row's answers do not hold what comes from above, so keys go without it until that is added.
    added = {make_parent_key_name(plan.above.resource.name, name) for name in plan.include_from_parent}
    shape = plan.endpoint.shape
    bare = replace(shape, primary_key=tuple(name for name in shape.primary_key if name not in added))

    def read(row: Mapping[str, Any]) -> _Child:
        filled = process_parent_data_item(
            path=endpoint.path, item=dict(row), resolved_params=plan.resolved_params, headers=dict(endpoint.headers),
            params=dict(endpoint.params), request_json=endpoint.json, request_data=endpoint.data,
            include_from_parent=plan.include_from_parent, incremental=incremental,
        )  # fmt: skip
        mine = replace(
            endpoint, path=filled.path, headers=filled.headers or {}, params=filled.params or {}, json=filled.json,
            data=filled.data, shape=bare,
        )  # fmt: skip
        collector, own, problem = MemoryCollector(bare), Report(resource.name), ""
        try:
            _read_one(mine, resource, reading, collector, own)
        except IncompleteError as error:
            if resource.on_incomplete == "fail":
                raise
            problem = f"{error} (at {filled.path})"
        return own, collector, filled.parent_record, problem

    # Rows above are walked by workers of their own: those of the pager are busy with pages. No more are under way than
    # that, so that what waits for its turn stays small.
    workers = ThreadPoolExecutor(max_workers=reading.pager.width, thread_name_prefix="rmm-parent")
    waiting: deque[Future[_Child]] = deque()
    try:
        for row in rows:
            waiting.append(workers.submit(read, row))
            if len(waiting) >= 2 * reading.pager.width:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # What is under way after an error ends when the transport closes; nobody waits for it here.
        workers.shutdown(wait=False, cancel_futures=True)


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
    """The endpoint with the range to read filled in, as dlt fills it in; what a row above fills in stays for later."""
    endpoint = plan.endpoint
    bounds: Any = incremental
    if plan.incremental is not None and incremental is None:
        # Read for the sake of another resource, from where the first run begins: that one needs all of the rows.
        first = plan.incremental.initial_value
        bounds = SimpleNamespace(
            initial_value=first, start_value=first, last_value=first, end_value=plan.incremental.end_value
        )
    params = dict(endpoint.params)
    if plan.incremental_param is not None:
        if plan.incremental_param.start:
            params[plan.incremental_param.start] = bounds.last_value
        if plan.incremental_param.end:
            params[plan.incremental_param.end] = bounds.end_value
    if plan.above is not None:
        return replace(endpoint, params=params)
    values = {} if bounds is None else {"incremental": bounds}
    return replace(
        endpoint, path=expand_placeholders(endpoint.path, values), params=expand_placeholders(params, values),
        headers=expand_placeholders(endpoint.headers, values),
        json=expand_placeholders(endpoint.json, values, preserve_value_type=True),
        data=expand_placeholders(endpoint.data, values),
    )  # fmt: skip


def _known_tables(table: str) -> tuple[Mapping[str, Mapping[str, Any]], Mapping[str, Mapping[str, Any]]]:
    """The table's columns and its child tables, as the destination's schema, restored before the read, has them."""
    pipeline = dlt.current.pipeline()
    schema: str | None = pipeline.default_schema_name
    tables: Any = pipeline.default_schema.tables if schema else {}
    if table not in tables:
        return {}, {}
    nested = get_nested_tables(tables, table, include_self=False)
    return dict(tables[table]["columns"]), {str(child["name"]): dict(child) for child in nested}


def _stamped(table: pa.Table, load_id: str, absences: bool) -> pa.Table:
    """The table with its load id, and with an empty absence mark that clears the one in the destination."""
    load_ids = pa.repeat(pa.scalar(load_id, pa.string()), table.num_rows)
    table = table.append_column(pa.field(LOAD_ID, pa.string(), nullable=False), load_ids)
    if absences:
        table = table.append_column(ABSENT_SINCE, pa.nulls(table.num_rows, pa.timestamp("us", tz="UTC")))
    return table


def _rejects(rejected: pa.Table, load_id: str) -> pa.Table:
    now = pa.scalar(dlt.common.pendulum.now("UTC"), pa.timestamp("us", tz="UTC"))
    rejected = rejected.append_column(LOAD_ID, pa.array([load_id] * rejected.num_rows, pa.string()))
    return rejected.append_column("rejected_at", pa.array([now.as_py()] * rejected.num_rows, now.type))
