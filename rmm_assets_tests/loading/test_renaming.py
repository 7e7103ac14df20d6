"""Tests that a renamed connection or resource keeps its rows, marks, rejects, versions and incremental ranges."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rmm_assets.config import Connection
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.renaming import carry_out, move_of_resource, moves_of_connection, refuse_taken
from rmm_assets.loading.run import sync
from rmm_assets.simulator import Simulator
from rmm_assets.tables.store import Store
from rmm_assets.tables.syncs import SYNCS
from rmm_assets.tables.table import Table
from rmm_assets_tests.postgres import new_database
from rmm_assets_tests.syncing import KEY, connection, devices, resource

pytestmark = pytest.mark.slow

ROWS = [{**row, "disks": [{"drive": "C"}]} for row in devices(20)]
EVENTS = [{"id": i, "number": i} for i in range(1, 31)]


def fleet(name: str = "acme", first: str = "devices", **more: Any) -> Connection:
    ranged = {"cursor_path": "number", "start_param": "above", "initial_value": 0, "range_start": "open"}
    return connection(
        resource(
            first, child_tables=True, columns={"id": {"data_type": "bigint"}}, endpoint={"path": "/v1/devices"}, **more
        ),
        resource("events", write_disposition="append", endpoint={"incremental": ranged}),
        name=name,
    )


def load(store: Store, server: Simulator, made: Connection, name: str) -> Outcome:
    return sync(made, made.resource(name), KEY, base_url=server.base_url, store=store)


def held(store: Store, *names: str) -> list[Any]:
    with store.reading("test") as client:
        tables = [Table(client, name) for name in names]
        found = [sorted(map(str, table.rows("SELECT * FROM {table}"))) for table in tables]
        nullable = client.execute_sql(
            "SELECT table_name, column_name, is_nullable FROM information_schema.columns WHERE table_schema = %s "
            "AND table_name IN (" + ", ".join(["%s"] * len(names)) + ") ORDER BY 1, 2",
            store.dataset, *names,
        )  # fmt: skip
    return [*found, nullable]


def loaded(store: Store) -> None:
    """Loads twice: ten rows are marked absent, one is rejected, and a range has ended."""
    made = fleet()
    with Simulator(tables={"devices": ROWS, "events": EVENTS}) as simulator:
        load(store, simulator, made, "devices")
        load(store, simulator, made, "events")
        simulator.set_rows("devices", [*ROWS[:10], {"id": "no number"}])
        assert load(store, simulator, made, "devices").absences.marked == 10


@pytest.fixture(scope="module")
def in_a_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a loaded DuckDB file."""
    folder = tmp_path_factory.mktemp("renaming")
    loaded(Store("duckdb", str(folder / "rmm.duckdb"), "acme", folder / "work"))
    return folder


