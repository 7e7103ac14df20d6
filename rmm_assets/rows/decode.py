"""Turns a response body into a page: its rows, and the envelope that came around them.

Two decoders read a body. Arrow's JSON reader is the fast one: C++, the GIL released, no Python object a row. Python's
`json` is the reference: exact for every number, every key, every fault. Whatever Arrow refuses, or may have changed, is
read again by the reference, so that both give the same rows. No HTTP here, and no column types: `columns` shapes rows.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson
from dlt.common import jsonpath

from rmm_assets.errors import BodyError

# Arrow's reader recurses: some 10,000 levels overflow an 8 MB stack, which kills the process. No row is this deep.
MAX_DEPTH = 500
# From here on a double no longer tells an integer from its neighbour.
EXACT_DOUBLE = 2**53

_SEGMENT = r"[A-Za-z_@][\w@-]*"
_DOTTED = re.compile(rf"(?:\$\.)?({_SEGMENT}(?:\.{_SEGMENT})*)(?:\[\*\])?", re.ASCII)
_WHOLE = "_"
_BOM = b"\xef\xbb\xbf"
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))


@dataclass(frozen=True, eq=False)
class Page:
    """The rows of one body.

    Attributes:
        rows: How many there are.
        envelope: The body as Python values with the selected list taken out; None for a bare array or a bare object.
            With a selector that is not a dotted path, the whole body.
        size: Bytes of the body.
        structs: The rows as Arrow decoded them, or None where only the reference could.
    """

    rows: int
    envelope: Any
    size: int
    structs: pa.StructArray | None
    _body: bytes
    _selector: str | None
    _decoded: list[Any] | None = None
    _start: int = 0

    def slice(self, start: int) -> Page:
        """The page without its first `start` rows; used where pages overlap."""
        start = min(start, self.rows)
        structs = None if self.structs is None else self.structs.slice(start)
        return replace(self, rows=self.rows - start, structs=structs, _start=self._start + start)

    def head(self, count: int) -> Page:
        """The page's first `count` rows."""
        kept = self.objects()[:count] if self.structs is None else None
        structs = None if self.structs is None else self.structs.slice(0, count)
        rows = min(count, self.rows)
        return Page(
            rows, self.envelope, self.size, structs, self._body, self._selector, kept, 0 if kept else self._start
        )

    def value(self, name: str, index: int) -> Any:
        """What the row at `index` has under that name at its top level; None where it has nothing there."""
        if self.structs is None:
            row = self.objects()[index]
            return row.get(name) if isinstance(row, dict) else None
        field = self.structs.type.get_field_index(name)
        # `field` leaves out that a row may be null itself; such a row is no object and has no structs.
        return self.structs.field(field)[index].as_py() if field >= 0 else None

    def values(self, path: tuple[str, ...]) -> list[Any]:
        """What the rows have there, exactly as it came; None where a row has nothing there."""
        if self.structs is not None:
            found: Any = self.structs
            for name in path:
                if not pa.types.is_struct(found.type) or found.type.get_field_index(name) < 0:
                    return [None] * self.rows
                found = pc.struct_field(found, [found.type.get_field_index(name)])
            # Of integers among floats Arrow makes floats.
            if not pa.types.is_nested(found.type) and not pa.types.is_floating(found.type):
                return list(found.to_pylist())
        return [value_at(row, path) for row in self.objects()]

    def is_like(self, other: Page) -> bool:
        """Whether both were decoded alike, so that their rows can be shaped together."""
        if self.structs is None or other.structs is None:
            return self.structs is other.structs
        return bool(self.structs.type == other.structs.type)

    def objects(self) -> list[Any]:
        """The rows as Python values, exact. An element that is no object stays in the list as it came."""
        if self._decoded is not None:
            rows = self._decoded
        elif self.structs is not None:
            # orjson turns integers beyond 64 bits into floats. Arrow has shown that this body has none.
            rows = _select(orjson.loads(self._body), self._selector)[0]
        else:
            rows = []
        return rows[self._start :]


