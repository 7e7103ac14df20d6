"""Remembers the Arrow types of a resource's pages so that the next page is decoded in one pass."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from rmm_assets.errors import BodyError
from rmm_assets.rows.structure import MAX_DEPTH, has_more_keys, is_too_deep

# A body's keys are counted if it has this many colons per allowed field.
_SCANNED = 10


class TypeMemory:
    """Remembers the types of one resource's pages so that the next page is decoded only once. Thread-safe.

    Arrow infers types anew for every body and reads ISO strings as timestamps, which loses their spelling; with a remembered
    type they are read as strings right away. This changes only the speed, not the result.
    """

    def __init__(self, most_fields: int = 5_000, most_levels: int = MAX_DEPTH) -> None:
        """Creates an empty memory.

        Args:
            most_fields: Maximum number of distinct fields in all rows, nested ones included.
            most_levels: Maximum nesting depth of a body.
        """
        self._lock = threading.Lock()
        self._most_fields, self._most_levels = most_fields, most_levels
        self._fields: set[tuple[str, ...]] = set()
        self._counted: pa.DataType | None = None
        self._types: dict[str, pa.DataType] = {}
        self._latest: tuple[pa.Schema, tuple[tuple[int, ...], ...]] | None = None
        self._contested: set[tuple[str, ...]] = set()
        self.schema: pa.Schema | None = None

    def check_body(self, text: bytes) -> None:
        """Refuses a body that would take a decoder minutes and gigabytes.

        Raises:
            BodyError: The body is nested too deeply or has too many distinct keys.
        """
        if is_too_deep(text, self._most_levels):
            raise BodyError(
                "too_large", f"the body is nested more than {self._most_levels} levels deep (limits.max_nesting)"
            )
        # Counting keys takes longer than decoding, so bodies with few colons skip it.
        if text.count(b":") > _SCANNED * self._most_fields and has_more_keys(text, self._most_fields):
            raise self._too_wide()

    def check_rows(self, structs: pa.StructArray | None, rows: Iterable[Any]) -> None:
        """Counts the fields of a page's rows.

        Raises:
            BodyError: The rows read so far have too many distinct fields.
        """
        if structs is not None and self._counted is not None and structs.type.equals(self._counted):
            return
        found = set(_paths(structs.type, ())) if structs is not None else {p for row in rows for p in _keys(row, ())}
        with self._lock:
            self._fields |= found
            if len(self._fields) > self._most_fields:
                raise self._too_wide()
            if structs is not None:
                self._counted = structs.type

    def _too_wide(self) -> BodyError:
        return BodyError(
            "too_large", f"the rows have more than {self._most_fields:,} different fields; if they are right, raise "
            "limits.max_columns",
        )  # fmt: skip

    def doubles(self, seen: pa.Schema) -> tuple[tuple[int, ...], ...] | None:
        """Returns the paths to the doubles if the previous document had this schema, else None."""
        latest = self._latest
        return latest[1] if latest is not None and latest[0].equals(seen) else None

    def learn(self, root: str, seen: pa.Schema, doubles: tuple[tuple[int, ...], ...]) -> None:
        """Remembers the types of the field that holds the rows and of fields next to it that look like timestamps."""
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
        """Remembers from now on a field next to the rows whose text looks like a timestamp."""
        with self._lock:
            if (name,) not in self._contested:
                self._types.setdefault(name, pa.null())

    def _merge(self, old: pa.DataType | None, new: pa.DataType | None, path: tuple[str, ...]) -> pa.DataType | None:
        """Merges two types; None if there is nothing to remember, for example after pages have disagreed."""
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


def _paths(kind: pa.DataType, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yields the paths of a struct's fields, including those of nested objects."""
    for entry in kind:
        if pa.types.is_struct(entry.type) and entry.type.num_fields:
            yield from _paths(entry.type, (*path, entry.name))
        else:
            yield (*path, entry.name)


def _keys(row: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, value in row.items() if isinstance(row, dict) else ():
        if isinstance(value, dict) and value:
            yield from _keys(value, (*path, name))
        else:
            yield (*path, name)


def _child(kind: pa.DataType | None, name: str) -> pa.DataType | None:
    if kind is None:
        return None
    index = kind.get_field_index(name)
    return None if index < 0 else kind.field(index).type
