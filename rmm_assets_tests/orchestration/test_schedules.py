"""Tests that schedules tick as the file says, and skip a tick while a run is in progress."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import dagster as dg
import pytest
from dagster._utils.schedules import schedule_execution_time_iterator

from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets_tests.orchestration.bench import connection

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
