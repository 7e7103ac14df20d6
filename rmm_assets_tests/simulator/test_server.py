"""Tests the simulator without faults: paging, authentication, filters and HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from rmm_assets.simulator import Faults, Fleet, Simulator

ROWS = [{"id": n, "name": f"Gerät {n} ☂", "status": "online"} for n in range(1, 206)]


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(tables={"devices": ROWS}) as running:
        yield running


@pytest.fixture
def client() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers["X-API-KEY"] = "demo-key"
        yield session


def body_of(client: requests.Session, url: str, **params: object) -> dict[str, Any]:
    response = client.get(url, params={name: str(value) for name, value in params.items()}, timeout=60)
    response.raise_for_status()
    body: dict[str, Any] = response.json()
    return body


def test_offset_paging_gives_every_row_once(simulator: Simulator, client: requests.Session) -> None:
    url, got = f"{simulator.base_url}/v1/devices", []
    for offset in (0, 100, 200):
        body = body_of(client, url, offset=offset, limit=100)
        assert body["total"] == 205
        assert body.keys() == {"data", "total"}
        got += body["data"]
    assert got == ROWS
    assert body_of(client, url, offset=205, limit=100) == {"data": [], "total": 205}


def test_page_numbers_start_at_1_and_give_every_row_once(simulator: Simulator, client: requests.Session) -> None:
    url = f"{simulator.base_url}/v1/devices"
    got = [row for page in (1, 2, 3, 4) for row in body_of(client, url, page=page, per_page=60)["data"]]
    assert got == ROWS
    assert body_of(client, url, page=5, per_page=60)["data"] == []


def test_cursors_give_every_row_once_and_end_with_null(simulator: Simulator, client: requests.Session) -> None:
    url, got, cursor = f"{simulator.base_url}/v1/devices", [], ""
    while True:
        body = body_of(client, url, limit=50, **({"cursor": cursor} if cursor else {}))
        got += body["data"]
        cursor = body["next_cursor"]
        if cursor is None:
            break
    assert got == ROWS
    assert len(simulator.requests) == 5


def test_a_page_that_just_fits_has_no_next_cursor(client: requests.Session) -> None:
    with Simulator(tables={"devices": ROWS[:100]}) as simulator:
        assert body_of(client, f"{simulator.base_url}/v1/devices", limit=100)["next_cursor"] is None


@pytest.mark.parametrize("as_text", [False, True])
def test_paging_after_the_last_id_gives_every_row_once_and_no_token(client: requests.Session, as_text: bool) -> None:
    rows = [{**row, "id": f"dev-{row['id']:04}"} for row in ROWS] if as_text else ROWS
    with Simulator(tables={"devices": rows}) as simulator:
        got: list[dict[str, Any]] = []
        while True:
            after = got[-1]["id"] if got else ""
            body = body_of(client, f"{simulator.base_url}/v1/devices", after=after, limit=60)
            assert body.keys() == {"data", "total"}
            if not body["data"]:
                break
            got += body["data"]
        assert got == rows


def test_linked_pages_give_every_row_once_and_never_contain_the_key(simulator: Simulator) -> None:
    url, got = f"{simulator.base_url}/v1/linked/devices?limit=80&api_key=demo-key", []
    while url:
        body = requests.get(url, headers={"X-API-KEY": "demo-key"}, timeout=60).json()
        got += body["data"]
        url = body["next"]
        assert url is None or (url.startswith(f"{simulator.base_url}/v1/linked/devices?") and "demo-key" not in url)
    assert got == ROWS


def test_link_headers_give_every_row_once(simulator: Simulator, client: requests.Session) -> None:
    url: str | None = f"{simulator.base_url}/v1/link-header/devices?limit=80"
    got = []
    while url:
        response = client.get(url, timeout=60)
        got += response.json()["data"]
        url = response.links.get("next", {}).get("url")
    assert got == ROWS


def test_links_keep_the_other_parameters(client: requests.Session) -> None:
    with Simulator() as simulator:
        since = "2025-01-06T00:00:00+00:00"
        body = body_of(client, f"{simulator.base_url}/v1/linked/devices", limit=10, updated_since=since)
        assert parse_qs(urlsplit(body["next"]).query) == {
            "limit": ["10"],
            "offset": ["10"],
            "updated_since": [since],
        }


def test_a_page_has_100_rows_by_default_and_at_most_1000(client: requests.Session) -> None:
    with Simulator(tables={"devices": [{"id": n} for n in range(1500)]}) as simulator:
        url = f"{simulator.base_url}/v1/devices"
        assert len(body_of(client, url)["data"]) == 100
        assert len(body_of(client, url, offset=0, limit=5000)["data"]) == 1000
        assert len(body_of(client, url, page=1, per_page=5000)["data"]) == 1000


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=ten", "offset=-1", "page=0", "cursor=nonsense", "cursor=%C3%A4", "after=x"]
)
def test_invalid_paging_is_400_and_names_the_parameter(
    simulator: Simulator, client: requests.Session, query: str
) -> None:
    response = client.get(f"{simulator.base_url}/v1/devices?{query}", timeout=60)
    assert response.status_code == 400
    assert query.split("=")[0] in response.json()["error"]


@pytest.mark.parametrize(
    "form",
    [
        {"params": {"api_key": "s3cret +/&"}},
        {"headers": {"X-API-KEY": "s3cret +/&"}},
        {"headers": {"Authorization": "Bearer s3cret +/&"}},
        {"auth": ("anyone", "s3cret +/&")},
    ],
)
def test_the_key_is_accepted_in_query_header_bearer_and_basic(form: dict[str, Any]) -> None:
    with Simulator(tables={"devices": ROWS}, api_key="s3cret +/&") as simulator:
        assert requests.get(f"{simulator.base_url}/v1/devices", timeout=60, **form).status_code == 200


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"params": {"api_key": "wrong"}},
        {"params": {"api_key": ""}},
        {"headers": {"X-API-KEY": "wrong"}},
        {"headers": {"Authorization": "Bearer wrong"}},
        {"headers": {"Authorization": "Basic ???"}},
        {"auth": ("demo-key", "wrong")},
    ],
)
def test_a_missing_or_wrong_key_is_401_with_a_json_error(simulator: Simulator, form: dict[str, Any]) -> None:
    response = requests.get(f"{simulator.base_url}/v1/devices", timeout=60, **form)
    assert response.status_code == 401
    assert "API key" in response.json()["error"]


def test_an_oauth_token_opens_the_api_until_it_expires() -> None:
    with Simulator(tables={"devices": ROWS}, client_id="me", client_secret="mine", token_seconds=2) as simulator:
        answer = requests.post(
            f"{simulator.base_url}/oauth/token",
            data={"grant_type": "client_credentials", "client_id": "me", "client_secret": "mine"},
            timeout=60,
        ).json()
        assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 2)
        bearer = {"Authorization": f"Bearer {answer['access_token']}"}
        assert requests.get(f"{simulator.base_url}/v1/devices", headers=bearer, timeout=60).status_code == 200
        time.sleep(2.1)
        assert requests.get(f"{simulator.base_url}/v1/devices", headers=bearer, timeout=60).status_code == 401


def test_client_credentials_are_taken_as_form_json_or_basic_and_refused_when_wrong(
    simulator: Simulator,
) -> None:
    url = f"{simulator.base_url}/oauth/token"
    grant = {"grant_type": "client_credentials"}
    whole = {**grant, "client_id": "demo-client", "client_secret": "demo-key"}
    assert requests.post(url, data=whole, timeout=60).status_code == 200
    assert requests.post(url, json=whole, timeout=60).status_code == 200
    assert requests.post(url, data=grant, auth=("demo-client", "demo-key"), timeout=60).status_code == 200
    assert requests.post(url, data={**whole, "client_secret": "no"}, timeout=60).status_code == 401
    assert requests.post(url, data={**whole, "grant_type": "password"}, timeout=60).status_code == 400
    assert requests.get(url, timeout=60).status_code == 405


def test_each_parent_serves_its_children_and_together_they_are_all_rows(client: requests.Session) -> None:
    with Simulator(fleet=Fleet(devices=60)) as simulator:
        url, got = f"{simulator.base_url}/v1/organizations", []
        for organization in body_of(client, url)["data"]:
            body = body_of(client, f"{url}/{organization['id']}/devices", limit=1000)
            assert {row["organization"]["id"] for row in body["data"]} <= {organization["id"]}
            assert body["total"] == len(body["data"])
            got += body["data"]
        assert sorted(row["id"] for row in got) == [row["id"] for row in simulator.rows("devices")]
        device = simulator.rows("alerts")[0]["device_id"]
        assert body_of(client, f"{simulator.base_url}/v1/devices/{device}/alerts")["total"] >= 1


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/printers", "/v2/devices", "/v1/linked/printers", "/v1/devices/0/x"])
def test_an_unknown_path_is_404_json(simulator: Simulator, client: requests.Session, path: str) -> None:
    response = client.get(simulator.base_url + path, timeout=60)
    assert response.status_code == 404
    assert path in response.json()["error"]


def test_children_of_an_unknown_parent_are_404(client: requests.Session) -> None:
    with Simulator() as simulator:
        assert client.get(f"{simulator.base_url}/v1/organizations/999/devices", timeout=60).status_code == 404


def test_updated_since_gives_exactly_the_changes_between_two_ticks(client: requests.Session) -> None:
    fleet = Fleet()
    with Simulator(fleet=fleet, tick=100) as simulator:
        url = f"{simulator.base_url}/v1/devices"
        before = {row["id"]: row for row in body_of(client, url, limit=1000)["data"]}
        simulator.tick = 103
        since = (fleet.start + 101 * fleet.tick_length).isoformat()
        changed = {row["id"]: row for row in body_of(client, url, limit=1000, updated_since=since)["data"]}
        now = {row["id"]: row for row in simulator.rows("devices")}
        assert changed
        assert changed == {key: row for key, row in now.items() if before.get(key) != row}
        assert client.get(url, params={"updated_since": "yesterday"}, timeout=60).status_code == 400


def test_updated_since_is_ignored_for_a_table_without_updated_at(
    simulator: Simulator, client: requests.Session
) -> None:
    url = f"{simulator.base_url}/v1/devices"
    assert body_of(client, url, updated_since="2026-01-01T00:00:00Z")["total"] == 205


def test_the_fleet_follows_the_tick(client: requests.Session) -> None:
    clock = {"tick": 0}
    with Simulator(fleet=Fleet(seed=5), tick=lambda: clock["tick"]) as simulator:
        url = f"{simulator.base_url}/v1/devices"
        assert body_of(client, url, limit=1000)["data"] == Fleet(seed=5).rows("devices", 0)
        clock["tick"] = 9
        assert body_of(client, url, limit=1000)["data"] == Fleet(seed=5).rows("devices", 9)
        assert simulator.rows("devices") == Fleet(seed=5).rows("devices", 9)


def test_rows_can_be_replaced_between_two_reads(simulator: Simulator, client: requests.Session) -> None:
    simulator.set_rows("devices", ROWS[:3])
    assert body_of(client, f"{simulator.base_url}/v1/devices") == {
        "data": ROWS[:3],
        "total": 3,
        "next_cursor": None,
    }
    assert simulator.rows("devices") == ROWS[:3]


def test_the_log_contains_requests_and_their_statuses(simulator: Simulator) -> None:
    requests.get(f"{simulator.base_url}/v1/devices?limit=5&x=", headers={"X-Api-Key": "demo-key"}, timeout=60)
    requests.get(f"{simulator.base_url}/nowhere", timeout=60)
    first, second = simulator.requests
    assert (first.method, first.path, first.query) == ("GET", "/v1/devices", {"limit": "5", "x": ""})
    assert (first.resource, first.status, first.headers["x-api-key"]) == ("devices", 200, "demo-key")
    assert (second.resource, second.status) == (None, 404)
    assert first.at <= second.at


def test_one_session_reuses_one_connection(simulator: Simulator, client: requests.Session) -> None:
    simulator.set_rows("devices", [{"id": n, "name": "x" * 100} for n in range(100)])
    for _ in range(50):
        body_of(client, f"{simulator.base_url}/v1/devices", limit=100)
    assert simulator.connections == 1


def test_requests_are_served_concurrently() -> None:
    with Simulator(tables={"devices": ROWS}, faults=Faults(delay=1)) as simulator:
        url = f"{simulator.base_url}/v1/devices?api_key=demo-key"
        threads = [threading.Thread(target=requests.get, args=(url,), kwargs={"timeout": 60}) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert simulator.most_at_once == 4


def test_closing_ends_kept_alive_connections_and_slow_responses_immediately(client: requests.Session) -> None:
    before = threading.active_count()
    simulator = Simulator(tables={"devices": ROWS}, faults=Faults(delay=30, skip=1))
    url = f"{simulator.base_url}/v1/devices"
    body_of(client, url)
    with pytest.raises(requests.ReadTimeout):
        requests.get(url, timeout=0.1)
    simulator.close()
    simulator.close()
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    with pytest.raises(requests.ConnectionError):
        client.get(url, timeout=60)


def test_passing_both_a_fleet_and_tables_is_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        Simulator(fleet=Fleet(), tables={})


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_prints_its_url_and_stops_cleanly_on_a_signal(number: signal.Signals) -> None:
    program = "from rmm_assets.simulator import run; run(port=0, tick_seconds=0.2)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = next(word for word in line.replace(",", " ").split() if word.startswith("http://127.0.0.1:"))
        assert "demo-key" in line
        first = requests.get(f"{url}/v1/devices?limit=1000&api_key=demo-key", timeout=60).json()
        assert first["total"] > 300
        until = time.monotonic() + 60
        while requests.get(f"{url}/v1/devices?limit=1000&api_key=demo-key", timeout=60).json() == first:
            assert time.monotonic() < until, "nothing changes"
            time.sleep(0.1)
        os.kill(process.pid, number)
        assert process.wait(timeout=60) == 0
