"""Tests checks: they report faults with numbers and examples, with a load or alone, and never lose rows."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rmm_assets.config.store import store_of
from rmm_assets.simulator import Faults, Simulator
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.orchestration.bench import (
    DATABASE,
    KEY,
    check_alone,
    checks,
    connection,
    devices,
    failures,
    plain,
    query,
    sync,
    table_rows,
)

pytestmark = pytest.mark.slow

ALL = ("unique_id", "not_null_status", "accepted_values_status", "complete", "schema_change", "no_rejected_rows")


@pytest.fixture(autouse=True)
def _key(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)


@pytest.fixture
def rmm() -> Iterator[Simulator]:
    with Simulator(tables={"devices": devices(20)}) as simulator:
        yield simulator


def said(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    return plain(evaluation.metadata)


def test_a_correct_table_passes_with_the_number_of_rows_checked(rmm: Simulator, instance: dg.DagsterInstance) -> None:
    found = checks(sync(connection(rmm.base_url), instance))
    assert all(found[name].passed for name in ALL)
    for name in ("unique_id", "not_null_status", "accepted_values_status"):
        assert said(found[name]) == {"rows_looked_at": 20, "rows_at_fault": 0, "examples": []}
    assert said(found["complete"]).keys() == {
        *("completeness", "evidence", "signals", "rows_loaded", "rows_repeated", "pages", "passes", "requests")
    }
    assert said(found["complete"])["evidence"] == "stated_total"
    assert said(found["complete"])["signals"] == ["total: states 20 rows"]
    assert said(found["no_rejected_rows"]) == {"rows_rejected": 0}


def test_a_null_status_is_loaded_and_its_check_fails(rmm: Simulator, instance: dg.DagsterInstance) -> None:
    rows = devices(20)
    for row in rows[6:14]:
        row["status"] = None
    rmm.set_rows("devices", rows)
    result = sync(connection(rmm.base_url), instance)

    assert result.success, failures(result)
    assert table_rows(("id", "status")) == [(row["id"], row["status"]) for row in rows]
    check = checks(result)["not_null_status"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert said(check) == {"rows_looked_at": 20, "rows_at_fault": 8, "examples": ["7", "8", "9", "10", "11"]}
    assert checks(result)["accepted_values_status"].passed


def test_a_value_that_is_not_accepted_is_named_with_its_key(rmm: Simulator, instance: dg.DagsterInstance) -> None:
    rows = devices(20)
    rows[2]["status"] = "on fire"
    rmm.set_rows("devices", rows)
    check = checks(sync(connection(rmm.base_url), instance))["accepted_values_status"]
    assert not check.passed
    assert said(check) == {"rows_looked_at": 20, "rows_at_fault": 1, "examples": ["3, on fire"]}


def test_a_duplicate_key_is_found_at_the_destination(rmm: Simulator, instance: dg.DagsterInstance) -> None:
    target = connection(rmm.base_url)
    assert sync(target, instance).success
    # Inserted by hand, because a merge creates no duplicates.
    query("INSERT INTO acme.devices SELECT * FROM acme.devices WHERE id IN (4, 5)")
    check = check_alone(target, instance, "unique_id")["unique_id"]
    assert not check.passed
    assert check.blocking
    assert said(check) == {"rows_looked_at": 22, "rows_at_fault": 4, "examples": ["4", "5"]}


def test_an_empty_table_passes(rmm: Simulator, instance: dg.DagsterInstance) -> None:
    target = connection(rmm.base_url)
    assert sync(target, instance).success
    query("DELETE FROM acme.devices")
    found = check_alone(target, instance, *ALL)
    assert all(check.passed for check in found.values())
    assert said(found["unique_id"]) == {"rows_looked_at": 0, "rows_at_fault": 0, "examples": []}


def test_a_missing_table_has_no_faulty_rows(rmm: Simulator, instance: dg.DagsterInstance) -> None:
    rmm.set_rows("devices", [])
    target = connection(rmm.base_url)
    assert sync(target, instance).success
    found = check_alone(target, instance, *ALL)
    assert all(check.passed for check in found.values())
    assert said(found["unique_id"])["rows_looked_at"] == 0


def test_before_the_first_load_only_the_complete_check_fails(instance: dg.DagsterInstance) -> None:
    target = connection("http://127.0.0.1:9")
    found = check_alone(target, instance, *ALL)
    assert {name for name, check in found.items() if not check.passed} == {"complete"}
    assert said(found["complete"]) == {"reason": "not loaded yet"}


def test_a_column_that_the_api_never_sent_fails_with_a_note(rmm: Simulator, instance: dg.DagsterInstance) -> None:
    resource = {
        "name": "devices",
        "endpoint": {"path": "/v1/devices"},
        "checks": {"not_null": ["serial"], "unique": ["serial"]},
    }
    result = sync(connection(rmm.base_url, [resource]), instance)
    assert result.success, failures(result)
    for name in ("not_null_serial", "unique_serial"):
        check = checks(result)[name]
        assert not check.passed
        assert "no column serial" in said(check)["note"]
        assert said(check)["rows_at_fault"] == 20


def test_an_incomplete_read_fails_its_check_and_publishes_nothing(rmm: Simulator, instance: dg.DagsterInstance) -> None:
    rmm.set_faults(Faults(total_off=3))
    result = sync(connection(rmm.base_url), instance)
    assert not result.success
    assert not result.get_asset_materialization_events()
    check = checks(result)["complete"]
    assert not check.passed
    assert "20" in said(check)["completeness"]
    assert "23" in said(check)["completeness"]


def test_an_incomplete_read_that_is_loaded_anyway_fails_its_check(rmm: Simulator, instance: dg.DagsterInstance) -> None:
    rmm.set_faults(Faults(total_off=3))
    resource = {"name": "devices", "endpoint": {"path": "/v1/devices"}, "on_incomplete": "warn"}
    target = connection(rmm.base_url, [resource])
    result = sync(target, instance)
    assert result.success, failures(result)
    assert query("SELECT count(*) FROM acme.devices") == [(20,)]
    for found in (checks(result), check_alone(target, instance, "complete")):
        assert not found["complete"].passed
        assert found["complete"].severity is dg.AssetCheckSeverity.ERROR
        assert "23" in said(found["complete"])["completeness"]


@pytest.mark.slow
def test_a_new_column_or_a_changed_type_warns(rmm: Simulator, instance: dg.DagsterInstance) -> None:
    target = connection(rmm.base_url)
    first = checks(sync(target, instance))["schema_change"]
    assert first.passed
    assert said(first) == {"note": "no previous load to compare with"}

    rmm.set_rows("devices", devices(20, site="Graz"))
    check = checks(sync(target, instance))["schema_change"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert said(check)["added"] == ["site"]

    assert checks(sync(target, instance))["schema_change"].passed
    assert check_alone(target, instance, "schema_change")["schema_change"].passed


def test_rejected_rows_are_kept_and_counted(rmm: Simulator, instance: dg.DagsterInstance) -> None:
    rows = devices(20)
    rows[4]["id"] = None
    rmm.set_rows("devices", rows)
    result = sync(connection(rmm.base_url), instance)
    assert result.success, failures(result)
    check = checks(result)["no_rejected_rows"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert said(check) == {"rows_rejected": 1}
    assert query("SELECT count(*) FROM acme.devices") == [(19,)]
    assert query("SELECT count(*) FROM acme.devices_rejected") == [(1,)]


@pytest.mark.slow
def test_each_check_can_be_run_alone(rmm: Simulator, instance: dg.DagsterInstance) -> None:
    target = connection(rmm.base_url)
    assert sync(target, instance).success
    asked = len(rmm.requests)
    for name in ALL:
        found = check_alone(target, instance, name)
        assert list(found) == [name]
        assert found[name].passed
    assert len(rmm.requests) == asked


@pytest.mark.slow
def test_a_check_runs_while_another_program_reads_the_file(rmm: Simulator, instance: dg.DagsterInstance) -> None:
    target = connection(rmm.base_url)
    assert sync(target, instance).success
    reader = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import duckdb, sys\n"
            f"db = duckdb.connect({str(DATABASE)!r}, read_only=True)\n"
            "print(db.execute('SELECT count(*) FROM acme.devices').fetchone(), flush=True)\n"
            "sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "(20,)\n"
    try:
        assert check_alone(target, instance, "unique_id")["unique_id"].passed
        assert reader.poll() is None
    finally:
        reader.communicate("")


@pytest.mark.slow
def test_a_check_waits_for_a_load_that_is_writing_and_not_for_one_that_reads_its_api(
    rmm: Simulator, instance: dg.DagsterInstance
) -> None:
    target = connection(rmm.base_url)
    assert sync(target, instance).success
    found: list[dg.AssetCheckEvaluation] = []
    checking = threading.Thread(target=lambda: found.append(check_alone(target, instance, "unique_id")["unique_id"]))
    with store_of(target).writing():
        checking.start()
        checking.join(3)
        assert checking.is_alive()
    checking.join(120)
    assert found[0].passed

    asked, answered = threading.Event(), threading.Event()

    def slow(_: Seen) -> Say:
        asked.set()
        assert answered.wait(300)
        return Say({"data": devices(50), "total": 50})

    with Scripted(slow) as server:
        loading = threading.Thread(target=sync, args=(connection(server.url), instance))
        loading.start()
        assert asked.wait(120)
        alone = check_alone(target, instance, "unique_id")["unique_id"]
        assert loading.is_alive()
        answered.set()
        loading.join(300)
    assert said(alone)["rows_looked_at"] == 20
    assert said(check_alone(target, instance, "unique_id")["unique_id"])["rows_looked_at"] == 50
