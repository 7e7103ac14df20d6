"""Holds the rows of one body, as Arrow structs or Python values, and the envelope that came around them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from rmm_assets.rows.selector import Stood, select


@dataclass(frozen=True, eq=False)
class Page:
    """Holds the rows of one body.

    Attributes:
        rows: How many there are.
        envelope: The body as Python values with the selected list taken out; None for a bare array or a bare object.
            With a selector that is not a dotted path, the whole body.
        size: Bytes of the body.
        structs: The rows as Arrow decoded them, or None where only the reference could.
        stood: What stood at the selector: a list of rows, one object, which is one row, or null, which is none.
    """

    rows: int
    envelope: Any
    size: int
    structs: pa.StructArray | None
    _body: bytes
    _selector: str | None
    _decoded: list[Any] | None = None
    _start: int = 0
    stood: Stood = "list"

    def slice(self, start: int) -> Page:
        """Returns the page without its first `start` rows; used where pages overlap."""
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
        """Returns what the row at `index` has under that name at its top level; None where it has nothing there."""
        if self.structs is None:
            row = self.objects()[index]
            return row.get(name) if isinstance(row, dict) else None
        field = self.structs.type.get_field_index(name)
        # `field` leaves out that a row may be null itself; such a row is no object and has no structs.
        return self.structs.field(field)[index].as_py() if field >= 0 else None

    def values(self, path: tuple[str, ...]) -> list[Any]:
        """Returns what the rows have at a path, exactly as it came; None where a row has nothing there."""
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
        """Tells whether both were decoded alike, so that their rows can be flattened together."""
        if self.structs is None or other.structs is None:
            return self.structs is other.structs
        return bool(self.structs.type == other.structs.type)

    def objects(self) -> list[Any]:
        """Returns the rows as Python values, exact. An element that is not an object stays in the list as it came."""
        if self._decoded is not None:
            rows = self._decoded
        elif self.structs is not None:
            # orjson turns integers beyond 64 bits into floats. Arrow has shown that this body has none.
            rows = select(orjson.loads(self._body), self._selector).rows
        else:
            rows = []
        return rows[self._start :]


def value_at(row: Any, path: Iterable[str]) -> Any:
    """Returns what a row has at the end of a path; None where it has nothing there."""
    for name in path:
        row = row.get(name) if isinstance(row, dict) else None
    return row
