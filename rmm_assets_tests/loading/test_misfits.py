"""Tests what happens to a table if the connection file changes: the next load works, or is refused before anything changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from rmm_assets.errors import ChildTablesError, MisfitError, RmmError
from rmm_assets.loading.attempt import explained_by
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.run import sync
from rmm_assets.simulator import Simulator
from rmm_assets.tables.store import Store
from rmm_assets.tables.table import Table
from rmm_assets_tests.examples import examples
from rmm_assets_tests.loading.test_destinations import DUCKLAKE, store_at
from rmm_assets_tests.postgres import new_database
from rmm_assets_tests.syncing import KEY, Row, connection, resource, store_in

BY_KEY: dict[str, dict[str, Any]] = {
    "merge": {},
    "merge by deletes": {"write_disposition": {"disposition": "merge", "strategy": "delete-insert"}},
    "merge by dlt": {"normalizer": "dlt"},
    "history": {"write_disposition": None, "history": True},
    "replace": {"write_disposition": "replace"},
    "append": {"write_disposition": "append"},
}
KEYLESS = {f"{way}, no key": {**BY_KEY[way], "primary_key": None} for way in ("replace", "append")}
# Where these differ has nothing to do with child tables.
LAKES = ("delta", "iceberg")
NESTED = {f"{way}, nested": {**said, "child_tables": True} for way, said in BY_KEY.items() if way != "merge by deletes"}
WAYS = {**BY_KEY, **KEYLESS, **NESTED}


def fleet(*numbers: int, **names: str) -> list[Row]:
    return [{"id": i, "name": names.get(f"n{i}", f"PC-{i}"), "tags": ["a", f"t{i}"]} for i in numbers]


# Loaded in the first way, one after the other, and then in the second: rows change, are gone and are new.
BEFORE = fleet(*range(1, 7)), fleet(*range(1, 7), n2="changed")
AFTER = fleet(1, 2, 3, 4, 5, 9, n3="changed")


def load(store: Store, rows: list[Row], **way: Any) -> Outcome:
    """Loads rows; raises the error that explains a failure, which comes before the first request."""
    made = connection(resource(**way), destination={"type": store.destination}, dataset=store.dataset)
    with Simulator(tables={"devices": rows}) as server:
        try:
            return sync(made, made.resource("devices"), KEY, base_url=server.base_url, store=store)
        except Exception as error:
            assert not server.requests
            raise (explained_by(error) or error) from None


def tables(store: Store) -> dict[str, list[Row]]:
    found = {}
    with store.reading("look") as client:
        for name in ("devices", "devices__tags"):
            table = Table(client, name)
            columns = table.columns()
            found[name] = [dict(zip(columns, row)) for row in table.rows("SELECT * FROM {table}")] if columns else []
    return found


def rows_now(store: Store, outcome: Outcome, way: dict[str, Any]) -> list[str]:
    """Returns the rows with their lists: without those that are gone, earlier versions, and what was appended to."""
    found, rows = tables(store), []
    for row in found["devices"]:
        if row.get("_absent_since") or (way.get("history") and row["_dlt_valid_to"]):
            continue
        if way.get("write_disposition") == "append" and row["_dlt_load_id"] != outcome.load_id:
            continue
        tags = row.get("tags")
        tags = json.loads(tags) if isinstance(tags, str) else tags
        own = [tag for tag in found["devices__tags"] if tag["_dlt_parent_id"] == row.get("_dlt_id")]
        children = [tag["value"] for tag in sorted(own, key=lambda tag: int(tag["_dlt_list_idx"]))]
        rows.append(json.dumps([row["id"], row["name"], tags, children]))
    return sorted(rows)


Loaded = Callable[[str, str, Path], Store]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Loaded]:
    """Returns a function that returns a store of its own with a table as loaded in a way, which happens once."""
    made: dict[tuple[str, str], Store] = {}
    with ExitStack() as stack:

        def of(kind: str, way: str, folder: Path) -> Store:
            server = request.getfixturevalue("postgres_server") if kind == "postgres" else ""
            if (kind, way) not in made:
                place = tmp_path_factory.mktemp("loaded")
                store = store_in(place)
                if kind == "postgres":
                    store = Store(kind, stack.enter_context(new_database(server)), "acme", place / "work")
                for rows in BEFORE if way else ():
                    load(store, rows, **WAYS[way])
                made[kind, way] = store
            first = str(made[kind, way].credentials)
            if kind == "duckdb":
                if way:
                    shutil.copy(first, folder)
                return store_in(folder)
            url = stack.enter_context(new_database(server, first.rpartition("/")[2]))
            return Store(kind, url, "acme", folder / "work")

        yield of


@pytest.fixture(scope="module")
def fresh(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], list[str]]:
    """Returns a function that returns the rows of a table that is loaded for the first time."""
    found: dict[tuple[str, str], list[str]] = {}

    def of(kind: str, way: str) -> list[str]:
        if (kind, way) not in found:
            store = loaded(kind, "", tmp_path_factory.mktemp("fresh"))
            found[kind, way] = rows_now(store, load(store, AFTER, **WAYS[way]), WAYS[way])
        return found[kind, way]

    return of


class Way:
    """A way to load, and what its tables have."""

    def __init__(self, name: str) -> None:
        said = WAYS[name]
        self.history, self.nested = "history" in said, "child_tables" in said
        self.by_dlt = self.history or "normalizer" in said
        self.ids = self.by_dlt or self.nested
        self.repeats_keys = self.history or said.get("write_disposition") == "append"
        self.merges = said.get("write_disposition") not in ("replace", "append")
        self.by_row = self.merges and not self.history
        self.upserts = self.by_row and not self.by_dlt and "write_disposition" not in said


def refused(before: str, after: str, kind: str = "duckdb") -> type[RmmError] | None:
    """Returns the error with which a table that was loaded in one way cannot be loaded in another; None if it can."""
    was, now = Way(before), Way(after)
    if kind in LAKES and now.merges and was.nested and not now.nested:
        return ChildTablesError
    if now.history and not was.history:
        return MisfitError
    if now.nested and not was.nested:
        return ChildTablesError
    if now.by_dlt and not was.ids:
        return MisfitError
    if now.by_dlt and now.merges and was.nested and not now.nested:
        return ChildTablesError
    if now.by_row and now.nested and not was.by_row:
        return ChildTablesError
    # SQLAlchemy's databases do not merge by upsert.
    return MisfitError if now.upserts and was.repeats_keys and kind not in ("mariadb", "sqlite") else None


# A fifth of them in `make test`: with 13 ways, each way and each kind of destination is among them many times.
CHANGES = [(kind, *ways) for kind in ("duckdb", "postgres") for ways in permutations(WAYS, 2)][:: examples(5, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "before", "after"), CHANGES)
def test_a_table_fits_the_file_or_is_refused(
    kind: str, before: str, after: str, loaded: Loaded, fresh: Callable[[str, str], list[str]], tmp_path: Path
) -> None:
    store, way, error = loaded(kind, before, tmp_path), WAYS[after], refused(before, after)
    if error is not None:
        there = tables(store)
        with pytest.raises(error, match=r"`rmm reset acme devices`"):
            load(store, AFTER, **way)
        assert tables(store) == there
        return
    assert rows_now(store, load(store, AFTER, **way), way) == fresh(kind, after)
    if way.get("write_disposition") != "append":
        assert rows_now(store, load(store, AFTER, **way), way) == fresh(kind, after)


def ways_of(kind: str) -> dict[str, dict[str, Any]]:
    """Returns the ways that a file can set for a destination."""
    if kind not in LAKES:
        return WAYS
    ways = {name: {**way, "table_format": kind} for name, way in WAYS.items()}
    ways["merge by dlt"]["absent"] = "keep"
    for name in ("merge by deletes", "merge, nested", "merge by dlt, nested", "history", "history, nested"):
        del ways[name]
    return ways


# All of them with `RMM_EXAMPLES=all`; in `make test`, two for each of these destinations, and where they differ from DuckDB.
ELSEWHERE = [
    pytest.param(kind, *ways, marks=[pytest.mark.ducklake] if kind == "ducklake" else [])
    for kind in ("mariadb", "sqlite", *LAKES, *(["ducklake"] if DUCKLAKE else []))
    # Among all of them, the first is there again.
    for ways in dict.fromkeys(
        [
            ("replace, nested" if kind in LAKES else "append, nested", "merge"),
            *[*permutations(ways_of(kind), 2)][7 :: examples(80, 1)],
        ]
    )
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "before", "after"), ELSEWHERE)
def test_a_table_in_another_destination_fits_the_file_or_is_refused(
    kind: str, before: str, after: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store, ways, error = store_at(kind, tmp_path, request), ways_of(kind), refused(before, after, kind)
    for rows in BEFORE:
        load(store, rows, **ways[before])
    if error is not None:
        there = tables(store)
        with pytest.raises(error, match=r"`rmm reset acme devices`"):
            load(store, AFTER, **ways[after])
        assert tables(store) == there
        return
    nested = "child_tables" in ways[after]
    expected = [[row["id"], row["name"], *((None, row["tags"]) if nested else (row["tags"], []))] for row in AFTER]
    for _ in range(1 if ways[after].get("write_disposition") == "append" else 2):
        found = rows_now(store, load(store, AFTER, **ways[after]), ways[after])
        assert found == sorted(map(json.dumps, expected))


VALUES: dict[str, list[Any]] = {
    "bigint": [1, 2],
    "double": [1.5, 2.25],
    "text": ["a", "7"],
    "timestamp": ["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"],
}


@pytest.mark.slow
@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
@pytest.mark.parametrize("kind", ["duckdb", "postgres"])
def test_another_declared_type_is_refused_until_the_table_is_dropped(
    kind: str, normalizer: str, loaded: Loaded, tmp_path: Path
) -> None:
    def rows(data_type: str, name: str) -> list[Row]:
        return [{"id": number, "n": value, "name": name} for number, value in enumerate(VALUES[data_type])]

    def way(data_type: str) -> dict[str, Any]:
        return {"normalizer": normalizer, "columns": {"n": {"data_type": data_type}}}

    store = loaded(kind, "", tmp_path)
    changes = ("bigint", "double"), ("double", "text"), ("text", "timestamp"), ("timestamp", "bigint")
    for was, declared in changes[: examples(2, 4)]:
        for name in ("first", "second"):  # the second load merges, from a staging table
            load(store, rows(was, name), **way(was))
        before = tables(store)
        says = rf"column n of the table devices is {was}, and the file declares {declared}\. Declare {was} again, .* Drop the"
        with pytest.raises(MisfitError, match=says):
            load(store, rows(declared, "third"), **way(declared))
        assert tables(store) == before
        load(store, rows(was, "fourth"), **way(was))
        with store.changing("drop") as client:
            client.drop_tables("devices")
        for name in ("first", "second"):
            load(store, rows(declared, name), **way(declared))
        assert len(tables(store)["devices"]) == 2


@pytest.mark.parametrize(
    ("was", "declared", "says"),
    [
        ({"data_type": "decimal", "precision": 10, "scale": 2}, {"data_type": "decimal"}, r"is decimal \(precision 10, scale 2\)"),
        ({"data_type": "decimal"}, {"data_type": "decimal", "precision": 38, "scale": 9}, ""),
        ({"data_type": "decimal"}, {"data_type": "decimal", "precision": 38, "scale": 4}, r"declares decimal \(precision 38, s"),
        ({"data_type": "text", "precision": 4}, {"data_type": "text"}, r"is text \(precision 4\), and the file declares text\."),
        ({"data_type": "text"}, {"data_type": "text", "precision": 4}, ""),
        ({}, {"data_type": "text"}, ""),
        ({"data_type": "text"}, {}, ""),
    ],
)  # fmt: skip
def test_the_same_type_with_other_details_is_refused_unless_they_are_the_default(
    was: dict[str, Any], declared: dict[str, Any], says: str, tmp_path: Path
) -> None:
    store, rows = store_in(tmp_path), [{"id": 1, "n": "1.25"}]
    load(store, rows, columns={"n": was})
    if not says:
        assert load(store, rows, columns={"n": declared}).row_count == 1
        return
    with pytest.raises(MisfitError, match=says):
        load(store, rows, columns={"n": declared})


def test_a_time_of_the_read_does_not_take_the_column_of_a_field(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    load(store, BEFORE[0], **WAYS["append"])
    with pytest.raises(MisfitError, match="column name of the table devices is text, and the file declares timestamp"):
        load(store, BEFORE[0], **WAYS["append"], read_at_column="name")


def test_rows_that_somebody_has_repeated_in_a_merged_table_are_left_to_the_checks(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    load(store, BEFORE[0])
    for name in ("PC-1", "changed"):
        with store.changing("repeat") as client:
            client.execute_sql('INSERT INTO "devices" SELECT * FROM "devices" WHERE id = 2 LIMIT 1')
        load(store, [{**BEFORE[0][0], "name": name}, *BEFORE[0][1:]])
        assert len([row for row in tables(store)["devices"] if row["id"] == 2]) > 1


@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_a_row_without_a_value_in_a_former_key_is_rejected(normalizer: str, tmp_path: Path) -> None:
    store = store_in(tmp_path)
    rows: list[Row] = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    load(store, rows, primary_key=["id", "name"], normalizer=normalizer)
    for changed in ({"id": 1, "name": None}, {"id": 1}):
        outcome = load(store, [changed, {"id": 2, "name": "c"}], normalizer=normalizer)
        assert (outcome.rows_rejected, outcome.row_count) == (1, 2)
    with store.reading("look") as client:
        said = Table(client, "devices_rejected").rows("SELECT DISTINCT reason FROM {table}")
        assert said == [(
            "name: missing or null, and it is not nullable in the table, which was made with it in the key or declared so: "
            "`rmm reset` loads the table anew",
        )]  # fmt: skip
        assert Table(client, "devices").rows("SELECT id, name FROM {table} ORDER BY id") == [(1, "a"), (2, "c")]
