"""Compares the rows of a walk with a table: by primary key if there is one, else as multisets of rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from dlt.destinations.exceptions import DatabaseException

from rmm_assets.audit.columns import agrees, comparable, flatten, is_own, stated_moment, told_apart, variants
from rmm_assets.audit.documents import pack, parse, unpack, without_nul
from rmm_assets.audit.requests import range_of
from rmm_assets.config import Resource
from rmm_assets.config.names import normalized_column
from rmm_assets.tables.syncs import latest_loaded, latest_of_tenants
from rmm_assets.tables.table import ABSENT_SINCE, LOAD_ID, Table
from rmm_assets.tables.tenants import Scope

_AT_ONCE = 1000
_REJECTED = "_rejected"
_VALID_TO = "_dlt_valid_to"
_VALID_FROM = "_dlt_valid_from"
# Destinations may shorten column names from this length on.
_LONG_NAME = 60
# Maximum number of row-by-row comparisons if rows have no key and differ as text.
_MOST_TRIES = 200_000


@dataclass
class Compared:
    """The result of one comparison.

    Attributes:
        found: For each kind of difference, the rows by what identifies them, each with its label.
        columns: The columns that differ, by row.
        doubts: What could not be determined.
    """

    rows_table: int = 0
    found: dict[str, dict[str, str]] = field(
        default_factory=lambda: {kind: {} for kind in ("missing", "marked_absent", "extra", "different", "same_key")}
    )
    columns: dict[str, frozenset[str]] = field(default_factory=dict)
    rejected: int = 0
    deleted: int = 0
    doubts: list[str] = field(default_factory=list)
    loaded_at: datetime | None = None

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return any(self.found.values())


class Received:
    """The rows of one walk, in a temporary file that is deleted on close.

    Args:
        stores_nul: Whether the table's texts may contain the character NUL; otherwise U+FFFD stands for it.
    """

    def __init__(self, *, stores_nul: bool = True) -> None:
        self._stores_nul = stores_nul
        self._db = sqlite3.connect("")
        self._db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE sent (row TEXT);"
            "CREATE TABLE keyed (key TEXT PRIMARY KEY, row TEXT, others INT DEFAULT 0, deleted INT, seen INT DEFAULT 0,"
            " rejected INT DEFAULT 0);"
            "CREATE TABLE heap (text TEXT PRIMARY KEY, row TEXT, label TEXT, sent INT DEFAULT 0, held INT DEFAULT 0)"
        )

    def add(self, row: Any) -> None:
        """Stores a row."""
        self._db.execute("INSERT INTO sent VALUES (?)", (pack(row if self._stores_nul else without_nul(row)),))

    def __iter__(self) -> Iterator[Any]:
        for (text,) in self._db.execute("SELECT row FROM sent"):
            yield unpack(text)

    def change(self, sql: str, *values: Any) -> int:
        """Runs a statement and returns the number of rows it changed."""
        return self._db.execute(sql, values).rowcount

    def ask(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Runs a query and returns its rows."""
        yield from self._db.execute(sql, values)

    def close(self) -> None:
        """Discards all rows."""
        self._db.close()


@dataclass(frozen=True)
class Limits:
    """What an audit can determine about a resource, given its connection file.

    Attributes:
        extra: Why rows that are only in the table are not a difference; empty if they are.
        missing: Why rows that are not in the table are not a difference; empty if they are.
        notes: What is never compared.
    """

    extra: str = ""
    missing: str = ""
    notes: tuple[str, ...] = ()


