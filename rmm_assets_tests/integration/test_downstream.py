"""Tests `examples/downstream` next to our own code location in a real `dagster dev`: when it reacts to loads and when not.

The last step fails on purpose, to test an alert sensor in the same daemon.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import duckdb
import pytest

from rmm_assets.simulator import Fleet, Simulator
from rmm_assets_tests.browser.dagster_dev import PROJECT, dagster_dev
from rmm_assets_tests.orchestration.receiver import Receiver

pytestmark = pytest.mark.slow

DEMO = """\
type: rmm_assets.RmmConnection
attributes:
  name: demo
  client:
    base_url: {base_url}
    auth: {{type: api_key, name: X-API-KEY, location: header}}
  api_key: {{env: ACME_API_KEY}}
  resource_defaults:
    primary_key: id
    write_disposition: merge
    endpoint: {{data_selector: data, paginator: {{type: offset, limit: 100}}}}
  resources: [{{name: devices, endpoint: {{path: /v1/devices}}}}]
"""
WITHIN = 600.0  # seconds for one event, on a machine that is busy with other tests
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}


class Dagster:
    """A client of a `dagster dev`, through GraphQL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = Request(f"{self.url}/graphql", data=body, headers={"Content-Type": "application/json"})
        with urlopen(request, timeout=300) as answer:
            told = json.load(answer)
        assert "errors" not in told, told
        return told["data"]

    def switch_on(self, sensor: str, location: str) -> None:
        told = self.ask(
            "mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) { __typename } }",
            selector=_selector(location) | {"sensorName": sensor},
        )
        assert told["startSensor"]["__typename"] == "Sensor"

    def ticks(self, sensor: str, location: str) -> list[dict[str, Any]]:
        """Returns a sensor's ticks, newest first."""
        told = self.ask(
            "query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor {"
            " sensorState { ticks(limit: 20) { tickId status skipReason } } } } }",
            selector=_selector(location) | {"sensorName": sensor},
        )
        return list(told["sensorOrError"]["sensorState"]["ticks"])

    def load_devices(self) -> str:
        """Materializes `demo/devices` with its checks; returns the run's final status."""
        return self._run(_selector("rmm_assets") | {"pipelineName": "sync_demo"})

    def report_devices(self) -> str:
        """Materializes only `device_report`; returns the run's final status."""
        asset = {"assetSelection": [{"path": ["device_report"]}], "pipelineName": "__ASSET_JOB"}
        return self._run(_selector("downstream") | asset)

    def _run(self, selector: dict[str, Any]) -> str:
        told = self.ask(
            "mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {"
            " __typename ... on LaunchRunSuccess { run { runId } } } }",
            params={"selector": selector, "mode": "default"},
        )
        run = told["launchPipelineExecution"]["run"]["runId"]
        query = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        ended: str = until(
            lambda: status if (status := self.ask(query, id=run)["runOrError"]["status"]) in ENDED else None
        )
        return ended

    def runs(self, job: str | None = None) -> list[dict[str, Any]]:
        told = self.ask(
            "query ($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs { results {"
            " status tags { key value } assetSelection { path } } } } }",
            filter={"pipelineName": job} if job else {},
        )
        return list(told["runsOrError"]["results"])

    def runs_of(self, asset: str) -> int:
        """Returns how many runs were started for an asset."""
        return sum({"path": [asset]} in (run["assetSelection"] or []) for run in self.runs())

    def settle(self) -> None:
        """Waits until the sensors have seen everything so far, and the end of the runs that they started.

        `eager()` misses a load before it has seen the end of its own run.
        """
        sensors, known = ("devices_changed", "downstream_automation"), -1
        while (ended := self._ended_runs()) != known:
            known = ended
            before = [{tick["tickId"] for tick in self.ticks(sensor, "downstream")} for sensor in sensors]
            for sensor, seen in zip(sensors, before, strict=True):
                until(partial(self._ticks_since, sensor, seen))

    def _ended_runs(self) -> int:
        """Waits until no run is in progress, and returns how many there were."""
        until(lambda: all(run["status"] in ENDED for run in self.runs()))
        return len(self.runs())

    def _ended_ticks(self, sensor: str) -> set[str]:
        return {tick["tickId"] for tick in self.ticks(sensor, "downstream") if tick["status"] != "STARTED"}

    def _ticks_since(self, sensor: str, seen: set[str]) -> set[str]:
        return self._ended_ticks(sensor) - seen

    def materializations(self, *key: str) -> list[dict[str, Any]]:
        """Returns the metadata of an asset's materializations, newest first."""
        told = self.ask(
            "query ($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {"
            " assetMaterializations(limit: 20) { metadataEntries { label"
            " ... on IntMetadataEntry { intValue } ... on TextMetadataEntry { text } } } } } }",
            key={"path": list(key)},
        )
        return [
            {entry["label"]: entry.get("intValue", entry.get("text")) for entry in event["metadataEntries"]}
            for event in told["assetOrError"].get("assetMaterializations", [])
        ]


