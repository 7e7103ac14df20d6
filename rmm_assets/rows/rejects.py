"""Keeps the rows that cannot land, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    ]
)


class Reject(NamedTuple):
    """Names a row that cannot land: the row as it came, why, and the number of its page, from 1."""

    row: Any
    reasons: Sequence[str]
    page: int


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
        self._path.write_bytes(b"")

    def add(self, rejects: Sequence[Reject]) -> None:
        """Takes in rejected rows."""
        if not rejects:
            return
        self.rows += len(rejects)
        columns = {
            "row_json": [utf8_text(reject.row) for reject in rejects],
            "reason": ["; ".join(sorted(set(reject.reasons))) for reject in rejects],
            "page": [reject.page for reject in rejects],
        }
        append(self._path, pa.table(columns, schema=REJECTED))

    def tables(self) -> Iterator[pa.Table]:
        """Reads them back, as `REJECTED`."""
        return read_each(self._path)
