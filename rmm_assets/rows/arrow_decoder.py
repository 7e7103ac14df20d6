"""Decodes bodies with Arrow's JSON reader, which releases the GIL and creates no Python objects for rows.

Bodies that Arrow rejects or may not reproduce exactly are left to the reference decoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json as pajson

from rmm_assets.rows.json_text import EXACT_DOUBLE, holds_inexact_number, holds_small_number
from rmm_assets.rows.page import Page
from rmm_assets.rows.selector import SelectedType, select
from rmm_assets.rows.type_memory import TypeMemory

_WHOLE = "_"
# Below this, doubles lose precision and finally underflow to zero.
_SMALLEST = 1e-300


def decode_fast(
    texts: Sequence[bytes], path: tuple[str, ...], selector: str | None, memory: TypeMemory
) -> list[Page] | None:
    """Decodes bodies together with Arrow.

    Returns:
        One page per body; None if the reference decoder must read them.
    """
    for text in texts:
        if not text.isascii():
            try:
                text.decode()  # Arrow does not reject invalid UTF-8
            except UnicodeDecodeError:
                return None
    root = path[0] if path else _WHOLE
    documents = texts if path else [b'{"' + _WHOLE.encode() + b'":' + text + b"}" for text in texts]
    found = _parse(documents, root, memory)
    if found is None or (not path and found.type.num_fields != 1):
        return None
    value = found
    for name in path or (_WHOLE,):
        if not pa.types.is_struct(value.type) or value.null_count:
            return None
        index = value.type.get_field_index(name)
        if index < 0:
            return None
        value = value.field(index)
    if pa.types.is_null(value.type) or value.null_count:
        return None  # with a schema, a missing key looks like null
    selected_type: SelectedType
    counts, selected_type = [1], "object"
    if pa.types.is_list(value.type):
        selected_type = "list"
        counts = value.value_lengths().to_pylist()
        value = value.flatten()
        if pa.types.is_null(value.type) and not len(value):
            value = pa.array([], pa.struct([]))
    if not pa.types.is_struct(value.type) or value.null_count or len(counts) != len(texts):
        return None
    pages, start = [], 0
    for number, (text, count) in enumerate(zip(texts, counts, strict=True)):
        envelope = _without(found.slice(number, 1), path) if path else None
        if path and envelope is None:
            envelope = select(orjson.loads(text), selector).envelope
        pages.append(
            Page(count, envelope, len(text), value.slice(start, count), text, selector, selected_type=selected_type)
        )
        start += count
    return pages


def _parse(documents: Sequence[bytes], root: str, memory: TypeMemory) -> pa.StructArray | None:
    """Parses documents into one struct each; None if Arrow cannot read them or may not read them exactly."""
    document = b"\n".join(documents)
    known = memory.schema
    table = _arrow(document, known)
    if table is None and known is not None:
        table = _arrow(document, None)
    if table is None or table.num_rows != len(documents) or not table.num_columns:
        return None
    doubles = memory.doubles(table.schema)
    stamped = [f.name for f in table.schema if _holds_timestamps(f.type)] if doubles is None else []
    if stamped:
        table = _arrow(document, pa.schema([pa.field(f.name, t) for f in table.schema if (t := _as_text(f.type))]))
        if table is None:
            return None
        for name in stamped:
            memory.keep_text(name)
    try:
        # A list that starts with null, then has values, comes out shorter than its offsets say.
        table.validate()
    except pa.ArrowInvalid:
        return None
    if doubles is None:
        doubles = tuple(_doubles(pa.struct(table.schema)))
        memory.learn(root, table.schema, doubles)
    found = table.to_struct_array().chunk(0)
    if doubles and (holds_inexact_number(document) or not all(_is_exact(found, where, document) for where in doubles)):
        return None
    return found


def _arrow(document: bytes, schema: pa.Schema | None) -> pa.Table | None:
    try:
        return pajson.read_json(
            pa.BufferReader(document),
            read_options=pajson.ReadOptions(use_threads=False, block_size=len(document) + 1),
            parse_options=pajson.ParseOptions(explicit_schema=schema, newlines_in_values=True),
        )
    except (pa.ArrowException, ValueError, OverflowError):
        return None


def _holds_timestamps(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_timestamps(f.type) for f in kind)
    if pa.types.is_list(kind):
        return _holds_timestamps(kind.value_type)
    return bool(pa.types.is_timestamp(kind))


def _as_text(kind: pa.DataType) -> pa.DataType | None:
    """Returns the type with timestamps as strings; None if it holds only null."""
    if pa.types.is_null(kind):
        return None
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, t) for f in kind if (t := _as_text(f.type))])
    if pa.types.is_list(kind):
        item = _as_text(kind.value_type)
        return None if item is None else pa.list_(item)
    return pa.string() if pa.types.is_timestamp(kind) else kind


def _doubles(kind: pa.DataType) -> Iterator[tuple[int, ...]]:
    """Yields the path to each double in a type: one index per level, the field's or -1 for the values of a list."""
    if pa.types.is_struct(kind):
        for index, entry in enumerate(kind):
            yield from ((index, *where) for where in _doubles(entry.type))
    elif pa.types.is_list(kind):
        yield from ((-1, *where) for where in _doubles(kind.value_type))
    elif pa.types.is_float64(kind):
        yield ()


def _is_exact(array: pa.Array, where: tuple[int, ...], document: bytes) -> bool:
    """Returns whether all of these doubles are in the range in which no digit can be lost; NaN and Infinity are not."""
    for index in where:
        array = array.values if index < 0 else array.field(index)
    values = array.to_numpy(zero_copy_only=False)
    sizes = np.abs(values)
    if np.count_nonzero(sizes < EXACT_DOUBLE) != len(values) - array.null_count:
        return False
    return not (np.count_nonzero(sizes < _SMALLEST) and holds_small_number(document))


def _without(array: pa.StructArray, path: tuple[str, ...]) -> dict[str, Any] | None:
    """Returns the struct as Python values without the value at `path`; None if Arrow's view of it is not exact."""
    values: dict[str, Any] = {}
    for index, entry in enumerate(array.type):
        child = array.field(index)
        if entry.name != path[0]:
            if not _is_faithful(child):
                return None
            values[entry.name] = child[0].as_py()
        elif len(path) > 1:
            inner = _without(child, path[1:])
            if inner is None:
                return None
            values[entry.name] = inner
    return values


def _is_faithful(array: pa.Array) -> bool:
    """Returns whether Arrow shows exactly the keys that the body has.

    A missing key looks like null if the schema names it or another object of the same list has it. A column of type null was
    not in the schema, so its nulls are in the body.
    """
    kind = array.type
    if pa.types.is_null(kind):
        return True
    if array.null_count:
        return False
    if pa.types.is_struct(kind):
        return all(_is_faithful(array.field(i)) for i in range(kind.num_fields))
    if pa.types.is_list(kind):
        return not pa.types.is_nested(kind.value_type) or _is_faithful(array.values)
    return True
