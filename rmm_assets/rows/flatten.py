"""Flattens pages into columns: nested objects under dlt's names, lists as JSON text or as rows of child tables.

Rows that Arrow decoded are flattened in Arrow; others, and rows whose column names collide, one by one in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmm_assets.rows.chunk import Chunk, Column, Items, typed_column
from rmm_assets.rows.flatten_objects import as_object, flatten_objects, item_places
from rmm_assets.rows.json_text import json_text
from rmm_assets.rows.layout import LIST_FIELD, VALUE_FIELD, Layout
from rmm_assets.rows.page import Page, value_at

_Objects = Callable[[], list[Any]]


@dataclass(frozen=True)
class _Leaf:
    """Locates a column, or a list that becomes a table, in the struct of Arrow-decoded rows."""

    name: str
    indices: tuple[int, ...]
    path: tuple[str, ...]
    as_json: bool = False


@dataclass(frozen=True)
class _Plan:
    """Maps rows of one Arrow type to columns and tables.

    Attributes:
        leaves: The fields that become columns.
        lists: The lists that become child tables.
        objects: The objects whose fields become columns.
        clash: Whether two fields get the same column or table name.
    """

    leaves: tuple[_Leaf, ...]
    lists: tuple[_Leaf, ...]
    objects: tuple[_Leaf, ...]
    clash: bool


_PLANS: WeakKeyDictionary[Layout, list[tuple[pa.DataType, bool, _Plan]]] = WeakKeyDictionary()


def flatten(layout: Layout, pages: Sequence[Page], only: frozenset[str] | None = None, *, nest: bool = False) -> Chunk:
    """Flattens pages that were decoded alike.

    Args:
        layout: The table's layout.
        pages: Consecutive pages that are alike by `Page.is_like`.
        only: Column names to make; None means all.
        nest: Turn lists into child tables rather than JSON, if the layout has child tables.
    """
    structs = [page.structs for page in pages if page.structs is not None]
    nest = nest and layout.nests

    @cache
    def objects() -> list[Any]:
        return [row for page in pages for row in page.objects()]

    if len(structs) < len(pages) or not structs:
        return flatten_objects(layout, objects(), only, nest)
    rows = structs[0] if len(structs) == 1 else pa.concat_arrays(structs)
    empty = only is None and any(page.may_have_empty_objects() for page in pages)
    return _flatten_structs(layout, rows, objects, only, nest, empty)


def _flatten_structs(
    layout: Layout, rows: pa.StructArray, objects: _Objects, only: frozenset[str] | None, nest: bool, empty: bool
) -> Chunk:
    """Flattens rows that Arrow decoded.

    Args:
        objects: Returns the same rows as Python values.
        empty: Whether some of their objects may be empty.
    """
    plan = _plan(layout, rows.type, nest)
    if plan.clash:
        return flatten_objects(layout, objects(), only, nest)
    children: dict[tuple[int, ...], list[pa.Array]] = {(): rows.flatten()}
    chunk = Chunk(len(rows), {})
    for leaf in plan.objects if empty else ():
        found = _empty_objects(_descend(children, leaf.indices), objects, leaf.path)
        if found and layout.is_json(leaf.name, leaf.path, {}):
            return flatten_objects(layout, objects(), only, nest)
        if found:
            chunk.empty_objects[leaf.name] = found
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
            chunk.columns[leaf.name] = typed_column(array)
    for leaf in plan.lists if only is None else ():
        array = _descend(children, leaf.indices)
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        if lengths.any():
            child = layout.child(leaf.name)
            inner = _flatten_structs(
                child, _as_structs(array.flatten()), _items_at(objects, leaf.path), None, True, empty
            )
            chunk.children.append(Items(child, inner, *item_places(lengths)))
    return chunk


def _plan(layout: Layout, kind: pa.StructType, nest: bool) -> _Plan:
    """Returns how rows of a type are flattened; the latest eight plans of each layout are cached."""
    plans = _PLANS.setdefault(layout, [])
    for seen, nested, plan in plans:
        if nested == nest and seen == kind:
            return plan
    leaves: list[_Leaf] = []
    lists: list[_Leaf] = []
    objects: list[_Leaf] = []
    # dlt's own order: a level's objects come after its other fields, the last one first.
    stack: list[tuple[pa.StructType, tuple[int, ...], tuple[str, ...]]] = [(kind, (), ())]
    while stack:
        struct, indices, parents = stack.pop()
        for index, entry in enumerate(struct):
            path = (*parents, entry.name)
            name = layout.column_name(path)
            if pa.types.is_struct(entry.type) and not layout.is_json(name, path, {k.name: None for k in entry.type}):
                stack.append((entry.type, (*indices, index), path))
                objects.append(_Leaf(name, (*indices, index), path))
            elif nest and pa.types.is_list(entry.type) and not layout.is_json(name, path, []):
                lists.append(_Leaf(layout.list_name(path), (*indices, index), path))
            elif not pa.types.is_null(entry.type):
                leaves.append(_Leaf(name, (*indices, index), path, pa.types.is_nested(entry.type)))
    clash = any(len({leaf.name for leaf in found}) < len(found) for found in (leaves, lists))
    plan = _Plan(tuple(leaves), tuple(lists), tuple(objects), clash)
    _PLANS[layout] = [(kind, nest, plan), *plans[:7]]
    return plan


def _as_structs(items: pa.Array) -> pa.StructArray:
    """Turns list items into rows: an object is a row; anything else becomes its only field, named as in dlt."""
    if pa.types.is_struct(items.type):
        return items
    return pa.StructArray.from_arrays([items], [LIST_FIELD if pa.types.is_list(items.type) else VALUE_FIELD])


def _items_at(objects: _Objects, path: tuple[str, ...]) -> _Objects:
    """Returns a function that returns the items of these rows' lists at `path`, as rows."""
    return cache(lambda: [as_object(item) for row in objects() for item in value_at(row, path) or ()])


def _empty_objects(array: pa.StructArray, objects: _Objects, path: tuple[str, ...]) -> list[int]:
    """Returns the rows in which the object at `path` is empty; in Arrow it looks like one that contains only null."""
    filled = np.zeros(len(array), np.bool_)
    for child in array.flatten():
        filled |= child.is_valid().to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False) & ~filled).tolist()
    if not array.type.num_fields:
        return rows
    return [row for row in rows if value_at(objects()[row], path) == {}]


def _descend(children: dict[tuple[int, ...], list[pa.Array]], indices: tuple[int, ...]) -> pa.Array:
    parent = indices[:-1]
    if parent not in children:
        # `flatten` makes children of a null parent null.
        children[parent] = _descend(children, parent).flatten()
    return children[parent][indices[-1]]


def _list_text(array: pa.Array) -> pa.Array | None:
    """Writes lists of plain values as JSON text; None if that takes more than joining strings."""
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


def _json_at(row: Any, path: tuple[str, ...]) -> str | None:
    value = value_at(row, path)
    return None if value is None else json_text(value)
