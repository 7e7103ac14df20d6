"""Decodes bodies with Arrow's JSON reader: C++, the GIL released, no Python object a row.

What Arrow refuses, or may have changed, is left to the reference decoder.
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
from rmm_assets.rows.selector import Stood, select
from rmm_assets.rows.type_memory import TypeMemory

_WHOLE = "_"
# Below, a double has fewer digits, and at last none.
_SMALLEST = 1e-300


def decode_fast(
    texts: Sequence[bytes], path: tuple[str, ...], selector: str | None, memory: TypeMemory
) -> list[Page] | None:
    """Decodes bodies with Arrow, all at once.

    Returns:
        A page a body; None where the reference decoder must read them.
    """
    for text in texts:
        if not text.isascii():
            try:
                text.decode()  # Arrow takes bytes that are not UTF-8 as they are
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
        return None  # a hinted key that is not there looks like null
    stood: Stood
    counts, stood = [1], "object"
    if pa.types.is_list(value.type):
        stood = "list"
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
        pages.append(Page(count, envelope, len(text), value.slice(start, count), text, selector, stood=stood))
        start += count
    return pages


def _parse(documents: Sequence[bytes], root: str, memory: TypeMemory) -> pa.StructArray | None:
    """Parses documents into a struct each; None where Arrow cannot read them or is not to be trusted with them."""
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
        # A list that starts with null and goes on with values comes out shorter than its offsets say.
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
    """Returns the type with timestamps as strings; None where nothing is known of it."""
    if pa.types.is_null(kind):
        return None
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, t) for f in kind if (t := _as_text(f.type))])
    if pa.types.is_list(kind):
        item = _as_text(kind.value_type)
        return None if item is None else pa.list_(item)
    return pa.string() if pa.types.is_timestamp(kind) else kind


def _doubles(kind: pa.DataType) -> Iterator[tuple[int, ...]]:
    """Yields where the doubles are in a type: the index of a field, or -1 for a list's values, level by level."""
    if pa.types.is_struct(kind):
        for index, entry in enumerate(kind):
            yield from ((index, *where) for where in _doubles(entry.type))
    elif pa.types.is_list(kind):
        yield from ((-1, *where) for where in _doubles(kind.value_type))
    elif pa.types.is_float64(kind):
        yield ()


def _is_exact(array: pa.Array, where: tuple[int, ...], document: bytes) -> bool:
    """Tells whether none of these doubles may have lost digits: one too great or too small for it. NaN and Infinity, which
    JSON does not have, fail too.
    """
    for index in where:
        array = array.values if index < 0 else array.field(index)
    values = array.to_numpy(zero_copy_only=False)
    sizes = np.abs(values)
    if np.count_nonzero(sizes < EXACT_DOUBLE) != len(values) - array.null_count:
        return False
    return not (np.count_nonzero(sizes < _SMALLEST) and holds_small_number(document))


def _without(array: pa.StructArray, path: tuple[str, ...]) -> dict[str, Any] | None:
    """Returns the struct as Python values without what stands at `path`; None where Arrow's view of it is not exact."""
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
    """Tells whether Arrow shows just the keys that were there.

    A hinted key that is not there looks like null, and so does one that only other objects of a list have. What came as
    nothing but null, without a hint, was there.
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
