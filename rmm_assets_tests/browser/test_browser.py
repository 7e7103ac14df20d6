"""Tests what a user sees and clicks in Dagster's UI, in a real browser.

If `RMM_PICTURES` names a folder, the tests also write the screenshots of README and docs there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium; .ci/run installs it with apt-get"),
]

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
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yields the URL of a `dagster dev` with the demo, a connection whose API lies, and one whose file is broken."""
    folder = tmp_path_factory.mktemp("browser")
    with Simulator(faults=LIES) as api:
        # Inside the working directory of `dagster dev`, so that messages show paths as a user would see them.
        for name, text in (("acme", ACME.format(base_url=api.base_url)), ("contoso", CONTOSO)):
            (folder / "connections" / name).mkdir(parents=True)
            (folder / "connections" / name / "defs.yaml").write_text(text, encoding="utf-8")
        connections = [PROJECT / "rmm_assets" / "defs", folder / "connections"]
        with dagster_dev(folder, connections) as address:
            yield address


@pytest.fixture(scope="module")
def ui(url: str) -> Iterator[Ui]:
    """Yields a browser that can only reach the UI."""
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


def test_devices_are_materialized_by_a_click(ui: Ui) -> None:
    run = ui.materialize("demo/devices")

    expect(run.get_by_text("Success", exact=True).first).to_be_visible(timeout=RUN_WITHIN)
    # The log only shows the lines that fit; the asset's page shows the result of the run.
    page = ui.open("/assets/demo/devices?view=events")
    expect(page.get_by_text(re.compile("as many distinct rows as the stated total of")).first).to_be_attached()


def test_the_graph_shows_every_connection_and_turns_green(ui: Ui, picture: Picture) -> None:
    page = ui.open("/asset-groups")
    for connection in ("demo", "acme", "contoso"):
        expect(page.get_by_text(connection, exact=True).first).to_be_visible()

    page = ui.open("/locations/rmm_assets/asset-groups/demo")
    page.get_by_role("button", name=re.compile("Materialize all$")).click()
    expect(ui.follow_run().get_by_text("Success", exact=True).first).to_be_visible(timeout=RUN_WITHIN)

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


@pytest.mark.parametrize(
    ("resource", "sentence"),
    [
        ("devices", "the API reports 415 rows; 400 distinct rows were received"),
        ("alerts", "HTTP 500"),
        ("patches", "patches page 1 (offset 0): HTTP 200, application/json"),
    ],
)
def test_a_failed_run_shows_why(ui: Ui, picture: Picture, resource: str, sentence: str) -> None:
    run = ui.materialize(f"acme/{resource}")

    expect(run.get_by_text("Failure", exact=True).first).to_be_visible(timeout=RUN_WITHIN)
    run.get_by_placeholder("Filter").fill("type:ASSET_CHECK_EVALUATION")
    expect(run.get_by_text(sentence).first).to_be_visible()
    if resource == "devices":
        run.reload()  # the notification that a run was launched covers the corner
        run.get_by_text(sentence).first.wait_for()
        picture("red_run")
    page = ui.open(f"/assets/acme/{resource}?view=checks")
    page.get_by_text("complete", exact=True).first.click()
    expect(page.get_by_text(sentence).first).to_be_visible()


def test_a_broken_connection_shows_its_error_with_file_and_line(ui: Ui, picture: Picture) -> None:
    page = ui.open("/assets/contoso/broken_connection")

    expect(page.get_by_text("contoso/defs.yaml:7: attributes.client.paginater").first).to_be_visible()
    expect(page.get_by_text("did you mean").first).to_be_visible()
    picture("broken_connection")
