"""Holds rows as columns of JSON kinds, before column types are decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rmm_assets.rows.json_text import EXACT_DOUBLE, json_text
from rmm_assets.rows.layout import Layout
from rmm_assets.rows.types import Kind, fits_double, kind_of

NOT_AN_OBJECT = "not an object"

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Column:
    """Holds one column of some rows.

    Attributes:
        kind: How `values` are stored: the kind of all of them, or `mixed` if each one is JSON text.
        values: One per row.
        kinds: The kinds of the non-null values; `wide` next to `bigint` means that no double holds one of them exactly.
    """

    kind: Kind
    values: pa.Array
    kinds: frozenset[Kind]


@dataclass
class Chunk:
    """Holds some rows as columns.

    Attributes:
        rows: Number of rows.
        columns: Columns by name, in dlt's order. Columns that contain only null are left out.
        faults: The reasons why a row cannot land, by row index: one reason per column.
        empty_objects: By column name, the rows with an empty object, which is a value only if the column becomes JSON.
        children: The items of lists that become child tables. Lists without items are left out.
    """

    rows: int
    columns: dict[str, Column]
    faults: dict[int, list[str]] = field(default_factory=dict)
    empty_objects: dict[str, list[int]] = field(default_factory=dict)
    children: list[Items] = field(default_factory=list)

    def add_fault(self, row: int, reason: str) -> None:
        self.faults.setdefault(row, []).append(reason)


@dataclass(frozen=True)
class Items:
    """Holds the items of one list field, which become rows of a child table.

    Attributes:
        layout: The child table's layout.
        chunk: The items as columns.
        parents: For each item, the index of its row in the parent chunk.
        positions: For each item, its index in its list.
    """

    layout: Layout
    chunk: Chunk
    parents: Indices
    positions: Indices


def column_of(values: list[Any]) -> Column:
    """Makes a column from JSON values.

    Raises:
        UnicodeEncodeError: A value contains text that is not valid Unicode.
    """
    types = set(map(type, values)) - {type(None)}
    if types == {str}:
        return Column("text", pa.array(values, pa.string()), frozenset({"text"}))
    if types == {bool}:
        return Column("bool", pa.array(values, pa.bool_()), frozenset({"bool"}))
    if types == {float}:
        return Column("double", pa.array(values, pa.float64()), frozenset({"double"}))
    if types == {int}:
        try:
            return typed_column(pa.array(values, pa.int64()))
        except OverflowError:
            pass
    if types == {int, float} and all(v is None or isinstance(v, float) or abs(v) < EXACT_DOUBLE for v in values):
        doubles = [None if v is None else float(v) for v in values]
        return Column("double", pa.array(doubles, pa.float64()), frozenset({"double"}))
    texts = [None if v is None else json_text(v) for v in values]
    if types and types <= {list, dict}:
        return Column("json", pa.array(texts, pa.string()), frozenset({"json"}))
    kinds: set[Kind] = set()
    for value in values:
        if value is not None:
            kinds.update(kind_of(value))
    return Column("mixed", pa.array(texts, pa.string()), frozenset(kinds))


def typed_column(array: pa.Array) -> Column:
    """Makes a column from an Arrow array of integers, doubles, booleans or strings."""
    kind: Kind
    if pa.types.is_int64(array.type):
        return Column("bigint", array, frozenset({"bigint"} if fits_double(array) else {"bigint", "wide"}))
    if pa.types.is_float64(array.type):
        kind = "double"
    elif pa.types.is_boolean(array.type):
        kind = "bool"
    else:
        kind = "text"
    return Column(kind, array, frozenset({kind}))