@pytest.fixture(scope="module")
def in_a_template(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a loaded database, from which PostgreSQL makes others."""
    with new_database(postgres_server) as url:
        loaded(Store("postgres", url, "acme", tmp_path_factory.mktemp("renaming") / "work"))
        yield url.rpartition("/")[2]


@pytest.fixture(params=["duckdb", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A copy of the tables after two loads."""
    if request.param == "duckdb":
        shutil.copy(request.getfixturevalue("in_a_file") / "rmm.duckdb", tmp_path)
        yield Store("duckdb", str(tmp_path / "rmm.duckdb"), "acme", tmp_path / "work")
        return
    server, template = request.getfixturevalue("postgres_server"), request.getfixturevalue("in_a_template")
    with new_database(server, template) as url:
        yield Store("postgres", url, "acme", tmp_path / "work")


@pytest.fixture
def server() -> Iterator[Simulator]:
    """The server as it was in the last of these loads."""
    rows = [*ROWS[:10], {"id": "no number"}]
    with Simulator(tables={"devices": rows, "events": EVENTS}) as simulator:
        yield simulator


TABLES = ("devices", "devices__disks", "devices_rejected", "events", SYNCS)


def test_a_renamed_connection_continues_where_it_was(store: Store, server: Simulator) -> None:
    before, made = held(store, *TABLES), fleet("north")
    with store.changing("test") as client:
        moves = moves_of_connection(client, "acme", made)
        refuse_taken(client, "north", moves)
        carry_out(client, "north", moves)
        with client.with_alternative_dataset_name("acme"):
            assert not client.has_dataset()
    moved = replace(store, dataset="north")
    assert held(moved, *TABLES) == before
    assert load(moved, server, made, "events").rows_loaded == 0
    again = load(moved, server, made, "devices")
    assert (again.rows_new, again.rows_changed, again.absences.gone, again.row_count) == (0, 0, 0, 20)
    rejected = held(moved, "devices_rejected")[0]
    assert len(rejected) == 1 and rejected != before[2], "rejected again, and kept once"
    server.set_rows("events", [*EVENTS, {"id": 31, "number": 31}])
    assert load(moved, server, made, "events").rows_loaded == 1


@pytest.mark.parametrize("more", [{}, {"table_name": "devices"}], ids=["its table, too", "only the resource"])
def test_a_renamed_resource_continues_where_it_was(store: Store, server: Simulator, more: dict[str, Any]) -> None:
    before, made = held(store, *TABLES), fleet(first="machines", **more)
    with store.changing("test") as client:
        move = move_of_resource(client, "devices", made, "machines")
        refuse_taken(client, "acme", [move])
        carry_out(client, "acme", [move])
    table = "devices" if more else "machines"
    now = held(store, *(name.replace("devices", table) for name in TABLES))
    assert now[:4] == before[:4]
    assert [line.replace("'machines'", "'devices'") for line in now[4]] == before[4]
    again = load(store, server, made, "machines")
    assert (again.rows_new, again.rows_changed, again.absences.gone, again.row_count) == (0, 0, 0, 20)
    assert len(held(store, f"{table}__disks")[0]) == 20


def test_a_renamed_resource_keeps_its_range(store: Store, server: Simulator) -> None:
    made = connection(
        {**fleet().resource("events").as_dlt(), "name": "happenings", "endpoint": {
            **resource("events")["endpoint"],
            "incremental": {"cursor_path": "number", "start_param": "above", "initial_value": 0, "range_start": "open"},
        }}
    )  # fmt: skip
    with store.changing("test") as client:
        carry_out(client, "acme", [move_of_resource(client, "events", made, "happenings")])
    assert load(store, server, made, "happenings").rows_loaded == 0


def test_a_rename_overwrites_nothing(store: Store, server: Simulator) -> None:
    made = fleet("north")
    load(replace(store, dataset="north"), server, made, "events")
    with store.changing("test") as client:
        moves = moves_of_connection(client, "acme", made)
        with pytest.raises(ValueError, match=r"the dataset north already has tables: .*events"):
            refuse_taken(client, "north", moves)
        move = move_of_resource(client, "devices", connection(resource("machines", table_name="events")), "machines")
        with pytest.raises(ValueError, match="acme/events has been loaded already"):
            refuse_taken(client, "acme", [move])
        with pytest.raises(ValueError, match="the dataset acme has no tables of south"):
            moves_of_connection(client, "south", made)
        with pytest.raises(ValueError, match="no table of acme/printers"):
            move_of_resource(client, "printers", fleet(first="machines"), "machines")


def test_a_failed_rename_changes_nothing(store: Store, server: Simulator) -> None:
    before, made = held(store, *TABLES), fleet("north")
    with store.changing("test") as client:
        moves = moves_of_connection(client, "acme", made)
        broken = [*moves[:-1], replace(moves[-1], tables={**moves[-1].tables, "not_there": "not_there"})]
        with pytest.raises(Exception, match="not_there"):
            carry_out(client, "north", broken)
    assert held(store, *TABLES) == before
    assert load(store, server, fleet(), "events").rows_loaded == 0