def limits_of(resource: Resource) -> Limits:
    """Returns what an audit of a resource can determine."""
    contract = resource.schema_contract
    discards = contract is not None and "discard_row" in (contract.columns, contract.data_type)
    disposition = resource.write_disposition
    paginator = resource.endpoint.paginator
    extra = missing = ""
    if range_of(resource) is not None:
        extra = "the resource is read incrementally"
    elif resource.disposition == "append":
        extra = "rows are appended with every load"
    elif any(getattr(paginator, name, None) is not None for name in ("maximum_offset", "maximum_page")):
        extra = "the file reads only part of the rows"
    elif resource.disposition == "merge" and resource.absent == "keep" and resource.strategy != "scd2":
        extra = "the file says `absent: keep`"
    elif disposition is not None and disposition.skip_unchanged_rows:
        extra = "the file says `skip_unchanged_rows`"
    elif resource.disposition == "merge" and not resource.keys:
        extra = "rows are merged without a primary key"
    if discards:
        extra = missing = "the schema contract discards rows"
    notes = ["its child tables are not compared"] if resource.child_tables else []
    return Limits(extra, missing, tuple(notes))


def compare(received: Received, table: Table, resource: Resource, within: Scope | None = None) -> Compared:
    """Compares rows with a table, which is only read.

    Args:
        received: The API's rows.
        table: The resource's table, open for reading.
        resource: The resource, which defines the key and what cannot be compared.
        within: The tenant whose rows these are; None if the table has no tenants.
    """
    compared = Compared()
    shape = _Shape(table, resource, within)
    if not shape.columns:
        compared.doubts.append(f"there is no table {table.name}; no rows were loaded, or they are somewhere else")
    if LOAD_ID in shape.columns:
        compared.loaded_at = _loaded_at(table, resource, within)
    by_key = bool(resource.keys) and resource.disposition != "append"
    compare_rows = _by_key if by_key else _as_heap
    compare_rows(received, shape, compared)
    return compared


def _loaded_at(table: Table, resource: Resource, within: Scope | None) -> datetime | None:
    if within is not None:
        found = [
            sync for sync in latest_of_tenants(table.client, loaded=True)
            if sync.resource == resource.name and sync.tenant in within.names
        ]  # fmt: skip
        return found[0].started.astimezone(UTC) if found else None
    sync = latest_loaded(table.client).get(resource.name)
    if sync is not None:
        return sync.started.astimezone(UTC)
    latest = table.rows(f"SELECT max({table.quote(LOAD_ID)}) FROM {{table}}")[0][0]
    try:
        return datetime.fromtimestamp(float(latest), UTC) if latest is not None else None
    except (ValueError, OverflowError):
        return None


