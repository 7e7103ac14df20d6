"""Builds the dlt source of one resource, whose rows are proven complete before dlt gets the first one.

It is a `rest_api` source, as dlt's accepts ready-made resources in addition to declared ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import dlt
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmm_assets.config import Connection
from rmm_assets.errors import IncompleteError, SchemaContractError
from rmm_assets.loading.cursor import Cursor, Range
from rmm_assets.loading.dlt_internals import (
    cursor_state,
    declare_child_table,
    forget_merge_options,
    nested_tables,
    values_at,
)
from rmm_assets.loading.landing import Landing
from rmm_assets.loading.misfits import refuse_misfits, refuse_repeated_keys
from rmm_assets.loading.plan import LoadPlan, shape_of
from rmm_assets.loading.reads import Reading, read
from rmm_assets.loading.requests import Requests, plan_requests
from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.records import RecordSpool
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.spool import Choose, Spool
from rmm_assets.rows.timestamps import TIMESTAMP
from rmm_assets.tables.rejects import FIRST_REJECTED_AT, REJECTED_AT
from rmm_assets.tables.table import ABSENT_SINCE, LOAD_ID, Table

# dlt needs an address to describe the source even if none is known yet (the embedded RMM starts with the run).
_NO_ADDRESS = "http://127.0.0.1"


def described(connection: Connection, plans: Sequence[LoadPlan]) -> dlt.sources.DltSource:
    """Returns a `rest_api` source that describes a connection's resources, and cannot be read."""

    def rows() -> Iterator[Any]:
        raise AssertionError("a source that only describes resources was read")

    return _source(connection, connection.name, plans, rows)


def build_source(connection: Connection, plan: LoadPlan, reading: Reading) -> dlt.sources.DltSource:
    """Returns the `rest_api` source of one resource.

    Args:
        connection: The connection.
        plan: How the resource is read and landed.
        reading: The run's reading.
    """
    requests = plan_requests(connection, plan)

    def rows() -> Iterator[Any]:
        yield from _rows(plan, requests, reading)

    return source_of(connection, plan, rows)


def source_of(connection: Connection, plan: LoadPlan, rows: Callable[[], Iterator[Any]]) -> dlt.sources.DltSource:
    """Returns the `rest_api` source of one resource.

    Args:
        connection: The connection.
        plan: How the resource is landed.
        rows: Yields its rows.
    """
    return _source(connection, plan.source_name, [plan], rows)


def _source(
    connection: Connection, name: str, plans: Sequence[LoadPlan], rows: Callable[[], Iterator[Any]]
) -> dlt.sources.DltSource:
    said = connection.rest_api_config()["client"]
    client = {"base_url": said.get("base_url", _NO_ADDRESS), "headers": said.get("headers", {})}
    config: Any = {"client": client, "resources": [dlt.resource(rows, **plan.hints)() for plan in plans]}
    return dlt.sources.rest_api.rest_api_source(config, name=name)


def _rows(plan: LoadPlan, requests: Requests, reading: Reading) -> Iterator[Any]:
    """Reads until the read is proven complete, then yields the rows collected on disk."""
    # Before others may use the destination.
    reading.parents.look_up(requests, reading.pipeline)
    shape = replace(shape_at(plan, reading), used_paths=requests.endpoint.shape.used_paths)
    reading.begun()
    requests = replace(requests, endpoint=replace(requests.endpoint, shape=shape))
    cursor_range = range_of(plan, full=reading.full)
    spool = spool_of(plan, shape, reading.folder)
    _read(plan, requests, reading, spool, cursor_range)
    yield from landing(plan, shape, spool, reading, cursor_range)


def spool_of(plan: LoadPlan, shape: RowShape, folder: Path) -> Spool | RecordSpool:
    """Returns an empty spool for a resource's rows."""
    return (Spool if plan.arrow else RecordSpool)(shape, folder)


def range_of(plan: LoadPlan, *, late: bool = False, full: bool = False) -> Range | None:
    """Returns the range that a read goes on with, while dlt extracts; None if every read reads everything.

    Args:
        late: Whether the rows are of earlier reads.
        full: Whether to start where the first run did.
    """
    if plan.cursor is None:
        return None
    return Range(plan.cursor, cursor_state(plan.resource.name, plan.cursor.path), late=late, full=full)


