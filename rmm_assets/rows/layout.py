"""Turns pages into columns: nested objects flattened under dlt's names, lists as JSON text or as rows of child tables.

A kind is what JSON said, not yet a column type: which type a column gets is known when the whole read is, or because
the connection or the table says so (`values`). Rows that Arrow decoded are flattened in Arrow; the others, and those
whose names clash, row by row in Python, which is the reference. Nothing here is written anywhere: that is `spool`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dlt.common.normalizers.naming.snake_case import NamingConvention
from dlt.common.schema.typing import DLT_NAME_PREFIX

from rmm_assets.rows.decode import EXACT_DOUBLE, Page
from rmm_assets.rows.types import Kind, Target, fits_double, json_text, kind_of, target_of

# dlt's name for a key that is empty or blank
_EMPTY_KEY = "_empty"
# dlt's names for a list in a list, and for an item that is neither a list nor an object
_LIST, _VALUE = "list", "value"
# Each level of lists is a table of its own: no row has that many, and a hostile one shall not.
_MOST_LEVELS = 100
NOT_AN_OBJECT = "not an object"

Indices = np.ndarray[Any, np.dtype[np.int64]]
_Objects = Callable[[], list[Any]]


@dataclass(frozen=True)
class Nesting:
    """That lists become child tables, as dlt makes them, and what is known of these.

    Attributes:
        known: Child tables that the destination has already: dlt table schemas by name.
        rooted: Whether child rows carry the id of their root row, which dlt's merges go by.
    """

    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rooted: bool = True


@dataclass(frozen=True)
class RowShape:
    """What is known of a resource's rows before one of them came.

    Attributes:
        table: Name of the resource's table.
        primary_key: Source field names; a nested one as `organization.id` or `organization__id`.
        columns: dlt column hints by column name, as the source or as the table writes it.
        max_table_nesting: How many levels of objects and lists become columns and tables, as in dlt; None is all of them.
        known: Columns that the table at the destination has already: dlt column schemas by normalized name.
        max_identifier_length: Longest name that the destination takes, in characters; None is no limit.
        row_ids: Whether rows get an id, as dlt calls it: made of the primary key, so that it stays the same from load to
            load, or random, where the same row lands again beside what is there.
        nesting: How lists become child tables, which takes ids; None where each list is one JSON column.
        kept: Paths in a row whose values are wanted as they came, beside the columns that they become.
    """

    table: str
    primary_key: tuple[str, ...] = ()
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_table_nesting: int | None = None
    known: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_identifier_length: int | None = None
    row_ids: Literal["key", "random"] | None = None
    nesting: Nesting | None = None
    kept: tuple[tuple[str, ...], ...] = ()

    @cached_property
    def layout(self) -> Layout:
        """How these rows become columns; made once, safe in any thread."""
        return Layout(self)


@dataclass(frozen=True)
class Column:
    """One column of some rows.

    Attributes:
        kind: How `values` are stored: the kind of all of them, or `mixed`, where each one is JSON text.
        values: As many as there are rows.
        kinds: The kinds of the values that are not null; `wide` beside `bigint` says that one is no double exactly.
    """

    kind: Kind
    values: pa.Array
    kinds: frozenset[Kind]


@dataclass
class Chunk:
    """Some rows as columns.

    Attributes:
        rows: How many.
        columns: By column name, in dlt's order. A column that holds nothing but null is not there.
        faults: Why a row cannot land, by its index: one reason a column.
        children: The items of its lists, where they become child tables. A list without items is not there.
    """

    rows: int
    columns: dict[str, Column]
    faults: dict[int, list[str]] = field(default_factory=dict)
    children: list[Items] = field(default_factory=list)

    def add_fault(self, row: int, reason: str) -> None:
        self.faults.setdefault(row, []).append(reason)


@dataclass(frozen=True)
class Items:
    """The items of one list of some rows: rows of a child table.

    Attributes:
        layout: Of the child table.
        chunk: The items as columns.
        parents: By item, the index of its row in the chunk above.
        positions: By item, its index in its list.
    """

    layout: Layout
    chunk: Chunk
    parents: Indices
    positions: Indices


@dataclass(frozen=True)
class _Leaf:
    """A column of Arrow-decoded rows, or a list that becomes a table: where it is in the struct, by index and by name."""

    name: str
    indices: tuple[int, ...]
    path: tuple[str, ...]
    as_json: bool = False


@dataclass(frozen=True)
class _Plan:
    """How rows of one Arrow type become columns and tables; `clash` where two of its fields have one name."""

    leaves: tuple[_Leaf, ...]
    lists: tuple[_Leaf, ...]
    clash: bool


class Layout:
    """Names and types of the columns that the rows of one table become. Safe in any thread.

    Attributes:
        table: Name of the table.
        key: Column names of the primary key.
        targets: What a column is to be where the connection or the table at the destination says so.
        nests: Whether lists become child tables.
        children: The layouts of child tables, by the name of their lists, as far as lists have come.
    """

    def __init__(self, shape: RowShape, above: Layout | None = None, name: str = "") -> None:
        """A table's layout.

        Args:
            shape: What is known of its rows; for a child table, of those of the root.
            above: Layout of the table whose lists become this one.
            name: Their name, as a column's.
        """
        self._naming = NamingConvention(cast(int, shape.max_identifier_length))
        self.nests = shape.nesting is not None
        self.children: dict[str, Layout] = {}
        self._above, self._shape, self._name = above, shape, name
        known = shape.nesting.known if shape.nesting else {}
        # A table has one table above, also at the destination.
        self._owners = {table: str(schema.get("parent")) for table, schema in known.items()}
        if above is None:
            self._depth = 1000 if shape.max_table_nesting is None else shape.max_table_nesting
            self._depth = min(self._depth, _MOST_LEVELS) if self.nests else self._depth
            self.table = self._path = shape.table
        else:
            self._depth = above._depth - above._levels((name,), [])
            self._path = f"{above._path}__{name}"
            self.table = self._free_name(self._owners)
            columns = known.get(self.table, {}).get("columns", {})
            shape = replace(shape, table=self.table, primary_key=(), columns={}, known=columns)
        self._names: dict[tuple[str, ...], str] = {}
        self._plans: list[tuple[pa.DataType, bool, _Plan]] = []
        self.key = tuple(self._key_column(name) for name in shape.primary_key)
        self.targets: dict[str, Target] = {}
        self._known = {name: hint for name, hint in shape.known.items() if hint.get("data_type")}
        for name, hint in self._known.items():
            self.targets[name] = target_of(name, hint, declared=False, required=name in self.key)
        for source, hint in shape.columns.items():
            name = self._naming.normalize_path(source)
            required = name in self.key or hint.get("nullable") is False
            if hint.get("data_type"):
                self.targets[name] = target_of(name, hint, declared=True, required=required)
            elif required and name in self.targets:
                self.targets[name] = target_of(name, self._known[name], declared=False, required=True)
        filled = (name for name, hint in shape.columns.items() if hint.get("nullable") is False)
        self.required = frozenset({*self.key, *map(self._naming.normalize_path, filled)})

    def _free_name(self, owners: Mapping[str, str]) -> str:
        """dlt's name of the child table, or another one where that is the name of a table below another table."""
        assert self._above is not None
        name, above = str(self._naming.shorten_fragments(self._path)), self._above.table
        return name if owners.get(name, above) == above else self._clash_name(self._path, (above, self._name))

    def name_tables(self) -> None:
        """Name all child tables that have come, whatever order they came in: `a` may be a list of objects that have a
        list `b`, and in another row an object that has one. The tables of outer lists keep their names.
        """
        owners, level = dict(self._owners), [self]
        while level:
            below = [child for layout in level for child in layout.children.values()]
            level = sorted(below, key=lambda child: child._above.table if child._above else "")
            for child in level:
                child.table = child._free_name(owners)
                owners.setdefault(child.table, child._above.table if child._above else "")

    def tree(self) -> Iterator[Layout]:
        """This layout and all below it, parents first."""
        yield self
        for child in self.children.values():
            yield from child.tree()

    def known_type(self, name: str) -> str | None:
        """The type that the table at the destination has for a column."""
        hint = self._known.get(name)
        return None if hint is None else str(hint["data_type"])

    def _key_column(self, name: str) -> str:
        return self.column_name(tuple(name.split("."))) if "." in name else str(self._naming.normalize_path(name))

    def column_name(self, path: tuple[str, ...]) -> str:
        """The column of a source field, as dlt names it."""
        name = self._names.get(path)
        if name is None:
            idents = self._idents(path)
            name = idents[0] if len(idents) == 1 else str(self._naming.shorten_fragments(*idents))
            if self.nests and name.startswith(DLT_NAME_PREFIX):
                name = self._clash_name(name, path)  # dlt's own columns link the tables
            self._names[path] = name
        return name

    def _idents(self, path: tuple[str, ...]) -> list[str]:
        return [str(self._naming.normalize_path(key)) if key and not key.isspace() else _EMPTY_KEY for key in path]

    def _list_name(self, path: tuple[str, ...]) -> str:
        """The name of a list in its table's name, which is shortened as a whole."""
        return "__".join(self._idents(path))

    def _child(self, name: str) -> Layout:
        """The layout of the table that lists of that name become."""
        if name not in self.children:
            self.children[name] = Layout(self._shape, self, name)
        return self.children[name]

    def variant_name(self, name: str, data_type: str) -> str:
        """Where dlt puts a value that the column cannot hold."""
        return str(self._naming.shorten_fragments(name, f"v_{data_type}"))

    def _clash_name(self, name: str, path: tuple[str, ...]) -> str:
        return str(self._naming.shorten_fragments(f"{name}_{_tag(path)}"))

    def _levels(self, path: tuple[str, ...], value: Any) -> int:
        """How many of dlt's levels of nesting a value is below its row: a list right in a list is a row's only field."""
        return len(path) + (self._above is not None and path == (_LIST,) and isinstance(value, list))

    def _is_json(self, name: str, path: tuple[str, ...], value: Any = None) -> bool:
        """Whether an object or a list there stays one JSON value."""
        target = self.targets.get(name)
        return self._levels(path, value) > self._depth or (target is not None and target.data_type == "json")

    def _plan(self, kind: pa.StructType, nest: bool) -> _Plan:
        for seen, nested, plan in self._plans:
            if nested == nest and seen == kind:
                return plan
        leaves: list[_Leaf] = []
        lists: list[_Leaf] = []
        # dlt's own walk: the objects of a level come after its other fields, the last one first.
        stack: list[tuple[pa.StructType, tuple[int, ...], tuple[str, ...]]] = [(kind, (), ())]
        while stack:
            struct, indices, parents = stack.pop()
            for index, entry in enumerate(struct):
                path = (*parents, entry.name)
                name = self.column_name(path)
                if pa.types.is_struct(entry.type) and not self._is_json(name, path):
                    stack.append((entry.type, (*indices, index), path))
                elif nest and pa.types.is_list(entry.type) and not self._is_json(name, path, []):
                    lists.append(_Leaf(self._list_name(path), (*indices, index), path))
                elif not pa.types.is_null(entry.type):
                    leaves.append(_Leaf(name, (*indices, index), path, pa.types.is_nested(entry.type)))
        clash = any(len({leaf.name for leaf in found}) < len(found) for found in (leaves, lists))
        plan = _Plan(tuple(leaves), tuple(lists), clash)
        self._plans = [(kind, nest, plan), *self._plans[:7]]
        return plan

    def flatten(self, pages: Sequence[Page], only: frozenset[str] | None = None, *, nest: bool = False) -> Chunk:
        """Pages that were decoded alike, as columns.

        Args:
            pages: Neighbours of one kind, as `rows.runs` gives them.
            only: Column names to make; None is all of them.
            nest: Make rows of child tables of lists, and not JSON, if this layout says so.
        """
        structs = [page.structs for page in pages if page.structs is not None]
        nest = nest and self.nests

        @cache
        def objects() -> list[Any]:
            return [row for page in pages for row in page.objects()]

        if len(structs) < len(pages) or not structs:
            return self._flatten_objects(objects(), only, nest)
        rows = structs[0] if len(structs) == 1 else pa.concat_arrays(structs)
        return self._flatten_structs(rows, objects, only, nest)

    def _flatten_structs(
        self, rows: pa.StructArray, objects: _Objects, only: frozenset[str] | None, nest: bool
    ) -> Chunk:
        """Rows as Arrow decoded them, which `objects` gives as Python values."""
        plan = self._plan(rows.type, nest)
        if plan.clash:
            return self._flatten_objects(objects(), only, nest)
        children: dict[tuple[int, ...], list[pa.Array]] = {(): rows.flatten()}
        chunk = Chunk(len(rows), {})
        for leaf in plan.leaves:
            if only is not None and leaf.name not in only:
                continue
            array = _descend(children, leaf.indices)
            if array.null_count == len(array):
                continue
            if leaf.as_json:
                text = _list_text(array)
                if text is None:
                    text = pa.array([_json_at(row, leaf.path) for row in objects()], pa.string())
                chunk.columns[leaf.name] = Column("json", text, frozenset({"json"}))
            else:
                chunk.columns[leaf.name] = _typed(array)
        for leaf in plan.lists if only is None else ():
            array = _descend(children, leaf.indices)
            lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
            if lengths.any():
                child = self._child(leaf.name)
                inner = child._flatten_structs(_as_structs(array.flatten()), _items_at(objects, leaf.path), None, True)
                chunk.children.append(Items(child, inner, *_places(lengths)))
        return chunk

    def _flatten_objects(self, rows: list[Any], only: frozenset[str] | None, nest: bool) -> Chunk:
        chunk = Chunk(len(rows), {})
        cells: dict[str, list[Any]] = {}
        lists: dict[str, list[Any]] = {}
        for index, row in enumerate(rows):
            if not isinstance(row, dict):
                chunk.add_fault(index, NOT_AN_OBJECT)
                continue
            owners: dict[str, tuple[str, ...]] = {}
            list_owners: dict[str, tuple[str, ...]] = {}
            for path, value in self._leaves(row):
                name = self.column_name(path)
                if nest and isinstance(value, list) and not self._is_json(name, path, value):
                    if only is None:
                        self._put(lists, list_owners, index, self._list_name(path), path, value, len(rows))
                    continue
                self._put(cells, owners, index, name, path, value, len(rows), only)
        for name, values in cells.items():
            chunk.columns[name] = _column(values, chunk)
        for name, values in lists.items():
            lengths = np.array([0 if value is None else len(value) for value in values], np.int64)
            if lengths.any():
                child = self._child(name)
                items = [_as_object(item) for value in values if value for item in value]
                chunk.children.append(Items(child, child._flatten_objects(items, None, True), *_places(lengths)))
        return chunk

    def _put(
        self, cells: dict[str, list[Any]], owners: dict[str, tuple[str, ...]], index: int, name: str,
        path: tuple[str, ...], value: Any, rows: int, only: frozenset[str] | None = None,
    ) -> None:  # fmt: skip
        """Put a value into its column, or into another one where a field of the same row has that already."""
        if name in owners and (clash := self._clash(cells, owners, index, name, path, value)):
            name = clash
        owners[name] = path
        if only is None or name in only:
            if name not in cells:
                cells[name] = [None] * rows
            cells[name][index] = value

    def _leaves(self, row: dict[str, Any]) -> Iterable[tuple[tuple[str, ...], Any]]:
        """A row's values that are not null, each with the keys that lead to it."""
        stack: list[tuple[dict[str, Any], tuple[str, ...]]] = [(row, ())]
        while stack:
            current, parents = stack.pop()
            for key, value in current.items():
                path = (*parents, key)
                if isinstance(value, dict) and not self._is_json(self.column_name(path), path):
                    stack.append((value, path))
                elif value is not None:
                    yield path, value

    def _clash(
        self,
        cells: dict[str, list[Any]],
        owners: dict[str, tuple[str, ...]],
        index: int,
        name: str,
        path: tuple[str, ...],
        value: Any,
    ) -> str | None:
        """Two fields of one row want one column, where dlt keeps the last. Here the field that is written just like the
        column keeps it, else the first; the other one gets a column of its own, unless both say the same.

        Returns:
            The column that the field at `path` gets instead; None where it keeps the name.
        """
        if name not in cells:
            return None
        before = cells[name][index]
        if type(before) is type(value) and before == value:
            return None
        if "__".join(path) == name and "__".join(owners[name]) != name:
            other = self._clash_name(name, owners[name])
            cells.setdefault(other, [None] * len(cells[name]))[index] = before
            return None
        return self._clash_name(name, path)


