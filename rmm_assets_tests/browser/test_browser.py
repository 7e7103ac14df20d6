"""Tests one real `dagster dev`: through GraphQL, and what a user sees and clicks in a browser.

If `RMM_PICTURES` names a folder, the tests also write the screenshots of README and docs there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from rmm_assets.simulator import Faults, Simulator
from rmm_assets_tests.browser.dagster_dev import PROJECT, dagster_dev

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
from playwright.sync_api import Locator, Page, ViewportSize, expect, sync_playwright  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")
OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
RUN_WITHIN = 600_000.0  # milliseconds: a run is queued, gets a process, and imports modules before it does anything
PAGE_WITHIN = 120_000.0
WINDOW: ViewportSize = {"width": 1280, "height": 860}
WHOLE_GRAPH: ViewportSize = {"width": 1280, "height": 1110}

pytestmark = pytest.mark.slow

# An API that lies in a different way for each resource.
ACME = """\
type: rmm_assets.RmmConnection
attributes:
  name: acme
  client:
    base_url: {base_url}
    auth: {{type: api_key, name: X-API-KEY, location: header}}
    paginator: {{type: offset, limit: 100}}
  api_key: {{env: ACME_API_KEY}}
  retry: {{backoff_factor: 0.1}}
  resource_defaults:
    primary_key: id
    write_disposition: merge
    endpoint: {{data_selector: data}}
  resources:
    - {{name: devices, endpoint: {{path: /v1/devices}}}}
    - {{name: alerts, endpoint: {{path: /v1/alerts}}}}
    - {{name: patches, endpoint: {{path: /v1/patches}}}}
"""
LIES = [
    Faults(resource="devices", total_off=15),
    Faults(resource="alerts", status=500),
    Faults(resource="patches", truncated=True),
]

CONTOSO = """\
type: rmm_assets.RmmConnection
attributes:
  name: contoso
  client:
    base_url: https://rmm.contoso.example
    auth: bearer
    paginater: {type: offset, limit: 100}
  api_key: {env: CONTOSO_API_KEY}
  resources: [devices]
"""


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


@dataclass(frozen=True)
class Ui:
    """Drives Dagster's UI in a browser."""

    page: Page
    url: str

    def open(self, path: str) -> Page:
        """Opens a path, such as `/assets/demo/devices`."""
        self.page.goto(self.url + path)
        return self.page

    def materialize(self, asset: str) -> Page:
        """Clicks an asset's Materialize button and opens the run that it started."""
        page = self.open(f"/assets/{asset}")
        # An icon's name precedes the word.
        page.get_by_role("button", name=re.compile(r"\bMaterialize$")).click()
        return self.follow_run()

    def follow_run(self) -> Page:
        """Opens the run from the notification that it was launched."""
        self.page.get_by_text("View", exact=True).click()
        self.page.wait_for_url(re.compile("/runs/"))
        return self.page


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, forked: Path) -> Iterator[str]:
    """Yields the URL of a `dagster dev` with the demo, connections whose API lies or whose secret is missing, and broken files."""
    folder = tmp_path_factory.mktemp("browser")
    with Simulator(faults=LIES) as api:
        files = {"acme": ACME.format(base_url=api.base_url), "contoso": CONTOSO, "locked": LOCKED, "torn": "type: ["}
        # Inside the working directory of `dagster dev`, so that messages show paths as a user would see them.
        for name, text in files.items():
            (folder / "connections" / name).mkdir(parents=True)
            (folder / "connections" / name / "defs.yaml").write_text(text, encoding="utf-8")
        connections = [PROJECT / "rmm_assets" / "defs", folder / "connections"]
        with dagster_dev(folder, connections, forked) as address:
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
    until = time.monotonic() + RUN_WITHIN / 1000
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


@pytest.fixture(scope="module")
def ui(url: str) -> Iterator[Ui]:
    """Yields a browser that can only reach the UI."""
    if not CHROMIUM.exists():
        pytest.skip("needs Debian's chromium; .ci/run installs it with apt-get")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        context = browser.new_context(viewport=WINDOW, locale="en-GB", timezone_id="UTC", color_scheme="light")
        context.set_default_timeout(PAGE_WITHIN)
        expect.set_options(timeout=PAGE_WITHIN)
        context.route(lambda asked: not asked.startswith((url, "data:", "blob:")), lambda route: route.abort())
        yield Ui(context.new_page(), url)
        browser.close()


Picture = Callable[[str], None]