class _Shape:
    """A table's columns and how an API's rows map to them."""

    def __init__(self, table: Table, resource: Resource, within: Scope | None) -> None:
        self.table, self.resource, self.within = table, resource, within
        self.columns = frozenset(table.columns())
        disposition = resource.write_disposition
        names = (disposition.validity_column_names if disposition else None) or (_VALID_FROM, _VALID_TO)
        self._validity = names if resource.strategy == "scd2" else ()
        version = disposition.row_version_column_name if disposition else None
        own = {name for name in self.columns if is_own(name)} | {*self._validity, *filter(None, [version])}
        if within is not None:
            own.add(within.column)
        if resource.read_at_column is not None:
            own.add(normalized_column(resource.read_at_column))
        self.data = self.columns - own
        self.keys = tuple(normalized_column(key.replace(".", "__")) for key in resource.keys)
        hints = {normalized_column(name): column for name, column in resource.columns.items()}
        self._stated = {name: column for name, column in hints.items() if column.stamp is not None}
        self._whole = frozenset(name for name, column in hints.items() if column.data_type == "json")
        self._hidden = frozenset(name for name, column in hints.items() if column.sensitive)
        self._deletes = [name for name, column in hints.items() if column.hard_delete]
        self._variants: dict[str, list[str]] = {}

    @cached_property
    def _types(self) -> Mapping[str, str]:
        """The columns' types as named by the destination; empty if it does not say."""
        path = self.table.client.make_qualified_table_name_path(self.table.name, quote=False)
        with suppress(DatabaseException):
            found = self.table.rows(
                "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = %s AND table_name = %s",
                *path[-2:],
            )
            return {str(name): str(kind).upper() for name, kind in found}
        return {}

    def is_json(self, column: str) -> bool | None:
        return self._types[column].startswith(("JSON", "VARIANT", "SUPER")) if column in self._types else None

    @cached_property
    def likes(self) -> Mapping[str, Any]:
        """A sample value of each column that is compared as text, which shows how the column stores values."""
        wanted = self.keys if self.resource.keys and self.resource.disposition != "append" else self.data
        found = {}
        for name in self.columns & set(wanted):
            quoted = self.table.quote(name)
            values = self.table.rows(f"SELECT {quoted} FROM {{table}} WHERE {quoted} IS NOT NULL LIMIT 1")
            found[name] = values[0][0] if values else None
        return found

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Yields the table's rows; of a table of versions, the valid ones; of tenants, those of one."""
        if not self.columns or (self.within is not None and self.within.column not in self.columns):
            return
        # Queried first, as DuckDB discards the rest of a result when the next query runs.
        _ = self._types, self.likes
        where, parameters = self._valid()
        if self.within is not None:
            where, parameters = f"{where} AND {self.within.condition(self.table)}", (*parameters, *self.within.names)
        with self.table.cursor(f"SELECT * FROM {{table}} WHERE {where}", *parameters) as cursor:
            names = self.table.names(cursor)
            while batch := cursor.fetchmany(_AT_ONCE):
                yield from (dict(zip(names, row, strict=True)) for row in batch)

    def _valid(self) -> tuple[str, tuple[Any, ...]]:
        if not self._validity or self._validity[1] not in self.columns:
            return "1 = 1", ()
        column = self.table.quote(self._validity[1])
        disposition = self.resource.write_disposition
        mark = disposition.active_record_timestamp if disposition else None
        return (f"{column} = %s", (mark,)) if mark else (f"{column} IS NULL", ())

    def rejected(self) -> Iterator[Any]:
        """Yields the rejected rows as the API sent them."""
        rejects = Table(self.table.client, self.table.name + _REJECTED)
        if "row_json" not in rejects.columns():
            return
        for (text,) in rejects.rows(f"SELECT {rejects.quote('row_json')} FROM {{table}}"):
            with suppress(TypeError, ValueError):
                row = parse(text)
                within = self.within
                if within is None or not isinstance(row, dict) or row.pop(within.column, None) in within.names:
                    yield row

    def flat(self, row: Mapping[str, Any]) -> dict[str, list[Any]]:
        flat = flatten(row, self.columns, self._whole)
        for name in self._stated.keys() & flat.keys():
            column = self._stated[name]
            flat[name] = [None if value is None else stated_moment(value, column) or value for value in flat[name]]
        return flat

    def key(self, values: Mapping[str, Any]) -> str | None:
        """Returns a row's key as text; None if part of it is missing."""
        parts = [values.get(name) for name in self.keys]
        if any(part is None for part in parts):
            return None
        return json.dumps([comparable(part, self.likes.get(name)) for name, part in zip(self.keys, parts, strict=True)])

    def label(self, values: Mapping[str, Any]) -> str:
        """Returns a row's key for messages, with sensitive values masked."""
        return ", ".join(f"{name} {'***' if name in self._hidden else values.get(name)}" for name in self.keys)

    def is_deleted(self, values: Mapping[str, Any]) -> bool:
        return any(values.get(name) not in (None, False) for name in self._deletes)

    def heap_row(self, values: Mapping[str, Any]) -> str:
        """Returns a whole row as text, which is the same on both sides for most equal rows."""
        parts = {}
        for name, value in values.items():
            if value is not None and not is_own(name) and (self._names(name) or not isinstance(value, list)):
                like = self.likes.get(name)
                parts[name] = comparable(value, like, json=self.is_json(name) is True) or f"?{value}"
        return json.dumps(parts, sort_keys=True)

    def _names(self, name: str) -> list[str]:
        if name not in self._variants:
            self._variants[name] = variants(name, self.data)
        return self._variants[name]

    def differing(self, row: Mapping[str, Any], held: Mapping[str, Any]) -> tuple[set[str], set[str]]:
        """Returns the columns in which a row of the table differs, and those that cannot be compared."""
        other, unknown, told = set[str](), set[str](), set[str]()
        flat = self.flat(row)
        for name, values in flat.items():
            names = [column for column in self._names(name) if column == name or column not in flat]
            told.update(names)
            same = self._same(name, names, values, held)
            if same is not True:
                (other if same is False else unknown).add(name)
        for name in self.data - told:
            if held.get(name) is not None:
                (other if told_apart(name) is None else unknown).add(name)
        return other, unknown

    def _same(self, name: str, names: Sequence[str], values: Sequence[Any], held: Mapping[str, Any]) -> bool | None:
        there = [(column, held[column]) for column in names if held.get(column) is not None]
        given = [value for value in values if value is not None]
        if not given:
            return not there
        if not names:
            return self._may_lack(name, given[0])
        contract = self.resource.schema_contract
        if len(given) > len(there):
            return None if contract is not None and contract.data_type == "discard_value" else False
        if len(given) < len(there):
            return False
        # Fields that are called alike have a column each, and the table does not say whose is which.
        certain = True
        for value in given:
            verdicts = [agrees(value, cell, json=self.is_json(column)) for column, cell in there]
            best = True if True in verdicts else None if None in verdicts else False
            if best is False:
                return False
            del there[verdicts.index(best)]
            certain &= best is True
        return True if certain else None

    def _may_lack(self, name: str, value: Any) -> bool | None:
        """Returns whether the table may lack a column for a value; None if that cannot be determined."""
        if isinstance(value, list) and self.resource.child_tables:
            return True
        contract = self.resource.schema_contract
        ruled = contract is not None and contract.columns not in (None, "evolve")
        return None if ruled or name in self.columns or is_own(name) or len(name) >= _LONG_NAME else False