def landing(
    plan: LoadPlan, shape: RowShape, spool: Spool | RecordSpool, reading: Landing, cursor_range: Range | None
) -> Iterator[Any]:
    """Yields the rows of a spool to dlt: those that land, then those that are rejected.

    Args:
        plan: How the resource is landed.
        shape: Describes the rows.
        spool: The rows, which may land.
        reading: Learns what was found.
        cursor_range: Lets rows in, and moves on; None lets all in.
    """
    publishing = reading.before_publishing(spool, shape)
    if publishing.into_empty and plan.appends_into_empty:
        # Without a staging table, one statement fills the table.
        dlt.current.resource().apply_hints(write_disposition="append")
    if publishing.file_format is not None:
        dlt.current.resource().apply_hints(file_format=cast("Any", publishing.file_format))
    forget_merge_options(plan.table)
    if publishing.scope:
        said: Any = plan.hints["write_disposition"]
        own = said.get("destination_scope")
        scope = f"({own}) AND ({publishing.scope})" if own else publishing.scope
        disposition: Any = {**said, "destination_scope": scope}
        dlt.current.resource().apply_hints(write_disposition=disposition)
    reading.rejected = spool.rejected_rows
    reading.used_values = spool.used_values.digest()
    reading.changed_types = spool.changed_types()
    reading.load_id = load_id = str(dlt.current.load_package_state()["load_id"])
    choose = None if cursor_range is None else _noting(reading, cursor_range)
    if isinstance(spool, Spool):
        yield from _tables(plan, spool, shape, reading, choose, publishing.wanted)
        required = {LOAD_ID, *(field.name for field in spool.schema if not field.nullable)}
        for table in publishing.marked:
            # dlt writes them into one file with the others.
            yield table.cast(pa.schema([field.with_nullable(field.name not in required) for field in table.schema]))
    else:
        own = {} if plan.read_at is None else {plan.read_at: reading.read_at}
        for rows in _records(spool, cursor_range, choose, publishing.wanted):
            yield [{**row, **own} for row in rows] if own else rows
    if cursor_range is not None:
        _move_on(cursor_range, reading)
    elif not spool.rows and shape.known and plan.cursor is None:
        # Without rows dlt would make no load, and versions would stay valid although their rows are gone.
        yield dlt.mark.materialize_table_schema()
    yield from _rejects(plan, spool, load_id)


def schema_of(pipeline: dlt.Pipeline) -> dlt.Schema:
    """Returns the schema of a pipeline that extracts or has loaded. The first time it extracts, it only has its source's."""
    name: str | None = pipeline.default_schema_name
    return pipeline.default_schema if name else dlt.current.source_schema()


def shape_at(plan: LoadPlan, reading: Landing) -> RowShape:
    """Describes the rows by the plan and the table at the destination.

    dlt restored the table's schema before the read, unless a killed first load left the table without dlt's state.

    Raises:
        RmmError: The table was loaded in another way than the connection file says now; see `misfits`.
    """
    pipeline, existing = reading.pipeline, reading.existing
    schema = schema_of(pipeline)
    if pipeline.first_run and existing.schema is not None:
        schema.update_schema(dlt.Schema.from_stored_schema(cast("Any", existing.schema)))
    tables: Any = schema.tables
    known: Mapping[str, Any] = existing.columns
    if plan.table in tables and not existing.dropped:
        known = dict(tables[plan.table]["columns"])
    nested = {str(child["name"]): child for child in nested_tables(tables, plan.table)} if known else {}
    longest = dlt.current.source_schema().naming.max_length
    shape = shape_of(plan, known, nested, longest, existing.decimal_digits)
    refuse_misfits(plan, shape, tables, nested)
    if known:
        with pipeline.sql_client() as client:
            refuse_repeated_keys(plan, Table(client, plan.table), tables.get(plan.table, {}))
    return shape


def _read(
    plan: LoadPlan, requests: Requests, reading: Reading, spool: Spool | RecordSpool, cursor_range: Range | None
) -> None:
    """Fills the spool.

    Raises:
        RmmError: The read is not complete enough to land.
    """
    try:
        read(requests, reading, spool, None if cursor_range is None else cursor_range.bounds)
    except IncompleteError as error:
        if plan.resource.on_incomplete == "fail":
            raise
        reading.log.warning("%s; landing the rows received, because on_incomplete is warn", error)
    plan.refuse_unproven_ends(reading.report)


def _noting(reading: Landing, cursor_range: Range) -> Choose:
    """Returns a function that asks the range which rows land and notes the answers."""
    reading.admitted = np.zeros(0, np.bool_)

    def choose(rows: list[list[Any]]) -> Mask:
        admitted = cursor_range.admit(rows)
        reading.admitted = np.concatenate([reading.admitted, admitted])
        return admitted

    return choose


