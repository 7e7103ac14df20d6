"""Decodes bodies as a run does, and returns what would be loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rmm_assets.rows.decode import read_page, read_pages
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.spool import Spool
from rmm_assets.rows.type_memory import TypeMemory


@dataclass
class Landed:
    """The result of some pages: column types, rows without nulls, rejected rows with their reasons."""

    types: dict[str, str]
    rows: list[dict[str, Any]]
    rejected: list[tuple[Any, str]]
    spool: Spool


def land(
    folder: Path,
    pages: Sequence[Any],
    *,
    key: str | tuple[str, ...] = (),
    columns: Mapping[str, Mapping[str, Any]] | None = None,
    known: Mapping[str, Mapping[str, Any]] | None = None,
    batch_rows: int = 1,
    exact: bool = False,
    together: bool = False,
    **shape: Any,
) -> Landed:
    """Spools pages, each a body or a list of rows, decoded one by one or `together`; returns what would be loaded."""
    keys = (key,) if isinstance(key, str) else key
    spool = Spool(RowShape("t", keys, columns or {}, known=known or {}, **shape), folder, batch_rows)
    hints = TypeMemory()
    bodies = [page if isinstance(page, bytes) else json.dumps(page).encode() for page in pages]
    decoded = read_pages(bodies, None, hints) if together else None
    assert bool(decoded) == together
    for page in decoded or [read_page(body, None, hints, exact=exact) for body in bodies]:
        spool.add(page)
    tables = [table for _, table in spool.tables()]
    table = pa.concat_tables(tables) if tables else pa.table({})
    table.validate(full=True)
    return Landed(
        types={name: column["data_type"] for name, column in spool.columns().items()},
        rows=[{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()],
        rejected=[
            (json.loads(row["row_json"]), row["reason"]) for part in spool.rejected() for row in part.to_pylist()
        ],
        spool=spool,
    )
