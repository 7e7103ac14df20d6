"""Keeps the rows that cannot land, and why."""

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
    """Names a row that cannot land.

    Attributes:
        row: As it came.
        reasons: Why it cannot.
        page: The number of its page, from 1.
        key: Its primary key as text; empty where it has none.
    """

    row: Any
    reasons: Sequence[str]
    page: int
    key: Sequence[str] = ()


class Rejects:
    """Keeps the rejected rows of one read in a file of their own.

    Attributes:
        rows: How many there are.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.clear()

    def clear(self) -> None:
        """Forgets all of them."""
        self.rows = 0
        self._seen: set[str] = set()
        self._path.write_bytes(b"")

    def add(self, rejects: Sequence[Reject]) -> None:
        """Takes in rejected rows."""
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
        """Reads them back, as `REJECTED`: those of one key and one reason once, or of one content, where they have no key."""
        return read_each(self._path)


def _name(row: str | Sequence[str], reason: str) -> str:
    """Names a rejection, the same in each load."""
    return blake2b(json.dumps([row, reason]).encode(), digest_size=16).hexdigest()
