"""Tests that tables loaded into DuckDB through Arrow equal those of stock dlt."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt
import duckdb
import pytest

from rmm_assets.rows.decode import read_page
from rmm_assets.rows.layout import Layout
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.spool import Spool
from rmm_assets.rows.type_memory import TypeMemory
from rmm_assets_tests.examples import examples

NAMES = ["name", "Name With Space", "order", "__x", "", "organization", "x_", "ünï", "a__b", "camelCase", "1st", "日本"]
NAMES += ["a.b", "A*b", "group", "select", "v" * 80, "HTTPServer", "_y", "e-mail", "@t", "a  b"]
VALUES: dict[str, list[Any]] = {
    "int": [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), 815],
    "float": [0.5, -1.25, 1e300, 5e-324, 1.0, 3.0, 1 / 3],
    "text": [
        "",
        "a",
        "ü",
        "😀",
        "a\nb",
        "it's",
        "\\",
        "007",
        "1e5",
        "true",
        "null",
        "2024-01-01",
        "10:00",
        "2024",
        "{}",
    ],
    "stamp": [
        "2024-01-01T00:00:00Z",
        "2024-01-01 10:00:00",
        "2024-05-01T10:11:12.1234567+02:00",
        "2024-02-29T10:11",
        "1969-12-31T23:59:59.999999Z",
        "2024-W05-2T00:00:00Z",
        "0001-01-03T00:00:00Z",
        "2024-05-01T10:11:12,5Z",
    ],
    "bool": [True, False],
    "null": [None],
}
ITEMS: list[Any] = [1, "a", None, 2.5, True, {"k": [1, None, "ü"]}, [], [2**53 + 1]]
Kind = Any  # a name in VALUES, "list", or an object of kinds by field name


def make_kind(chance: random.Random, depth: int = 0) -> Kind:
    roll = chance.random()
    if roll < 0.15 and depth < 3:
        return {name: make_kind(chance, depth + 1) for name in chance.sample(NAMES, chance.randrange(4))}
    return "list" if roll < 0.25 else chance.choice(list(VALUES))


def make_value(chance: random.Random, kind: Kind) -> Any:
    if chance.random() < 0.12:
        return None
    if isinstance(kind, dict):
        return {name: make_value(chance, inner) for name, inner in kind.items() if chance.random() > 0.1}
    if kind == "list":
        return [chance.choice(ITEMS) for _ in range(chance.randrange(4))]
    return chance.choice(VALUES[kind])


def paths(kind: Kind, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Kind]]:
    for name, inner in kind.items():
        yield (*above, name), inner
        if isinstance(inner, dict):
            yield from paths(inner, (*above, name))


def make_tables(seed: int, count: int) -> Iterator[tuple[str, list[dict[str, Any]], list[str]]]:
    """Generates tables of odd rows, with the columns of their lists. Kinds are not mixed, because there we differ on purpose."""
    chance, layout = random.Random(seed), Layout(RowShape("t"))
    while count:
        kind = {name: make_kind(chance) for name in chance.sample(NAMES, chance.randrange(1, 7))}
        names = [layout.column_name(path) for path, _ in paths(kind)]
        if len(set(names)) < len(names):
            continue  # dlt loses one of two fields with the same name
        rows = [{"id": n, **(make_value(chance, kind) or {})} for n in range(chance.randrange(1, 12))]
        lists = [layout.column_name(path) for path, inner in paths(kind) if inner == "list"]
        count -= 1
        yield f"t{count}", rows, lists


def run(folder: Path, name: str, resources: list[Any]) -> Path:
    database = folder / f"{name}.duckdb"
    pipeline = dlt.pipeline(
        name, destination=dlt.destinations.duckdb(str(database)), dataset_name="ds", pipelines_dir=str(folder / name)
    )
    pipeline.run(resources, loader_file_format="parquet")
    return database


def through_arrow(folder: Path, table: str, rows: list[Any], lists: list[str]) -> Any:
    hints = TypeMemory()
    spool = Spool(RowShape(table, ("id",)), folder / "spool" / table, batch_rows=4)
    for start in range(0, len(rows), 3):
        spool.add(read_page(json.dumps(rows[start : start + 3]).encode(), None, hints))
    columns: Any = {**{name: {"data_type": "json"} for name in lists}, **spool.columns()}
    return dlt.resource((part for _, part in spool.tables()), name=table, columns=columns, primary_key="id")


def contents(database: Path) -> dict[str, Any]:
    """Returns, by table, the type and nullability of each column, and all values by row and column."""
    with duckdb.connect(str(database), read_only=True) as connection:
        connection.execute("set timezone = 'UTC'")
        found: dict[str, Any] = {}
        query = "select table_name, column_name, data_type, is_nullable from information_schema.columns "
        for table, column, kind, nullable in connection.execute(query + "where table_schema = 'ds'").fetchall():
            if not table.startswith("_dlt_") and not column.startswith("_dlt_"):
                found.setdefault(table, {})[column] = (kind, nullable)
        for table, columns in found.items():
            select = ", ".join(f'"{name}"::varchar' for name in columns)
            rows = connection.execute(f'select {select} from ds."{table}" order by id').fetchall()
            found[table] = (columns, [dict(zip(columns, row)) for row in rows])
        return found


@pytest.mark.slow
def test_tables_are_the_same_as_stock_dlt_s(tmp_path: Path) -> None:
    tables = list(make_tables(seed=4, count=examples(15, 60)))
    stock = run(
        tmp_path,
        "stock",
        [
            dlt.resource(
                json.loads(json.dumps(rows)),
                name=table,
                columns={name: {"data_type": "json"} for name in lists},
                primary_key="id",
            )
            for table, rows, lists in tables
        ],
    )
    ours = run(tmp_path, "ours", [through_arrow(tmp_path, *table) for table in tables])
    expected, found = contents(stock), contents(ours)
    assert found.keys() == expected.keys() == {table for table, _, _ in tables}
    for table, (columns, rows) in expected.items():
        assert found[table][0] == columns
        assert len(found[table][1]) == len(rows)
        for theirs, mine in zip(rows, found[table][1]):
            for name, value in theirs.items():
                if columns[name][0] == "JSON" and value is not None:
                    assert json.loads(mine[name]) == json.loads(value)
                else:
                    assert mine[name] == value, (table, name)


@pytest.mark.slow
def test_every_value_is_read_back_from_duckdb_unchanged(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "big": 2**63 - 1, "huge": 2**70, "text": "", "nul": "a\0b", "mixed": 1},
        {"id": 2, "big": 2**53 + 1, "huge": 5, "text": "007", "nul": "\0", "mixed": "one", "tiny": 5e-324},
        {"id": 3, "big": -(2**63), "text": "😀 ü \u202e", "mixed": True, "list": [2**53 + 1, {"a": None}, "\0"]},
        {"id": 4, "order": "reserved", "organization": {"id": None, "": {"deep": [[]]}}, "mixed": [1.5, 2**70]},
    ]
    database = run(tmp_path, "ours", [through_arrow(tmp_path, "odd", rows, [])])
    with duckdb.connect(str(database), read_only=True) as connection:
        cursor = connection.execute("select * from ds.odd order by id")
        names = [column[0] for column in cursor.description]
        found = [{k: v for k, v in zip(names, row) if v is not None} for row in cursor.fetchall()]
    for row in found:
        for name in ("list", "mixed", "organization___empty__deep"):
            if name in row:
                row[name] = json.loads(row[name])
    assert found == [
        {"id": 1, "big": 2**63 - 1, "huge": str(2**70), "text": "", "nul": "a\0b", "mixed": 1},
        {"id": 2, "big": 2**53 + 1, "huge": "5", "text": "007", "nul": "\0", "mixed": "one", "tiny": 5e-324},
        {"id": 3, "big": -(2**63), "text": "😀 ü \u202e", "mixed": True, "list": [2**53 + 1, {"a": None}, "\0"]},
        {"id": 4, "order": "reserved", "organization___empty__deep": [[]], "mixed": [1.5, 2**70]},
    ]
