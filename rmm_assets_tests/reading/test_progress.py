"""Tests that the progress of a read is logged every few seconds."""

from __future__ import annotations

import logging
import time

import pytest

from rmm_assets.reading.progress import Progress


def test_a_line_shows_progress_speed_and_remaining_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "told")
    progress = Progress("devices", logging.getLogger("told"), lambda: 2, every=0.0)
    progress._started = time.monotonic() - 10
    progress.page(34_500, 100_000)

    [line] = caplog.messages
    assert line.startswith("devices 34,500 of 100,000 rows (34 %), 1 of 3 pages, 3,4")
    assert line.endswith("rows/s, about 19 s left, 2 retries")


def test_without_a_total_it_shows_the_rows_received(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "told")
    progress = Progress("alerts", logging.getLogger("told"), lambda: 0, every=0.0)
    progress._started = time.monotonic() - 10
    progress.page(100, None)

    assert caplog.messages == ["alerts 100 rows, 1 pages, 10 rows/s"]


def test_pages_between_two_lines_are_not_logged_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "told")
    progress = Progress("devices", logging.getLogger("told"), lambda: 0, every=3600.0)
    for _ in range(50):
        progress.page(100, 5000)

    assert caplog.messages == []
