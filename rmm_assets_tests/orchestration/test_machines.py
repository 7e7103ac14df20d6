"""Tests that runs on several machines do not coordinate by files of one machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.launcher.sync_in_memory_run_launcher import SyncInMemoryRunLauncher

from rmm_assets.http.shared_limit import LIMITS_VARIABLE
from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.orchestration.machines import refuse_files_of_one_machine
from rmm_assets.simulator import Simulator
from rmm_assets_tests.orchestration import bench
from rmm_assets_tests.syncing import connection, devices, resource

REDIS = "redis://:not-secret@127.0.0.1:6379/0"
POSTGRES: dict[str, Any] = {"destination": {"type": "postgres"}, "dataset": "acme"}


class OtherLauncher(SyncInMemoryRunLauncher):
    """A launcher that is not one of Dagster's own."""


@pytest.fixture
def on_others(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    launcher = {"module": __name__, "class": "OtherLauncher"}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides={"run_launcher": launcher}) as instance:
        yield instance


def refused(instance: dg.DagsterInstance, executor: str, **changes: Any) -> str:
    try:
        refuse_files_of_one_machine(instance, executor, connection(**changes))
    except dg.Failure as failure:
        return str(failure.description)
    return ""


def test_files_on_several_machines_are_refused_with_what_to_do(
    on_others: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LIMITS_VARIABLE, raising=False)
    said = refused(on_others, "in_process")
    assert said == (
        "acme: the run launcher OtherLauncher starts runs on several machines, which share no files: set RMM_RATE_LIMITS to a "
        "Redis server that all of them reach, as rate limits are in files; use a database server as the destination, as runs that "
        "load into data/rmm.duckdb lock files. If all workers are on one machine and share its folders, set RMM_RATE_LIMITS=files"
    )
    assert "database server" not in refused(on_others, "in_process", **POSTGRES)
    monkeypatch.setenv(LIMITS_VARIABLE, REDIS)
    assert "database server" in refused(on_others, "in_process")
    lake = {"type": "filesystem", "options": {"bucket_url": "s3://lake"}}
    assert "lock files" in refused(
        on_others, "in_process", destination=lake, resources=[resource(write_disposition="append")]
    )
    assert refused(on_others, "in_process", **POSTGRES) == ""
    monkeypatch.setenv(LIMITS_VARIABLE, "not a URL of not-secret")
    assert "must be the URL of a Redis server" in refused(on_others, "in_process", **POSTGRES)


def test_one_machine_needs_no_setting(on_others: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMITS_VARIABLE, raising=False)
    with dg.DagsterInstance.ephemeral() as instance:
        assert refused(instance, "in_process") == refused(instance, "multiprocess") == ""
        assert refused(instance, "celery").startswith("acme: the executor celery starts runs on several machines")
        monkeypatch.setenv(LIMITS_VARIABLE, "files")
        assert refused(instance, "celery") == refused(on_others, "in_process") == ""


@pytest.mark.slow
@pytest.mark.parametrize("job", ["sync_acme", "audit_acme"])
@pytest.mark.usefixtures("workplace")
def test_a_run_is_refused_before_it_sends_a_request(
    job: str, on_others: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LIMITS_VARIABLE, raising=False)
    monkeypatch.setenv("ACME_API_KEY", bench.KEY)
    with Simulator(tables={"devices": devices(3)}) as rmm:
        definitions = build_connection_defs(bench.connection(rmm.base_url))
        result = bench.run(definitions, job, on_others)
        assert not result.success
        assert "the run launcher OtherLauncher starts runs on several machines" in bench.failures(result)[0]
        assert not rmm.requests
        monkeypatch.setenv(LIMITS_VARIABLE, "files")
        assert bench.run(definitions, "sync_acme", on_others).success
