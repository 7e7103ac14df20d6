"""Stores the rows that cannot land and the reasons."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from rmm_assets.rows.arrow_files import append, read_each
from rmm_assets.rows.json_text import utf8_text

REJECTED = pa.schema(
    [
        pa.field("row_json", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("page", pa.int64(), nullable=False),
        pa.field("rejection_id", pa.string(), nullable=False),
    ]
)


class Reject(NamedTuple):
    """Describes a row that cannot land.

    Attributes:
        row: The row as received.
        reasons: Why it cannot land.
        page: The number of its page, starting at 1.
        key: Its primary key as text; empty if it has none.
    """

    row: Any
    reasons: Sequence[str]
    page: int
    key: Sequence[str] = ()


class Rejects:
    """Stores the rejected rows of one read in a file.

    Attributes:
        rows: Number of rejected rows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.clear()

    def clear(self) -> None:
        """Discards all rejected rows."""
        self.rows = 0
        self._seen: set[str] = set()
        self._path.write_bytes(b"")

    def add(self, rejects: Sequence[Reject]) -> None:
        """Adds rejected rows."""
        self.rows += len(rejects)
        found: list[tuple[str, str, int, str]] = []
        for reject in rejects:
            text, reason = utf8_text(reject.row), "; ".join(sorted(set(reject.reasons)))
            name = _name(reject.key or text, reason)
            if name not in self._seen:
                self._seen.add(name)
                found.append((text, reason, reject.page, name))
        if found:
            append(self._path, pa.table([*map(list, zip(*found))], schema=REJECTED))

    def tables(self) -> Iterator[pa.Table]:
        """Yields tables of schema `REJECTED`, each key (or row without one) once per reason."""
        return read_each(self._path)


def _name(row: str | Sequence[str], reason: str) -> str:
    """Returns an id of a rejection that is the same in each load."""
    return blake2b(json.dumps([row, reason]).encode(), digest_size=16).hexdigest()
