"""Tests that this project's own keys about the end of an endpoint take effect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rmm_assets.errors import IncompleteError, PagingError, TransportError
from rmm_assets.reading.report import Evidence
from rmm_assets_tests.audit.auditing import audited
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import connection, devices, resource, rows_of, run

pytestmark = pytest.mark.slow

SINGLE: dict[str, Any] = {"paginator": "single_page"}


def test_total_header_is_evidence(tmp_path: Path) -> None:
    made = connection(resource(endpoint={**SINGLE, "total_header": "X-Rows"}))
    with Scripted(lambda _: Say({"data": devices(3)}, headers=(("X-Rows", "3"),))) as server:
        assert run(tmp_path, server.url, made).report.evidence is Evidence.STATED_TOTAL
    with (
        Scripted(lambda _: Say({"data": devices(3)}, headers=(("X-Rows", "4"),))) as server,
        pytest.raises(IncompleteError, match="reports 4 rows; 3 distinct rows"),
    ):
        run(tmp_path, server.url, made)


def test_count_is_evidence(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        if "/how-many" not in seen.target:
            return Say({"data": devices(3)})
        assert "site=1" in seen.target, "the endpoint's filter is also sent"
        assert "verbose=1" in seen.target
        assert "limit" not in seen.target
        return Say({"rows": 3})

    count = {"path": "how-many", "params": {"verbose": 1, "limit": None}, "total_path": "rows"}
    endpoint = {**SINGLE, "params": {"site": 1, "limit": 100}, "count": count}
    with Scripted(answer) as server:
        assert (
            run(tmp_path, server.url, connection(resource(endpoint=endpoint))).report.evidence is Evidence.STATED_TOTAL
        )


def test_a_count_can_be_posted_with_the_endpoints_own_body(tmp_path: Path) -> None:
    """Zabbix's way."""

    def answer(seen: Seen) -> Say:
        body = json.loads(seen.body)
        if "countOutput" not in body["params"]:
            return Say({"result": devices(3)})
        assert body == {"method": "device.get", "params": {"countOutput": True, "filter": {"site": 1}}}
        assert seen.method == "POST" and seen.target.startswith("/rpc?")
        return Say({"result": "3"})

    changes = {"params": {"countOutput": True, "output": None}}
    count = {"method": "POST", "path": "rpc", "json": changes, "total_path": "result"}
    body = {"method": "device.get", "params": {"output": "extend", "filter": {"site": 1}}}
    endpoint = {**SINGLE, "path": "rpc", "method": "POST", "json": body, "data_selector": "result", "count": count}
    with Scripted(answer) as server:
        made = connection(resource(endpoint=endpoint))
        assert run(tmp_path, server.url, made).report.evidence is Evidence.STATED_TOTAL
        assert audited(tmp_path, server.url, made).verdict == "equal"
    for wrong in ({"path": "x", "method": "POST"}, {"path": "x", "json": {}}):
        with pytest.raises(ValidationError, match="write `method: POST` and `json` together"):
            connection(resource(endpoint={**SINGLE, "count": wrong}))


def test_a_count_can_be_in_a_header_of_a_head_response(tmp_path: Path) -> None:
    """Kinto's way."""

    def answer(seen: Seen) -> Say:
        if seen.method == "HEAD":
            return Say(b"", headers=(("Total-Records", "3"),))
        return Say({"data": devices(3)})

    count = {"path": "devices", "method": "HEAD", "total_header": "Total-Records"}
    with Scripted(answer) as server:
        made = connection(resource(endpoint={**SINGLE, "count": count}))
        assert run(tmp_path, server.url, made).report.evidence is Evidence.STATED_TOTAL
        made = connection(resource(endpoint={**SINGLE, "count": {**count, "total_header": "Total"}}))
        with pytest.raises(PagingError, match="does not state a number of rows in `Total`"):
            run(tmp_path, server.url, made)
    for wrong in ({"path": "x", "method": "HEAD"}, {**count, "total_path": "n"}):
        with pytest.raises(ValidationError, match="total_header"):
            connection(resource(endpoint={**SINGLE, "count": wrong}))


def test_wrong_signals_are_not_believed(tmp_path: Path) -> None:
    with Scripted(lambda _: Say({"data": devices(3), "has_more": True})) as server:
        with pytest.raises(IncompleteError, match="`has_more` is true"):
            run(tmp_path, server.url, connection(resource(endpoint=SINGLE)))
        made = connection(resource(endpoint={**SINGLE, "wrong_signals": "has_more"}))
        assert run(tmp_path, server.url, made).row_count == 3


@pytest.mark.parametrize("words", ["null", None, ["null"], [None, "no_content"]])
def test_empty_as_defines_no_rows(words: Any, tmp_path: Path) -> None:
    with Scripted(lambda _: Say({"data": None})) as server:
        with pytest.raises(TransportError, match="the value at 'data' is null, not a list"):
            run(tmp_path, server.url, connection(resource(endpoint=SINGLE)))
        outcome = run(tmp_path, server.url, connection(resource(endpoint={**SINGLE, "empty_as": words})))
        assert outcome.report.empty


def test_single_object_makes_an_object_a_row(tmp_path: Path) -> None:
    with Scripted(lambda _: Say({"id": 1, "name": "one"})) as server:
        endpoint = {**SINGLE, "data_selector": "$"}
        with pytest.raises(TransportError, match="single_object: true"):
            run(tmp_path, server.url, connection(resource(endpoint=endpoint)))
        assert (
            run(tmp_path, server.url, connection(resource(endpoint={**endpoint, "single_object": True}))).row_count == 1
        )
        assert rows_of(tmp_path) == [{"id": 1, "name": "one"}]
