"""Tests a real `dagster dev` through GraphQL: runs, materializations, checks and errors."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

import rmm_assets
from rmm_assets_tests.browser.dagster_dev import dagster_dev

PROJECT = Path(rmm_assets.__file__).parents[1]
RUN_WITHIN = 600.0  # seconds, on a machine that runs other tests at the same time

pytestmark = pytest.mark.slow

# The variable is not set anywhere.
LOCKED = """\
type: rmm_assets.RmmConnection
attributes:
  name: locked
  client: {base_url: http://127.0.0.1:9, auth: bearer, paginator: single_page}
  api_key: {env: LOCKED_API_KEY}
  resources: [tickets]
  schedule: {cron: "0 6 * * *", timezone: Europe/Vienna}
"""

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("dev")
    for name, text in (("locked", LOCKED), ("torn", "type: [")):
        (folder / "connections" / name).mkdir(parents=True)
        (folder / "connections" / name / "defs.yaml").write_text(text)
    with dagster_dev(folder, [PROJECT / "rmm_assets" / "defs", folder / "connections"]) as address:
        yield address


@pytest.fixture(scope="module")
def ask(url: str) -> Ask:
    def ask(query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=300) as answer:
            said = json.load(answer)
        assert not said.get("errors"), said["errors"]
        return said["data"]

    return ask


@pytest.fixture(scope="module")
def demo_run(ask: Ask) -> dict[str, Any]:
    """Returns a finished run of the demo's job."""
    return wait(ask, launch(ask, "sync_demo"))


def launch(ask: Ask, job: str, **selector: Any) -> str:
    answer = ask(
        """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
          __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
          ... on RunConfigValidationInvalid { errors { message } } } }""",
        params={
            "selector": {
                "repositoryLocationName": "rmm_assets",
                "repositoryName": "__repository__",
                "pipelineName": job,
                **selector,
            },
            "mode": "default",
            "runConfigData": {},
        },
    )["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def wait(ask: Ask, run_id: str) -> dict[str, Any]:
    """Returns a run's status and events after it has ended."""
    until = time.monotonic() + RUN_WITHIN
    while time.monotonic() < until:
        run = ask(
            """query($id: ID!) { runOrError(runId: $id) { ... on Run { runId status
              eventConnection { events { __typename ... on MessageEvent { message }
                ... on ErrorEvent { error { message errorChain { error { message } } } }
                ... on MaterializationEvent { assetKey { path } metadataEntries { __typename label
                  ... on IntMetadataEntry { intValue } ... on BoolMetadataEntry { boolValue }
                  ... on TextMetadataEntry { text } ... on FloatMetadataEntry { floatValue } } }
                ... on AssetCheckEvaluationEvent { evaluation { assetKey { path } checkName success
                  metadataEntries { label ... on IntMetadataEntry { intValue } } } } } } } } }""",
            id=run_id,
        )["runOrError"]
        if run["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
            return dict(run)
        time.sleep(0.5)
    raise AssertionError(f"run {run_id} is still {run['status']}")


def events(run: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [event for event in run["eventConnection"]["events"] if event["__typename"] == kind]


def value(entry: dict[str, Any]) -> Any:
    return next((entry[name] for name in ("intValue", "boolValue", "text", "floatValue") if name in entry), None)


def test_it_listens_on_this_machine_only(url: str) -> None:
    port = f"{urlsplit(url).port:04X}"
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A" and local.endswith(f":{port}"):
                listening.append(local)
    assert listening == [f"0100007F:{port}"]
    # The helper of this test starts it as `make dev` does.
    said = subprocess.run(["make", "--dry-run", "dev"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "dagster dev --host 127.0.0.1" in said.stdout


def test_the_jobs_run_succeeds_and_every_asset_is_materialized(demo_run: dict[str, Any]) -> None:
    assert demo_run["status"] == "SUCCESS"
    keys = {"/".join(event["assetKey"]["path"]) for event in events(demo_run, "MaterializationEvent")}
    assert keys >= {"demo/organizations", "demo/devices", "demo/alerts", "demo/patches"}


def test_metadata_is_returned_as_numbers(demo_run: dict[str, Any]) -> None:
    by_key = {event["assetKey"]["path"][-1]: event for event in events(demo_run, "MaterializationEvent")}
    entries = {entry["label"]: value(entry) for entry in by_key["devices"]["metadataEntries"]}
    assert entries["dagster/row_count"] == entries["rows_loaded"] > 300
    assert entries["pages"] == 4
    assert entries["retries"] == entries["rows_rejected"] == 0
    assert entries["complete"] is True
    assert entries["dagster/table_name"] == "rmm.demo.devices"
    assert entries["load_id"]


def test_check_results_are_returned(demo_run: dict[str, Any]) -> None:
    found = [event["evaluation"] for event in events(demo_run, "AssetCheckEvaluationEvent")]
    assert len(found) >= 29
    assert all(evaluation["success"] for evaluation in found)
    (unique,) = [
        evaluation
        for evaluation in found
        if evaluation["checkName"] == "unique_id" and evaluation["assetKey"]["path"] == ["demo", "devices"]
    ]
    numbers = {entry["label"]: value(entry) for entry in unique["metadataEntries"]}
    assert numbers["rows_looked_at"] > 300
    assert numbers["rows_at_fault"] == 0


def test_a_check_runs_alone(ask: Ask, demo_run: dict[str, Any]) -> None:
    key = {"path": ["demo", "devices"]}
    run_id = launch(
        ask, "__ASSET_JOB", assetSelection=[], assetCheckSelection=[{"assetKey": key, "name": "not_null_status"}]
    )
    run = wait(ask, run_id)
    assert run["status"] == "SUCCESS"
    (event,) = events(run, "AssetCheckEvaluationEvent")
    assert event["evaluation"]["checkName"] == "not_null_status"
    assert event["evaluation"]["success"]
    assert not events(run, "MaterializationEvent")


def test_without_its_secret_a_run_fails_with_the_variables_name(ask: Ask) -> None:
    run = wait(ask, launch(ask, "sync_locked"))
    assert run["status"] == "FAILURE"
    (failure,) = events(run, "ExecutionStepFailureEvent")
    assert "set the environment variable LOCKED_API_KEY" in json.dumps(failure)
    assert not events(run, "MaterializationEvent")


def test_the_ui_shows_a_connection_without_its_secret_and_a_broken_one(ask: Ask) -> None:
    nodes = ask("{ assetNodes { assetKey { path } description groupName } }")["assetNodes"]
    found = {"/".join(node["assetKey"]["path"]): node for node in nodes}
    assert {"locked/tickets", "torn/broken_connection", "demo/devices"} <= found.keys()
    assert "defs.yaml:1" in found["torn/broken_connection"]["description"]


def test_schedules_are_stopped_by_default(ask: Ask) -> None:
    answer = ask(
        """query($s: RepositorySelector!) { schedulesOrError(repositorySelector: $s) { ... on Schedules { results {
          name cronSchedule executionTimezone scheduleState { status } } } } }""",
        s={"repositoryLocationName": "rmm_assets", "repositoryName": "__repository__"},
    )["schedulesOrError"]["results"]
    found = {one["name"]: one for one in answer}
    assert found["sync_demo_schedule"]["scheduleState"]["status"] == "STOPPED"
    assert found["sync_locked_schedule"]["cronSchedule"] == "0 6 * * *"
    assert found["sync_locked_schedule"]["executionTimezone"] == "Europe/Vienna"
