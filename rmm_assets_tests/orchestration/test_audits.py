"""Tests that the audit job fails if table and API differ, and only runs automatically if the file schedules it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from rmm_assets.errors import ConnectionFileError
from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.simulator import Simulator
from rmm_assets_tests.orchestration.bench import KEY, connection, devices, failures, query, run, sync

pytestmark = pytest.mark.slow


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RMM_DATABASE", raising=False)
    monkeypatch.setenv("ACME_API_KEY", KEY)


def test_the_job_fails_for_each_resource_that_differs_and_says_how(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": devices(30), "alerts": devices(5)}) as rmm:
        target = connection(rmm.base_url, ["devices", "alerts"])
        definitions = build_connection_defs(target)
        assert sync(target, instance).success
        assert run(definitions, "audit_acme", instance).success
        query("UPDATE acme.devices SET status = 'offline' WHERE id = 7")
        result = run(definitions, "audit_acme", instance)
    assert failures(result) == ["devices: 1 row with other values; columns that differ: status (1)"]
    (failed,) = result.get_step_failure_events()
    data = failed.step_failure_data.user_failure_data
    assert data is not None
    assert data.metadata["examples"].value == {"different": ["id 7"]}
    assert len(result.get_step_success_events()) == 1


def test_what_is_unverified_is_a_warning(instance: dg.DagsterInstance) -> None:
    with Simulator(tables={"devices": []}) as rmm:
        target = connection(rmm.base_url)
        assert sync(target, instance).success
        result = run(build_connection_defs(target), "audit_acme", instance)
    assert result.success
    warnings = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.level == 30]
    assert [message for message in warnings if "devices: unverified: the API sent no rows" in message]


def test_a_missing_key_is_named(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACME_API_KEY")
    result = run(build_connection_defs(connection("http://127.0.0.1:9")), "audit_acme", instance)
    assert failures(result) == ["No API key: set the environment variable ACME_API_KEY"]


def test_an_audit_runs_automatically_only_if_scheduled() -> None:
    assert not build_connection_defs(connection("https://rmm.example.com")).schedules
    made = build_connection_defs(
        connection("https://rmm.example.com", audit={"cron": "30 5 * * 1", "timezone": "Europe/Vienna"})
    )
    schedule = made.resolve_schedule_def("audit_acme_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 5 * * 1", "Europe/Vienna")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    with pytest.raises(ConnectionFileError, match=r"audit\.cron: `every day`"):
        connection("https://rmm.example.com", audit={"cron": "every day"})