@pytest.fixture
def picture(ui: Ui) -> Picture:
    """Saves a screenshot under a name, if screenshots were requested."""

    def take(name: str) -> None:
        if folder := os.environ.get("RMM_PICTURES"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            ui.page.wait_for_timeout(1000)  # plots and graphs are animated
            ui.page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")

    return take


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
    # The fleet changes with the clock. Each page of 100 begins with the last row of the one before, and the last one is not full.
    assert entries["pages"] == -(-entries["rows_loaded"] // 99)
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


def test_devices_are_materialized_by_a_click(ui: Ui) -> None:
    run = ui.materialize("demo/devices")

    expect(run.get_by_text("Success", exact=True).first).to_be_visible(timeout=RUN_WITHIN)
    # The log only shows the lines that fit; the asset's page shows the result of the run.
    page = ui.open("/assets/demo/devices?view=events")
    expect(page.get_by_text(re.compile("as many distinct rows as the stated total of")).first).to_be_attached()


def test_the_graph_shows_every_connection_and_is_green(ui: Ui, picture: Picture, demo_run: dict[str, Any]) -> None:
    page = ui.open("/asset-groups")
    for connection in ("demo", "acme", "contoso"):
        expect(page.get_by_text(connection, exact=True).first).to_be_visible()

    page.set_viewport_size(WHOLE_GRAPH)
    page = ui.open("/locations/rmm_assets/asset-groups/demo")
    for asset in ("organizations", "devices", "alerts", "patches", "fleet_overview"):
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()
    expect(page.get_by_text("Materialized", exact=True)).to_have_count(5)
    for passed in page.get_by_text(re.compile(r"^\d+ / \d+ Passed$")).all():
        text = passed.inner_text().split()
        assert text[0] == text[2], "every check passed"
    picture("asset_graph")
    page.set_viewport_size(WINDOW)


def test_a_green_asset_shows_rows_columns_numbers_and_checks(ui: Ui, picture: Picture) -> None:
    page = ui.open("/assets/demo/devices")
    expect(page.get_by_text("Row count", exact=True)).to_be_visible()
    expect(page.get_by_text("Host name.")).to_be_attached()
    expect(page.get_by_text("service-desk", exact=True)).to_be_attached()
    expect(page.get_by_text("inventory").first).to_be_attached()
    line = (PROJECT / "rmm_assets/defs/demo/defs.yaml").read_text().splitlines().index("    - name: devices") + 1
    expect(page.get_by_role("link", name=re.compile("defs.yaml in editor"))).to_have_attribute(
        "href", re.compile(rf"/rmm_assets/defs/demo/defs\.yaml:{line}$")
    )
    picture("devices")

    page = ui.open("/assets/demo/devices?view=events")
    page.get_by_text("Materialized in run").first.wait_for()
    for key in ("dagster/row_count", "rows_loaded", "pages", "requests", "retries", "complete", "load_id"):
        expect(page.get_by_text(key, exact=True).first).to_be_attached()
    expect(page.get_by_text(re.compile("as many distinct rows as the stated total of")).first).to_be_attached()
    expect(page.get_by_text("preview", exact=True).first).to_be_attached()
    picture("devices_run")

    preview = _preview(page)
    expect(preview.locator("tbody tr")).to_have_count(10)
    for column in ("id", "name", "status"):
        expect(preview.get_by_text(column, exact=True).first).to_be_visible()
    preview.locator("thead").evaluate("head => head.scrollIntoView()")
    picture("devices_preview")

    preview = _preview(ui.open("/assets/demo/organizations?view=events"))
    masked = preview.get_by_text("***", exact=True)
    expect(masked.first).to_be_attached()
    assert masked.count() >= 10, "e-mail addresses and phone numbers are sensitive"
    expect(preview.get_by_text("@")).to_have_count(0)

    page = ui.open("/assets/demo/devices?view=checks")
    for check in ("complete", "unique_id", "not_null_status", "accepted_values_status"):
        expect(page.get_by_text(check, exact=True).first).to_be_visible()
    expect(page.get_by_text("Failed", exact=True)).to_have_count(0)
    picture("devices_checks")


def _preview(page: Page) -> Locator:
    """Returns the table in the metadata entry of this name."""
    name = page.get_by_text("preview", exact=True).first
    name.wait_for()
    return name.locator("xpath=ancestor::tr").locator("table")


def test_row_counts_are_plotted_over_time(ui: Ui, picture: Picture) -> None:
    page = ui.open("/assets/demo/devices")
    page.get_by_role("button", name="Plots").click()

    expect(page.get_by_text("dagster/row_count", exact=True).first).to_be_attached()
    expect(page.locator("canvas").first).to_be_attached()
    page.get_by_text("dagster/row_count", exact=True).first.scroll_into_view_if_needed()
    picture("devices_plots")


def test_a_check_can_be_run_alone(ui: Ui) -> None:
    page = ui.open("/assets/demo/devices?view=checks")
    page.get_by_text("not_null_status", exact=True).first.click()
    page.get_by_role("button", name=re.compile("Execute$")).click()

    run = ui.follow_run()
    expect(run.get_by_text("Success", exact=True).first).to_be_visible(timeout=RUN_WITHIN)
    expect(run.get_by_text("ASSET_CHECK_EVALUATION", exact=True)).to_have_count(1)
    expect(run.get_by_text("ASSET_MATERIALIZATION", exact=True)).to_have_count(0)


WHY = {
    "devices": "the API reports 415 rows; 400 distinct rows were received",
    "alerts": "HTTP 500",
    "patches": "patches page 1 (offset 0): HTTP 200, application/json",
}


def test_a_failed_run_of_a_whole_group_shows_why(ui: Ui, picture: Picture) -> None:
    page = ui.open("/locations/rmm_assets/asset-groups/acme")
    page.get_by_role("button", name=re.compile("Materialize all$")).click()
    run = ui.follow_run()
    expect(run.get_by_text("Failure", exact=True).first).to_be_visible(timeout=RUN_WITHIN)
    run.get_by_placeholder("Filter").fill("type:ASSET_CHECK_EVALUATION")
    for sentence in WHY.values():
        expect(run.get_by_text(sentence).first).to_be_visible()
    run.reload()  # the notification that a run was launched covers the corner
    run.get_by_text(WHY["devices"]).first.wait_for()
    picture("red_run")
    for resource, sentence in WHY.items():
        page = ui.open(f"/assets/acme/{resource}?view=checks")
        page.get_by_text("complete", exact=True).first.click()
        expect(page.get_by_text(sentence).first).to_be_visible()


def test_a_broken_connection_shows_its_error_with_file_and_line(ui: Ui, picture: Picture) -> None:
    page = ui.open("/assets/contoso/broken_connection")

    expect(page.get_by_text("contoso/defs.yaml:7: attributes.client.paginater").first).to_be_visible()
    expect(page.get_by_text("did you mean").first).to_be_visible()
    picture("broken_connection")
