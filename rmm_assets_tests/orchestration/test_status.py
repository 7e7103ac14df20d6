"""Tests `status_of`: what was loaded, what failed last and what needs attention."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.orchestration.component import RmmConnection
from rmm_assets.orchestration.lost_runs import PROCESS_TAG, Process
from rmm_assets.orchestration.status import Status, status_of
from rmm_assets.simulator import Faults, Simulator
from rmm_assets_tests.orchestration.bench import DATABASE, KEY, connection, devices, run

pytestmark = pytest.mark.slow


def stands(target: RmmConnection, instance: dg.DagsterInstance, now: datetime | None = None) -> Status:
    definitions = build_connection_defs(target)
    return status_of({target.name: target}, definitions, instance, now or datetime.now(UTC))


def test_a_connection_s_status_is_shown_even_before_its_first_load(
    workplace: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Simulator(tables={"devices": devices(30), "alerts": devices(5)}) as server:
        target = connection(server.base_url, ["devices", "alerts"], schedule={"cron": "0 * * * *", "status": "running"})
        definitions = build_connection_defs(target)

        [acme] = stands(target, instance).connections
        assert (acme.schedule, acme.running, acme.needs_a_person) == ("0 * * * *", True, False)
        assert [resource.last_success for resource in acme.resources] == [None, None]
        assert not DATABASE.exists()

        # A run without its key is also recorded, although nothing was read.
        run(definitions, "sync_acme", instance)
        [acme] = stands(target, instance).connections
        assert "ACME_API_KEY" in acme.resources[0].error

        monkeypatch.setenv("ACME_API_KEY", KEY)
        server.set_rows("alerts", [{"id": 1, "status": None}])
        run(definitions, "sync_acme", instance)
        [acme] = stands(target, instance).connections
        loaded, checked = acme.resources
        assert (loaded.rows, loaded.rejected, loaded.verdict, loaded.needs_a_person) == (30, 0, "loaded", False)
        assert checked.failed_checks == ["not_null_status"] and checked.needs_a_person

        server.set_faults(Faults(resource="devices", status=404))
        run(definitions, "sync_acme", instance)
        found = stands(target, instance, datetime.now(UTC) + timedelta(hours=3))
        red = found.connections[0].resources[0]
        assert (red.rows, red.verdict) == (30, "failed")
        assert "404" in red.error
        assert "is stale: last loaded 3 hours ago" in red.stale
        written = found.as_json(datetime.now(UTC))
        assert written["needs_a_person"]
        assert 0 <= written["connections"][0]["resources"][0]["age_seconds"] < 3600


def test_a_run_whose_process_is_gone_needs_attention_until_it_is_ended(
    workplace: Path, instance: dg.DagsterInstance
) -> None:
    target = connection("http://127.0.0.1:9")
    mine = Process.of(1)
    gone = Process(mine.host, mine.pid, 1.0)
    job = build_connection_defs(target).resolve_job_def("sync_acme")
    lost = instance.create_run_for_job(job, tags={PROCESS_TAG: str(gone)}, status=dg.DagsterRunStatus.STARTED)
    found = stands(target, instance)
    assert found.needs_a_person
    assert "is gone" in found.runs[lost.run_id]


def test_tables_that_cannot_be_read_are_a_problem_of_their_connection(
    workplace: Path, instance: dg.DagsterInstance
) -> None:
    DATABASE.parent.mkdir()
    DATABASE.write_text("this is no database")
    [acme] = stands(connection("http://127.0.0.1:9"), instance).connections
    assert acme.needs_a_person and "cannot read its tables" in acme.problem