def _tag(path: Sequence[str]) -> str:
    return hashlib.sha1(json.dumps(path).encode()).hexdigest()[:6]


def _places(lengths: np.ndarray[Any, Any]) -> tuple[Indices, Indices]:
    """By item of lists of these lengths: the index of its list, and its own in it."""
    parents = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    starts = np.cumsum(lengths) - lengths
    return parents, np.arange(len(parents), dtype=np.int64) - starts[parents]


def _as_structs(items: pa.Array) -> pa.StructArray:
    """Items as rows: an object is one, anything else is a row's only field, named as dlt names it."""
    if pa.types.is_struct(items.type):
        return items
    return pa.StructArray.from_arrays([items], [_LIST if pa.types.is_list(items.type) else _VALUE])


def _as_object(item: Any) -> dict[str, Any]:
    """The same for one item."""
    return item if isinstance(item, dict) else {_LIST if isinstance(item, list) else _VALUE: item}


def _items_at(objects: _Objects, path: tuple[str, ...]) -> _Objects:
    """The items of a list of these rows, as rows."""
    return cache(lambda: [_as_object(item) for row in objects() for item in _value_at(row, path) or ()])


def _descend(children: dict[tuple[int, ...], list[pa.Array]], indices: tuple[int, ...]) -> pa.Array:
    parent = indices[:-1]
    if parent not in children:
        # `flatten` makes a child null where its parent is
        children[parent] = _descend(children, parent).flatten()
    return children[parent][indices[-1]]