def _tables(
    plan: LoadPlan, spool: Spool, shape: RowShape, reading: Landing, choose: Choose | None, wanted: Mask | None
) -> Iterator[Any]:
    """Yields the rows and their children as Arrow tables."""
    columns: Any = spool.columns()
    refused = _refused_variants(plan, columns, spool.changed_types(), shape.known)
    contract = plan.resource.schema_contract
    discards = contract is not None and contract.data_type == "discard_row"
    dlt.current.resource().apply_hints(columns={k: v for k, v in columns.items() if k not in refused})
    children = spool.children()
    for name, table in spool.tables(choose, wanted):
        if name == shape.table:
            yield _stamped(_without(table, refused, rows=discards), plan, reading)
            continue
        if name in children:
            declare_child_table(name, *children.pop(name))
        yield dlt.mark.with_table_name(table, name)


def _records(
    spool: RecordSpool, cursor_range: Range | None, choose: Choose | None, wanted: Mask | None
) -> Iterator[list[Any]]:
    """Yields the rows for dlt's own normalizer."""
    start = 0
    for batch in spool.records():
        land = np.ones(len(batch), np.bool_) if wanted is None else wanted[start : start + len(batch)]
        start += len(batch)
        if cursor_range is not None and choose is not None:
            land = land & choose([passing(cursor_range.cursor, row) for row in batch])
        if land.any():
            yield [spool.landing(batch[index]) for index in np.flatnonzero(land)]


def passing(cursor: Cursor, row: Mapping[str, Any]) -> list[Any]:
    """Returns a row's cursor and what identifies the row, as `Range.admit` takes them."""
    found = values_at(cursor.path, row)
    return [found[0] if found else None, *([row] if cursor.key is None else (row.get(name) for name in cursor.key))]


def _move_on(cursor_range: Range, reading: Landing) -> None:
    """Makes the next run start where this one ended, and warns about oddities of the cursors."""
    for said in cursor_range.close():
        reading.warn(said)
    reading.left_out = cursor_range.left_out
    if cursor_range.left_out:
        reading.log.info(
            "%s: %d of the rows received did not land: they are out of range or landed before",
            reading.report.resource, cursor_range.left_out,
        )  # fmt: skip


def _rejects(plan: LoadPlan, spool: Spool | RecordSpool, load_id: str) -> Iterator[Any]:
    """Yields the rejected rows for their own table."""
    hints = dlt.mark.make_hints(table_name=plan.rejected_table, write_disposition="append", primary_key=(), columns={})
    for rejected in spool.rejected():
        yield dlt.mark.with_hints(_dated(rejected, load_id), hints, create_table_variant=True)


def _refused_variants(
    plan: LoadPlan, columns: Iterable[str], changed: Iterable[str], known: Mapping[str, Any]
) -> list[str]:
    """Returns the variant columns that the schema contract does not allow.

    Raises:
        SchemaContractError: The contract refuses values of another type altogether.
    """
    contract = plan.resource.schema_contract
    mode = contract.data_type if contract else None
    if mode in (None, "evolve"):
        return []
    variants = [c for c in columns if c not in known and any(c.startswith(f"{name}__v_") for name in changed)]
    if variants and mode == "freeze":
        raise SchemaContractError(
            f"{plan.resource.name}: some values need the columns {', '.join(variants)}, because their type differs "
            "from the table's, and schema_contract freezes data_type"
        )
    return variants


def _without(table: pa.Table, columns: list[str], *, rows: bool) -> pa.Table:
    """Returns the table without these columns and, if `rows`, without the rows that have a value in them."""
    for name in columns if rows else ():
        table = table.filter(pc.is_null(table[name]))
    return table.drop_columns(columns)


def _stamped(table: pa.Table, plan: LoadPlan, reading: Landing) -> pa.Table:
    """Returns the table with its load id, the time of the read and an empty mark that clears the one in the destination."""
    load_ids = pa.repeat(pa.scalar(reading.load_id, pa.string()), table.num_rows)
    table = table.append_column(pa.field(LOAD_ID, pa.string(), nullable=False), load_ids)
    if plan.read_at is not None:
        table = table.append_column(plan.read_at, pa.repeat(pa.scalar(reading.read_at, TIMESTAMP), table.num_rows))
    if plan.marks_absences:
        table = table.append_column(ABSENT_SINCE, pa.nulls(table.num_rows, pa.timestamp("us", tz="UTC")))
    return table


def _dated(rejected: pa.Table, load_id: str) -> pa.Table:
    now = pa.scalar(dlt.common.pendulum.now("UTC"), pa.timestamp("us", tz="UTC"))
    rejected = rejected.append_column(LOAD_ID, pa.array([load_id] * rejected.num_rows, pa.string()))
    times = pa.array([now.as_py()] * rejected.num_rows, now.type)
    return rejected.append_column(REJECTED_AT, times).append_column(FIRST_REJECTED_AT, times)