def _last(flat: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    return {name: values[-1] for name, values in flat.items()}


# By key


def _by_key(received: Received, shape: _Shape, compared: Compared) -> None:
    keyless: dict[str, int] = {}
    for row in received:
        values = _last(shape.flat(row)) if isinstance(row, Mapping) else {}
        key = shape.key(values)
        if key is None:
            keyless[pack(row)] = keyless.get(pack(row), 0) + 1
        elif not received.change(
            "INSERT OR IGNORE INTO keyed (key, row, deleted) VALUES (?, ?, ?)", key, pack(row), shape.is_deleted(values)
        ):
            [(before,)] = received.ask("SELECT row FROM keyed WHERE key = ?", key)
            if before != pack(row):
                compared.found["same_key"][key] = shape.label(values)
                received.change("UPDATE keyed SET others = others + 1, row = ? WHERE key = ?", pack(row), key)
    unknown: dict[str, int] = {}
    for held in shape.rows():
        _meet(received, shape, compared, held, unknown)
    _account_for_rejects(received, shape, compared, keyless)
    for key, text, deleted, rejected in received.ask("SELECT key, row, deleted, rejected FROM keyed WHERE seen = 0"):
        if deleted:
            compared.deleted += 1
        elif rejected:
            compared.rejected += 1
        else:
            compared.found["missing"][key] = shape.label(_last(shape.flat(unpack(text))))
    for text, number in keyless.items():
        for n in range(number):
            compared.found["missing"][f"{text} {n}"] = "a row without its key"
    compared.doubts += [f"{name} cannot be compared in {rows:,} rows" for name, rows in sorted(unknown.items())]


def _meet(
    received: Received, shape: _Shape, compared: Compared, held: Mapping[str, Any], unknown: dict[str, int]
) -> None:
    """Compares one row of the table with the API's row with the same key."""
    gone = shape.resource.disposition == "merge" and held.get(ABSENT_SINCE) is not None
    compared.rows_table += not gone
    key = shape.key(held)
    found = list(received.ask("SELECT row, others, deleted, seen FROM keyed WHERE key = ?", key)) if key else []
    if not found or found[0][2] or (found[0][3] and not gone):  # not sent, deleted, or a second row with this key
        if not gone:
            name = key or pack([str(value) for value in held.values()])
            compared.found["extra"][name] = shape.label(held)
        return
    text, others, _, _ = found[0]
    if gone:
        compared.found["marked_absent"][str(key)] = shape.label(held)
    received.change("UPDATE keyed SET seen = 1 WHERE key = ?", key)
    if others or gone:
        return
    other, cannot_tell = shape.differing(unpack(text), held)
    for name in cannot_tell:
        unknown[name] = unknown.get(name, 0) + 1
    if other:
        compared.found["different"][str(key)] = shape.label(held)
        compared.columns[str(key)] = frozenset(other)


def _account_for_rejects(received: Received, shape: _Shape, compared: Compared, keyless: dict[str, int]) -> None:
    """Finds the rows that could not land and are in the table of rejected rows."""
    for row in shape.rejected():
        key = shape.key(_last(shape.flat(row))) if isinstance(row, Mapping) else None
        if key is not None:
            received.change("UPDATE keyed SET rejected = 1 WHERE key = ?", key)
        elif number := keyless.pop(pack(row), 0):
            compared.rejected += number


# Without a key


def _as_heap(received: Received, shape: _Shape, compared: Compared) -> None:
    """Compares rows without a key: equal texts cancel out, and the rest is compared value by value."""
    rejects = {pack(row) for row in shape.rejected()}
    for number, row in enumerate(received, start=1):
        if pack(row) in rejects:
            compared.rejected += 1
            continue
        values = _last(shape.flat(row)) if isinstance(row, Mapping) else {}
        received.change(
            "INSERT INTO heap (text, row, label, sent) VALUES (?, ?, ?, 1) ON CONFLICT (text) DO UPDATE SET sent = sent + 1",
            shape.heap_row(values) if isinstance(row, Mapping) else pack(row),
            pack(row), shape.label(values) or f"row {number:,} of the API",
        )  # fmt: skip
    for held in shape.rows():
        compared.rows_table += 1
        received.change(
            "INSERT INTO heap (text, held) VALUES (?, 1) ON CONFLICT (text) DO UPDATE SET held = held + 1",
            shape.heap_row({name: held[name] for name in shape.data}),
        )
    _match_the_rest(received, shape, compared)


def _match_the_rest(received: Received, shape: _Shape, compared: Compared) -> None:
    """Finds for each remaining row on one side a row on the other side that may be equal in another form."""
    left = {
        text: here - sent for text, sent, here in received.ask("SELECT text, sent, held FROM heap WHERE held > sent")
    }
    spare: list[tuple[str, Mapping[str, Any]]] = []
    for held in shape.rows() if left else ():
        text = shape.heap_row({name: held[name] for name in shape.data})
        if left.get(text, 0) > 0:
            left[text] -= 1
            spare.append((text, held))
    unknown: dict[str, int] = {}
    tries = _MOST_TRIES
    for text, row, label, sent, here in received.ask("SELECT text, row, label, sent, held FROM heap WHERE sent > held"):
        for n in range(sent - here):
            match = None
            for index, (_, held) in enumerate(spare):
                if (tries := tries - 1) < 0 or not isinstance(unpack(row), Mapping):
                    break
                other, cannot_tell = shape.differing(unpack(row), held)
                if not other:
                    match = index
                    for name in cannot_tell:
                        unknown[name] = unknown.get(name, 0) + 1
                    break
            if match is None:
                compared.found["missing"][f"{text} {n}"] = label
            else:
                del spare[match]
    for number, (text, held) in enumerate(spare):
        compared.found["extra"][f"{text} {number}"] = shape.label(held) or "a row of the table"
    compared.doubts += [f"{name} cannot be compared in {rows:,} rows" for name, rows in sorted(unknown.items())]
