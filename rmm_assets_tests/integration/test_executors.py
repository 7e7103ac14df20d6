"""Tests runs with executors other than the default one."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import pytest

from rmm_assets.definitions import build_defs
from rmm_assets.orchestration.lost_runs import PROCESS_TAG, Process
from rmm_assets.simulator import Simulator
from rmm_assets_tests.integration.test_cli import CONNECTION, rows
from rmm_assets_tests.integration.test_lost_runs import environment, ran, runs
from rmm_assets_tests.syncing import rows_of


def folder_with(tmp_path: Path, base_url: str, executor: str) -> Path:
    folder = tmp_path / "connections" / "acme"
    folder.mkdir(parents=True)
    (folder / "defs.yaml").write_text(CONNECTION.format(base_url=base_url) + f"  executor: {executor}\n")
    (tmp_path / "home").mkdir(exist_ok=True)
    return folder


@pytest.mark.slow
def test_each_resource_can_be_loaded_in_its_own_process(forked: Path, tmp_path: Path) -> None:
    with Simulator(tables={"computers": rows(250), "tickets": rows(30)}) as server:
        folder_with(tmp_path, server.base_url, "multiprocess")
        assert environment(tmp_path)["RMM_CONNECTIONS"]
        ran(tmp_path, str(forked / "dagster"), "job", "execute", "-m", "rmm_assets.definitions", "-j", "sync_acme")
    (tmp_path / "rmm.duckdb").symlink_to(tmp_path / "data" / "rmm.duckdb")
    assert len(rows_of(tmp_path, "computers")) == 250
    assert len(rows_of(tmp_path, "tickets")) == 30
    assert len(rows_of(tmp_path, "rmm_syncs")) == 2
    [run] = runs(tmp_path)
    assert run.status is dg.DagsterRunStatus.SUCCESS
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        entries = instance.all_logs(run.run_id)
    steps = [entry for entry in entries if entry.dagster_event and entry.dagster_event.is_step_start]
    assert len(steps) >= 2
    events = [entry.user_message for entry in entries if "parent process (pid: " in (entry.user_message or "")]
    pid = int(events[0].partition("(pid: ")[2].partition(")")[0])
    # The run ends with the process that started the others.
    process = Process.from_tag(run.tags[PROCESS_TAG])
    assert process is not None and process.pid == pid != os.getpid()


@pytest.mark.slow
def test_a_child_in_another_process_takes_its_parents_from_the_table(forked: Path, tmp_path: Path) -> None:
    with Simulator(tables={"computers": rows(5), "tickets": rows(2)}) as server:
        folder = folder_with(tmp_path, server.base_url, "multiprocess")
        file = folder / "defs.yaml"
        below = "endpoint: {path: /v1/tickets, params: {of: '{resources.computers.id}'}}"
        text = file.read_text().replace("endpoint: {path: /v1/tickets}", below)
        assert below in text
        file.write_text(text)
        assert environment(tmp_path)["RMM_CONNECTIONS"]
        ran(tmp_path, str(forked / "dagster"), "job", "execute", "-m", "rmm_assets.definitions", "-j", "sync_acme")
        asked = [request.resource for request in server.requests]
    assert (asked.count("computers"), asked.count("tickets")) == (1, 5)


def test_a_connection_can_use_the_executor_of_its_code_location(tmp_path: Path) -> None:
    @dg.executor(name="of_the_location")
    def executor(_: dg.InitExecutorContext) -> dg.Executor:
        raise AssertionError("the test executes no run")

    for said, name in (("location", "of_the_location"), ("in_process", "in_process")):
        folder = folder_with(tmp_path / said, "http://127.0.0.1:9", said)
        definitions = build_defs(folders=[folder.parent], executor=executor)
        for job in ("sync_acme", "audit_acme"):
            assert definitions.resolve_job_def(job).executor_def.name == name
