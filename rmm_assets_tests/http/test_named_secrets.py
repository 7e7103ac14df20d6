"""Tests named secrets, schemes and parts of secrets: what the server receives, and what is redacted elsewhere."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from pydantic import SecretStr

from rmm_assets.audit.run import audit
from rmm_assets.config import Connection
from rmm_assets.http.auth import HttpBasicAuth, Secrets, build_auth
from rmm_assets.http.redaction import MASK, Redactor
from rmm_assets.loading.run import sync
from rmm_assets_tests.http.leaks import leaks_in
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import connection, devices, resource, rows_of, store_in

pytestmark = pytest.mark.slow

ODD = "k3y/+=&%ü\"'\\<€> ~:zz"
NAMED = {"APP": "app-4711-0a9b8c7d6e", "ODD": ODD, "USER": "user-55aa66bb77cc"}
SINGLE: dict[str, Any] = {"paginator": "single_page"}


def made_of(endpoint: dict[str, Any], auth: Any = None, **changes: Any) -> Connection:
    client = {"base_url": "http://127.0.0.1:9", **({"auth": auth} if auth else {}), **changes.pop("client", {})}
    text = json.dumps([endpoint, client])
    used = {name: {"env": f"ACME_{name}"} for name in NAMED if f"{{secrets.{name}}}" in text}
    key = {"api_key": {"env": "ACME_API_KEY"}} if auth else {"api_key": None}
    return connection(resource(endpoint={**SINGLE, **endpoint}), client=client, secrets=used, **key, **changes)


def load(folder: Path, url: str, made: Connection, key: str | None = None, **options: Any) -> None:
    named = {name: SecretStr(NAMED[name]) for name in made.secrets}
    secrets = Secrets(SecretStr(key) if key else None, named)
    sync(made, made.resource("devices"), secrets, base_url=url, store=store_in(folder), **options)


def in_json(seen: Seen) -> Any:
    return json.loads(seen.body)["filter"]["key"]


PLACES: dict[str, tuple[dict[str, Any], Callable[[Seen], Any], Any]] = {
    "a header": ({"headers": {"X-App": "{secrets.APP}"}}, lambda seen: seen.headers["x-app"], NAMED["APP"]),
    "a scheme": (
        {"headers": {"Authorization": "Token token={secrets.APP}"}},
        lambda seen: seen.headers["authorization"],
        f"Token token={NAMED['APP']}",
    ),
    "a parameter": (
        {"params": {"code": "{secrets.ODD}", "site": "1"}},
        lambda seen: dict(parse_qsl(urlsplit(seen.target).query)),
        {"code": ODD, "site": "1"},
    ),
    "JSON": ({"method": "POST", "json": {"filter": {"key": "{secrets.ODD}"}}}, in_json, ODD),
    "a form": (
        {"method": "POST", "data": {"key": "{secrets.ODD}"}},
        lambda seen: parse_qs(seen.body.decode()),
        {"key": [ODD]},
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_only_the_server_receives_a_named_secret(place: str, tmp_path: Path) -> None:
    endpoint, look, expected = PLACES[place]

    def answer(seen: Seen) -> Say:
        echo = {"target": seen.target, "headers": dict(seen.headers), "body": seen.body.decode()}
        return Say({"data": devices(2, echo=echo)})

    with Scripted(answer) as server:
        made = made_of(endpoint)
        assert not [value for value in NAMED.values() if value in repr(made)]
        load(tmp_path, server.url, made)
    assert look(server.seen[0]) == expected
    assert len(rows_of(tmp_path)) == 2
    searched, finds = leaks_in(tmp_path, list(NAMED.values()))
    assert searched and not finds, finds


def test_auth_and_every_header_of_the_client_accept_named_secrets(tmp_path: Path) -> None:
    with Scripted(lambda _: Say({"data": devices(1)})) as server:
        auth = {"type": "http_basic", "username": "{secrets.USER}"}
        load(
            tmp_path,
            server.url,
            made_of({}, auth, client={"headers": {"DD-APPLICATION-KEY": "{secrets.APP}"}}),
            "pässword-1",
        )
    sent = server.seen[0].headers
    assert base64.b64decode(sent["authorization"].partition(" ")[2]).decode() == f"{NAMED['USER']}:pässword-1"
    assert sent["dd-application-key"] == NAMED["APP"]


def test_an_audit_sends_named_secrets_too(tmp_path: Path) -> None:
    with Scripted(lambda _: Say({"data": devices(1)})) as server:
        made = made_of({"params": {"code": "{secrets.ODD}"}})
        load(tmp_path, server.url, made)
        secrets = Secrets(None, {"ODD": SecretStr(ODD)})
        audit(made, made.resource("devices"), secrets, store=store_in(tmp_path), base_url=server.url)
    assert {parse_qs(urlsplit(seen.target).query)["code"][0] for seen in server.seen} == {ODD}
    assert len(server.seen) >= 2


def test_a_next_link_that_repeats_the_secret_is_followed_with_it(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        last = "page=2" in seen.target
        return Say({"data": devices(2, 3 if last else 1), "next": None if last else f"{seen.target}&page=2"})

    with Scripted(answer) as server:
        paging = {"type": "json_link", "next_url_path": "next"}
        load(tmp_path, server.url, made_of({"params": {"code": "{secrets.ODD}"}, "paginator": paging}))
    assert [parse_qs(urlsplit(seen.target).query)["code"] for seen in server.seen] == [[ODD]] * len(server.seen)
    assert len(rows_of(tmp_path)) == 4


def test_a_row_cannot_inject_a_secret_into_a_request(tmp_path: Path) -> None:
    """Values of rows become paths, parameters and bodies of further requests."""
    parent = resource("sites", endpoint={**SINGLE, "headers": {"X-App": "{secrets.APP}"}})
    child = resource(
        endpoint={**SINGLE, "path": "/v1/{resources.sites.id}/devices", "params": {"site": "{resources.sites.id}"}}
    )
    made = connection(
        parent, child, client={"base_url": "http://127.0.0.1:9"}, api_key=None, secrets={"APP": {"env": "ACME_APP"}}
    )

    def answer(seen: Seen) -> Say:
        return Say({"data": [{"id": "{secrets.APP}"}] if seen.target == "/v1/sites" else devices(1)})

    with Scripted(answer) as server:
        load(tmp_path, server.url, made)
    [asked] = [seen for seen in server.seen if "devices" in seen.target]
    assert NAMED["APP"] not in asked.raw and "site=%7Bsecrets.APP%7D" in asked.target


# Schemes and parts


def test_a_prefix_precedes_the_key_in_its_header(tmp_path: Path) -> None:
    for prefix, sent in (("Token", "Token 0a1b2c3d4e5f"), ("Token token=", "Token token=0a1b2c3d4e5f")):
        auth = {"type": "api_key", "name": "Authorization", "location": "header", "prefix": prefix}
        with Scripted(lambda _: Say({"data": devices(1)})) as server:
            load(tmp_path, server.url, made_of({}, auth), "0a1b2c3d4e5f")
            with pytest.raises(ValueError, match="the secret already starts with `Token`") as raised:
                load(tmp_path, server.url, made_of({}, {**auth, "prefix": "Token"}), "token 0a1b2c3d4e5f")
        assert server.seen[0].headers["authorization"] == sent
        assert "0a1b2c" not in str(raised.value)


def test_a_secret_with_its_scheme_is_redacted_by_its_parts_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = "0a1b2c3d4e5f6g7h"
    auth = {"type": "api_key", "name": "Authorization", "location": "header"}
    with Scripted(
        lambda seen: Say({"data": devices(1, echo=seen.headers["authorization"][6:].strip() + " Token")})
    ) as server:
        load(tmp_path, server.url, made_of({}, auth), f"Token {key} ")
    assert rows_of(tmp_path)[0]["echo"] == f"{MASK} Token"
    with Scripted(lambda seen: Say({"error": f"bad key {key}"}, 403)) as server, pytest.raises(Exception) as raised:
        load(tmp_path, server.url, made_of({}, auth), f"Token {key} ")
    assert key not in str(raised.value) and f"bad key {MASK}" in str(raised.value)
    assert leaks_in(tmp_path, [key])[1] == []


def test_basic_credentials_are_redacted_as_they_are_sent() -> None:
    redactor = Redactor()
    build_auth(HttpBasicAuth(username="svc"), "monitoring", redactor)
    pair = base64.b64encode(b"svc:monitoring").decode()
    for written in (pair, "svc:monitoring", "svc%3Amonitoring"):
        assert redactor.body(f"x {written} y".encode()) == f"x {MASK} y".encode()
    # An ordinary word is redacted from messages, but not from rows.
    assert redactor.body(b'{"type": "monitoring"}') == b'{"type": "monitoring"}'
    assert redactor.text("monitoring was refused") == f"{MASK} was refused"


@pytest.mark.parametrize(
    ("secret", "spared"),
    [
        *(
            (word, True)
            for word in ("monitoring", "Monitoring2024", "remote-monitoring", "tiny", "20240101", "Summer 2024!")
        ),
        *((key, False) for key in ("0a1b2c3d4e5f6g7h", ODD, "correct horse battery staple", "tr0ub4dor&3x")),
    ],
)
def test_a_run_warns_about_a_secret_that_is_not_redacted_from_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, secret: str, spared: bool
) -> None:
    with Scripted(lambda _: Say({"data": devices(1, note=f"x {secret}")})) as server, caplog.at_level(logging.WARNING):
        load(tmp_path, server.url, made_of({}, "bearer"), secret)
    assert ("api_key is too short or too common to be redacted from rows" in caplog.text) is spared
    assert rows_of(tmp_path)[0]["note"] == (f"x {secret}" if spared else f"x {MASK}")
    assert secret not in caplog.text


# Rotated secrets


class Changing:
    """A store of secrets, and an API that accepts the newest one."""

    def __init__(self) -> None:
        self.now = "key-number-0000001"
        self.kept = self.now

    def look_up(self) -> Secrets:
        return Secrets(SecretStr(self.kept), again=self.look_up)

    def __call__(self, seen: Seen) -> Say:
        if seen.target == "/token":
            given = parse_qs(seen.body.decode())["client_secret"][0]
            return (
                Say({"access_token": f"token-{given}"}) if given == self.now else Say({"error": "invalid_client"}, 401)
            )
        given = seen.headers["authorization"].removeprefix("Bearer ").removeprefix("token-")
        offset = int(parse_qs(urlsplit(seen.target).query)["offset"][0])
        if offset and self.now.endswith("1"):
            self.now = self.kept = "key-number-0000002"
        if given != self.now:
            return Say({"error": f"no key {given}"}, 401)
        return Say({"data": devices(300)[offset : offset + 100], "total": 300})


@pytest.mark.parametrize("kind", ["bearer", "oauth2_client_credentials"])
def test_a_secret_that_is_rotated_during_a_run_is_used_in_the_next_request(kind: str, tmp_path: Path) -> None:
    api = Changing()
    with Scripted(api) as server:
        oauth = {"type": kind, "access_token_url": f"{server.url}/token", "client_id": "me"}
        made = made_of(
            {"paginator": {"type": "offset", "limit": 100, "total_path": "total"}}, kind if kind == "bearer" else oauth
        )
        sync(made, made.resource("devices"), api.look_up(), base_url=server.url, store=store_in(tmp_path))
    assert len(rows_of(tmp_path)) == 300
    assert leaks_in(tmp_path, ["key-number-0000001", "key-number-0000002"])[1] == []


def test_a_refused_secret_that_has_not_changed_fails_immediately(tmp_path: Path) -> None:
    api = Changing()
    api.kept = "key-number-0000009"
    made = made_of({"paginator": {"type": "offset", "limit": 100}}, "bearer")
    with Scripted(api) as server, pytest.raises(Exception, match="HTTP 401: the API refused the key") as raised:
        sync(made, made.resource("devices"), api.look_up(), base_url=server.url, store=store_in(tmp_path))
    assert len(server.seen) == 1 and "0000009" not in str(raised.value)
