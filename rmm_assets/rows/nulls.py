"""Replaces texts that mean null by null, wherever they occur in a row: in fields, objects and lists."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def with_nulls(value: Any, texts: frozenset[str]) -> Any:
    """Returns a JSON value with null in place of each of these texts; keys of objects stay."""
    if isinstance(value, dict):
        return {name: with_nulls(inner, texts) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_nulls(inner, texts) for inner in value]
    return None if isinstance(value, str) and value in texts else value


def array_with_nulls(array: pa.Array, texts: frozenset[str]) -> pa.Array:
    """Returns an array with null in place of each of these texts; the array itself if it contains none of them."""
    if pa.types.is_string(array.type):
        found = pc.is_in(array, pa.array(sorted(texts), pa.string()))
        return pc.if_else(found, nulls_like(array), array) if pc.any(found).as_py() else array
    if pa.types.is_struct(array.type):
        fields = array.flatten()
        changed = [array_with_nulls(field, texts) for field in fields]
        if all(new is old for new, old in zip(changed, fields, strict=True)):
            return array
        return pa.StructArray.from_arrays(changed, fields=list(array.type), mask=array.is_null())
    if pa.types.is_list(array.type):
        items = array.flatten()
        new = array_with_nulls(items, texts)
        if new is items:
            return array
        ends = pc.cumulative_sum(pc.list_value_length(array).fill_null(0))
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
        return pa.ListArray.from_arrays(offsets, new, mask=array.is_null())
    return array


def nulls_like(array: pa.Array) -> pa.Array:
    """Returns as many nulls of the same type. For `if_else`, which spoils slices of texts if it gets a null scalar.

    Seen with pyarrow 20 to 22: offsets out of bounds, and other rows' texts.
    """
    return pa.nulls(len(array), array.type)
