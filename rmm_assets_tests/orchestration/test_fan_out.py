"""Tests that a run of Dagster reads a parent resource once, whichever of its assets are selected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rmm_assets.loading.parents import FROM_API, IN_TABLE, SHARED
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.loading.test_fan_out import Api, child, customers
from rmm_assets_tests.orchestration.bench import KEY, connection, failures, metadata, sync

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("loaded", "sources"),
    [(True, [IN_TABLE, IN_TABLE, IN_TABLE]), (False, [FROM_API, SHARED, IN_TABLE])],
    ids=["parent loaded", "parent not selected"],
)
def test_a_run_requests_parents_once(
    loaded: bool, sources: list[str], workplace: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    api, single = Api(customers(4)), {"path": "/v1/customers", "paginator": "single_page"}
    above: dict[str, Any] = {"name": "customers", "selected": loaded, "endpoint": single}
    below = [child("devices"), child("sites"), child("printers", "sites.id")]
    with Scripted(api) as server:
        target = connection(server.url, [above, *below])
        for number in (1, 2):
            result = sync(target, instance)
            assert result.success, failures(result)
            assert api.asked["/v1/customers"] == number
            assert api.asked["/v1/customers/1/sites"] == number
    found = [metadata(result, name)["parents"] for name in ("devices", "sites", "printers")]
    # Devices and sites have no order between them.
    assert sorted(parents["from"] for parents in found[:2]) == sorted(sources[:2])
    assert found[2] == {"requested": 8, "missing": 0, "refused": 0, "from": IN_TABLE}
    if loaded:
        assert metadata(result, "customers")["parents"] == {}


def test_the_resources_of_a_run_share_a_token(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("ACME_PASSWORD", KEY)
    api, logins = Api(customers(2)), list[str]()

    def answer(seen: Seen) -> Say:
        if seen.target == "/login":
            logins.append(f"session-{len(logins):016}")
            return Say({"token": logins[-1]})
        # A user has one session.
        return api(seen) if seen.headers["authorization"] == f"Bearer {logins[-1]}" else Say({"error": "no"}, 401)

    with Scripted(answer) as server:
        auth = {
            "type": "token", "access_token_url": f"{server.url}/login", "access_token_path": "token",
            "access_token_request": {"json": {"password": "{secrets.PASSWORD}"}},
        }  # fmt: skip
        above = {"name": "customers", "endpoint": {"path": "/v1/customers", "paginator": "single_page"}}
        target = connection(
            server.url, [above, child("devices"), child("sites")], client={"auth": auth}, api_key=None,
            secrets={"PASSWORD": {"env": "ACME_PASSWORD"}},
        )  # fmt: skip
        for number in (1, 2):
            result = sync(target, instance)
            assert result.success, failures(result)
            assert len(logins) == number
