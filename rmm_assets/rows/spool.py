"""Collects the pages of one read on disk and returns them as Arrow tables when the read is complete.

Pages become batches, one for each table that the rows and their lists become; the keys of large reads are on disk, too. Which
rows land, with their children, is decided at the end. `reading` decides whether a read is complete.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from dlt.common.normalizers.json.relational import DataItemNormalizer
from dlt.common.schema.typing import C_DLT_ID

from rmm_assets.rows.arrow_files import append, read_each
from rmm_assets.rows.batches import Batches
from rmm_assets.rows.chunk import Chunk
from rmm_assets.rows.conflicts import EXAMPLES, and_more, differing, repeated, sentence
from rmm_assets.rows.contents import (
    CONTENT_HASH,
    LASTING_KEY,
    Received,
    add_items,
    contents,
    flagged,
    lasting,
    received_rows,
)
from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.flatten import flatten
from rmm_assets.rows.ids import item_ids, key_ids, random_ids
from rmm_assets.rows.json_text import loads, utf8_text
from rmm_assets.rows.keys import NO_KEY, Keys, as_keys, chunk_keys, keys_of_table, landed_texts, row_key_texts
from rmm_assets.rows.layout import Layout
from rmm_assets.rows.page import Page
from rmm_assets.rows.rejects import Reject, Rejects
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.siphash import PROCESS_KEY, Hashes, Key
from rmm_assets.rows.stored_keys import StoredKeys
from rmm_assets.rows.tally import Tally, last_of_each
from rmm_assets.rows.used_values import UsedValues

# A batch is written after this many bytes of bodies, however few its rows.
BATCH_BYTES = 32 * 2**20

ROW_ID = C_DLT_ID
ROOT_ID, _PARENT_ID = DataItemNormalizer.C_DLT_ROOT_ID, DataItemNormalizer.C_DLT_PARENT_ID
_INDEX = DataItemNormalizer.C_DLT_LIST_IDX
# dlt's own columns, with the hints of its normalizer.
_OWN_COLUMNS: dict[str, dict[str, Any]] = {
    ROOT_ID: {"data_type": "text", "root_key": True},
    _PARENT_ID: {"data_type": "text", "parent_key": True},
    _INDEX: {"data_type": "bigint"},
    ROW_ID: {"data_type": "text", "unique": True, "row_key": True},
}

# No column can have this name.
_RAW = " raw"

Choose = Callable[[list[list[Any]]], Mask]


class _Numbered(NamedTuple):
    """Holds a page, its number in the read, starting at 1, and its rows' keys if they are computed already."""

    number: int
    page: Page
    keys: Keys | None


class _Origin(NamedTuple):
    """Maps the rows of a batch that can land to their pages.

    Attributes:
        ends: For each page, the number of rows up to its end.
        numbers: The pages' numbers.
    """

    ends: list[int]
    numbers: list[int]

    @classmethod
    def of(cls, run: list[_Numbered], land: Mask | None) -> _Origin:
        ends = list(accumulate(entry.page.rows for entry in run))
        if land is not None:
            ends = np.cumsum(land)[np.array(ends) - 1].tolist()
        return cls(ends, [entry.number for entry in run])

    def page(self, row: int) -> int:
        return self.numbers[bisect.bisect_right(self.ends, row)]


class _Shaped(NamedTuple):
    """Holds rows of one table, ready to be written, with their children."""

    batches: Batches
    table: pa.Table
    children: list[_Shaped]


