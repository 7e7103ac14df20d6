"""Gathers the pages of one read on disk as JSON lines, and gives them back as Python rows for dlt's own normalizer.

For what only that normalizer does: history, rules for child tables, ranges without a plain cursor. Slower than `spool`, the same
promises: each key lands once, a row without its key goes to the rejects, nothing is handed on before the read is complete.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rmm_assets.rows.chunk import NOT_AN_OBJECT
from rmm_assets.rows.conflicts import EXAMPLES, Pair, and_more, differing, repeated, sentence, sorted_keys
from rmm_assets.rows.flatten_objects import flatten_objects
from rmm_assets.rows.json_text import loads, utf8_text
from rmm_assets.rows.keys import NO_KEY, Keys, key_texts, row_keys
from rmm_assets.rows.layout import layout_of
from rmm_assets.rows.page import Page
from rmm_assets.rows.rejects import Reject, Rejects
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.tally import Tally, last_of_each

BATCH_ROWS = 1000


class RecordSpool:
    """Gathers the rows of one read of one resource, as they came. For one thread.

    Attributes:
        rows: Rows received, rejected ones included.
    """

    def __init__(self, shape: RowShape, folder: Path) -> None:
        self._shape = shape
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "rows.jsonl"
        self._rejects = Rejects(folder / "rejected.arrows")
        self.clear()

    def clear(self) -> None:
        """Forgets all rows; the read starts anew."""
        self.rows = 0
        self._ends: list[int] = []
        self._tally = Tally()
        self._rejects.clear()
        self._path.write_bytes(b"")

    def add(self, page: Page, keys: Keys | None = None) -> None:
        """Takes in the next page, with its rows' keys where they are made already."""
        self.rows += page.rows
        self._ends.append(self.rows)
        keys = row_keys(page, self._shape) if keys is None else keys
        self._tally.add(keys)
        rows = page.objects()
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, default=str) + "\n" for row in rows)
        missing = f"the primary key {', '.join(self._shape.primary_key)} is missing or null"
        self._rejects.add(
            [
                Reject(rows[index], [missing if isinstance(rows[index], dict) else NOT_AN_OBJECT], len(self._ends))
                for index in np.flatnonzero(keys == NO_KEY)
            ]
        )

    @property
    def keyless(self) -> int:
        """Rows without a primary key, or that are not rows."""
        return self._tally.keyless

    @property
    def rejected_rows(self) -> int:
        """Rows that cannot land."""
        return self._rejects.rows

    @property
    def distinct(self) -> int:
        """Different keys among the rows."""
        return self._tally.distinct

    def fingerprint(self) -> str:
        """Returns a digest of the set of keys, whatever their order."""
        return self._tally.fingerprint()

    def sequence(self) -> str:
        """Returns a digest of all keys in the order in which they came."""
        return self._tally.sequence()

    def conflicts(self) -> Sequence[str]:
        """Returns a sentence for each of the first keys whose rows, more than one, are not alike; nothing where all are."""
        if not self._shape.primary_key:
            return ()
        keys = self._tally.keys
        again = repeated(keys[keys != NO_KEY])
        if again is None:
            return ()
        where = np.flatnonzero(keys != NO_KEY)[again]
        wanted = set(where.tolist())
        said = [
            blake2b(utf8_text(sorted_keys(row)).encode(), digest_size=16).digest()
            for number, row in enumerate(self._read())
            if number in wanted
        ]
        pairs = [Pair(int(where[a]), int(where[b])) for a, b in differing(keys[where], np.array(said, keys.dtype))]
        named = {number for pair in pairs[:EXAMPLES] for number in pair}
        rows = {number: row for number, row in enumerate(self._read()) if number in named}
        return and_more([self._difference(pair, rows) for pair in pairs[:EXAMPLES]], len(pairs))

    def _difference(self, pair: Pair, rows: Mapping[int, Any]) -> str:
        """Says what two rows differ in."""
        layout = layout_of(self._shape)
        one, other = rows[pair.first], rows[pair.second]
        columns = flatten_objects(layout, [one], frozenset(layout.key), False).columns
        key = {name: str(key_texts(columns[name], layout.targets.get(name))[0]) for name in layout.key}
        pages = [bisect.bisect_right(self._ends, number) + 1 for number in pair]
        names = [name for name in {**one, **other} if sorted_keys(one.get(name)) != sorted_keys(other.get(name))]
        return sentence(key, (pages[0], pages[1]), names)

    def changed_types(self) -> Mapping[str, tuple[str, str]]:
        """Returns nothing: dlt makes variant columns itself."""
        return {}

    def records(self) -> Iterator[list[Any]]:
        """Yields the rows that can land, each once: the last one of those that share a key."""
        keys = self._tally.keys
        last = last_of_each(keys)
        land = (keys != NO_KEY) if last is None else last & (keys != NO_KEY)
        batch: list[Any] = []
        for number, row in enumerate(self._read()):
            if land[number]:
                batch.append(row)
                if len(batch) == BATCH_ROWS:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def rejected(self) -> Iterator[pa.Table]:
        """Yields the rows that cannot land, as `REJECTED`."""
        return self._rejects.tables()

    def _read(self) -> Iterator[Any]:
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                yield loads(line)
