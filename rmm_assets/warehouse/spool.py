"""Gathers the pages of one read on disk, and gives them back as Arrow tables of one schema when the read is complete.

Pages become batches, batches become files, and only eight bytes a row stay in memory: its key. The types of columns
are settled last, when everything was seen. Whether the read is complete is not decided here, and nothing is loaded.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmm_assets.warehouse.columns import NOT_AN_OBJECT, Chunk, Column, column_of
from rmm_assets.warehouse.keys import NO_KEY, Keys, chunk_keys
from rmm_assets.warehouse.rows import Page, RowShape
from rmm_assets.warehouse.values import (
    Kind,
    Target,
    are_timestamps,
    arrow_type,
    fit,
    json_text,
    kind_of,
    plain_text,
    to_python,
    widen,
    widened,
)

# A batch is written at so many bytes of bodies even if its rows are few.
BATCH_BYTES = 32 * 2**20

REJECTED = pa.schema(
    [
        pa.field("row_json", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("page", pa.int64(), nullable=False),
    ]
)
_FIXED = b"fixed"

Misfit = np.ndarray[Any, np.dtype[np.bool_]]


class _Numbered(NamedTuple):
    """A page with its number in the read, from 1, and its rows' keys if they are made already."""

    number: int
    page: Page
    keys: Keys | None


