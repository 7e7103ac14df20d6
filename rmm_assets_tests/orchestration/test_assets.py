"""Tests assets: each resource has its own asset, op and pipeline, and a failure does not affect others."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import portalocker
import pytest

from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.simulator import Faults, Simulator
from rmm_assets_tests.orchestration.bench import (
    KEY,
    check_alone,
    checks,
    connection,
    devices,
    failures,
    materialized,
    metadata,
    query,
    run,
    sync,
    table_rows,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _key(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)


def test_every_row_is_loaded_and_every_check_passes(instance: dg.DagsterInstance) -> None:
    rows = devices(250)
    with Simulator(tables={"devices": rows}) as rmm:
        result = sync(connection(rmm.base_url), instance)

    assert result.success
    assert table_rows(("id", "name", "status")) == [(row["id"], row["name"], row["status"]) for row in rows]
    assert {name: check.passed for name, check in checks(result).items()} == dict.fromkeys(
        (
            "unique_id",
            "not_null_status",
            "accepted_values_status",
            "complete",
            "schema_change",
            "no_rejected_rows",
            "no_sudden_loss",
            "not_empty",
        ),
        True,
    )


def test_three_runs_in_one_process_all_succeed(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": devices(30)}) as rmm:
        target = connection(rmm.base_url)
        # One set of definitions, as in a long-lived worker.
        definitions = build_connection_defs(target)
        for number in range(3):
            rmm.set_rows("devices", devices(30 + number))
            result = run(definitions, "sync_acme", instance)
            assert result.success, failures(result)
            assert all(check.passed for check in checks(result).values())
            assert metadata(result)["dagster/row_count"] == 30 + number
            columns = {column.name: column.type for column in metadata(result)["dagster/column_schema"].columns}
            assert columns == {
                "id": "bigint",
                "name": "text",
                "status": "text",
                "_absent_since": "timestamp",
                "_content_hash": "bigint",
                "_dlt_load_id": "text",
            }


def test_one_endpoint_that_is_down_leaves_the_others_green(instance: dg.DagsterInstance) -> None:
    tables = {name: devices(20) for name in ("tickets", "devices", "patches")}
    with Simulator(tables=tables, faults=Faults(resource="devices", status=500)) as rmm:
        target = connection(rmm.base_url, ["tickets", "devices", "patches"])
        result = sync(target, instance)

        assert not result.success
        assert materialized(result) == {"acme/tickets", "acme/patches"}
        assert query("SELECT count(*) FROM acme.patches") == [(20,)]
        (sentence,) = failures(result)
        assert "devices" in sentence
        assert "500" in sentence
        complete = [check for check in result.get_asset_check_evaluations() if check.check_name == "complete"]
        assert {check.asset_key.path[-1]: check.passed for check in complete} == {
            "tickets": True,
            "devices": False,
            "patches": True,
        }


def test_a_failed_load_leaves_the_table_as_it_was(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": devices(250)}) as rmm:
        target = connection(rmm.base_url)
        assert sync(target, instance).success
        before = table_rows(("*",))
        rmm.set_rows("devices", devices(250, status="offline"))
        rmm.set_faults(Faults(status=503, skip=1))
        assert not sync(target, instance).success
    assert table_rows(("*",)) == before


def test_an_error_of_the_database_that_quotes_a_row_does_not_quote_the_key(
    workplace: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such a short key is not redacted from rows, where it may be an ordinary word.
    key = "k3y-7"
    monkeypatch.setenv("ACME_API_KEY", key)
    with Simulator(tables={"devices": devices(3)}, api_key=key) as server:
        target = connection(server.base_url)
        assert sync(target, instance).success
        query("CREATE UNIQUE INDEX one_name ON acme.devices (name)")
        server.set_rows("devices", devices(3, name=key))
        result = sync(target, instance)
    log = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any("duplicate key" in text.lower() and "***" in text for text in failures(result))
    assert any("Traceback" in text and "***" in text for text in log)
    assert not [text for text in (*failures(result), *log) if key in text]


def test_selecting_one_asset_requests_only_that_one(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"tickets": devices(5), "devices": devices(5)}) as rmm:
        job = build_connection_defs(connection(rmm.base_url, ["tickets", "devices"])).resolve_job_def("sync_acme")
        result = job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(["acme", "tickets"])])
        assert materialized(result) == {"acme/tickets"}
        assert {request.resource for request in rmm.requests} == {"tickets"}


def test_child_tables_are_loaded_with_their_asset_in_every_run(instance: dg.DagsterInstance) -> None:
    nested = {"name": "devices", "endpoint": {"path": "/v1/devices"}, "child_tables": True}
    with Simulator(tables={"devices": devices(30, disks=["C", "D"])}) as rmm:
        target = connection(rmm.base_url, [nested])
        assert metadata(sync(target, instance))["dagster/row_count"] == 30
        rmm.set_rows("devices", devices(30, disks=["E"]))
        result = sync(target, instance)

    assert result.success, failures(result)
    assert all(check.passed for check in checks(result).values())
    found = metadata(result)
    assert (found["rows_loaded"], found["dagster/row_count"], found["dagster/table_name"]) == (
        30, 30, "rmm.acme.devices",
    )  # fmt: skip
    linked = "acme.devices AS d JOIN acme.devices__disks AS k ON k._dlt_parent_id = d._dlt_id"
    assert query(f"SELECT d.id, k.value FROM {linked} ORDER BY 1") == [(number, "E") for number in range(1, 31)]


@pytest.mark.parametrize("loaded_before", [False, True])
def test_an_empty_response_gives_full_metadata_with_zeros(loaded_before: bool, instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": devices(3) if loaded_before else []}) as rmm:
        # All rows of a small fleet can only disappear at once if the file allows it.
        resource = {
            "name": "devices",
            "endpoint": {"path": "/v1/devices"},
            "checks": {"not_null": ["status"]},
            "absent": "remove",
            "max_absent_share": 1.0,
        }
        target = connection(rmm.base_url, [resource])
        assert sync(target, instance).success
        rmm.set_rows("devices", [])
        # The first read without a row marks it, the second one removes it.
        marked = metadata(sync(target, instance))
        result = sync(target, instance)

    assert result.success, failures(result)
    found = metadata(result)
    zeros = {"rows_loaded": 0, "rows_rejected": 0, "retries": 0, "complete": True, "pages": 1, "requests": 2}
    assert {name: found[name] for name in zeros} == zeros
    assert type(found["dagster/row_count"]) is int
    assert found["dagster/row_count"] == 0
    assert found["dagster/table_name"] == "rmm.acme.devices"
    assert isinstance(found["load_id"], str)  # empty if there was no table to load into
    assert marked["rows_absent"] == marked["dagster/row_count"] == (3 if loaded_before else 0)
    assert found["rows_absent"] == 0
    passed = {name: check.passed for name, check in checks(result).items()}
    assert passed.pop("not_empty") == loaded_before
    assert all(passed.values())


def test_a_temporary_failure_is_retried_at_most_three_times(instance: dg.DagsterInstance) -> None:
    # `http/test_transport.py` has every status.
    statuses = {f"answers_{status}": status for status in (429, 503)}
    with Simulator(tables={name: devices(5) for name in statuses}) as rmm:
        rmm.set_faults(Faults(resource=name, status=status) for name, status in statuses.items())
        target = connection(rmm.base_url, list(statuses))
        assert not materialized(sync(target, instance))
        asked = [(request.resource, request.status) for request in rmm.requests]
        assert sorted(asked) == sorted((name, status) for name, status in statuses.items() for _ in range(4))

        rmm.set_faults(Faults(resource=name, status=status, times=3) for name, status in statuses.items())
        result = sync(target, instance)
        assert result.success
        for name in statuses:
            assert metadata(result, name)["retries"] == 3
            assert metadata(result, name)["requests"] == 4


def test_a_permanent_failure_is_not_retried(instance: dg.DagsterInstance) -> None:
    statuses = {f"answers_{status}": status for status in (401, 404)}
    with Simulator(tables={name: devices(5) for name in statuses}) as rmm:
        rmm.set_faults(Faults(resource=name, status=status) for name, status in statuses.items())
        result = sync(connection(rmm.base_url, list(statuses)), instance)
        asked = [(request.resource, request.status) for request in rmm.requests]
    assert sorted(asked) == sorted(statuses.items())
    assert not materialized(result)
    for name, sentence in zip(statuses, sorted(failures(result)), strict=True):
        assert sentence.startswith(name)
        assert str(statuses[name]) in sentence


def test_dropped_connections_are_retried(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": devices(5)}, faults=Faults(drop=True, times=2)) as rmm:
        result = sync(connection(rmm.base_url), instance)
    assert result.success
    assert metadata(result)["retries"] == 2


def test_each_retry_is_a_line_of_the_runs_log(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": devices(250)}, faults=Faults(status=503, skip=1, times=2)) as rmm:
        result = sync(connection(rmm.base_url, limits={"max_concurrency": 1}), instance)
    said = [entry.user_message for entry in instance.all_logs(result.run_id) if "HTTP 503" in entry.user_message]
    assert len(said) == 2, said
    for number, line in enumerate(said, start=1):
        assert "devices" in line
        assert f"{number} of 3" in line
        assert KEY not in line


def test_a_child_depends_on_its_parent_and_nothing_on_a_phantom_asset(instance: dg.DagsterInstance) -> None:
    child = {
        "name": "tickets",
        "endpoint": {"path": "/v1/devices/{resources.devices.id}/tickets"},
        "include_from_parent": ["id"],
    }
    rows = [{"id": i, "device_id": 1 + i % 3} for i in range(1, 8)]
    with Simulator(tables={"devices": devices(3), "tickets": rows}) as rmm:
        target = connection(rmm.base_url, ["devices", child])
        graph = build_connection_defs(target).resolve_asset_graph()
        assert graph.get(dg.AssetKey(["acme", "tickets"])).parent_keys == {dg.AssetKey(["acme", "devices"])}
        assert graph.get(dg.AssetKey(["acme", "devices"])).parent_keys == set()
        assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {"acme/devices", "acme/tickets"}
        result = sync(target, instance)
        assert result.success, failures(result)
    assert [(row[0], row[1]) for row in table_rows(("id", "_devices_id"), "acme.tickets")] == [
        (row["id"], row["device_id"]) for row in rows
    ]


def test_downstream_assets_wait_for_the_primary_keys_check(instance: dg.DagsterInstance) -> None:
    ran: list[str] = []

    @dg.asset(deps=[dg.AssetKey(["acme", "devices"])])
    def report() -> None:
        ran.append("report")

    resource: dict[str, Any] = {
        "name": "devices",
        "endpoint": {"path": "/v1/devices"},
        "write_disposition": "append",
        "primary_key": "id",
        "checks": {"unique": ["id"]},
    }
    with Simulator(tables={"devices": devices(5)}) as rmm:
        target = connection(rmm.base_url, [resource])
        assert sync(target, instance, more=dg.Definitions(assets=[report])).success
        assert ran == ["report"]
        # Appended a second time, so that each key occurs twice.
        result = sync(target, instance, more=dg.Definitions(assets=[report]))

    assert not result.success
    assert not checks(result)["unique_id"].passed
    assert ran == ["report"]
    assert materialized(result) == {"acme/devices"}


def test_a_failing_check_that_is_not_the_primary_keys_stops_nothing(instance: dg.DagsterInstance) -> None:
    ran: list[str] = []

    @dg.asset(deps=[dg.AssetKey(["acme", "devices"])])
    def report() -> None:
        ran.append("report")

    with Simulator(tables={"devices": devices(5, status=None)}) as rmm:
        result = sync(connection(rmm.base_url), instance, more=dg.Definitions(assets=[report]))
    assert result.success
    assert not checks(result)["not_null_status"].passed
    assert ran == ["report"]


def test_building_assets_causes_no_warnings(instance: dg.DagsterInstance) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_connection_defs(connection("https://rmm.example.com", ["devices", "tickets"]))


def test_checks_alone_send_no_requests(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": devices(5)}) as rmm:
        target = connection(rmm.base_url)
        assert sync(target, instance).success
        asked = len(rmm.requests)
        assert check_alone(target, instance, "unique_id", "complete")["unique_id"].passed
        assert len(rmm.requests) == asked


def test_a_table_that_cannot_get_child_tables_is_red_with_only_the_explanation(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": [{"id": 1, "disks": ["C"]}]}) as rmm:
        resource = {"name": "devices", "endpoint": {"path": "/v1/devices"}}
        assert sync(connection(rmm.base_url, [resource]), instance).success
        result = sync(connection(rmm.base_url, [{**resource, "child_tables": True}]), instance)
    [failure] = failures(result)
    assert failure.startswith("devices: the table exists and its lists are JSON columns")


def test_no_lock_is_held_while_dagster_stores_an_event(workplace: Path, instance: dg.DagsterInstance) -> None:
    # If Dagster cannot store it, as on a full disk, it never resumes the step, whose locks would stay.
    locked: list[str] = []
    seen: set[str] = set()

    def look(entry: dg.EventLogEntry) -> None:
        kind = entry.dagster_event.event_type_value if entry.dagster_event else ""
        if kind not in ("ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION"):
            return
        seen.add(kind)
        for path in workplace.rglob("*.lock"):
            with path.open("rb") as file:
                try:
                    portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
                except portalocker.LockException:
                    locked.append(f"{path.name}: {kind}")

    with Simulator(tables={"devices": devices(3)}) as rmm:
        target = connection(rmm.base_url)
        everything = dg.define_asset_job("everything", selection=dg.AssetSelection.all())
        key = dg.AssetCheckKey(dg.AssetKey(["acme", "devices"]), "unique_id")
        alone = dg.define_asset_job("alone", selection=dg.AssetSelection.checks(key))
        definitions = dg.Definitions.merge(build_connection_defs(target), dg.Definitions(jobs=[everything, alone]))
        for job in ("everything", "alone"):
            run_id = str(uuid4())
            instance.add_event_listener(run_id, look)
            assert definitions.resolve_job_def(job).execute_in_process(instance=instance, run_id=run_id).success
    assert seen == {"ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION"}
    assert locked == []
