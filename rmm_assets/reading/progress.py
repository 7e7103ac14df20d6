"""Logs the progress of a read every few seconds: rows so far, speed, time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

EVERY_SECONDS = 5.0


class Progress:
    """Reports on one pass over an endpoint.

    Args:
        name: The resource.
        log: Receives the lines.
        retries: Returns the number of retries so far.
        every: Seconds between two lines.
    """

    def __init__(
        self, name: str, log: logging.Logger, retries: Callable[[], int], *, every: float = EVERY_SECONDS
    ) -> None:
        self._name = name
        self._log = log
        self._retries = retries
        self._every = every
        self._started = self._told = time.monotonic()
        self._rows = self._pages = 0

    def page(self, rows: int, total: int | None) -> None:
        """Records a page.

        Args:
            rows: Number of rows on this page.
            total: Number of rows on all pages, if the API states it.
        """
        self._rows += rows
        self._pages += 1
        now = time.monotonic()
        if now - self._told >= self._every:
            self._told = now
            self._log.info(self._line(now - self._started, total))

    def _line(self, seconds: float, total: int | None) -> str:
        speed = self._rows / seconds
        retries = self._retries()
        if total:
            share = min(self._rows / total, 1.0)
            pages = round(self._pages / share) if share else 0
            left = max(total - self._rows, 0) / speed if speed else 0.0
            parts = [
                f"{self._rows:,} of {total:,} rows ({share * 100:.0f} %)",
                f"{self._pages:,} of {pages:,} pages",
                f"{speed:,.0f} rows/s",
                f"about {left:.0f} s left",
            ]
        else:
            parts = [f"{self._rows:,} rows", f"{self._pages:,} pages", f"{speed:,.0f} rows/s"]
        parts += [f"{retries} {'retry' if retries == 1 else 'retries'}"] if retries else []
        return f"{self._name} {', '.join(parts)}"