class Spool:
    """The rows of one read of one resource. For one thread.

    Attributes:
        rows: Rows received, rejected ones included.
    """

    def __init__(self, shape: RowShape, folder: Path, batch_rows: int = 20000) -> None:
        """Start empty.

        Args:
            shape: What is known of the rows.
            folder: An empty folder of this spool's own; made if it is not there.
            batch_rows: Rows a table that `tables` gives, about.
        """
        self._shape, self._layout = shape, shape.layout
        self._folder, self._batch_rows = folder, batch_rows
        folder.mkdir(parents=True, exist_ok=True)
        self.clear()

    def clear(self) -> None:
        """Forget all rows; the read starts anew."""
        self.rows = 0
        self._rejected_rows = 0
        self._keyless = 0
        self._pages = 0
        self._pending: list[_Numbered] = []
        self._pending_rows = self._pending_bytes = 0
        self._keys: list[Keys] = []
        self._landing: list[Keys] = []
        self._kinds: dict[str, set[Kind]] = {}
        self._order: dict[str, Target | None] = {}
        self._misfits: dict[str, set[Kind]] = {}
        self._redeclared: dict[str, tuple[str, str]] = {}
        for path in (self._rows_path, self._rejected_path):
            path.write_bytes(b"")

    @property
    def _rows_path(self) -> Path:
        return self._folder / "rows.arrows"

    @property
    def _rejected_path(self) -> Path:
        return self._folder / "rejected.arrows"

    def add(self, page: Page, keys: Keys | None = None) -> None:
        """Take in the next page.

        Args:
            page: Its rows; overlap with the page before is cut off already.
            keys: Its rows' keys where `row_keys` has made them; else they are made here.
        """
        self._pages += 1
        self.rows += page.rows
        if not page.rows:
            return
        self._pending.append(_Numbered(self._pages, page, keys))
        self._pending_rows += page.rows
        self._pending_bytes += page.size
        if self._pending_rows >= self._batch_rows or self._pending_bytes >= BATCH_BYTES:
            self._flush()

    @property
    def rejected_rows(self) -> int:
        """Rows that cannot land."""
        self._flush()
        return self._rejected_rows

    @property
    def keyless(self) -> int:
        """Rows without a primary key; each of them is rejected."""
        self._flush()
        return self._keyless

    @property
    def distinct(self) -> int:
        """Different keys among the rows; `rows - distinct - keyless` of them came more than once."""
        return len(self._distinct_keys())

    def fingerprint(self) -> str:
        """A digest of the set of keys, whatever their order: equal where two passes show the same rows."""
        return hashlib.sha256(self._distinct_keys().tobytes()).hexdigest()

    def sequence(self) -> str:
        """A digest of all keys in the order in which they came."""
        self._flush()
        return hashlib.sha256(np.concatenate([*self._keys, np.zeros(0, np.uint64)]).tobytes()).hexdigest()

    def _distinct_keys(self) -> Keys:
        self._flush()
        keys = _sorted(self._keys)
        keys = keys[np.searchsorted(keys, NO_KEY, "right") :]
        first = np.ones(len(keys), np.bool_)
        np.not_equal(keys[1:], keys[:-1], out=first[1:])
        return keys[first].astype(np.uint64, copy=False)

    def columns(self) -> dict[str, dict[str, Any]]:
        """dlt column schemas of the tables, for dlt to know what Arrow's types do not say, such as `json`."""
        self._flush()
        schemas: dict[str, dict[str, Any]] = {}
        for name, target in self._order.items():
            data_type = target.data_type if target else widened(self._kinds[name])
            schemas[name] = {**(target.hint if target else {}), "name": name, "data_type": data_type}
            if name in self._layout.required:
                schemas[name]["nullable"] = False
        return schemas

    def changed_types(self) -> Mapping[str, tuple[str, str]]:
        """Columns whose type at the destination holds not all of what came, or contradicts its declaration.

        Returns:
            By column, the type in the table and the type that came.
        """
        self._flush()
        came = {name: (str(self._layout.known_type(name)), widened(kinds)) for name, kinds in self._misfits.items()}
        return {**came, **self._redeclared}

    def tables(self) -> Iterator[pa.Table]:
        """The rows that can land, each once: the last one of those that share a key. All tables have one schema."""
        self._flush()
        schema = self.schema
        landing = self._landed()
        gathered: list[pa.Table] = []
        for chunk, land in zip(_streams(self._rows_path), landing, strict=True):
            if land is not None:
                chunk = chunk.filter(pa.array(land))
            gathered.append(self._settle(chunk, schema))
            if sum(len(table) for table in gathered) >= self._batch_rows:
                yield pa.concat_tables(gathered)
                gathered = []
        if gathered:
            yield pa.concat_tables(gathered)

    @property
    def schema(self) -> pa.Schema:
        """The schema of the tables. Columns that hold nothing but null are not in it: dlt makes none either."""
        self._flush()
        return pa.schema(
            [
                pa.field(
                    name,
                    target.arrow if target else arrow_type(widened(self._kinds[name])),
                    nullable=name not in self._layout.required,
                )
                for name, target in self._order.items()
            ]
        )

    def rejected(self) -> Iterator[pa.Table]:
        """The rows that cannot land, as `REJECTED`: the row as JSON, why, and the number of its page, from 1."""
        self._flush()
        return _streams(self._rejected_path)

    def _landed(self) -> list[np.ndarray[Any, np.dtype[np.bool_]] | None]:
        """Which rows of each batch land; None for all of them."""
        keys = _sorted(self._landing)
        if not (keys[1:] == keys[:-1]).any():
            return [None] * len(self._landing)
        keys = np.concatenate(self._landing)
        _, last = np.unique(keys[::-1], return_index=True)
        land = np.zeros(len(keys), np.bool_)
        land[len(keys) - 1 - last] = True
        ends = list(accumulate(len(batch) for batch in self._landing))
        return [land[end - len(batch) : end] for end, batch in zip(ends, self._landing, strict=True)]

    def _settle(self, chunk: pa.Table, schema: pa.Schema) -> pa.Table:
        arrays: list[Any] = []
        for entry in schema:
            index = chunk.schema.get_field_index(entry.name)
            if index < 0:
                arrays.append(pa.nulls(len(chunk), entry.type))
                continue
            stored = chunk.schema.field(index)
            array = chunk.column(index).combine_chunks()
            kind = stored.metadata[b"kind"]
            if kind != _FIXED:
                array = widen(array, kind.decode(), widened(self._kinds[entry.name]))
            arrays.append(array)
        return pa.Table.from_arrays(arrays, schema=schema)

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        self._pending_rows = self._pending_bytes = 0
        run: list[_Numbered] = []
        for entry in pending:
            if run and not run[-1].page.is_like(entry.page):
                self._take(run)
                run = []
            run.append(entry)
        if run:
            self._take(run)

    def _take(self, run: list[_Numbered]) -> None:
        pages = [entry.page for entry in run]
        chunk = self._layout.flatten(pages)
        given = [entry.keys for entry in run if entry.keys is not None]
        if len(given) == len(run):
            keys = np.concatenate(given)
        else:
            keys = chunk_keys(chunk, self._layout, [page.rows for page in pages])
        self._refuse_empty(chunk)
        arrays, fields = self._shape_columns(chunk)
        self._keys.append(keys)
        self._keyless += int(np.count_nonzero(keys == NO_KEY))
        if chunk.faults:
            self._reject(chunk.faults, run)
            land = np.ones(chunk.rows, np.bool_)
            land[list(chunk.faults)] = False
            keys, arrays = keys[land], [array.filter(pa.array(land)) for array in arrays]
        if len(keys):
            table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
            self._landing.append(keys)
            _append(self._rows_path, table)

    def _shape_columns(self, chunk: Chunk) -> tuple[list[pa.Array], list[pa.Field]]:
        """The columns to store: declared and known types applied, and the kinds of all others noted.

        Rows that do not fit get a fault; values that the table's type does not hold go to a variant column, as in dlt.
        """
        stored: dict[str, tuple[pa.Array, bytes]] = {}
        waiting = list(chunk.columns.items())
        for name, column in waiting:
            target = self._layout.targets.get(name)
            self._order.setdefault(name, target)
            if target is None:
                self._note_kinds(name, column)
                stored[name] = (column.values, column.kind.encode())
                continue
            values, misfit = fit(column.values, column.kind, target)
            stored[name] = (values, _FIXED)
            known = self._layout.known_type(name)
            if target.declared and known not in (None, target.data_type):
                self._redeclared[name] = (str(known), target.data_type)
            if misfit is None:
                continue
            variants: dict[str, Column] = {}
            if not target.declared and name not in self._layout.key and not target.hint.get("variant"):
                variants = self._variants(name, column, misfit)
            if not target.declared:
                came = self._misfits.setdefault(name, set())
                came.update(*(variant.kinds for variant in variants.values() or [column]))
            if variants and not variants.keys() & chunk.columns.keys():
                waiting.extend(variants.items())
            else:
                self._refuse(chunk, name, column, misfit, target)
        self._require(chunk, {name: values for name, (values, _) in stored.items()})
        fields = [pa.field(name, a.type, metadata={b"kind": kind}) for name, (a, kind) in stored.items()]
        return [array for array, _ in stored.values()], fields

    def _note_kinds(self, name: str, column: Column) -> None:
        kinds = self._kinds.setdefault(name, set())
        if column.kind == "text" and "text" not in kinds and are_timestamps(column.values):
            kinds.add("stamp")
        else:
            kinds |= column.kinds

    def _variants(self, name: str, column: Column, misfit: Misfit) -> dict[str, Column]:
        """The values that do not fit, by the columns that take them."""
        if column.kind != "mixed":
            values = pc.if_else(pa.array(misfit), column.values, pa.scalar(None, column.values.type))
            return {self._layout.variant_name(name, column.kind): Column(column.kind, values, column.kinds)}
        by_type: dict[str, list[Any]] = {}
        values = to_python(column.values, column.kind)
        for index in np.flatnonzero(misfit):
            value = values[index]
            kind = kind_of(value)[0]
            if kind == "huge":
                kind, value = "text", plain_text(value)
            by_type.setdefault(kind, [None] * len(values))[index] = value
        return {self._layout.variant_name(name, kind): column_of(items) for kind, items in by_type.items()}

    def _refuse(self, chunk: Chunk, name: str, column: Column, misfit: Misfit, target: Target) -> None:
        values = to_python(column.values, column.kind) if column.kind == "mixed" else None
        for index in map(int, np.flatnonzero(misfit)):
            kind = column.kind if values is None else kind_of(values[index])[0]
            what = {"huge": "a number beyond 64 bits", "json": "a list or an object"}.get(kind, f"this {kind}")
            chunk.add_fault(index, f"{name}: {what} does not fit {target.data_type}")

    def _require(self, chunk: Chunk, columns: Mapping[str, pa.Array]) -> None:
        """Give a fault to each row without a value that it must have."""
        for name in self._layout.required:
            why = "the primary key" if name in self._layout.key else "declared not nullable"
            values = columns.get(name)
            if values is None:
                empty = np.arange(chunk.rows)
            elif values.null_count:
                empty = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))
            else:
                continue
            for index in map(int, empty):
                reasons = chunk.faults.get(index, [])
                if NOT_AN_OBJECT not in reasons and not any(reason.startswith(f"{name}: ") for reason in reasons):
                    chunk.add_fault(index, f"{name}: missing or null, and it is {why}")

    def _refuse_empty(self, chunk: Chunk) -> None:
        """Give a fault to each row that would be null throughout: nothing would show that it came."""
        empty = np.ones(chunk.rows, np.bool_)
        for column in chunk.columns.values():
            if not column.values.null_count:
                return
            empty &= column.values.is_null().to_numpy(zero_copy_only=False)
        for index in map(int, np.flatnonzero(empty)):
            if index not in chunk.faults:
                chunk.add_fault(index, "no value in it")

    def _reject(self, faults: Mapping[int, list[str]], run: list[_Numbered]) -> None:
        ends = list(accumulate(entry.page.rows for entry in run))
        objects: dict[int, list[Any]] = {}
        rows: dict[str, list[Any]] = {"row_json": [], "reason": [], "page": []}
        for index in sorted(faults):
            which = bisect.bisect_right(ends, index)
            if which not in objects:
                objects[which] = run[which].page.objects()
            row = objects[which][index - ends[which] + run[which].page.rows]
            rows["row_json"].append(_utf8(row))
            rows["reason"].append("; ".join(sorted(faults[index])))
            rows["page"].append(run[which].number)
        self._rejected_rows += len(faults)
        _append(self._rejected_path, pa.table(rows, schema=REJECTED))


def _sorted(batches: list[Keys]) -> Keys:
    # In place: memory for the keys is what grows with the rows.
    keys: Keys = np.concatenate([*batches, np.zeros(0, np.uint64)])
    keys.sort()
    return keys


def _utf8(row: Any) -> str:
    """A row as JSON that can be stored: what is not Unicode stays escaped."""
    text = json_text(row)
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text


def _append(path: Path, table: pa.Table) -> None:
    with path.open("ab") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def _streams(path: Path) -> Iterator[pa.Table]:
    """The tables that were appended to a file, one at a time."""
    size = path.stat().st_size
    with pa.OSFile(str(path)) as file:
        while file.tell() < size:
            yield pa.ipc.open_stream(file).read_all()
