"""Stores the batches of one table on disk and returns them as Arrow tables of one schema.

The kinds of values in each column are recorded as batches are written, and column types are decided when they are read
back. `spool` decides which rows land and in which order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmm_assets.rows.arrow_files import append, read_at
from rmm_assets.rows.chunk import NOT_AN_OBJECT, Chunk, Column, column_of
from rmm_assets.rows.contents import says_deleted
from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.json_text import plain_text
from rmm_assets.rows.keys import is_nested
from rmm_assets.rows.layout import Layout
from rmm_assets.rows.nulls import nulls_like
from rmm_assets.rows.targets import Target, fit
from rmm_assets.rows.timestamps import are_timestamps
from rmm_assets.rows.types import Kind, arrow_type, kind_of, to_python, widen, widened

_FIXED = b"fixed"
# Before the name of a column: whether the value is an empty object. No column's name begins like this.
_EMPTY = " {} "


class Batches:
    """Stores the batches of one table, whose layout is `layout`."""

    def __init__(self, layout: Layout, path: Path, *, root: bool = True) -> None:
        """Creates an empty store.

        Args:
            layout: The table's layout.
            path: A file that nothing else uses.
            root: Whether this is the resource's own table rather than a child table.
        """
        self.layout, self._path = layout, path
        self._root = root
        self._offsets: dict[int, int] = {}
        self._kinds: dict[str, set[Kind]] = {}
        self._order: dict[str, Target | None] = {}
        self._misfits: dict[str, set[Kind]] = {}
        path.write_bytes(b"")

    def write(self, number: int, table: pa.Table) -> None:
        """Stores a table that `shape` made under its batch number."""
        self._offsets[number] = append(self._path, table)

    def read(self, number: int) -> pa.Table | None:
        """Reads a batch as it was written; None if it has no rows of this table."""
        return read_at(self._path, self._offsets[number]) if number in self._offsets else None

    def columns(self) -> dict[str, dict[str, Any]]:
        """Returns the table's dlt column schemas, which tell dlt what Arrow types cannot, such as `json`."""
        schemas: dict[str, dict[str, Any]] = {}
        for name, target in self._order.items():
            data_type = target.data_type if target else widened(self._kinds[name])
            schemas[name] = {**(target.hint if target else {}), "name": name, "data_type": data_type}
            if name in self.layout.required:
                schemas[name]["nullable"] = False
        return schemas

    def changed_types(self) -> Mapping[str, tuple[str, str]]:
        """Returns the columns whose destination type does not fit the values: the type there and the type received."""
        came = {name: (str(self.layout.known_type(name)), widened(kinds)) for name, kinds in self._misfits.items()}
        return {self._label(name): types for name, types in came.items()}

    def unifies_spellings(self, name: str) -> bool:
        """Returns whether values of a column that are written differently may be equal, such as 1 and 1.0."""
        if name not in self._order or self._order[name] is not None:
            return False
        kinds = self._kinds[name]
        return kinds == {"stamp"} or {"bigint", "double"} <= kinds <= {"bigint", "double"}

    def _label(self, name: str) -> str:
        return name if self._root else f"{self.layout.table}.{name}"

    @property
    def schema(self) -> pa.Schema:
        """Builds the schema of the table. Columns that contain only null are left out, as in dlt."""
        return pa.schema(
            [
                pa.field(
                    name,
                    target.arrow if target else arrow_type(widened(self._kinds[name])),
                    nullable=name not in self.layout.required,
                )
                for name, target in self._order.items()
            ]
        )

    def conform(self, chunk: pa.Table, schema: pa.Schema, own: Mapping[str, pa.Array] | None = None) -> pa.Table:
        """Casts a stored table to the final schema.

        Args:
            chunk: The table as it was stored.
            schema: The schema that holds the values of all batches.
            own: Columns without nulls to add.
        """
        arrays: list[Any] = []
        for entry in schema:
            empty = self._empty_objects(chunk, entry.name)
            index = chunk.schema.get_field_index(entry.name)
            if index < 0:
                array = pa.nulls(len(chunk), entry.type)
            else:
                stored = chunk.schema.field(index)
                array = chunk.column(index).combine_chunks()
                kind = stored.metadata[b"kind"]
                if kind != _FIXED:
                    array = widen(array, kind.decode(), widened(self._kinds[entry.name]))
            if empty is not None:
                array = pc.if_else(pc.and_(empty, array.is_null()), "{}", array)
            arrays.append(self._filled(array, entry))
        for name, array in (own or {}).items():
            schema = schema.append(pa.field(name, array.type, nullable=False))
            arrays.append(array)
        return pa.Table.from_arrays(arrays, schema=schema)

    def _empty_objects(self, chunk: pa.Table, name: str) -> pa.Array | None:
        """Marks the rows in which a column has an empty object that it keeps: they have become JSON only in this read."""
        index = chunk.schema.get_field_index(_EMPTY + name)
        if index < 0 or self._order[name] is not None or widened(self._kinds[name]) != "json":
            return None
        return chunk.column(index).combine_chunks()

    def _filled(self, array: pa.Array, entry: pa.Field) -> pa.Array:
        """Fills required columns of deleted rows; the filler never leaves the staging table."""
        if entry.nullable or not array.null_count:
            return array
        if pa.types.is_string(entry.type):
            target = self._order[entry.name]
            return array.fill_null("null" if target and target.data_type == "json" else "")
        if pa.types.is_binary(entry.type):
            return array.fill_null(b"")
        zero = pa.Array.from_buffers(entry.type, 1, [None, pa.py_buffer(bytes(16))])[0]
        return array.fill_null(zero)

    def shape(self, chunk: Chunk, own: Mapping[str, pa.Array] | None = None) -> pa.Table:
        """Makes the table to write: applies declared and known types, and records the kinds of all other columns.

        A value that does not fit the table's type goes to a variant column, as in dlt; one that does not fit a declared
        type or a key gives its row a fault.

        Args:
            chunk: The rows; faults are added to it.
            own: Columns to add as they are.
        """
        stored: dict[str, tuple[pa.Array, bytes]] = {}
        deleted = self._deleted(chunk)
        waiting = list(chunk.columns.items())
        for name, column in waiting:
            target = self.layout.targets.get(name)
            self._order.setdefault(name, target)
            if target is None:
                if name in self.layout.key and "json" in column.kinds:
                    column = self._without_nested(chunk, name, column)
                self._note_kinds(name, column)
                stored[name] = (column.values, column.kind.encode())
                continue
            values, misfit = fit(column.values, column.kind, target)
            stored[name] = (values, _FIXED)
            if misfit is None:
                continue
            variants: dict[str, Column] = {}
            if not target.declared and name not in self.layout.key and not target.hint.get("variant"):
                variants = self._variants(name, column, misfit)
            if not target.declared:
                came = self._misfits.setdefault(name, set())
                came.update(*(variant.kinds for variant in variants.values() or [column]))
            if variants and not variants.keys() & chunk.columns.keys():
                waiting.extend(variants.items())
            else:
                self._refuse(chunk, name, column, misfit if name in self.layout.key else misfit & ~deleted, target)
        self._require(chunk, {name: values for name, (values, _) in stored.items()}, deleted)
        fields = [pa.field(name, a.type, metadata={b"kind": kind}) for name, (a, kind) in stored.items()]
        arrays = [array for array, _ in stored.values()]
        for name, array in {**_marks(chunk), **(own or {})}.items():
            fields.append(pa.field(name, array.type))
            arrays.append(array)
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def _note_kinds(self, name: str, column: Column) -> None:
        kinds = self._kinds.setdefault(name, set())
        if column.kind == "text" and "text" not in kinds and are_timestamps(column.values):
            kinds.add("stamp")
        else:
            kinds |= column.kinds

    def _without_nested(self, chunk: Chunk, name: str, column: Column) -> Column:
        """Adds a fault to rows whose key is a list or an object, and returns the column with null in their place."""
        values = to_python(column.values, column.kind)
        for index, value in enumerate(values):
            if is_nested(value):
                chunk.add_fault(index, f"{name}: a list or an object is not a primary key")
                values[index] = None
        return column_of(values)

    def _variants(self, name: str, column: Column, misfit: Mask) -> dict[str, Column]:
        """Returns the variant columns that take the values that do not fit."""
        if column.kind != "mixed":
            values = pc.if_else(pa.array(misfit), column.values, nulls_like(column.values))
            return {self.layout.variant_name(name, column.kind): Column(column.kind, values, column.kinds)}
        by_type: dict[str, list[Any]] = {}
        values = to_python(column.values, column.kind)
        for index in np.flatnonzero(misfit):
            value = values[index]
            kind = kind_of(value)[0]
            if kind == "huge":
                kind, value = "text", plain_text(value)
            by_type.setdefault(kind, [None] * len(values))[index] = value
        return {self.layout.variant_name(name, kind): column_of(items) for kind, items in by_type.items()}

    def _refuse(self, chunk: Chunk, name: str, column: Column, misfit: Mask, target: Target) -> None:
        values = to_python(column.values, column.kind) if column.kind == "mixed" else None
        for index in map(int, np.flatnonzero(misfit)):
            kind = column.kind if values is None else kind_of(values[index])[0]
            what = {"huge": "a number that neither 64 bits nor a double holds", "json": "a list or an object"}.get(
                kind, f"this {kind}"
            )
            chunk.add_fault(index, f"{self._label(name)}: {what} does not fit {target}")

    def _deleted(self, chunk: Chunk) -> Mask:
        """Marks the rows flagged as deleted."""
        column = chunk.columns.get(self.layout.deleted or "")
        if column is None:
            return np.zeros(chunk.rows, np.bool_)
        target = self.layout.targets.get(self.layout.deleted or "")
        return says_deleted(column.values if target is None else fit(column.values, column.kind, target)[0])

    def _require(self, chunk: Chunk, columns: Mapping[str, pa.Array], deleted: Mask) -> None:
        """Adds a fault to rows that lack a required value. Deleted rows need only their key."""
        for name in self.layout.required:
            why = self.layout.why_required(name)
            values = columns.get(name)
            if values is None:
                empty = np.arange(chunk.rows)
            elif values.null_count:
                empty = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))
            else:
                continue
            if name not in self.layout.key and deleted.any():
                if name in self.layout.targets:
                    self._order.setdefault(name, self.layout.targets[name])
                empty = empty[~deleted[empty]]
            for index in map(int, empty):
                reasons = chunk.faults.get(index, [])
                if NOT_AN_OBJECT not in reasons and not any(reason.startswith(f"{name}: ") for reason in reasons):
                    chunk.add_fault(index, f"{name}: missing or null, and it is {why}")


def _marks(chunk: Chunk) -> dict[str, pa.Array]:
    """Returns columns that mark the rows with an empty object."""
    marks = {}
    for name, rows in chunk.empty_objects.items():
        marked = np.zeros(chunk.rows, np.bool_)
        marked[rows] = True
        marks[_EMPTY + name] = pa.array(marked)
    return marks