def _selector(location: str) -> dict[str, str]:
    return {"repositoryLocationName": location, "repositoryName": "__repository__"}


def until(happens: Callable[[], Any]) -> Any:
    """Calls a function until it returns something, and returns that.

    Raises:
        TimeoutError: It did not within `WITHIN` seconds.
    """
    end = time.monotonic() + WITHIN
    while time.monotonic() < end:
        if answer := happens():
            return answer
        time.sleep(0.3)
    raise TimeoutError


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as listening:
        yield listening


@pytest.fixture(scope="module")
def dagster(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver, forked: Path
) -> Iterator[tuple[Dagster, Path]]:
    folder = tmp_path_factory.mktemp("downstream")
    with Simulator(fleet=Fleet(devices=120)) as rmm:
        (folder / "connections" / "demo").mkdir(parents=True)
        (folder / "connections" / "demo" / "defs.yaml").write_text(DEMO.format(base_url=rmm.base_url))
        more = {"RMM_ALERT_WEBHOOK": receiver.url}
        example = shutil.copytree(PROJECT / "examples" / "downstream", folder / "downstream")
        code = (example / "definitions.py").read_text()
        assert code.count("minimum_interval_seconds=10") == 2
        # The test waits for about twenty ticks of the sensors.
        (example / "definitions.py").write_text(
            code.replace("minimum_interval_seconds=10", "minimum_interval_seconds=1")
        )
        connections = [folder / "connections"]
        with dagster_dev(folder, connections, forked, example=example / "workspace.yaml", more=more) as url:
            yield Dagster(url), folder / "data" / "rmm.duckdb"


def test_downstream_runs_if_rows_changed_but_not_if_none_did_or_a_blocking_check_failed(
    dagster: tuple[Dagster, Path], receiver: Receiver
) -> None:
    here, database = dagster
    for sensor in ("devices_changed", "downstream_automation"):
        here.switch_on(sensor, "downstream")
    until(lambda: here.ticks("run_failures", "rmm_assets"))  # on by default, because the webhook is set
    assert (
        here.report_devices() == "FAILURE"
    )  # nothing is loaded yet, and our webhook does not report other code locations

    # Rows are new: everything downstream runs.
    assert here.load_devices() == "SUCCESS"
    here.settle()
    (load,) = here.materializations("demo", "devices")
    (run,) = here.runs("inventory")
    assert run["status"] == "SUCCESS" and {"key": "load_id", "value": load["load_id"]} in run["tags"]
    assert here.materializations("device_report")[0]["devices"] == 120
    assert here.materializations("licence_bill")[0]["licences"] == 120

    # Nothing changed: the sensor says so and starts nothing, and the assets that run after every load run. `test_example.py`
    # has loads that end during these runs.
    assert here.load_devices() == "SUCCESS"
    load = here.materializations("demo", "devices")[0]
    until(lambda: here.materializations("licence_bill")[0]["load_id"] == load["load_id"])
    here.settle()
    assert "nothing changed" in str([tick["skipReason"] for tick in here.ticks("devices_changed", "downstream")])
    assert len(here.runs("inventory")) == 1
    reports, bills = here.materializations("device_report"), here.materializations("licence_bill")
    assert len(reports) > 1

    # The check of the primary key fails, and it blocks: the bill waits, the report does not.
    with duckdb.connect(str(database)) as db:
        row = "SELECT * REPLACE (999999 AS id, now() AS _absent_since) FROM demo.devices LIMIT 1"
        db.execute(f"INSERT INTO demo.devices {row}; INSERT INTO demo.devices {row}")
    assert here.load_devices() == "FAILURE"
    here.settle()
    assert len(here.materializations("device_report")) > len(reports)
    assert len(here.materializations("licence_bill")) == len(bills)

    (told,) = until(lambda: receiver.texts)
    assert "demo/devices failed: " in told
    assert "demo/devices: check unique_id failed: 2 of 122 rows are at fault" in told

    # The check passes again: the bill runs.
    with duckdb.connect(str(database)) as db:
        db.execute("DELETE FROM demo.devices WHERE id = 999999")
    assert here.load_devices() == "SUCCESS"
    until(lambda: len(here.materializations("licence_bill")) > len(bills))
    assert len(here.runs("inventory")) == 1