def _typed(array: pa.Array) -> Column:
    kind: Kind
    if pa.types.is_int64(array.type):
        return Column("bigint", array, frozenset({"bigint"} if fits_double(array) else {"bigint", "wide"}))
    if pa.types.is_float64(array.type):
        kind = "double"
    elif pa.types.is_boolean(array.type):
        kind = "bool"
    else:
        kind = "text"
    return Column(kind, array, frozenset({kind}))


def _list_text(array: pa.Array) -> pa.Array | None:
    """Lists of plain values as JSON text; None where that takes more than joining."""
    if not pa.types.is_list(array.type):
        return None
    item = array.type.value_type
    values = array.flatten()
    if values.null_count:
        return None
    if pa.types.is_null(item):
        return pc.if_else(array.is_valid(), "[]", pa.scalar(None, pa.string()))
    if pa.types.is_string(item):
        if pc.any(pc.match_substring_regex(values, r'["\\\x00-\x1f]')).as_py():
            return None
        empty = pc.equal(pc.list_value_length(array), 0)
        text = pc.binary_join_element_wise('["', pc.binary_join(array, '","'), '"]', "")
        return pc.if_else(empty, "[]", text)
    if pa.types.is_int64(item) or pa.types.is_boolean(item):
        joined = pc.binary_join(pc.cast(array, pa.list_(pa.string())), ",")
        return pc.binary_join_element_wise("[", joined, "]", "")
    return None