def value_at(row: Any, path: Iterable[str]) -> Any:
    """What a row has at the end of a path; None where it has nothing there."""
    for name in path:
        row = row.get(name) if isinstance(row, dict) else None
    return row


class Hints:
    """What the pages of one resource have shown of its types, so that the next one is decoded once. Safe in any thread.

    Arrow infers types anew for every body and takes ISO strings for timestamps, which loses how they were written. With
    a hint they are strings at once. Hints change the speed only: each page comes out the same without them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._types: dict[str, pa.DataType] = {}
        self._latest: tuple[pa.Schema, tuple[tuple[int, ...], ...]] | None = None
        self._contested: set[tuple[str, ...]] = set()
        self.schema: pa.Schema | None = None

    def doubles(self, seen: pa.Schema) -> tuple[tuple[int, ...], ...] | None:
        """Where the doubles are, if the document before had this schema."""
        latest = self._latest
        return latest[1] if latest is not None and latest[0].equals(seen) else None

    def learn(self, root: str, seen: pa.Schema, doubles: tuple[tuple[int, ...], ...]) -> None:
        """Take in a decoded document: the field that holds the rows, and beside it what looked like a timestamp."""
        with self._lock:
            self._latest = (seen, doubles)
            for entry in seen:
                if entry.name == root or entry.name in self._types:
                    merged = self._merge(self._types.get(entry.name), entry.type, (entry.name,))
                    if merged is None:
                        self._types.pop(entry.name, None)
                    else:
                        self._types[entry.name] = merged
            self.schema = pa.schema(list(self._types.items())) if self._types else None

    def keep_text(self, name: str) -> None:
        """Hint a field beside the rows from now on: it holds text that looks like a timestamp."""
        with self._lock:
            if (name,) not in self._contested:
                self._types.setdefault(name, pa.null())

    def _merge(self, old: pa.DataType | None, new: pa.DataType | None, path: tuple[str, ...]) -> pa.DataType | None:
        """Both types in one; None where there is nothing to hint, as where pages have disagreed once."""
        if path in self._contested:
            return None
        if old is not None and pa.types.is_null(old):
            old = None
        if new is None or pa.types.is_null(new):
            return old
        if pa.types.is_struct(new) and (old is None or pa.types.is_struct(old)):
            names = [f.name for f in old] if old is not None else []
            names += [f.name for f in new if f.name not in set(names)]
            fields = []
            for name in names:
                merged = self._merge(_child(old, name), _child(new, name), (*path, name))
                if merged is not None:
                    fields.append(pa.field(name, merged))
            return pa.struct(fields)
        if pa.types.is_list(new) and (old is None or pa.types.is_list(old)):
            item = self._merge(None if old is None else old.value_type, new.value_type, (*path, "[]"))
            return None if item is None else pa.list_(item)
        if old is None or old == new:
            return new
        self._contested.add(path)
        return None


def read_page(body: bytes, selector: str | None, hints: Hints | None = None, *, exact: bool = False) -> Page:
    """Read a body. Safe in any thread; the GIL is released while Arrow decodes.

    Args:
        body: The response body, UTF-8 JSON with or without a byte order mark.
        selector: Where the rows are, as dlt's `data_selector`: None or `$` for the whole body, `data`, `result.items`,
            `data.items[*]`, or any JSONPath. A single object there is one row.
        hints: What earlier pages of the resource have shown; it learns from this one.
        exact: Use the reference decoder only.

    Raises:
        BodyError: The body is not JSON, does not have the selected key, or no objects stand there.
    """
    text = _text(body)
    _check_depth(text)
    path = _path(selector)
    if path is not None and not exact:
        pages = _read_fast([text], path, selector, hints or Hints())
        if pages is not None:
            return pages[0]
    rows, envelope = _select(_decode(text), selector)
    if rows and not any(isinstance(row, dict) for row in rows):
        raise BodyError("not_rows", f"{_place(selector)} is a list without a single object in it, not rows")
    return Page(len(rows), envelope, len(text), None, text, selector, rows)


def read_pages(bodies: Sequence[bytes], selector: str | None, hints: Hints) -> list[Page] | None:
    """Read neighbouring bodies at once, in a third of the time that they take one by one.

    Returns:
        The pages that `read_page` would give; None where each body must be read by itself.
    """
    path = _path(selector)
    texts = [_text(body) for body in bodies]
    first, last = (b"{", b"}") if path else (b"[", b"]")
    # With these ends, no body's text can be taken for a part of its neighbour's.
    if path is None or any(t[:64].lstrip()[:1] != first or t[-64:].rstrip()[-1:] != last for t in texts):
        return None
    try:
        for text in texts:
            _check_depth(text)
    except BodyError:
        return None
    return _read_fast(texts, path, selector, hints)


def _text(body: bytes) -> bytes:
    return body[len(_BOM) :] if body.startswith(_BOM) else body


def _read_fast(texts: Sequence[bytes], path: tuple[str, ...], selector: str | None, hints: Hints) -> list[Page] | None:
    """The pages as Arrow reads them; None where the reference must read them."""
    for text in texts:
        if not text.isascii():
            try:
                text.decode()  # Arrow takes bytes that are not UTF-8 as they are
            except UnicodeDecodeError:
                return None
    root = path[0] if path else _WHOLE
    documents = texts if path else [b'{"' + _WHOLE.encode() + b'":' + text + b"}" for text in texts]
    found = _parse(documents, root, hints)
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
    counts = [1]
    if pa.types.is_list(value.type):
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
            envelope = _select(orjson.loads(text), selector)[1]
        pages.append(Page(count, envelope, len(text), value.slice(start, count), text, selector))
        start += count
    return pages


def _parse(documents: Sequence[bytes], root: str, hints: Hints) -> pa.StructArray | None:
    """A struct a document, or None where Arrow cannot read them or is not to be trusted with them."""
    document = b"\n".join(documents)
    hint = hints.schema
    table = _arrow(document, hint)
    if table is None and hint is not None:
        table = _arrow(document, None)
    if table is None or table.num_rows != len(documents) or not table.num_columns:
        return None
    doubles = hints.doubles(table.schema)
    stamped = [f.name for f in table.schema if _holds_timestamps(f.type)] if doubles is None else []
    if stamped:
        table = _arrow(document, pa.schema([pa.field(f.name, t) for f in table.schema if (t := _as_text(f.type))]))
        if table is None:
            return None
        for name in stamped:
            hints.keep_text(name)
    try:
        # A list that starts with null and goes on with values comes out shorter than its offsets say.
        table.validate()
    except pa.ArrowInvalid:
        return None
    if doubles is None:
        doubles = tuple(_doubles(pa.struct(table.schema)))
        hints.learn(root, table.schema, doubles)
    found = table.to_struct_array().chunk(0)
    return found if all(_is_exact(found, where) for where in doubles) else None


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
    """The type with timestamps as strings; None where nothing is known of it."""
    if pa.types.is_null(kind):
        return None
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, t) for f in kind if (t := _as_text(f.type))])
    if pa.types.is_list(kind):
        item = _as_text(kind.value_type)
        return None if item is None else pa.list_(item)
    return pa.string() if pa.types.is_timestamp(kind) else kind


def _doubles(kind: pa.DataType) -> Iterator[tuple[int, ...]]:
    """Where the doubles are in a type: the index of a field, or -1 for a list's values, level by level."""
    if pa.types.is_struct(kind):
        for index, entry in enumerate(kind):
            yield from ((index, *where) for where in _doubles(entry.type))
    elif pa.types.is_list(kind):
        yield from ((-1, *where) for where in _doubles(kind.value_type))
    elif pa.types.is_float64(kind):
        yield ()


