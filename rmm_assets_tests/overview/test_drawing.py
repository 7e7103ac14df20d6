"""Tests charts as images and as a page: small, reproducible, self-contained, in light and dark mode."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rmm_assets.overview.charts import Agent, Chart, Overview
from rmm_assets.overview.drawing import DARK, LIGHT, draw
from rmm_assets.overview.page import page, write

NAMES = ("東京メディカル株式会社", "Müller & Söhne <GmbH>", "$a$ and $b$", "A name " * 9)
HORIZONTAL = Chart(
    "status_by_organization", "Status by organization", "9 devices", NAMES,
    {"online": (5, 1, 0, 0), "asleep": (0, 2, 0, 1)}, "devices", "horizontal",
)  # fmt: skip
VERTICAL = Chart("patch_age", "Patches", "3 wait", ("new", "old"), {"patches": (1.0, 2.0)}, "patches")
EMPTY = Chart("agents_not_seen", "Agents", note="Not drawn: no <devices> are loaded.")


def test_a_chart_is_well_formed_and_reproducible() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = draw(HORIZONTAL)
    assert svg == draw(HORIZONTAL)
    texts = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert set(NAMES[:3]) <= set(texts)
    assert "A name A name A name A name A nam…" in texts
    assert {"online", "asleep", "devices"} <= set(texts)


def test_a_chart_is_small_and_follows_the_viewers_colour_scheme() -> None:
    bins = tuple(str(number) for number in range(42))
    svg = draw(Chart("alerts", "", "", bins, dict.fromkeys(("critical", "major", "minor"), (3.0,) * 42)))
    assert len(svg) < 45_000  # less than 60 kB as base64
    assert "@media (prefers-color-scheme: dark)" in svg
    assert LIGHT["ground"] in svg and DARK["ground"] in svg and "var(--ink)" in svg
    assert "#fffffe" not in svg and "#010203" not in svg


def test_drawing_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="agents_not_seen has nothing to draw"):
        draw(EMPTY)


def fleet_page() -> str:
    now = datetime(2026, 3, 10, 12, tzinfo=UTC)
    charts = (replace(HORIZONTAL, as_of=now), replace(VERTICAL, as_of=now - timedelta(days=3)), EMPTY)
    silent = (Agent("<b>東京", "Müller & Söhne", now - timedelta(days=9), 9.0), Agent("PC-2", "", now, 1.5))
    overview = Overview("acme", charts, silent)
    return page(overview, {chart.name: draw(chart) for chart in (HORIZONTAL, VERTICAL)})


def test_the_page_says_what_is_not_drawn_and_when_tables_were_loaded() -> None:
    html = fleet_page()
    assert "Last loaded on 10 March 2026, 12:00 UTC." in html
    assert "<p>As of 10 March 2026, 12:00 UTC.</p>" in html
    assert "<p>As of 7 March 2026, 12:00 UTC, 3 days before the newest table.</p>" in html
    assert "<p>Not drawn: no &lt;devices&gt; are loaded.</p>" in html


def test_names_are_only_text_on_the_page() -> None:
    html = fleet_page()
    assert html.count("<svg") == 2 and "<img" not in html
    assert ">東京メディカル株式会社</text>" in html and ">Müller &amp; Söhne &lt;GmbH&gt;</text>" in html
    assert "<td>&lt;b&gt;東京</td><td>Müller &amp; Söhne</td>" in html
    assert "default-src 'none'" in html
    assert not re.search(r"(?:src|href)=|url\(", html)


def test_the_page_is_replaced_atomically(tmp_path: Path) -> None:
    file = tmp_path / "new" / "fleet.html"
    for text in ("first", "second"):
        write(text, file)
        assert file.read_text() == text
    assert [path.name for path in file.parent.iterdir()] == ["fleet.html"]
