"""Holds the rows of one body, as Arrow structs or Python values, and the envelope around them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from rmm_assets.rows.nulls import array_with_nulls, with_nulls
from rmm_assets.rows.selector import Gap, SelectedType, select

_EMPTY_OBJECT = re.compile(rb"\{[ \t\r\n]*\}")


@dataclass(frozen=True, eq=False)
class Page:
    """Holds the rows of one body.

    Attributes:
        rows: Number of rows.
        envelope: The body as Python values without the selected list; None for a bare array or a bare object. With a
            selector that is not a dotted path, the whole body.
        size: Size of the body in bytes.
        structs: The rows as Arrow decoded them; None if only the reference decoder could.
        selected_type: JSON type of the selected value: a list of rows, an object (one row) or null (no rows).
        null_values: Texts in the rows that are null.
        gaps: What stands in place of some of the lists to which the selector leads.
    """

    rows: int
    envelope: Any
    size: int
    structs: pa.StructArray | None
    _body: bytes
    _selector: str | None
    _decoded: list[Any] | None = None
    _start: int = 0
    selected_type: SelectedType = "list"
    null_values: frozenset[str] = frozenset()
    gaps: frozenset[Gap] = frozenset()

    def with_nulls(self, null_values: frozenset[str]) -> Page:
        """Returns the page with null in place of each of these texts in its rows."""
        if not null_values:
            return self
        structs = None if self.structs is None else array_with_nulls(self.structs, null_values)
        decoded = None if self._decoded is None else [with_nulls(row, null_values) for row in self._decoded]
        return replace(self, structs=structs, _decoded=decoded, null_values=null_values)

    def slice(self, start: int) -> Page:
        """Returns the page without its first `start` rows, for pages that overlap."""
        start = min(start, self.rows)
        structs = None if self.structs is None else self.structs.slice(start)
        return replace(self, rows=self.rows - start, structs=structs, _start=self._start + start)

    def head(self, count: int) -> Page:
        """Returns a page of the first `count` rows."""
        kept = self.objects()[:count] if self.structs is None else None
        structs = None if self.structs is None else self.structs.slice(0, count)
        rows = min(count, self.rows)
        start = 0 if kept else self._start
        return replace(self, rows=rows, structs=structs, _decoded=kept, _start=start)

    def value(self, name: str, index: int) -> Any:
        """Returns the row's top-level value under `name`; None if it is missing."""
        if self.structs is None:
            row = self.objects()[index]
            return row.get(name) if isinstance(row, dict) else None
        field = self.structs.type.get_field_index(name)
        # `field` ignores that a row may itself be null; such a row is not an object and has no structs.
        return self.structs.field(field)[index].as_py() if field >= 0 else None

    def values(self, path: tuple[str, ...]) -> list[Any]:
        """Returns the rows' values at a path, exactly as received; None for a row without one."""
        if self.structs is not None:
            found: Any = self.structs
            for name in path:
                if not pa.types.is_struct(found.type) or found.type.get_field_index(name) < 0:
                    return [None] * self.rows
                found = pc.struct_field(found, [found.type.get_field_index(name)])
            # Arrow turns integers among floats into floats.
            if not pa.types.is_nested(found.type) and not pa.types.is_floating(found.type):
                return list(found.to_pylist())
        return [value_at(row, path) for row in self.objects()]

    def is_like(self, other: Page) -> bool:
        """Returns whether both pages were decoded alike, so that their rows can be flattened together."""
        if self.structs is None or other.structs is None:
            return self.structs is other.structs
        return bool(self.structs.type == other.structs.type)

    def may_have_empty_objects(self) -> bool:
        """Returns whether the body contains an empty object, or text that looks like one."""
        return _EMPTY_OBJECT.search(self._body) is not None

    def objects(self) -> list[Any]:
        """Returns the rows as exact Python values. Elements that are not objects are included as received."""
        if self._decoded is not None:
            rows = self._decoded
        elif self.structs is not None:
            # orjson turns integers beyond 64 bits into floats, but Arrow has shown that this body has none.
            rows = select(orjson.loads(self._body), self._selector).rows
            rows = [with_nulls(row, self.null_values) for row in rows] if self.null_values else rows
        else:
            rows = []
        return rows[self._start : self._start + self.rows]


def value_at(row: Any, path: Iterable[str]) -> Any:
    """Returns a row's value at a path; None if it is missing."""
    for name in path:
        row = row.get(name) if isinstance(row, dict) else None
    return row
