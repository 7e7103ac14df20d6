"""Tests the page of a fleet in a real browser: contrast in light and dark mode, overlaps, and sorting.

If `RMM_PICTURES` names a folder, the tests also write screenshots there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import pytest
from PIL import Image

from rmm_assets.orchestration.assets import build_connection_defs
from rmm_assets.simulator import Fleet, Simulator
from rmm_assets_tests.browser.test_browser import CHROMIUM, OPTIONS
from rmm_assets_tests.orchestration import bench

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
from playwright.sync_api import Browser, sync_playwright  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium; .ci/run installs it with apt-get"),
]
Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Returns the page of a whole fleet, drawn by the connection's job."""
    folder = tmp_path_factory.mktemp("fleet")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.chdir(folder)
        patch.setenv("ACME_API_KEY", bench.KEY)
        fleet = Fleet()
        with Simulator(fleet=fleet, tick=fleet.tick_at(datetime.now(UTC)), api_key=bench.KEY) as rmm:
            resources = ["organizations", "devices", "alerts", "patches"]
            target = bench.connection(
                rmm.base_url, [{"name": name, "endpoint": {"path": f"/v1/{name}"}} for name in resources]
            )
            assert bench.run(build_connection_defs(target), "sync_acme", instance).success
        yield folder / "data" / "acme_fleet.html"


def luminance(colour: tuple[int, ...]) -> float:
    """Returns the relative luminance as defined by WCAG 2."""
    parts = [value / 255 for value in colour[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def colour(css: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", css)[:3])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_in_light_and_in_dark(browser: Browser, page: Path, scheme: Scheme) -> None:
    asked: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 880}, color_scheme=scheme)
    tab = context.new_page()
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())

    assert tab.locator("figure svg").count() == 4
    assert asked == [page.as_uri()]
    # Nothing overflows, on a desktop or on a phone.
    for width in (1280, 400):
        tab.set_viewport_size({"width": width, "height": 1000})
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
    tab.set_viewport_size({"width": 1280, "height": 880})

    style = "element => [getComputedStyle(element).color, getComputedStyle(element.closest('figure, body')).backgroundColor]"
    for words in tab.locator("h1, h2, p").all():
        ink, ground = words.evaluate(style)
        assert contrast(colour(ink), colour(ground)) >= 4.5, words.inner_text()
    for figure in tab.locator("figure:has(svg)").all():
        ground = colour(figure.evaluate("element => getComputedStyle(element).backgroundColor"))
        assert (luminance(ground) > 0.8) is (scheme == "light")
        seen = Image.open(BytesIO(figure.locator("svg").screenshot())).convert("RGB")
        colours: Any = seen.getcolors(1 << 24) or []
        counted = sorted(((number, found) for number, found in colours), reverse=True)
        # The chart has the page's background, and something contrasts with it.
        assert counted[0][1] == ground
        drawn = sum(number for number, found in counted if contrast(found, ground) >= 3)
        assert drawn > 0.02 * seen.width * seen.height
    if folder := os.environ.get("RMM_PICTURES"):
        tab.set_viewport_size({"width": 1280, "height": 1240})
        tab.screenshot(path=Path(folder) / f"fleet_page_{scheme}.png")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_in_a_chart_do_not_overlap_and_are_readable(
    browser: Browser, page: Path, tmp_path: Path, scheme: Scheme
) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(pictures) == 4
    context = browser.new_context(color_scheme=scheme)
    tab = context.new_page()
    for number, picture in enumerate(pictures):
        (tmp_path / f"{number}.svg").write_text(picture, encoding="utf-8")
        tab.goto((tmp_path / f"{number}.svg").as_uri())
        words: list[dict[str, Any]] = tab.evaluate(
            """() => [...document.querySelectorAll('text')].map(text => {
                const box = text.getBoundingClientRect()
                return {text: text.textContent, left: box.left, right: box.right, top: box.top, bottom: box.bottom,
                        ink: getComputedStyle(text).fill}
            })"""
        )
        frame = tab.evaluate(
            "(({right, bottom}) => ({right, bottom}))(document.querySelector('svg').getBoundingClientRect())"
        )
        # The background is drawn first.
        ground = colour(tab.evaluate("getComputedStyle(document.querySelector('path, rect')).fill"))
        assert len(words) > 5
        for one, other in combinations(words, 2):
            apart = (
                one["right"] <= other["left"] + 1 or other["right"] <= one["left"] + 1
                or one["bottom"] <= other["top"] + 4 or other["bottom"] <= one["top"] + 4
            )  # fmt: skip
            assert apart, (one["text"], other["text"])
        for one in words:
            assert contrast(colour(one["ink"]), ground) >= 4.5, one
            assert one["left"] >= 0 and one["top"] >= 0, one
            assert one["right"] <= frame["right"] and one["bottom"] <= frame["bottom"], (one, frame)
    context.close()


def test_the_list_of_agents_is_sorted_by_a_click(browser: Browser, page: Path) -> None:
    errors: list[str] = []
    tab = browser.new_page()
    tab.on("console", lambda message: errors.append(message.text))
    tab.goto(page.as_uri())
    days = tab.locator("#agents tbody td:last-child")
    longest = [float(text.replace(",", "")) for text in days.all_inner_texts()]
    assert len(longest) > 12 and longest == sorted(longest, reverse=True)
    tab.get_by_role("button", name="days").click()
    assert [float(text.replace(",", "")) for text in days.all_inner_texts()] == sorted(longest)
    tab.get_by_role("button", name="agent").click()
    names = tab.locator("#agents tbody td:first-child").all_inner_texts()
    assert names == sorted(names) and len(names) == len(longest)
    tab.get_by_role("button", name="last seen").click()
    assert [float(text.replace(",", "")) for text in days.all_inner_texts()] == sorted(longest, reverse=True)
    assert not errors
    tab.close()