def _is_exact(array: pa.Array, where: tuple[int, ...]) -> bool:
    """Whether none of these doubles may have lost digits. NaN and Infinity, which JSON does not have, fail too."""
    for index in where:
        array = array.values if index < 0 else array.field(index)
    values = array.to_numpy(zero_copy_only=False)
    return bool(np.count_nonzero(np.abs(values) < EXACT_DOUBLE) == len(values) - array.null_count)


def _without(array: pa.StructArray, path: tuple[str, ...]) -> dict[str, Any] | None:
    """The struct as Python values without what stands at `path`; None where Arrow's view of it is not exact."""
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
    """Whether Arrow shows just the keys that were there.

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


def _child(kind: pa.DataType | None, name: str) -> pa.DataType | None:
    if kind is None:
        return None
    index = kind.get_field_index(name)
    return None if index < 0 else kind.field(index).type


def _check_depth(text: bytes) -> None:
    """Refuse a body that is nested too deep to be decoded safely, before anything recurses into it."""
    if text.count(b"{") + text.count(b"[") <= MAX_DEPTH:
        return
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = np.frombuffer(text.translate(None, _NOT_STRUCTURE), np.uint8)
    outside = (np.cumsum(marks == ord('"'), dtype=np.int32) & 1) == 0
    steps = ((marks == ord("[")) | (marks == ord("{"))).astype(np.int8) - ((marks == ord("]")) | (marks == ord("}")))
    if np.cumsum(steps * outside, dtype=np.int32).max(initial=0) > MAX_DEPTH:
        raise BodyError("not_json", f"the body is nested more than {MAX_DEPTH} levels deep")


def _decode(text: bytes) -> Any:
    """The body as Python values: integers of any size, and numbers beyond a double as `Decimal`."""
    # Errors are raised anew: Python's own ones carry the whole body along.
    problem: str
    try:
        return loads(text.decode())
    except UnicodeDecodeError as error:
        problem = f"it is not UTF-8 text (byte {error.start})"
    except json.JSONDecodeError as error:
        problem = f"{error.msg.lower()} at character {error.pos} of {len(error.doc)}"
    except RecursionError:
        problem = "it is nested too deep"
    except ValueError:
        problem = "it holds a number that is none in JSON, or one of more than 4,300 digits"
    raise BodyError("not_json", f"the body is not JSON: {problem}")


def loads(text: str) -> Any:
    """JSON text as Python values, exact: `Decimal` where a double would be infinite.

    Raises:
        ValueError: Not JSON. NaN and Infinity are not.
    """
    return json.loads(text, parse_float=_number, parse_constant=_refuse)


def _number(token: str) -> float | Decimal:
    value = float(token)
    return value if np.isfinite(value) else Decimal(token)


def _refuse(token: str) -> Any:
    raise ValueError


@lru_cache(maxsize=256)
def _path(selector: str | None) -> tuple[str, ...] | None:
    """The selector's keys; none for the whole body; None for a JSONPath that says more than keys."""
    if selector in (None, "", "$", "$[*]"):
        return ()
    assert selector is not None
    match = _DOTTED.fullmatch(selector)
    return tuple(match[1].split(".")) if match else None


