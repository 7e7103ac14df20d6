"""Names the columns and tables that fields and lists become, as dlt does, and holds the types that are given."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

from dlt.common.normalizers.naming.snake_case import NamingConvention
from dlt.common.schema.typing import DLT_NAME_PREFIX

from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.targets import Target, target_of

# dlt's name for an empty or blank key
_EMPTY_KEY = "_empty"
# dlt's names for a list within a list and for an item that is neither a list nor an object
LIST_FIELD, VALUE_FIELD = "list", "value"
# Columns that this project adds to the resource's own, in addition to dlt's.
_OWN_COLUMNS = ("_absent_since", "_content_hash")
# Each level of lists becomes a table. No real row has this many; the limit stops a hostile one.
_MOST_LEVELS = 100


class Layout:
    """Names the columns and child tables that the rows of one table become, and knows their types. Thread-safe.

    Attributes:
        table: Name of the table.
        name: Name of the lists that become the table, written like a column name; empty for the resource's own table.
        key: Column names of the primary key.
        targets: Types of the columns that the connection or the table at the destination defines.
        nests: Whether lists become child tables.
        deleted: The column that flags deleted rows, if there is one.
        declared: Columns of the key, and those that the connection declares not nullable.
        required: Columns without which a row is rejected: these, and those that are not nullable in the table.
        children: The layouts of child tables, by the name of their lists, for the lists received so far.
    """

    def __init__(self, shape: RowShape, above: Layout | None = None, name: str = "") -> None:
        """Creates the layout of a table.

        Args:
            shape: Describes the rows of the resource's table, also for a child table.
            above: Layout of the parent table.
            name: Name of the parent's lists that become this table, written like a column name.
        """
        self._naming = NamingConvention(cast(int, shape.max_identifier_length))
        self.nests = shape.nesting is not None
        self.children: dict[str, Layout] = {}
        self._above, self._shape, self.name = above, shape, name
        self._added = shape.added if above is None else frozenset[str]()
        known = shape.nesting.known if shape.nesting else {}
        # A table has one parent, also at the destination.
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
            shape = replace(shape, table=self.table, primary_key=(), columns={}, stamps={}, known=columns)
        self._names: dict[tuple[str, ...], str] = {}
        self.key = tuple(self._key_column(name) for name in shape.primary_key)
        self.targets: dict[str, Target] = {}
        digits = shape.decimal_digits
        self._known = {name: hint for name, hint in shape.known.items() if hint.get("data_type")}
        for name, hint in self._known.items():
            self.targets[name] = target_of(name, hint, declared=False, required=name in self.key, digits=digits)
        for source, hint in shape.columns.items():
            name = self._naming.normalize_path(source)
            required = name in self.key or hint.get("nullable") is False
            if hint.get("data_type"):
                stamp = shape.stamps.get(source)
                self.targets[name] = target_of(name, hint, declared=True, required=required, stamp=stamp, digits=digits)
            elif required and name in self.targets:
                self.targets[name] = target_of(name, self._known[name], declared=False, required=True, digits=digits)
        self.deleted = next(
            (self._naming.normalize_path(name) for name, hint in shape.columns.items() if hint.get("hard_delete")), None
        )
        filled = (name for name, hint in shape.columns.items() if hint.get("nullable") is False)
        self.declared = frozenset({*self.key, *map(self._naming.normalize_path, filled)})
        # A column stays as it was made, also if it was in a key that the file no longer has.
        there = (name for name, hint in self._known.items() if hint.get("nullable") is False and above is None)
        self.required = self.declared | {name for name in there if not name.startswith(DLT_NAME_PREFIX)}

    def _free_name(self, owners: Mapping[str, str]) -> str:
        """Returns dlt's name of the child table, or another one if a child of another table has that name."""
        assert self._above is not None
        name, above = str(self._naming.shorten_fragments(self._path)), self._above.table
        return name if owners.get(name, above) == above else self.clash_name(self._path, (above, self.name))

    def name_tables(self) -> None:
        """Names all child tables independently of the order in which their lists were received.

        `a` may be a list of objects that have a list `b`, and in another row an object that has one: both tables would be
        named `a__b`. The tables of outer lists keep their names.
        """
        owners, level = dict(self._owners), [self]
        while level:
            below = [child for layout in level for child in layout.children.values()]
            level = sorted(below, key=lambda child: child._above.table if child._above else "")
            for child in level:
                child.table = child._free_name(owners)
                owners.setdefault(child.table, child._above.table if child._above else "")

    def tree(self) -> Iterator[Layout]:
        """Yields this layout and all its descendants, parents first."""
        yield self
        for child in self.children.values():
            yield from child.tree()

    def why_required(self, name: str) -> str:
        """Returns why a row without a value in a required column is rejected."""
        if name in self.key:
            return "the primary key"
        return (
            "declared not nullable"
            if name in self.declared
            else "not nullable in the table, which was made with it in the key or declared so: `rmm reset` loads the table anew"
        )

    def known_type(self, name: str) -> str | None:
        """Returns the type that the table at the destination has for a column."""
        hint = self._known.get(name)
        return None if hint is None else str(hint["data_type"])

    def _key_column(self, name: str) -> str:
        if "." in name:
            return self.column_name(tuple(name.split(".")))
        return self.column_name((name,)) if self.is_reserved(name) else str(self._naming.normalize_path(name))

    def column_name(self, path: tuple[str, ...]) -> str:
        """Names the column of a source field, as dlt does."""
        name = self._names.get(path)
        if name is None:
            idents = self._idents(path)
            name = idents[0] if len(idents) == 1 else str(self._naming.shorten_fragments(*idents))
            if self._is_taken(name):
                name = self.clash_name(name, path)
            self._names[path] = name
        return name

    def is_reserved(self, field: str) -> bool:
        """Returns whether a field would get the name of one of dlt's or this project's own columns."""
        return self._is_taken(self._idents((field,))[0])

    def _is_taken(self, column: str) -> bool:
        return column.startswith(DLT_NAME_PREFIX) or column in _OWN_COLUMNS or column in self._added

    def _idents(self, path: tuple[str, ...]) -> list[str]:
        keys = (key if key and not key.isspace() else _EMPTY_KEY for key in path)
        return [str(self._naming.normalize_path(key)) or _EMPTY_KEY for key in keys]

    def list_name(self, path: tuple[str, ...]) -> str:
        """Names a list as a part of its table's name, which is shortened as a whole."""
        return "__".join(self._idents(path))

    def child(self, name: str) -> Layout:
        """Returns the layout of the table that lists of this name become."""
        if name not in self.children:
            self.children[name] = Layout(self._shape, self, name)
        return self.children[name]

    def variant_name(self, name: str, data_type: str) -> str:
        """Names the column where dlt puts a value that the column cannot hold."""
        return str(self._naming.shorten_fragments(name, f"v_{data_type}"))

    def clash_name(self, name: str, path: tuple[str, ...]) -> str:
        """Names the column of a field whose own name is taken."""
        return str(self._naming.shorten_fragments(f"{name}_{_tag(path)}"))

    def _levels(self, path: tuple[str, ...], value: Any) -> int:
        """Returns a value's depth below its row in dlt's levels of nesting; a list within a list counts one more."""
        return len(path) + (self._above is not None and path == (LIST_FIELD,) and isinstance(value, list))

    def is_json(self, name: str, path: tuple[str, ...], value: Any) -> bool:
        """Returns whether an object or a list at `path` stays one JSON value.

        A column that is JSON only because it once received a list takes no object: an object's fields get their own columns.
        """
        target = self.targets.get(name)
        if (
            target is not None
            and target.data_type == "json"
            and (target.declared or not value or isinstance(value, list))
        ):
            return True
        return self._levels(path, value) > self._depth


@lru_cache(maxsize=64)
def layout_of(shape: RowShape) -> Layout:
    """Returns the layout of a shape's rows. Thread-safe."""
    return Layout(shape)


def _tag(path: Sequence[str]) -> str:
    return hashlib.sha1(json.dumps(path).encode()).hexdigest()[:6]
