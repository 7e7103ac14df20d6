"""Tests `rmm_syncs`: one row per run and resource, in the dataset of the tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rmm_assets.errors import RmmError
from rmm_assets.loading.run import open_run
from rmm_assets.simulator import Faults, Simulator
from rmm_assets.tables import syncs
from rmm_assets.tables.store import Store
from rmm_assets.tables.syncs import SYNCS, Sync
from rmm_assets_tests.syncing import KEY, Row, connection, devices, resource, rows_of, run, store_in

pytestmark = pytest.mark.slow


def noted(folder: Path) -> list[Row]:
    return sorted(rows_of(folder, SYNCS), key=lambda row: row["started"])


def test_each_run_is_recorded_including_failed_ones(tmp_path: Path) -> None:
    made = connection(resource(columns={"id": {"data_type": "bigint"}, "name": {"nullable": False}}))
    with Simulator(tables={"devices": devices(250)}, faults=Faults(status=404, text=f"no {KEY}\nhere")) as server:
        with pytest.raises(RmmError):
            run(tmp_path, server.base_url, made)
        server.set_faults([Faults(status=503, times=1)])
        run(tmp_path, server.base_url, made)
        server.set_faults([])
        server.set_rows("devices", [*devices(248, first=3), {"id": 999, "name": None, "status": "new"}])
        run(tmp_path, server.base_url, made)
    red, first, second = noted(tmp_path)
    assert red["verdict"] == "failed"
    assert "HTTP 404" in red["error"] and "\n" not in red["error"]
    assert KEY not in red["error"]
    assert (red["row_count"], red["rows_loaded"], red["requests"]) == (None, 0, 1)

    assert (first["verdict"], first["evidence"], first["error"]) == ("loaded", "stated_total", "")
    assert (first["row_count"], first["rows_loaded"], first["rows_new"], first["retries"]) == (250, 250, 250, 1)
    assert (second["rows_new"], second["rows_absent"], second["rows_rejected"]) == (0, 2, 1)
    assert second["requests"] == 3
    assert 0 < second["seconds"] < 60
    assert second["started"].tzinfo is not None
    assert len({row["run_id"] for row in (red, first, second)}) == 3


@pytest.mark.parametrize(("key", "limit", "landing"), [("id", 100, 3), (None, 100, 5), (None, 3, 3)])
def test_equal_rows_are_counted_as_often_as_they_land(
    key: str | None, limit: int, landing: int, tmp_path: Path
) -> None:
    endpoint = {"paginator": {"type": "offset", "limit": limit}}
    made = connection(resource(write_disposition="replace", primary_key=key, endpoint=endpoint))
    with Simulator(tables={"devices": [*devices(3), *devices(2)]}) as server:
        assert run(tmp_path, server.base_url, made).row_count == landing
    assert [row["rows_received"] for row in noted(tmp_path)] == [landing]


def test_the_error_of_another_library_is_recorded_without_the_secret(tmp_path: Path) -> None:
    made = connection(resource())
    with (
        pytest.raises(ValueError, match="from a library"),
        open_run(made, made.resource("devices"), KEY, base_url="http://127.0.0.1:9", store=store_in(tmp_path)),
    ):
        raise ValueError(f"an error from a library that quotes {KEY}")
    (red,) = noted(tmp_path)
    assert "from a library that quotes ***" in red["error"]


def test_a_failure_to_record_does_not_fail_the_run(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(3)}) as server:
        run(tmp_path, server.base_url)
        store = store_in(tmp_path)
        with store.changing("a") as client:
            client.execute_sql(f"DROP TABLE acme.{SYNCS}")
            client.execute_sql(f"CREATE VIEW acme.{SYNCS} AS SELECT 1 AS run_id, 2 AS resource")
        assert run(tmp_path, server.base_url).row_count == 3


@pytest.fixture(params=["duckdb", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Yields an empty dataset in a database for this test."""
    if request.param == "duckdb":
        return store_in(tmp_path)
    return Store("postgres", request.getfixturevalue("postgres"), "syncs", tmp_path / "work")


NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def test_rows_are_written_read_renamed_and_pruned(store: Store) -> None:
    with store.changing("test") as client:
        for days in range(10):
            sync = Sync(f"run {days}", "devices", NOW - timedelta(days=days), 1.5, "failed" if days < 8 else "loaded")
            syncs.write(client, sync)
        syncs.write(client, Sync("run 0", "devices", NOW, 2.5, "failed", error="it's late", requests=7))
        syncs.write(client, Sync("run 1", "alerts", NOW, 2.5, "loaded", row_count=3, load_id="1.2"))

        latest = syncs.latest(client)
        assert latest["devices"] == Sync("run 0", "devices", NOW, 2.5, "failed", error="it's late", requests=7)
        assert latest["alerts"].row_count == 3
        assert syncs.latest_loaded(client)["devices"].run_id == "run 8"

        # The rows of five days, and the last load, however old it is.
        assert syncs.prune(client, NOW - timedelta(days=4, hours=1), keep_last=2) == 4
        assert syncs.latest_loaded(client)["devices"].run_id == "run 8"
        assert syncs.prune(client, NOW + timedelta(days=1), keep_last=3) == 2
        left = client.execute_sql(
            f"SELECT run_id FROM {client.make_qualified_table_name(SYNCS)} WHERE resource = 'devices'"
        )
        assert sorted(run_id for (run_id,) in left or ()) == ["run 0", "run 1", "run 2", "run 8"]

        syncs.forget(client, "devices", "computers")
        assert syncs.latest(client).keys() == {"computers", "alerts"}
        syncs.forget(client, "computers")
        assert syncs.latest(client).keys() == {"alerts"}


def test_missing_columns_are_added_to_an_older_table(store: Store) -> None:
    store = replace(store, dataset="older")
    with store.changing("older") as client:
        client.create_dataset()
        client.execute_sql(f"CREATE TABLE {client.make_qualified_table_name(SYNCS)} (run_id varchar, resource varchar)")
        syncs.write(client, Sync("run 1", "devices", NOW, 1.0, "loaded", row_count=3))
        assert syncs.latest(client)["devices"].row_count == 3


def test_the_staging_dataset_is_empty_between_loads(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(20)}) as server:
        run(tmp_path, server.base_url)
        server.set_rows("devices", devices(20, name="renamed"))
        run(tmp_path, server.base_url)  # the first load appends, this one merges
    with store_in(tmp_path).reading("test") as client:
        tables = client.execute_sql(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'acme_staging'"
        )
        held = {
            name: (client.execute_sql(f'SELECT count(*) FROM acme_staging."{name}"') or [])[0][0]
            for (name,) in tables or ()
        }
    assert held.get("devices") == 0
    assert not any(count for name, count in held.items() if not name.startswith("_dlt")), held
