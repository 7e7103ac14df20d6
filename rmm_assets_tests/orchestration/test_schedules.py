"""Tests that schedules tick as the file says, and skip a tick while a run is in progress."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._utils.schedules import schedule_execution_time_iterator

from rmm_assets.errors import ConnectionFileError
from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.simulator import Simulator
from rmm_assets_tests.orchestration.bench import KEY, QUIET, connection, devices

pytestmark = pytest.mark.slow


def definitions(**schedule: Any) -> dg.Definitions:
    return build_connection_defs(connection("https://rmm.example.com", schedule=schedule or None))


def ticks(start: datetime, number: int, **schedule: Any) -> list[str]:
    """Returns the next ticks after a time, as Dagster's daemon computes them."""
    found = definitions(**schedule).resolve_schedule_def("sync_acme_schedule")
    times = schedule_execution_time_iterator(start.timestamp(), found.cron_schedule, found.execution_timezone)
    return [tick.isoformat() for tick in islice(times, number)]


def test_ticks_follow_the_cron_expression_in_its_time_zone() -> None:
    start = datetime(2026, 1, 5, 6, 30, tzinfo=UTC)
    assert ticks(start, 2, cron="0 * * * *") == ["2026-01-05T07:00:00+00:00", "2026-01-05T08:00:00+00:00"]
    # Monday to Friday at half past seven in Vienna: 6:30 UTC, which is now.
    weekdays = ticks(start, 6, cron="30 7 * * 1-5", timezone="Europe/Vienna")
    assert weekdays == [*(f"2026-01-0{day}T07:30:00+01:00" for day in range(5, 10)), "2026-01-12T07:30:00+01:00"]


def test_a_daily_schedule_keeps_its_hour_when_the_clocks_change() -> None:
    daily = {"cron": "30 7 * * *", "timezone": "Europe/Vienna"}
    assert ticks(datetime(2026, 3, 28, tzinfo=UTC), 2, **daily) == [
        "2026-03-28T07:30:00+01:00",
        "2026-03-29T07:30:00+02:00",
    ]
    assert ticks(datetime(2026, 10, 24, tzinfo=UTC), 2, **daily) == [
        "2026-10-24T07:30:00+02:00",
        "2026-10-25T07:30:00+01:00",
    ]


def test_without_a_schedule_in_the_file_there_is_none() -> None:
    assert not definitions().schedules


