"""Holds rows as columns of the kinds that JSON said, not yet of column types."""

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
        kind: How `values` are stored: the kind of all of them, or `mixed`, where each one is JSON text.
        values: As many as there are rows.
        kinds: The kinds of the values that are not null; `wide` beside `bigint` says that one is no double exactly.
    """

    kind: Kind
    values: pa.Array
    kinds: frozenset[Kind]


@dataclass
class Chunk:
    """Holds some rows as columns.

    Attributes:
        rows: How many.
        columns: By column name, in dlt's order. A column that holds nothing but null is not there.
        faults: Why a row cannot land, by its index: one reason a column.
        children: The items of its lists, where they become child tables. A list without items is not there.
    """

    rows: int
    columns: dict[str, Column]
    faults: dict[int, list[str]] = field(default_factory=dict)
    children: list[Items] = field(default_factory=list)

    def add_fault(self, row: int, reason: str) -> None:
        self.faults.setdefault(row, []).append(reason)


@dataclass(frozen=True)
class Items:
    """Holds the items of one list of some rows: rows of a child table.

    Attributes:
        layout: Of the child table.
        chunk: The items as columns.
        parents: By item, the index of its row in the chunk above.
        positions: By item, its index in its list.
    """

    layout: Layout
    chunk: Chunk
    parents: Indices
    positions: Indices


def column_of(values: list[Any]) -> Column:
    """Makes a column of JSON values.

    Raises:
        UnicodeEncodeError: One holds text that is not Unicode.
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
    """Makes a column of an Arrow array of integers, doubles, booleans or strings."""
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