def _value_at(row: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(row, dict):
            return None
        row = row.get(key)
    return row


def _json_at(row: Any, path: tuple[str, ...]) -> str | None:
    value = _value_at(row, path)
    return None if value is None else json_text(value)


def _column(values: list[Any], chunk: Chunk) -> Column:
    """Python values as a column. A row with text that is not Unicode gets a fault and a null."""
    try:
        return column_of(values)
    except UnicodeEncodeError:
        for index, value in enumerate(values):
            if value is not None and not _is_unicode(value):
                chunk.add_fault(index, "it holds text that is not Unicode (half of a surrogate pair)")
                values[index] = None
        return column_of(values)


def _is_unicode(value: Any) -> bool:
    try:
        (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)).encode()
    except UnicodeEncodeError:
        return False
    return True


def column_of(values: list[Any]) -> Column:
    """JSON values as a column.

    Raises:
        UnicodeEncodeError: One holds text that is not Unicode.
    """
    types = set(map(type, values)) - {type(None)}
    if types == {str}:
        return Column("text", pa.array(values, pa.string()), frozenset({"text"}))
    if types == {bool}:
        return Column("bool", pa.array(values, pa.bool_()), frozenset({"bool"}))
    if types == {float}:
        return Column("double", pa.array(values, pa.float64()), frozenset({"double"}))
    if types == {int}:
        try:
            return _typed(pa.array(values, pa.int64()))
        except OverflowError:
            pass
    if types == {int, float} and all(v is None or isinstance(v, float) or abs(v) < EXACT_DOUBLE for v in values):
        doubles = [None if v is None else float(v) for v in values]
        return Column("double", pa.array(doubles, pa.float64()), frozenset({"double"}))
    texts = [None if v is None else json_text(v) for v in values]
    if types and types <= {list, dict}:
        return Column("json", pa.array(texts, pa.string()), frozenset({"json"}))
    kinds: set[Kind] = set()
    for value in values:
        if value is not None:
            kinds.update(kind_of(value))
    return Column("mixed", pa.array(texts, pa.string()), frozenset(kinds))
