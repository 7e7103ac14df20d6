"""Charts as pictures and as a page: small, the same each time, in need of nothing, for light and for dark."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rmm_assets.overview.charts import Chart, Overview
from rmm_assets.overview.drawing import DARK, LIGHT, draw
from rmm_assets.overview.page import page, write

CHROMIUM = Path("/usr/bin/chromium")
NAMES = ("東京メディカル株式会社", "Müller & Söhne <GmbH>", "$a$ and $b$", "A name " * 9)
HORIZONTAL = Chart(
    "status_by_organization", "Status by organization", "9 devices", NAMES,
    {"online": (5, 1, 0, 0), "asleep": (0, 2, 0, 1)}, "devices", "horizontal",
)  # fmt: skip
VERTICAL = Chart("patch_age", "Patches", "3 wait", ("new", "old"), {"patches": (1.0, 2.0)}, "patches")
EMPTY = Chart("agents_not_seen", "Agents", note="Not drawn: no <devices> are loaded.")


def test_a_picture_is_well_formed_and_the_same_each_time() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = draw(HORIZONTAL)
    assert svg == draw(HORIZONTAL)
    texts = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert set(NAMES[:3]) <= set(texts)
    assert "A name A name A name A name A nam…" in texts
    assert {"online", "asleep", "devices"} <= set(texts)


def test_a_picture_is_small_and_follows_the_readers_colours() -> None:
    bins = tuple(str(number) for number in range(42))
    svg = draw(Chart("alerts", "", "", bins, dict.fromkeys(("critical", "major", "minor"), (3.0,) * 42)))
    assert len(svg) < 45_000  # as base64 below 60 kB
    assert "@media (prefers-color-scheme: dark)" in svg
    assert LIGHT["ground"] in svg and DARK["ground"] in svg and "var(--ink)" in svg
    assert "#fffffe" not in svg and "#010203" not in svg


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="agents_not_seen has nothing to draw"):
        draw(EMPTY)


def fleet_page() -> str:
    overview = Overview("acme", datetime(2026, 3, 10, 12, tzinfo=UTC), (HORIZONTAL, VERTICAL, EMPTY))
    return page(overview, {chart.name: draw(chart) for chart in (HORIZONTAL, VERTICAL)})


def test_the_page_says_what_is_not_drawn_and_when_it_was_loaded() -> None:
    html = fleet_page()
    assert "As loaded on 10 March 2026, 12:00 UTC." in html
    assert "<p>Not drawn: no &lt;devices&gt; are loaded.</p>" in html


def test_the_page_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "new" / "fleet.html"
    for text in ("first", "second"):
        write(text, file)
        assert file.read_text() == text
    assert [path.name for path in file.parent.iterdir()] == ["fleet.html"]


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium; .ci/run installs it with apt-get")
def test_a_browser_shows_every_picture_in_light_and_dark_and_asks_nobody(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
    write(fleet_page(), tmp_path / "fleet.html")
    seen = {}
    with playwright.sync_playwright() as driver:
        options = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
        ]
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=options)
        for scheme in ("light", "dark"):
            shown = browser.new_page(color_scheme=scheme)
            asked: list[str] = []
            shown.on("request", lambda request, asked=asked: asked.append(request.url))
            shown.goto((tmp_path / "fleet.html").as_uri())
            assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "fleet.html").as_uri()]
            widths = shown.evaluate("[...document.images].map(image => image.naturalWidth)")
            assert len(widths) == 2 and min(widths) > 500
            assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
            # The picture itself, not only the page around it: the colour in its corner.
            image = shown.locator("img").first.screenshot()
            seen[scheme] = shown.evaluate(
                """async bytes => {
                  const bitmap = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
                  const canvas = new OffscreenCanvas(1, 1), context = canvas.getContext("2d");
                  context.drawImage(bitmap, -2, -2);
                  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
                }""",
                list(image),
            )
        browser.close()
    for scheme, colours in (("light", LIGHT), ("dark", DARK)):
        assert seen[scheme] == list(bytes.fromhex(colours["ground"][1:]))
