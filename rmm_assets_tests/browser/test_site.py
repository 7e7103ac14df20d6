"""Tests the site of the docs: it builds, loads nothing from elsewhere, and its search finds what it should, in a real browser."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from rmm_assets.config import profiles
from rmm_assets_tests.browser.dagster_dev import PROJECT
from rmm_assets_tests.browser.test_browser import CHROMIUM, OPTIONS
from rmm_assets_tests.vendors.dialects import DIALECTS, REAL

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
pytest.importorskip("mkdocs", reason="needs the extra `docs`")
from playwright.sync_api import expect, sync_playwright  # noqa: E402

pytestmark = pytest.mark.slow


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the site without warnings and returns its folder."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(build, cwd=PROJECT, capture_output=True, text=True, timeout=900, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_builds_without_warnings_and_loads_nothing_from_other_hosts(site: Path) -> None:
    assert (site / "search" / "search_index.json").exists()
    elsewhere = r"=\"?(?:https?:)?//"
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.findall(rf"<(?:script|img|iframe)[^>]+src{elsewhere}", html), page.name
        assert not re.findall(rf"<link[^>]+rel=\"?(?:stylesheet|preconnect)\"?[^>]+href{elsewhere}", html), page.name


def test_each_vendor_has_a_page_in_the_navigation(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    for name in (*DIALECTS, *REAL):
        page = site / "reference" / "profiles" / f"{name}.html"
        assert profiles.profile_named(name).vendor in page.read_text(encoding="utf-8")
        assert f"reference/profiles/{name}.html" in home


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium; .ci/run installs it with apt-get")
def test_the_search_finds_a_generated_key_and_a_how_to(site: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = browser.new_page()
        page.route(lambda asked: not asked.startswith((address, "data:")), lambda route: route.abort())
        for words, found in (("max_absent_share", "connection-file.html"), ("webhook", "how-to/alerts.html")):
            page.goto(f"{address}/index.html")
            box = page.get_by_placeholder("Search")
            box.click()
            # Until its index is loaded, the search shows something else. It searches on keyup, so the words are typed,
            # because `fill` does not press keys.
            expect(page.get_by_text("Type to start searching")).to_be_attached(timeout=120_000)
            box.press_sequentially(words)
            link = page.locator(f"a.md-search-result__link[href*='{found}']").first
            expect(link).to_be_visible(timeout=120_000)
        browser.close()
    server.shutdown()
    server.server_close()