@lru_cache(maxsize=256)
def _compiled(selector: str) -> Any:
    return jsonpath.compile_path(selector)


def _select(document: Any, selector: str | None) -> tuple[list[Any], Any]:
    """The selected rows, and the document without them."""
    path = _path(selector)
    if path is None:
        values = [match.value for match in _compiled(selector or "$").find(document)]
        if not values and "?" not in (selector or ""):
            raise BodyError("no_selector", f"nothing stands at {selector!r} in the body")
        value = values[0] if len(values) == 1 else values
        return _as_rows(value, selector), document
    value, envelope = document, None
    around: dict[str, Any] = {}
    for depth, name in enumerate(path):
        if not isinstance(value, dict) or name not in value:
            raise BodyError("no_selector", f"the body has no {'.'.join(path[: depth + 1])!r}, where the rows should be")
        rest = {key: item for key, item in value.items() if key != name}
        if depth:
            around[path[depth - 1]] = rest
        else:
            envelope = rest
        around, value = rest, value[name]
    return _as_rows(value, selector), envelope


def _as_rows(value: Any, selector: str | None) -> list[Any]:
    if value is None and _path(selector) != ():
        return []
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise BodyError("not_rows", f"{_place(selector)} is neither a list nor an object")
    return value


def _place(selector: str | None) -> str:
    return "the body" if _path(selector) == () else f"what stands at {selector!r}"
