"""Finds the rows of a parent resource that the run need not request again: it has loaded or read them for another resource.

Rows in a table are only used if they are those of this run's read, with exactly the values that the API sent. That is shown by
a digest that the parent's load leaves in `rmm_syncs`, not concluded from types, so that it holds for every destination.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dlt

from rmm_assets.loading.requests import Requests
from rmm_assets.rows.layout import layout_of
from rmm_assets.rows.page import value_at
from rmm_assets.rows.used_values import FieldPath, UsedValues
from rmm_assets.tables.absences import is_valid
from rmm_assets.tables.syncs import used_values
from rmm_assets.tables.table import ABSENT_SINCE, Table

Rows = Sequence[Mapping[str, Any]]

FROM_API = "the API"
IN_TABLE = "the table, as loaded in this run"
SHARED = "an earlier read of this run"


@dataclass
class Parents:
    """The rows of parent resources that a run has already.

    Attributes:
        run_id: Id of the run.
        shared: What resources of this run have read in this process, by run and resource; others read it, too.
        loaded: The rows that this run has loaded, by resource.
    """

    run_id: str = ""
    shared: MutableMapping[tuple[str, str], Rows] = field(default_factory=dict)
    loaded: dict[str, Rows] = field(default_factory=dict)

    def look_up(self, requests: Requests, pipeline: dlt.Pipeline) -> None:
        """Fetches the rows of the nearest ancestor that this run has loaded, while the destination may be read."""
        ancestor = requests.parent
        while ancestor is not None and (self.run_id, ancestor.resource.name) not in self.shared:
            with pipeline.sql_client() as client:
                digest = used_values(client, self.run_id, ancestor.resource.name)
                rows = rows_in_table(Table(client, ancestor.endpoint.shape.table), ancestor, digest) if digest else None
            if rows is not None:
                self.loaded[ancestor.resource.name] = rows
                return
            ancestor = ancestor.parent

    def rows_of(self, resource: str) -> tuple[Rows, str] | None:
        """Returns a resource's rows, reduced to the fields that its children use, and where they are from; None if unknown."""
        if resource in self.loaded:
            return self.loaded[resource], IN_TABLE
        shared = self.shared.get((self.run_id, resource))
        return None if shared is None else (shared, SHARED)

    def share(self, requests: Requests, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keeps the rows of a proven read, each of which has all fields that children use."""
        paths = requests.endpoint.shape.used_paths
        self.shared[self.run_id, requests.resource.name] = [
            _row(paths, [value_at(row, path) for path in paths]) for row in rows
        ]


def rows_in_table(table: Table, requests: Requests, digest: str) -> Rows | None:
    """Returns a resource's rows from its table; None if they are not exactly those of the read with this digest."""
    shape, there = requests.endpoint.shape, table.columns()
    columns = [layout_of(shape).column_name(path) for path in shape.used_paths]
    if not set(columns) <= set(there):
        return None
    conditions, parameters = list[str](), list[str]()
    if ABSENT_SINCE in there:
        conditions.append(f"{table.quote(ABSENT_SINCE)} IS NULL")
    if requests.history is not None:
        condition, parameters = is_valid(table, requests.history.valid_to, requests.history.open_end)
        conditions.append(condition)
    names = list(dict.fromkeys(columns))
    listed, where = ", ".join(map(table.quote, names)), " AND ".join(conditions or ["1 = 1"])
    values, rows = UsedValues(shape.used_paths), list[Mapping[str, Any]]()
    for batch in table.batches(f"SELECT {listed} FROM {{table}} WHERE {where}", *parameters):
        fetched = dict(zip(names, (column.to_pylist() for column in batch.columns), strict=True))
        found = list(zip(*(fetched[name] for name in columns), strict=True))
        values.add_values(found)
        rows += [_row(shape.used_paths, each) for each in found]
    return rows if values.digest() == digest else None


def _row(paths: Sequence[FieldPath], values: Sequence[Any]) -> dict[str, Any]:
    """Returns a row with these values at these paths."""
    row: dict[str, Any] = {}
    for path, value in zip(paths, values, strict=True):
        place = row
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
    return row
