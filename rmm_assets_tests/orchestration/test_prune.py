"""Tests that pruning deletes old runs but keeps what the current state depends on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.orchestration.prune import age_of, build_prune_job, prune
from rmm_assets.simulator import Simulator
from rmm_assets_tests.orchestration.bench import KEY, QUIET, connection, devices, query

RUNS = 3


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.mark.slow
def test_old_runs_are_deleted_with_all_their_data_except_each_asset_s_last_one(
    workplace: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    later = datetime.now(UTC) + timedelta(hours=1)
    with (
        Simulator(tables={"devices": devices(3), "alerts": devices(3)}) as server,
        dg.DagsterInstance.local_temp(str(home)) as instance,
    ):
        target = connection(server.base_url, ["devices", "alerts"])
        job = build_connection_defs(target).resolve_job_def("sync_acme")
        for number in range(RUNS):
            chosen = None if not number else [dg.AssetKey(["acme", "alerts"])]
            job.execute_in_process(instance=instance, run_config=QUIET, asset_selection=chosen)
        foreign = _foreign().execute_in_process(instance=instance).run_id
        # Recent runs stay.
        assert prune(instance, [target], datetime.now(UTC) - timedelta(days=1), 1).runs == 0
        # The first run has the last materialization of devices, the last one that of alerts.
        done = prune(instance, [target], later, keep_last=1)
        assert (done.runs, done.syncs, done.problems) == (RUNS - 2, RUNS - 1, {})
        left = instance.get_runs()
        assert {each.job_name for each in left} == {"sync_acme", "theirs"}
        assert foreign in {each.run_id for each in left}
        for name in ("devices", "alerts"):
            assert instance.get_latest_materialization_event(dg.AssetKey(["acme", name])) is not None
        kept = {each.run_id for each in left}
        files = {path.stem for path in (home / "history" / "runs").glob("*.db")} - {"index"}
        assert files == kept
        logs = {path.name for path in (home / "storage").iterdir()}
        assert logs <= kept
        assert prune(instance, [target], later, keep_last=1).runs == 0
    assert query("SELECT resource, count(*) FROM acme.rmm_syncs GROUP BY ALL ORDER BY 1") == [
        ("alerts", 1),
        ("devices", 1),
    ]


def _foreign() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None: ...

    @dg.job(name="theirs")
    def job() -> None:
        nothing()

    return job


def test_an_age_is_days_weeks_or_hours() -> None:
    assert [age_of(text) for text in ("90d", "2w", "36h")] == [
        timedelta(days=90), timedelta(weeks=2), timedelta(hours=36)
    ]  # fmt: skip
    for text in ("", "90", "d", "-1d", "1y"):
        with pytest.raises(ValueError, match="such as 90d"):
            age_of(text)


def test_the_schedule_is_on_if_the_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_prune_job([])[1].default_status is dg.DefaultScheduleStatus.STOPPED
    monkeypatch.setenv("RMM_PRUNE_AFTER", "90d")
    assert build_prune_job([])[1].default_status is dg.DefaultScheduleStatus.RUNNING


def test_the_job_deletes_old_runs(workplace: Path, instance: dg.DagsterInstance) -> None:
    job, _ = build_prune_job([connection("http://127.0.0.1:9")])
    repository = dg.Definitions(jobs=[job]).get_repository_def()
    assert repository.get_job("prune").execute_in_process(instance=instance).success
