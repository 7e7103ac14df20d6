"""Collects the pages of one read on disk as JSON lines and returns them as Python rows for dlt's own normalizer.

Serves what only that normalizer does: history, rules for child tables, ranges without a plain cursor. Slower than `spool`,
with the same guarantees: each key lands once, a row without its key is rejected, nothing is passed on before the read ends.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rmm_assets.rows.chunk import NOT_AN_OBJECT
from rmm_assets.rows.conflicts import EXAMPLES, Pair, and_more, differing, repeated, sentence
from rmm_assets.rows.contents import CONTENT_HASH, Received, received_rows, sorted_keys
from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.flatten_objects import NOT_UNICODE, flatten_objects, is_unicode
from rmm_assets.rows.json_text import loads, plain_text, utf8_text
from rmm_assets.rows.keys import (
    NO_KEY,
    Keys,
    key_texts,
    keys_of_table,
    landed,
    row_key_texts,
    row_keys,
)
from rmm_assets.rows.layout import Layout
from rmm_assets.rows.page import Page
from rmm_assets.rows.rejects import Reject, Rejects
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.stored_keys import StoredKeys
from rmm_assets.rows.tally import Tally, last_of_each
from rmm_assets.rows.targets import fit_value
from rmm_assets.rows.types import INT64, to_python
from rmm_assets.rows.used_values import UsedValues

BATCH_ROWS = 1000
# Digits of the shortest integers that may need more than 64 bits.
_LONG = re.compile(r"\d{19}")
# Number of different sets of field names to remember.
_MOST_NAMES = 1000


class RecordSpool:
    """Collects the rows of one read of one resource as received. Not thread-safe.

    Attributes:
        rows: Rows received, rejected ones included.
        used_values: The values that child resources use.
    """

    def __init__(self, shape: RowShape, folder: Path) -> None:
        self._shape, self._layout = shape, Layout(shape)
        self._names: dict[tuple[str, ...], list[str] | None] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._path = folder, folder / "rows.jsonl"
        self._rejects = Rejects(folder / "rejected.arrows")
        self.used_values = UsedValues(shape.used_paths, folder)
        self.clear()

    def clear(self) -> None:
        """Discards all rows before a new read."""
        self.rows = 0
        self.used_values.clear()
        self._ends: list[int] = []
        self._lands: list[Mask] = []
        self._named: list[Any] = []
        self._tally, self._kept = Tally(self.folder), StoredKeys(self.folder)
        self._rejects.clear()
        self._path.write_bytes(b"")

    def add(self, page: Page, keys: Keys | None = None) -> None:
        """Adds the next page; computes its rows' keys unless they are given."""
        self.rows += page.rows
        self.used_values.add(page)
        self._ends.append(self.rows)
        keys = row_keys(page, self._shape) if keys is None else keys
        self._tally.add(keys)
        rows = page.objects()
        lines = [json.dumps(row, default=str) + "\n" for row in rows]
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
        faults = [
            self._fault(row, line, key == NO_KEY) or unfit
            for row, line, key, unfit in zip(rows, lines, keys.tolist(), self._unfit(rows), strict=True)
        ]
        faulty = [row for row, fault in zip(rows, faults) if fault]
        named = row_key_texts(
            flatten_objects(self._layout, faulty, frozenset(self._layout.key), False), self._layout, range(len(faulty))
        )
        self._rejects.add(
            [Reject(row, [fault], len(self._ends), key) for row, fault, key in zip(faulty, filter(None, faults), named)]
        )
        self._named += [row for row, fault in zip(rows, faults) if fault == NOT_UNICODE]
        land = np.array([not fault for fault in faults], np.bool_)
        self._lands.append(land)
        self._kept.add(keys[land])

    def _fault(self, row: Any, line: str, keyless: bool) -> str:
        """Returns why a row cannot land; empty if it can."""
        if not isinstance(row, dict):
            return NOT_AN_OBJECT
        if "\\ud" in line and not is_unicode(row):
            return NOT_UNICODE
        misfits = list[str]()
        if self._shape.stamps:
            _with_timestamps(row, self._layout, misfits, ())
        if misfits and not self._is_deleted(row):
            return "; ".join(misfits)
        return f"the primary key {', '.join(self._shape.primary_key)} is missing or null" if keyless else ""

    def _unfit(self, rows: list[Any]) -> list[str]:
        """Returns for each row why its values cannot be stored in their columns; empty if they can, as far as it is known."""
        layout, faults = self._layout, [""] * len(rows)
        texts = {name: target.hint for name, target in layout.targets.items() if target.data_type == "text"}
        limits = {name: hint["precision"] for name, hint in texts.items() if hint.get("precision")}
        wanted = (layout.required - {*layout.key}) | {*limits}
        columns = flatten_objects(layout, rows, wanted, False).columns if wanted else {}
        for name in sorted(wanted):
            column = columns.get(name)
            values = [None] * len(rows) if column is None else to_python(column.values, column.kind)
            for index, value in enumerate(values):
                row = rows[index]
                if value is None and name in layout.required and isinstance(row, dict) and not self._is_deleted(row):
                    faults[index] = f"{name}: missing or null, and it is {layout.why_required(name)}"
                elif value is not None and name in limits and len(plain_text(value)) > limits[name]:
                    faults[index] = f"{name}: this text does not fit {layout.targets[name]}"
        return faults

    @property
    def keyless(self) -> int:
        """Number of rows without a primary key, including elements that are not objects."""
        return self._tally.keyless

    @property
    def rejected_rows(self) -> int:
        """Number of rows that cannot land."""
        return self._rejects.rows

    @property
    def distinct(self) -> int:
        """Number of distinct keys."""
        return self._tally.distinct

    def fingerprint(self) -> str:
        """Returns a digest of the set of keys, independent of their order."""
        return self._tally.fingerprint()

    def sequence(self) -> str:
        """Returns a digest of all keys in the order received."""
        return self._tally.sequence()

    def conflicts(self) -> Sequence[str]:
        """Describes the first keys whose rows differ, one sentence each; empty if there are none."""
        if not self._shape.primary_key or self._shape.keeps_repeats:
            return ()
        again = repeated(self._kept)
        if again is None:
            return ()
        keys, where = self._kept.taken(again), np.flatnonzero(self._landing())[again]
        wanted = set(where.tolist())
        said = [_digest(row, 16) for number, row in enumerate(self._read()) if number in wanted]
        pairs = [Pair(int(where[a]), int(where[b])) for a, b in differing(keys, np.array(said, keys.dtype))]
        named = {number for pair in pairs[:EXAMPLES] for number in pair}
        rows = {number: row for number, row in enumerate(self._read()) if number in named}
        return and_more([self._difference(pair, rows) for pair in pairs[:EXAMPLES]], len(pairs))

    def _difference(self, pair: Pair, rows: Mapping[int, Any]) -> str:
        """Describes how two rows differ."""
        layout = self._layout
        one, other = rows[pair.first], rows[pair.second]
        columns = flatten_objects(layout, [one], frozenset(layout.key), False).columns
        key = {name: str(key_texts(columns[name], layout.targets.get(name))[0]) for name in layout.key}
        pages = [bisect.bisect_right(self._ends, number) + 1 for number in pair]
        names = [name for name in {**one, **other} if sorted_keys(one.get(name)) != sorted_keys(other.get(name))]
        return sentence(key, (pages[0], pages[1]), names)

    def changed_types(self) -> Mapping[str, tuple[str, str]]:
        """Returns an empty mapping, as dlt makes variant columns itself."""
        return {}

    def received(self) -> Received:
        """Returns the keys and hashes of the rows that `records` yields."""
        last, rows = self._last(), received_rows(self.folder)
        keys = self._kept.taken(np.ones(len(self._kept), np.bool_) if last is None else last)
        for batch in self.records():
            own, keys = keys[: len(batch)], keys[len(batch) :]
            hashes = [row[CONTENT_HASH] for row in batch]
            rows.add(own, content=hashes, deleted=[self._is_deleted(row) for row in batch])
        return Received(rows, keys_of_table(self.rejected_keys()))

    def records(self) -> Iterator[list[Any]]:
        """Yields batches of the rows that can land; of rows that share a key only the last, unless all are wanted."""
        land = self._yielded()
        batch: list[Any] = []
        for number, row in enumerate(self._read()):
            if land[number]:
                landing = self._renamed(row)
                batch.append({**landing, CONTENT_HASH: self._content(row)} if self._shape.hashes_contents else landing)
                if len(batch) == BATCH_ROWS:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def landing(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns a row of `records` with the timestamps that are written in a stated way."""
        return _with_timestamps(row, self._layout, [], ()) if self._shape.stamps else row

    def _content(self, row: Any) -> int:
        """Hashes a row for `CONTENT_HASH`, and how its timestamps are written."""
        hashed = [row, repr(sorted(self._shape.stamps.items()))] if self._shape.stamps else row
        return int.from_bytes(_digest(hashed, 8), "little", signed=True)

    def _is_deleted(self, row: Mapping[str, Any]) -> bool:
        """Returns whether a row is flagged as deleted; see `says_deleted`."""
        flags = [value for name, value in row.items() if self._layout.column_name((name,)) == self._layout.deleted]
        return any(flag if isinstance(flag, bool) else flag is not None for flag in flags)

    def _yielded(self) -> Mask:
        """Marks the rows that land: those that can, and of rows that share a key only the last, unless all are wanted."""
        land, last = self._landing(), self._last()
        if last is not None:
            land[land] = last
        return land

    def _last(self) -> Mask | None:
        """Marks the last of the rows that share a key, among those that can land; None if all are wanted."""
        return None if self._shape.keeps_repeats else last_of_each(self._kept)

    def _landing(self) -> Mask:
        """Marks the rows that can land."""
        return np.concatenate([*self._lands, np.zeros(0, np.bool_)])

    def _renamed(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Renames fields whose column name another field, dlt or this project already uses."""
        names = tuple(row)
        if names not in self._names:
            if len(self._names) > _MOST_NAMES:
                self._names.clear()
            self._names[names] = _new_names(names, self._layout)
        new = self._names[names]
        return row if new is None else dict(zip(new, row.values()))

    def rejected_keys(self) -> pa.Table:
        """Returns the primary keys of the rejected rows that have one, in the table's columns."""
        chunk = flatten_objects(self._layout, self._named, frozenset(self._layout.key), False)
        columns = {name: chunk.columns[name] for name in self._layout.key if name in chunk.columns}
        table = pa.table({name: landed(column, self._layout.targets.get(name)) for name, column in columns.items()})
        if len(columns) < len(self._layout.key):
            return pa.table({name: pa.nulls(0, pa.string()) for name in self._layout.key})
        return table.drop_null()

    def rejected(self) -> Iterator[pa.Table]:
        """Yields the rejected rows as tables of schema `REJECTED`."""
        return self._rejects.tables()

    def _read(self) -> Iterator[Any]:
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                row = loads(line)
                yield _with_texts(row) if _LONG.search(line) else row


def _with_texts(value: Any) -> Any:
    """Returns a value with texts instead of the integers that 64 bits do not hold, which dlt cannot write (1.31.0)."""
    if isinstance(value, dict):
        return {name: _with_texts(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_texts(item) for item in value]
    return str(value) if isinstance(value, int) and not INT64[0] <= value <= INT64[1] else value


def _digest(row: Any, size: int) -> bytes:
    return blake2b(utf8_text(sorted_keys(row)).encode(), digest_size=size).digest()


def _with_timestamps(
    row: Mapping[str, Any], layout: Layout, misfits: list[str], above: tuple[str, ...]
) -> dict[str, Any]:
    """Returns a row with the timestamps that are written in a stated way, and adds those that are not to `misfits`."""
    read = {}
    for name, value in row.items():
        path = (*above, name)
        column = layout.column_name(path)
        target = layout.targets.get(column)
        if isinstance(value, dict) and not layout.is_json(column, path, value):
            value = _with_timestamps(value, layout, misfits, path)
        elif target is not None and target.stamp is not None and value is not None:
            value = fit_value(value, target)
            if value is None:
                misfits.append(f"{column}: the value does not fit {target}")
        read[name] = value
    return read


def _new_names(names: Sequence[str], layout: Layout) -> list[str] | None:
    """Returns names for fields that get distinct, unreserved columns; None if the fields' own names already do."""
    new: dict[str, str] = {}
    taken: set[str] = set()
    # The field that is spelled like its column keeps it, else the first.
    for name in sorted(names, key=lambda name: layout.column_name((name,)) != name):
        column = layout.column_name((name,))
        if column in taken:
            new[name] = layout.clash_name(column, (name,))
        else:
            new[name] = column if layout.is_reserved(name) else name
        taken.add(column)
    return None if all(name == other for name, other in new.items()) else [new[name] for name in names]
