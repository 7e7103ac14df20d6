"""Flattens Python rows into columns and child tables; the reference for `flatten`, exact but slow."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from rmm_assets.rows.chunk import NOT_AN_OBJECT, Chunk, Column, Indices, Items, column_of
from rmm_assets.rows.layout import LIST_FIELD, VALUE_FIELD, Layout

NOT_UNICODE = "it holds text that is not Unicode (half of a surrogate pair)"


def flatten_objects(layout: Layout, rows: list[Any], only: frozenset[str] | None, nest: bool) -> Chunk:
    """Flattens Python rows one by one.

    Args:
        layout: The table's layout.
        rows: JSON values; those that are not objects get a fault.
        only: Column names to make; None means all.
        nest: Turn lists into child tables rather than JSON.
    """
    chunk = Chunk(len(rows), {})
    cells: dict[str, list[Any]] = {}
    lists: dict[str, list[Any]] = {}
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            chunk.add_fault(index, NOT_AN_OBJECT)
            continue
        owners: dict[str, tuple[str, ...]] = {}
        list_owners: dict[str, tuple[str, ...]] = {}
        for path, value in _leaves(layout, row):
            name = layout.column_name(path)
            if isinstance(value, dict) and not value and not layout.is_json(name, path, value):
                if only is None:
                    chunk.empty_objects.setdefault(name, []).append(index)
                continue
            if nest and isinstance(value, list) and not layout.is_json(name, path, value):
                if only is None:
                    _put(layout, lists, list_owners, index, layout.list_name(path), path, value, len(rows))
                continue
            _put(layout, cells, owners, index, name, path, value, len(rows), only)
    for name, values in cells.items():
        chunk.columns[name] = _column(values, chunk)
    for name, values in lists.items():
        lengths = np.array([0 if value is None else len(value) for value in values], np.int64)
        if lengths.any():
            child = layout.child(name)
            items = [as_object(item) for value in values if value for item in value]
            chunk.children.append(Items(child, flatten_objects(child, items, None, True), *item_places(lengths)))
    return chunk


def _put(
    layout: Layout, cells: dict[str, list[Any]], owners: dict[str, tuple[str, ...]], index: int, name: str,
    path: tuple[str, ...], value: Any, rows: int, only: frozenset[str] | None = None,
) -> None:  # fmt: skip
    """Stores a value in its column, or in another one if a field of the same row has taken that."""
    if name in owners and (clash := _clash(layout, cells, owners, index, name, path, value)):
        name = clash
    owners[name] = path
    if only is None or name in only:
        if name not in cells:
            cells[name] = [None] * rows
        cells[name][index] = value


def _leaves(layout: Layout, row: dict[str, Any]) -> Iterable[tuple[tuple[str, ...], Any]]:
    """Yields a row's non-null values with their paths; objects are yielded only if they are empty or stay whole."""
    stack: list[tuple[dict[str, Any], tuple[str, ...]]] = [(row, ())]
    while stack:
        current, parents = stack.pop()
        for key, value in current.items():
            path = (*parents, key)
            if isinstance(value, dict) and value and not layout.is_json(layout.column_name(path), path, value):
                stack.append((value, path))
            elif value is not None:
                yield path, value


def _clash(
    layout: Layout,
    cells: dict[str, list[Any]],
    owners: dict[str, tuple[str, ...]],
    index: int,
    name: str,
    path: tuple[str, ...],
    value: Any,
) -> str | None:
    """Resolves a collision of two fields of one row in one column, of which dlt would keep the last.

    The field whose path spells the column name keeps it, else the first; the other one gets a column of its own unless the
    values are equal.

    Returns:
        The column that the field at `path` gets instead; None if it keeps the name.
    """
    if name not in cells:
        return None
    before = cells[name][index]
    if type(before) is type(value) and before == value:
        return None
    if "__".join(path) == name and "__".join(owners[name]) != name:
        other = layout.clash_name(name, owners[name])
        cells.setdefault(other, [None] * len(cells[name]))[index] = before
        return None
    return layout.clash_name(name, path)


def item_places(lengths: np.ndarray[Any, Any]) -> tuple[Indices, Indices]:
    """Returns, for each item of lists of these lengths, the index of its list and its index within that list."""
    parents = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    starts = np.cumsum(lengths) - lengths
    return parents, np.arange(len(parents), dtype=np.int64) - starts[parents]


def as_object(item: Any) -> dict[str, Any]:
    """Turns a list item into a row: an object is a row; anything else becomes its only field, named as in dlt."""
    return item if isinstance(item, dict) else {LIST_FIELD if isinstance(item, list) else VALUE_FIELD: item}


def _column(values: list[Any], chunk: Chunk) -> Column:
    """Makes a column from Python values. Text that is not valid Unicode becomes null, and its row gets a fault."""
    try:
        return column_of(values)
    except UnicodeEncodeError:
        for index, value in enumerate(values):
            if value is not None and not is_unicode(value):
                chunk.add_fault(index, NOT_UNICODE)
                values[index] = None
        return column_of(values)


def is_unicode(value: Any) -> bool:
    """Returns whether a value is free of unpaired surrogates."""
    try:
        (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)).encode()
    except UnicodeEncodeError:
        return False
    return True
