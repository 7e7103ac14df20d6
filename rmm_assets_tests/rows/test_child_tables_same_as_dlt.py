"""Tests that child tables loaded through Arrow equal those of stock dlt, including ids and links."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dlt
import duckdb
import pytest

from rmm_assets.rows.layout import Layout
from rmm_assets.rows.shape import RowShape
from rmm_assets.simulator import Simulator
from rmm_assets_tests.examples import examples
from rmm_assets_tests.rows.test_rows_same_as_dlt import NAMES, VALUES
from rmm_assets_tests.syncing import connection, resource, run

TABLES, ROWS = examples(6, 14), 80
LAYOUT = Layout(RowShape("t"))


@dataclass(frozen=True)
class ListOf:
    """A list with items of these kinds."""

    items: tuple[Any, ...]


@dataclass(frozen=True)
class OneOf:
    """A field whose kind differs from row to row."""

    kinds: tuple[Any, ...]


# The name of a kind in VALUES, an object as a dict of kinds by field name, a list, or one of several.
Kind = str | dict[str, Any] | ListOf | OneOf


def make_fields(chance: random.Random, depth: int, most: int) -> dict[str, Kind]:
    """Generates fields with distinct column and table names, because dlt loses one of two that share a name."""
    while True:
        # dlt writes a list with an empty name to the parent table.
        names = [name for name in NAMES if name]
        kinds = {name: make_kind(chance, depth) for name in chance.sample(names, chance.randrange(1, most))}
        found = [LAYOUT.column_name(path) for path in paths(kinds)]
        if len(set(found)) == len(found):
            return kinds


def make_kind(chance: random.Random, depth: int) -> Kind:
    roll = chance.random()
    if depth < 4 and roll < 0.15:
        return make_fields(chance, depth + 1, 4)
    if depth < 4 and roll < 0.5:
        items: list[Kind] = [chance.choice(list(VALUES))]
        if chance.random() < 0.5:
            items = [make_fields(chance, depth + 1, 4)]
        if chance.random() < 0.25:
            items.append(ListOf((chance.choice(list(VALUES)),)))
        if chance.random() < 0.25:
            items.append("null")
        return ListOf(tuple(items))
    if depth < 2 and roll < 0.6:
        return OneOf(("int", ListOf(("text",)), {"inner": "bool", "more": ListOf(("int",))}))
    return chance.choice(list(VALUES))


def paths(kinds: Mapping[str, Kind], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, kind in kinds.items():
        yield (*above, name)
        if isinstance(kind, dict):
            yield from paths(kind, (*above, name))


def make_value(chance: random.Random, kind: Kind) -> Any:
    if chance.random() < 0.12:
        return None
    if isinstance(kind, OneOf):
        return make_value(chance, chance.choice(kind.kinds))
    if isinstance(kind, ListOf):
        return [make_value(chance, chance.choice(kind.items)) for _ in range(chance.choice((0, 0, 1, 1, 2, 3, 5)))]
    if isinstance(kind, dict):
        return {name: make_value(chance, inner) for name, inner in kind.items() if chance.random() > 0.1}
    return chance.choice(VALUES[kind])


def varies(kind: Kind) -> bool:
    if isinstance(kind, dict):
        return any(map(varies, kind.values()))
    return isinstance(kind, OneOf) or (isinstance(kind, ListOf) and any(map(varies, kind.items)))


def make_tables(seed: int) -> Iterator[tuple[str, list[dict[str, Any]], int | None]]:
    """Generates tables: rows, and the nesting of lists and objects. Every third has text keys."""
    chance = random.Random(seed)
    for number in range(TABLES):
        kinds = make_fields(chance, 0, 7)
        rows: list[dict[str, Any]] = []
        for key in range(ROWS):
            made = {name: make_value(chance, kind) for name, kind in kinds.items()}
            rows.append({"id": key if number % 3 else f'kéy "{key}"', **made})
        # At the nesting limit, a varying field is a column of several types, which dlt splits by their order.
        limited = number % 2 and not any(map(varies, kinds.values()))
        yield f"t{number}", rows, chance.randrange(4) if limited else None


def contents(database: Path) -> dict[str, tuple[dict[str, tuple[str, str]], list[dict[str, Any]]]]:
    """Returns, by table, the type and nullability of each column, and the rows ordered by id."""
    with duckdb.connect(str(database), read_only=True) as client:
        client.execute("SET timezone = 'UTC'")
        query = "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
        columns: dict[str, dict[str, tuple[str, str]]] = {}
        for table, column, kind, nullable in client.execute(f"{query} WHERE table_schema = 'acme'").fetchall():
            if not table.startswith(("_dlt_", "rmm_syncs")) and column not in ("_dlt_load_id", "_content_hash"):
                columns.setdefault(table, {})[column] = (kind, nullable)
        found = {}
        for table, kinds in columns.items():
            select = ", ".join(f'"{name}"::varchar' for name in kinds)
            rows = client.execute(f'SELECT {select} FROM acme."{table}" ORDER BY _dlt_id').fetchall()
            found[table] = (kinds, [dict(zip(kinds, row)) for row in rows])
        return found


def schemas(database: Path) -> dict[str, Any]:
    """Returns, by table, dlt's schema at the destination of the table and of dlt's columns."""
    with duckdb.connect(str(database), read_only=True) as client:
        stored = client.execute("SELECT schema FROM acme._dlt_version ORDER BY inserted_at").fetchall()
    found = {}
    for (text,) in stored:
        for name, table in json.loads(text)["tables"].items():
            own = {column: hints for column, hints in table["columns"].items() if column.startswith("_dlt")}
            if not name.startswith("_dlt"):
                found[name] = (table.get("parent"), table.get("write_disposition"), own)
    return found


def through_stock_dlt(folder: Path, tables: list[tuple[str, list[dict[str, Any]], int | None]]) -> Path:
    folder.mkdir()
    database = folder / "rmm.duckdb"
    pipeline = dlt.pipeline(
        "stock", destination=dlt.destinations.duckdb(str(database)), dataset_name="acme", pipelines_dir=str(folder)
    )
    upsert: Any = {"disposition": "merge", "strategy": "upsert"}
    pipeline.run(
        [
            dlt.resource(
                json.loads(json.dumps(rows)),
                name=name,
                primary_key="id",
                write_disposition=upsert,
                max_table_nesting=depth,  # type: ignore[arg-type]
            )
            for name, rows, depth in tables
        ],
        loader_file_format="parquet",
    )
    return database


def through_us(folder: Path, tables: list[tuple[str, list[dict[str, Any]], int | None]]) -> Path:
    folder.mkdir()
    resources = [
        resource(name, child_tables=True, absent="keep", **({} if depth is None else {"max_table_nesting": depth}))
        for name, _, depth in tables
    ]
    made = connection(*resources)
    with Simulator(tables={name: rows for name, rows, _ in tables}) as server:
        for name, rows, _ in tables:
            assert run(folder, server.base_url, made, name).row_count == len(rows)
    return folder / "rmm.duckdb"


@pytest.mark.slow
def test_child_tables_are_the_same_as_stock_dlt_s(tmp_path: Path) -> None:
    tables = list(make_tables(seed=11))
    stock = through_stock_dlt(tmp_path / "stock", tables)
    ours = through_us(tmp_path / "ours", tables)
    expected, found = contents(stock), contents(ours)
    assert found.keys() == expected.keys()
    assert len(found) > 4 * TABLES, "few of the generated rows have lists"
    for table, (columns, rows) in expected.items():
        assert found[table][0] == columns, table
        assert len(found[table][1]) == len(rows), table
        for theirs, mine in zip(rows, found[table][1]):
            for name, value in theirs.items():
                if columns[name][0] == "JSON" and value is not None:
                    assert json.loads(mine[name]) == json.loads(value), (table, name)
                else:
                    assert mine[name] == value, (table, name)
    assert schemas(ours) == schemas(stock)
