"""Finds the type that holds all values of a column without loss, and casts to it.

A kind is the type of a JSON value; a column's type is known only at the end of a read.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from rmm_assets.rows.json_text import EXACT_DOUBLE, json_text, loads, plain_text
from rmm_assets.rows.timestamps import TIMESTAMP, read_timestamps

# `huge` is a number that neither int64 nor a double holds, `wide` an integer that no double holds exactly, `stamp` text
# that dlt reads as a timestamp, `mixed` a column of several kinds as JSON text.
Kind = Literal["bool", "bigint", "wide", "huge", "double", "stamp", "text", "json", "mixed"]

INT64 = (-(2**63), 2**63 - 1)


def kind_of(value: Any) -> tuple[Kind, ...]:
    """Returns the kinds of a non-null JSON value."""
    if isinstance(value, bool):
        return ("bool",)
    if isinstance(value, int):
        if not INT64[0] <= value <= INT64[1]:
            return ("huge",)
        return ("bigint",) if int(float(value)) == value else ("bigint", "wide")
    if isinstance(value, float):
        return ("double",)
    if isinstance(value, str):
        return ("text",)
    return ("huge",) if isinstance(value, Decimal) else ("json",)


def fits_double(array: pa.Array) -> bool:
    """Returns whether doubles hold all of these int64 values exactly."""
    extremes = pc.min_max(array)
    low, high = extremes["min"].as_py(), extremes["max"].as_py()
    if low is None or (low >= -EXACT_DOUBLE and high <= EXACT_DOUBLE):
        return True
    return all(int(float(value)) == value for value in array.drop_null().to_pylist())


def widened(kinds: Iterable[Kind]) -> str:
    """Returns the type that holds values of all these kinds without loss.

    Integers and floats become `double` if it holds every integer exactly; a column that contains a list or an object becomes
    `json`; any other mixture becomes `text`.
    """
    found = set(kinds)
    if "json" in found:
        return "json"
    if found <= {"bigint", "wide"}:
        return "bigint"
    if found <= {"bigint", "double"}:
        return "double"
    if found == {"bool"}:
        return "bool"
    return "timestamp" if found == {"stamp"} else "text"


def arrow_type(data_type: str) -> pa.DataType:
    """Returns the Arrow type for a type returned by `widened`."""
    types = {"bigint": pa.int64(), "double": pa.float64(), "bool": pa.bool_(), "timestamp": TIMESTAMP}
    return types.get(data_type, pa.string())


def widen(array: pa.Array, kind: Kind, data_type: str) -> pa.Array:
    """Casts a column of one kind to a type returned by `widened`."""
    if data_type == "json":
        if kind in ("json", "mixed"):
            return array
        if kind in ("bigint", "bool"):
            return pc.cast(array, pa.string())
        return pa.array([None if v is None else json_text(v) for v in array.to_pylist()], pa.string())
    if data_type == "text":
        return as_text(array, kind)
    if data_type == "timestamp":
        return read_timestamps(array)
    if data_type == "double":
        if kind == "mixed":
            return pa.array([None if v is None else float(v) for v in _unmix(array)], pa.float64())
        return pc.cast(array, pa.float64(), safe=False)
    return array


def as_text(array: pa.Array, kind: Kind) -> pa.Array:
    """Casts a column of one kind to text, as `plain_text` writes each value."""
    if kind in ("text", "stamp", "json"):
        return array
    if kind in ("bigint", "bool"):
        return pc.cast(array, pa.string())
    values = _unmix(array) if kind == "mixed" else array.to_pylist()
    return pa.array([None if v is None else plain_text(v) for v in values], pa.string())


def _unmix(array: pa.Array) -> list[Any]:
    return [None if text is None else loads(text) for text in array.to_pylist()]


def to_python(array: pa.Array, kind: Kind) -> list[Any]:
    """Returns the JSON values of a column."""
    return _unmix(array) if kind in ("json", "mixed") else list(array.to_pylist())