class Spool:
    """Collects the rows of one read of one resource. Not thread-safe.

    Attributes:
        rows: Rows received, rejected ones included.
        used_values: The values that child resources use.
    """

    def __init__(self, shape: RowShape, folder: Path, batch_rows: int = 20000) -> None:
        """Creates an empty spool.

        Args:
            shape: What is known of the rows.
            folder: An empty folder that nothing else uses; created if it is missing.
            batch_rows: About how many rows of a table `tables` yields together.
        """
        self._shape, self._layout = shape, Layout(shape)
        self.folder, self._batch_rows = folder, batch_rows
        folder.mkdir(parents=True, exist_ok=True)
        self.used_values = UsedValues(shape.used_paths, folder)
        self.clear()

    def clear(self) -> None:
        """Discards all rows before a new read."""
        self.rows = 0
        self.used_values.clear()
        self._pages = 0
        self._pending: list[_Numbered] = []
        self._pending_rows = self._pending_bytes = 0
        self._tally = Tally(self.folder)
        self._landing, self._sizes = StoredKeys(self.folder), list[int]()
        self._origins: list[_Origin] = []
        self._root = Batches(self._layout, self.folder / "rows.arrows")
        self._children: dict[Layout, Batches] = {}
        self._rejects = Rejects(self.folder / "rejected.arrows")
        self._named = self.folder / "rejected_keys.arrows"
        self._named.write_bytes(b"")

    def add(self, page: Page, keys: Keys | None = None) -> None:
        """Adds the next page.

        Args:
            page: The page, without the rows that overlap the page before.
            keys: Its rows' keys from `row_keys`; computed here if None.
        """
        self._pages += 1
        self.rows += page.rows
        if not page.rows:
            return
        self.used_values.add(page)
        self._pending.append(_Numbered(self._pages, page, keys))
        self._pending_rows += page.rows
        self._pending_bytes += page.size
        if self._pending_rows >= self._batch_rows or self._pending_bytes >= BATCH_BYTES:
            self._flush()

    @property
    def rejected_rows(self) -> int:
        """Number of rows that cannot land."""
        self._flush()
        return self._rejects.rows

    @property
    def keyless(self) -> int:
        """Number of rows without a primary key, all of which are rejected."""
        self._flush()
        return self._tally.keyless

    @property
    def distinct(self) -> int:
        """Number of distinct keys; `rows - distinct - keyless` rows are repeats."""
        self._flush()
        return self._tally.distinct

    def fingerprint(self) -> str:
        """Returns a digest of the set of keys, equal if two passes returned the same rows in any order."""
        self._flush()
        return self._tally.fingerprint()

    def sequence(self) -> str:
        """Returns a digest of all keys in the order received."""
        self._flush()
        return self._tally.sequence()

    def conflicts(self) -> Sequence[str]:
        """Describes the first keys whose rows differ, one sentence each; empty if there are none.

        Rows that cannot land are left out; identical repeats are not conflicts.
        """
        self._flush()
        if not self._layout.key:
            return ()
        keys = self._landing_keys()
        again = repeated(keys)
        if again is None:
            return ()
        schemas = self._schemas()
        hashes = [
            self._contents(self._conformed(number, mask, schemas), number, mask, schemas)
            for number, mask in enumerate(self._by_batch(again))
        ]
        where = np.flatnonzero(again)
        pairs = differing(keys.taken(again), as_keys(np.concatenate(hashes)))
        examples = [self._difference(int(where[one]), int(where[other])) for one, other in pairs[:EXAMPLES]]
        return and_more(examples, len(pairs))

    def _contents(
        self, table: pa.Table, number: int, mask: Mask | None, schemas: Mapping[Batches, pa.Schema],
        key: Key = PROCESS_KEY,
    ) -> Hashes:  # fmt: skip
        """Hashes rows of a batch with their lists.

        Args:
            table: The rows, in the final schema.
            number: The batch.
            mask: Mask of these rows; None for all.
            schemas: Final schemas of the tables.
            key: The hash key.
        """
        as_json = {name for name, column in self._root.columns().items() if column["data_type"] == "json"}
        hashes = contents(table, len(table), as_json, key)
        self._add_items(hashes, self._layout, number, mask, schemas, key)
        return hashes

    def _add_items(
        self, hashes: Hashes, layout: Layout, number: int, mask: Mask | None, schemas: Mapping[Batches, pa.Schema],
        key: Key,
    ) -> None:  # fmt: skip
        """Mixes the items of the rows' lists into the rows' hashes."""
        for child in layout.children.values():
            batches = self._children.get(child)
            stored = batches.read(number) if batches is not None else None
            if batches is None or stored is None:
                continue
            chunk, stay = _below(stored, mask)
            items = contents(batches.conform(chunk, schemas[batches]), len(chunk), key=key)
            self._add_items(items, child, number, stay, schemas, key)
            parents, positions = chunk[_PARENT_ID].combine_chunks(), chunk[_INDEX].combine_chunks()
            add_items(hashes, child.name, items, parents, positions, key)

    def _difference(self, one: int, other: int) -> str:
        """Describes how two rows differ, given their indices among the rows that can land."""
        ends = list(accumulate(self._sizes))
        rows, pages = [], []
        for index in (one, other):
            number = bisect.bisect_right(ends, index)
            place = index - ends[number] + self._sizes[number]
            table = self._root.conform(self._batch(number).slice(place, 1), self._root.schema)
            rows.append({name: table[name].combine_chunks() for name in table.column_names})
            pages.append(self._origins[number].page(place))
        key = {name: str(landed_texts(rows[0][name])[0]) for name in self._layout.key}
        columns = [name for name, value in rows[0].items() if not value.equals(rows[1][name])]
        return sentence(key, (pages[0], pages[1]), columns or ["their lists"])

    def columns(self) -> dict[str, dict[str, Any]]:
        """Returns the resource table's dlt column schemas, which tell dlt what Arrow types cannot, such as `json`."""
        self._flush()
        return {**self._root.columns(), **(_own_columns(ROW_ID) if self._shape.row_ids else {})}

    def children(self) -> dict[str, tuple[str, dict[str, dict[str, Any]]]]:
        """Returns the child tables that received rows, parents first: by name, the parent table and dlt column schemas."""
        self._flush()
        return {
            child.table: (layout.table, {**self._children[child].columns(), **_own_columns(*self._item_columns)})
            for layout in self._layout.tree()
            for child in layout.children.values()
            if child in self._children
        }

    def changed_types(self) -> Mapping[str, tuple[str, str]]:
        """Returns the columns whose type at the destination does not fit all values.

        Returns:
            By column (`table.column` in a child table), the type in the table and the type received.
        """
        self._flush()
        found = dict(self._root.changed_types())
        for batches in self._children.values():
            found.update(batches.changed_types())
        return found

    def received(self) -> Received:
        """Returns the keys and hashes of the rows that `tables` yields."""
        self._flush()
        schemas, rows, keys = self._schemas(), received_rows(self.folder), self._landing_keys()
        start = 0
        for number, mask in enumerate(self._masks(keys)):
            table = self._conformed(number, mask, schemas)
            hashes = lasting(self._contents(table, number, mask, schemas, LASTING_KEY))
            own = keys.read(start, self._sizes[number])["key"]
            rows.add(own if mask is None else own[mask], content=hashes, deleted=flagged(table, self._layout.deleted))
            start += self._sizes[number]
        return Received(rows, keys_of_table(self.rejected_keys()))

    def tables(self, choose: Choose | None = None, wanted: Mask | None = None) -> Iterator[tuple[str, pa.Table]]:
        """Yields the rows that can land, only the last of those that share a key, and their children.

        Args:
            choose: Receives the values at the shape's `raw_paths`, one list per row in landing order, and returns a mask of
                the rows to keep.
            wanted: A mask of the rows to keep, in landing order, in addition to `choose`; None keeps all.

        Yields:
            The name of a table and some of its rows, parents before children. All tables of one name have the same schema.
        """
        self._flush()
        schemas = self._schemas()
        gathered: dict[str, list[pa.Table]] = {}
        start = 0
        for number, land in enumerate(self._masks(self._landing_keys())):
            rows = self._sizes[number] if land is None else int(np.count_nonzero(land))
            kept = None if wanted is None else wanted[start : start + rows]
            start += rows
            for name, table in self._landed(number, land, schemas, choose, kept):
                gathered.setdefault(name, []).append(table)
            if any(sum(map(len, tables)) >= self._batch_rows for tables in gathered.values()):
                yield from ((name, pa.concat_tables(tables)) for name, tables in gathered.items())
                gathered = {}
        yield from ((name, pa.concat_tables(tables)) for name, tables in gathered.items())

    @property
    def schema(self) -> pa.Schema:
        """Schema of the resource's table without dlt's own columns."""
        self._flush()
        return self._root.schema

    def rejected(self) -> Iterator[pa.Table]:
        """Yields the rejected rows as tables of schema `REJECTED`: the row as JSON, the reason, the page number from 1."""
        self._flush()
        return self._rejects.tables()

    def rejected_keys(self) -> pa.Table:
        """Returns the primary keys of the rejected rows that have one, with the table's column names and types."""
        self._flush()
        tables = list(read_each(self._named))
        if not tables:
            return pa.table({name: pa.nulls(0) for name in self._layout.key})
        schema = pa.schema([self._root.schema.field(name) for name in self._layout.key])
        return pa.concat_tables([self._root.conform(table, schema) for table in tables])

    def _masks(self, keys: StoredKeys) -> list[Mask | None]:
        """Returns a mask of the rows that land for each batch; None if all do."""
        land = last_of_each(keys)
        return [None] * len(self._sizes) if land is None else [*self._by_batch(land)]

    def _by_batch(self, mask: Mask) -> Iterator[Mask]:
        """Splits a mask of all rows that can land into one mask per batch."""
        return (mask[end - rows : end] for end, rows in zip(accumulate(self._sizes), self._sizes, strict=True))

    def _landing_keys(self) -> StoredKeys:
        """Returns the keys of the rows that can land.

        They are recomputed if a key column's type makes differently written values equal, such as timestamps or numbers.
        """
        schema = self._root.schema
        unified = [name for name in self._layout.key if self._root.unifies_spellings(name)]
        # No row lands without a key, so all key columns exist once one does.
        if not unified or not self._sizes:
            return self._landing
        own, keys = pa.schema([schema.field(name) for name in self._layout.key]), StoredKeys(self.folder)
        for number in range(len(self._sizes)):
            table = self._root.conform(self._batch(number), own)
            keys.add(keys_of_table(table))
        return keys

    def _batch(self, number: int) -> pa.Table:
        stored = self._root.read(number)
        assert stored is not None, "a batch without rows"
        return stored

    def _schemas(self) -> dict[Batches, pa.Schema]:
        return {batches: batches.schema for batches in (self._root, *self._children.values())}

    def _conformed(
        self, number: int, mask: Mask | None, schemas: Mapping[Batches, pa.Schema],
        own: Mapping[str, pa.Array] | None = None,
    ) -> pa.Table:  # fmt: skip
        """Returns rows of a batch in the final schema, with columns of our own."""
        stored = self._batch(number)
        return self._root.conform(stored if mask is None else stored.filter(pa.array(mask)), schemas[self._root], own)

    def _landed(
        self, number: int, land: Mask | None, schemas: Mapping[Batches, pa.Schema], choose: Choose | None,
        wanted: Mask | None,
    ) -> Iterator[tuple[str, pa.Table]]:  # fmt: skip
        """Yields the rows of a batch that land, then their children."""
        kept = wanted
        if choose is not None:
            raw = self._batch(number)[_RAW]
            raw = raw if land is None else raw.filter(pa.array(land))
            chosen = choose([loads(text) for text in raw.to_pylist()])
            kept = chosen if wanted is None else wanted & chosen
        if land is None:
            land = kept
        elif kept is not None:
            land[land] = kept
        if land is not None and not land.any() and (wanted is not None or self._shape.row_ids is not None):
            return
        own: dict[str, pa.Array] = {}
        if self._shape.row_ids == "random":
            # Rows that consist of lists have no columns, and a table without columns has no length.
            own[ROW_ID] = random_ids(self._sizes[number] if land is None else int(np.count_nonzero(land)))
        table, name = self._conformed(number, land, schemas, own), self._layout.table
        if self._shape.hashes_contents:
            hashes = lasting(self._contents(table, number, land, schemas, LASTING_KEY))
            table = table.append_column(CONTENT_HASH, pa.array(hashes))
        if self._shape.row_ids == "key":
            ids = key_ids(table, self._layout.key)
            table = table.append_column(pa.field(ROW_ID, ids.type, nullable=False), ids)
        yield name, table
        if self._shape.row_ids is None:
            return
        ids = table[ROW_ID].combine_chunks()
        yield from self._landed_below(self._layout, number, land, ids, ids, schemas)

    def _landed_below(
        self, layout: Layout, number: int, land: Mask | None, ids: pa.Array, roots: pa.Array,
        schemas: Mapping[Batches, pa.Schema],
    ) -> Iterator[tuple[str, pa.Table]]:  # fmt: skip
        """Yields the children of rows that land.

        Args:
            layout: Layout of the parent rows' table.
            number: The batch.
            land: Mask of the parent rows that land; None if all do.
            ids: Ids of the parent rows that land.
            roots: Ids of their root rows.
            schemas: Final schemas of the tables.
        """
        for child in layout.children.values():
            batches = self._children.get(child)
            stored = batches.read(number) if batches is not None else None
            if batches is None or stored is None:
                continue
            chunk, stay = _below(stored, land)
            if not len(chunk):
                continue
            parents, positions = chunk[_PARENT_ID].combine_chunks(), chunk[_INDEX].combine_chunks()
            above, root = ids.take(parents), roots.take(parents)
            own = item_ids(above, child.table, positions)
            made = {ROOT_ID: root, _PARENT_ID: above, _INDEX: positions, ROW_ID: own}
            yield (
                child.table,
                batches.conform(chunk, schemas[batches], {name: made[name] for name in self._item_columns}),
            )
            yield from self._landed_below(child, number, stay, own, root, schemas)

    @property
    def _item_columns(self) -> tuple[str, ...]:
        """dlt's own columns of a child table."""
        rooted = self._shape.nesting is not None and self._shape.nesting.rooted
        return (*((ROOT_ID,) if rooted else ()), _PARENT_ID, _INDEX, ROW_ID)

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        self._pending_rows = self._pending_bytes = 0
        run: list[_Numbered] = []
        for entry in pending:
            if run and not run[-1].page.is_like(entry.page):
                self._take(run)
                run = []
            run.append(entry)
        if run:
            self._take(run)
            self._layout.name_tables()

    def _take(self, run: list[_Numbered]) -> None:
        pages = [entry.page for entry in run]
        chunk = flatten(self._layout, pages, nest=True)
        given = [entry.keys for entry in run if entry.keys is not None]
        if len(given) == len(run):
            keys = np.concatenate(given)
        else:
            # Without a primary key, the whole row identifies it, lists included.
            whole = chunk if self._layout.key or not self._layout.nests else flatten(self._layout, pages)
            keys = chunk_keys(whole, self._layout, [page.rows for page in pages])
        self._refuse_empty(chunk)
        # This column keeps rows that have nothing but lists.
        own = {_INDEX: pa.array(np.arange(chunk.rows))} if self._layout.nests else {}
        if self._shape.raw_paths:
            own[_RAW] = pa.array(self._raw(pages), pa.string())
        shaped = self._shaped(chunk, self._root, own)
        self._tally.add(keys)
        land: Mask | None = None
        if chunk.faults:
            self._reject(chunk, run)
            land = np.ones(chunk.rows, np.bool_)
            land[list(chunk.faults)] = False
            named = ~land & (keys != NO_KEY)
            if self._layout.key and named.any():
                append(self._named, shaped.table.select(list(self._layout.key)).filter(pa.array(named)))
            keys = keys[land]
        if len(keys):
            number = len(self._sizes)
            self._landing.add(keys)
            self._sizes.append(len(keys))
            self._origins.append(_Origin.of(run, land))
            self._root.write(number, shaped.table if land is None else shaped.table.filter(pa.array(land)))
            self._write_below(shaped, number, land)

    def _raw(self, pages: list[Page]) -> Iterator[str]:
        for page in pages:
            for values in zip(*(page.values(path) for path in self._shape.raw_paths), strict=True):
                yield utf8_text(list(values))

    def _shaped(self, chunk: Chunk, batches: Batches, own: Mapping[str, pa.Array] | None) -> _Shaped:
        """Makes the tables to write from rows and their children. A child's faults become its row's faults."""
        table = batches.shape(chunk, own)
        children = []
        for items in chunk.children:
            if items.layout not in self._children:
                path = self.folder / f"child_{len(self._children)}.arrows"
                self._children[items.layout] = Batches(items.layout, path, root=False)
            places = {_PARENT_ID: pa.array(items.parents), _INDEX: pa.array(items.positions)}
            children.append(self._shaped(items.chunk, self._children[items.layout], places))
            for index, reasons in items.chunk.faults.items():
                for reason in reasons:
                    chunk.add_fault(int(items.parents[index]), reason)
        return _Shaped(batches, table, children)

    def _write_below(self, shaped: _Shaped, number: int, land: Mask | None) -> None:
        for child in shaped.children:
            table, stay = _below(child.table, land)
            if len(table):
                child.batches.write(number, table)
                self._write_below(child, number, stay)

    def _refuse_empty(self, chunk: Chunk) -> None:
        """Adds a fault to each row that would be entirely null, as it would leave no trace in the table."""
        empty = np.ones(chunk.rows, np.bool_)
        for column in chunk.columns.values():
            if not column.values.null_count:
                return
            empty &= column.values.is_null().to_numpy(zero_copy_only=False)
        for items in chunk.children:
            empty[items.parents] = False
        for index in map(int, np.flatnonzero(empty)):
            if index not in chunk.faults:
                chunk.add_fault(index, "no value in it")

    def _reject(self, chunk: Chunk, run: list[_Numbered]) -> None:
        faults = sorted(chunk.faults)
        keys = row_key_texts(chunk, self._layout, faults)
        ends = list(accumulate(entry.page.rows for entry in run))
        objects: dict[int, list[Any]] = {}
        rejects = []
        for index, key in zip(faults, keys, strict=True):
            which = bisect.bisect_right(ends, index)
            if which not in objects:
                objects[which] = run[which].page.objects()
            row = objects[which][index - ends[which] + run[which].page.rows]
            rejects.append(Reject(row, chunk.faults[index], run[which].number, key))
        self._rejects.add(rejects)


def _own_columns(*names: str) -> dict[str, dict[str, Any]]:
    return {name: {"name": name, "nullable": False, **_OWN_COLUMNS[name]} for name in names}


def _below(table: pa.Table, land: Mask | None) -> tuple[pa.Table, Mask | None]:
    """Returns the items whose parent rows land, with the parents' new indices, and a mask of these items."""
    if land is None:
        return table, None
    parents = table[_PARENT_ID].to_numpy()
    stay = land[parents]
    moved = pa.array((np.cumsum(land) - 1)[parents[stay]])
    return table.filter(pa.array(stay)).set_column(table.schema.get_field_index(_PARENT_ID), _PARENT_ID, moved), stay
