"""Reads an endpoint as a run does, up to the rows to load: pager, completeness and spool, without dlt."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmm_assets.http.auth import build_auth
from rmm_assets.http.rate_limit import RateLimit
from rmm_assets.http.redaction import Redactor
from rmm_assets.http.settings import Limits, Retry
from rmm_assets.http.transport import Traffic, Transport
from rmm_assets.reading.completeness import read_complete
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.paginators import paginator_of
from rmm_assets.reading.report import Report
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.spool import Spool
from rmm_assets_tests.http.auths import read_auth

KEY = "demo-key"
QUICK = Retry(backoff_factor=0.001)


@dataclass
class Read:
    """The result of a read."""

    report: Report
    rows: list[dict[str, Any]]
    traffic: Traffic
    spool: Spool


@contextmanager
def pager_to(base_url: str, folder: Path, *, window: int = 8, retry: Retry = QUICK, **more: Any) -> Iterator[Pager]:
    """Returns a pager for a server on loopback, with the simulator's key."""
    redactor = Redactor()
    auth = build_auth(read_auth({"type": "api_key", "name": "api_key", "location": "query"}), KEY, redactor)
    limits = Limits(max_concurrency=window, connect_timeout=5, read_timeout=5, **{"deadline": 60, **more})
    rate_limit = RateLimit(folder / "pace", max_concurrency=window)
    log = logging.getLogger("rmm_assets_tests.reading")
    transport = Transport(
        base_url, auth=auth, redactor=redactor, rate_limit=rate_limit, retry=retry, limits=limits, log=log
    )
    pager = Pager(transport, width=window, most_pages=limits.max_pages)
    try:
        yield pager
    finally:
        pager.close()


def endpoint_of(paginator: Any, **changes: Any) -> Endpoint:
    """Returns `/v1/devices` of the simulator, with `id` as the key."""
    key = changes.pop("key", ("id",))
    given: dict[str, Any] = {"name": "devices", "path": "/v1/devices", "data_selector": "data"}
    return Endpoint(**{**given, "paginator": paginator_of(paginator), "shape": RowShape("devices", key), **changes})


def read(
    base_url: str, folder: Path, endpoint: Endpoint, *, window: int = 8, retry: Retry = QUICK,
    limits: Mapping[str, Any] | None = None, **options: Any,
) -> Read:  # fmt: skip
    """Reads until proven complete.

    Raises:
        IncompleteError, PagingError, TransportError: See `read_complete`.
    """
    with pager_to(base_url, folder, window=window, retry=retry, **(limits or {})) as pager:
        return read_by(pager, folder, endpoint, **options)


def read_by(pager: Pager, folder: Path, endpoint: Endpoint, **options: Any) -> Read:
    """Reads with an existing pager until proven complete."""
    report = Report(endpoint.name)
    spool = Spool(endpoint.shape, folder / "pages")
    read_complete(pager, endpoint, spool, report, unique=bool(endpoint.shape.primary_key), **options)
    rows = [row for _, table in spool.tables() for row in table.to_pylist()]
    return Read(report, rows, pager.transport.traffic, spool)
