"""Tests checks of tables with versions, of empty tables and with broken queries; none of them fails the load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rmm_assets.simulator import Simulator
from rmm_assets_tests.orchestration.bench import KEY, checks, connection, devices, metadata, query, sync

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)


def history(**changes: Any) -> dict[str, Any]:
    return {"name": "devices", "endpoint": {"path": "/v1/devices"}, "history": True, "max_absent_share": 1, **changes}


@pytest.mark.parametrize("marked", [{}, {"active_record_timestamp": "9999-12-31"}])
def test_history_stays_green_when_rows_change(
    marked: dict[str, Any], workplace: Path, instance: dg.DagsterInstance
) -> None:
    resource = history()
    if marked:
        resource = {
            **history(history=False),
            "write_disposition": {"disposition": "merge", "strategy": "scd2", **marked},
        }
    with Simulator(tables={"devices": devices(3)}) as server:
        target = connection(server.base_url, [resource])
        assert sync(target, instance).success
        server.set_rows("devices", devices(3, status="offline"))
        result = sync(target, instance)
        assert result.success
        found = checks(result)["unique_id"]
        assert found.passed
        assert found.metadata["rows_looked_at"].value == 3
        assert (metadata(result)["rows_new"], metadata(result)["rows_changed"]) == (0, 3)
        # Two valid versions of one row are still a fault.
        valid = "_dlt_valid_to IS NULL" if not marked else "_dlt_valid_to >= '9999-01-01'"
        query(f"INSERT INTO acme.devices SELECT * FROM acme.devices WHERE id = 1 AND {valid}")
        again = checks(sync(target, instance))["unique_id"]
        assert not again.passed
        assert again.metadata["examples"].value == ["1"]


def test_a_first_load_without_rows_warns(workplace: Path, instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": []}) as server:
        target = connection(server.base_url)
        first = sync(target, instance)
        assert first.success
        found = checks(first)["not_empty"]
        assert not found.passed
        assert found.severity is dg.AssetCheckSeverity.WARN
        assert found.metadata["reason"].value == "no rows; a key without permissions gets the same response"
        # Until a load receives a row.
        assert not checks(sync(target, instance))["not_empty"].passed
        server.set_rows("devices", devices(2))
        assert checks(sync(target, instance))["not_empty"].passed


def test_a_file_can_allow_an_empty_table(workplace: Path, instance: dg.DagsterInstance) -> None:
    resource = {"name": "devices", "endpoint": {"path": "/v1/devices"}, "checks": {"row_count": {"min": 0}}}
    with Simulator(tables={"devices": []}) as server:
        assert checks(sync(connection(server.base_url, [resource]), instance))["not_empty"].passed


def test_a_check_that_cannot_be_evaluated_fails_without_failing_the_load(
    workplace: Path, instance: dg.DagsterInstance
) -> None:
    broken = {
        "name": "devices",
        "endpoint": {"path": "/v1/devices"},
        "checks": {"sql": {"mine": "SELECT * FROM nowhere"}},
    }
    with Simulator(tables={"devices": devices(2)}) as server:
        result = sync(connection(server.base_url, [broken]), instance)
    assert metadata(result)["dagster/row_count"] == 2
    found = checks(result)["sql_mine"]
    assert not found.passed
    assert "could not be evaluated" in str(found.metadata["reason"].value)
    assert checks(result)["complete"].passed