def test_the_status_in_the_file_is_the_default_status() -> None:
    for word, status in (
        ("running", dg.DefaultScheduleStatus.RUNNING),
        ("stopped", dg.DefaultScheduleStatus.STOPPED),
    ):
        schedule = definitions(cron="0 * * * *", status=word).resolve_schedule_def("sync_acme_schedule")
        assert schedule.default_status is status
    assert (
        definitions(cron="0 * * * *").resolve_schedule_def("sync_acme_schedule").default_status
        is dg.DefaultScheduleStatus.STOPPED
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as stored:  # a schedule opens it by its folder
        yield stored


@pytest.mark.parametrize(
    "going",
    [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED],
)
def test_a_tick_is_skipped_while_a_run_is_in_progress(
    going: dg.DagsterRunStatus, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    defs = definitions(cron="0 * * * *")
    schedule = defs.resolve_schedule_def("sync_acme_schedule")

    def tick() -> tuple[int, str]:
        with dg.build_schedule_context(instance=instance, scheduled_execution_time=datetime.now(UTC)) as context:
            data = schedule.evaluate_tick(context)
        return len(data.run_requests or ()), data.skip_message or ""

    assert tick() == (1, "")
    job = defs.resolve_job_def("sync_acme")
    monkeypatch.setenv("ACME_API_KEY", "any")
    run = instance.create_run_for_job(job, status=going)
    requested, said = tick()
    assert requested == 0
    assert run.run_id[:8] in said
    instance.report_run_canceled(run)
    assert tick() == (1, "")


OWN: list[Any] = [
    "devices",
    {"name": "patches", "endpoint": {"path": "/v1/patches"}, "schedule": {"cron": "0 3 * * *"}},
]


def with_own_schedule(url: str = "https://rmm.example.com", **changes: Any) -> dg.Definitions:
    return build_connection_defs(connection(url, OWN, **{"schedule": {"cron": "0 * * * *"}, **changes}))


def requested(defs: dg.Definitions, name: str, instance: dg.DagsterInstance) -> dg.RunRequest | str:
    """Returns the run that a tick of a schedule requests, or why it skips."""
    with dg.build_schedule_context(instance=instance, scheduled_execution_time=datetime.now(UTC)) as context:
        data = defs.resolve_schedule_def(name).evaluate_tick(context)
    return data.run_requests[0] if data.run_requests else data.skip_message or ""


def test_a_resource_with_a_schedule_is_loaded_by_it_and_not_by_the_connections(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACME_API_KEY", KEY)
    with Simulator(tables={"devices": devices(3), "patches": devices(2)}, api_key=KEY) as rmm:
        defs = with_own_schedule(rmm.base_url)
        loaded = {}
        for name in ("sync_acme_schedule", "sync_acme__patches_schedule"):
            request = requested(defs, name, instance)
            assert isinstance(request, dg.RunRequest)
            result = defs.resolve_job_def(name.removesuffix("_schedule")).execute_in_process(
                instance=instance, asset_selection=request.asset_selection, run_config=QUIET
            )
            loaded[name] = {
                event.asset_key.path[-1] for event in result.get_asset_materialization_events() if event.asset_key
            }
            checked = {check.asset_key.path[-1] for check in result.get_asset_check_evaluations()}
            assert checked == loaded[name] - {"fleet_overview"}
    assert loaded["sync_acme_schedule"] - {"fleet_overview"} == {"devices"}
    assert loaded["sync_acme__patches_schedule"] == {"patches"}


def test_the_connections_job_has_every_resource(instance: dg.DagsterInstance) -> None:
    assets = {
        key.path[-1] for key in with_own_schedule().resolve_job_def("sync_acme").asset_layer.executable_asset_keys
    }
    assert {"devices", "patches"} <= assets


def test_a_run_of_the_connection_does_not_skip_the_tick_of_a_resource(instance: dg.DagsterInstance) -> None:
    defs = with_own_schedule()
    run = instance.create_run_for_job(defs.resolve_job_def("sync_acme"), status=dg.DagsterRunStatus.STARTED)
    assert isinstance(requested(defs, "sync_acme__patches_schedule", instance), dg.RunRequest)
    assert run.run_id[:8] in str(requested(defs, "sync_acme_schedule", instance))
    own = instance.create_run_for_job(defs.resolve_job_def("sync_acme__patches"), status=dg.DagsterRunStatus.STARTED)
    assert own.run_id[:8] in str(requested(defs, "sync_acme__patches_schedule", instance))


def test_a_resource_is_stale_by_its_own_schedule() -> None:
    running = {"cron": "0 * * * *", "status": "running"}
    own = [OWN[0], {**OWN[1], "schedule": {"cron": "0 3 * * *", "status": "running"}}]
    defs = build_connection_defs(connection("https://rmm.example.com", own, schedule=running))
    windows = {
        spec.key.path[-1]: spec.freshness_policy.fail_window.to_timedelta()  # type: ignore[attr-defined]
        for spec in defs.resolve_all_asset_specs() if spec.freshness_policy
    }  # fmt: skip
    assert (windows["devices"], windows["patches"]) == (timedelta(hours=2), timedelta(days=2))


def test_a_connections_schedule_without_a_resource_left_for_it_is_refused() -> None:
    with pytest.raises(ConnectionFileError, match="every resource has a schedule of its own"):
        connection("https://rmm.example.com", OWN[1:], schedule={"cron": "0 * * * *"})
    with pytest.raises(ConnectionFileError, match="not a valid cron expression"):
        connection("https://rmm.example.com", [OWN[0], {**OWN[1], "schedule": {"cron": "daily"}}])


def test_the_schedule_of_a_resource_ticks_as_the_file_says() -> None:
    own = {"cron": "0 3 * * 1", "timezone": "Europe/Vienna", "status": "running"}
    defs = build_connection_defs(connection("https://rmm.example.com", [OWN[0], {**OWN[1], "schedule": own}]))
    found = defs.resolve_schedule_def("sync_acme__patches_schedule")
    assert (found.cron_schedule, found.execution_timezone) == ("0 3 * * 1", "Europe/Vienna")
    assert found.default_status is dg.DefaultScheduleStatus.RUNNING


def test_the_runs_of_all_jobs_have_the_tags_in_the_file() -> None:
    pod = {"container_config": {"resources": {"limits": {"memory": "4Gi"}}}}
    made = connection("https://rmm.example.com", OWN, run_tags={"dagster/priority": 3, "dagster-k8s/config": pod})
    defs = build_connection_defs(made)
    for name in ("sync_acme", "sync_acme__patches", "audit_acme"):
        tags = defs.resolve_job_def(name).run_tags
        assert (tags["dagster/priority"], json.loads(tags["dagster-k8s/config"])) == ("3", pod)
    with pytest.raises(ConnectionFileError, match="every value must be text or JSON; write dates in quotes"):
        connection("https://rmm.example.com", OWN, run_tags={"since": date(2026, 1, 1)})
