"""Gathers the pages of one read on disk as JSON lines, and gives them back as Python rows for dlt's own normalizer.

For what only that normalizer does: history, rules for child tables, ranges without a plain cursor. Slower than `spool`, the same
promises: each key lands once, a row without its key goes to the rejects, nothing is handed on before the read is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rmm_assets.rows.decode import Page, loads
from rmm_assets.rows.keys import NO_KEY, Keys, row_keys
from rmm_assets.rows.layout import RowShape
from rmm_assets.rows.spool import REJECTED

BATCH_ROWS = 1000


class RecordSpool:
    """The rows of one read of one resource, as they came. For one thread.

    Attributes:
        rows: Rows received, rejected ones included.
    """

    def __init__(self, shape: RowShape, folder: Path) -> None:
        self._shape = shape
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "rows.jsonl"
        self.clear()

    def clear(self) -> None:
        """Forget all rows; the read starts anew."""
        self.rows = 0
        self._keys: list[Keys] = []
        self._pages: list[int] = []
        self._path.write_bytes(b"")

    def add(self, page: Page, keys: Keys | None = None) -> None:
        """Take in the next page, with its rows' keys where they are made already."""
        self.rows += page.rows
        self._pages.append(page.rows)
        self._keys.append(row_keys(page, self._shape) if keys is None else keys)
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, default=str) + "\n" for row in page.objects())

    @property
    def _all_keys(self) -> Keys:
        return np.concatenate([*self._keys, np.zeros(0, np.uint64)])

    @property
    def keyless(self) -> int:
        """Rows without a primary key, or that are no rows."""
        return int((self._all_keys == NO_KEY).sum())

    @property
    def rejected_rows(self) -> int:
        """Rows that cannot land."""
        return self.keyless

    @property
    def distinct(self) -> int:
        """Different keys among the rows."""
        keys = np.unique(self._all_keys)
        return int((keys != NO_KEY).sum())

    def fingerprint(self) -> str:
        """A digest of the set of keys, whatever their order."""
        return hashlib.sha256(np.unique(self._all_keys).tobytes()).hexdigest()

    def sequence(self) -> str:
        """A digest of all keys in the order in which they came."""
        return hashlib.sha256(self._all_keys.tobytes()).hexdigest()

    def changed_types(self) -> Mapping[str, tuple[str, str]]:
        """Nothing: dlt makes variant columns itself."""
        return {}

    def records(self) -> Iterator[list[Any]]:
        """The rows that can land, each once: the last one of those that share a key."""
        keys = self._all_keys
        last = np.zeros(len(keys), np.bool_)
        _, index = np.unique(keys[::-1], return_index=True)
        last[len(keys) - 1 - index] = True
        last &= keys != NO_KEY
        batch: list[Any] = []
        for number, row in enumerate(self._read()):
            if last[number]:
                batch.append(row)
                if len(batch) == BATCH_ROWS:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def rejected(self) -> Iterator[pa.Table]:
        """The rows that cannot land: the row as JSON, why, and the number of its page, from 1."""
        faults = self._all_keys == NO_KEY
        if not faults.any():
            return
        page_of = np.repeat(np.arange(1, len(self._pages) + 1), self._pages)
        key = ", ".join(self._shape.primary_key)
        found = [
            {
                "row_json": json.dumps(row, separators=(",", ":"), default=str),
                "reason": f"the primary key {key} is missing or null" if isinstance(row, dict) else "not an object",
                "page": int(page_of[number]),
            }
            for number, row in enumerate(self._read())
            if faults[number]
        ]
        yield pa.Table.from_pylist(found, schema=REJECTED)

    def _read(self) -> Iterator[Any]:
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                yield loads(line)
