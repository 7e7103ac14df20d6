"""Tests tokens that a run fetches, in the ways of real vendors: what the servers receive, renewal, and faults."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr, ValidationError

from rmm_assets.config import Connection
from rmm_assets.errors import TransportError
from rmm_assets.http.auth import Secrets, build_auth
from rmm_assets.http.rate_limit import RateLimit
from rmm_assets.http.redaction import MASK, Redactor
from rmm_assets.http.request import Request
from rmm_assets.http.tokens import Tokens
from rmm_assets.http.transport import Transport
from rmm_assets.loading.run import sync
from rmm_assets.settings import messages
from rmm_assets_tests.http.leaks import leaks_in
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import connection, devices, read, resource, rows_of, store_in

SECRETS = {
    "USER": "user-4711-0a9b8c7d6e",
    "PASSWORD": "p4ss/+=&%ü\"'\\<€> ~:zz",
    "APP": "app-55aa66bb77cc88dd",
    "REFRESH": "1000.refresh.0f1e2d3c4b5a",
}


class Vendor:
    """A vendor's API: it issues tokens for the right request, and accepts those that it has not revoked.

    Args:
        auth: `client.auth`, with `URL` in place of the server's address.
        login: Raises an AssertionError for a wrong token request, or returns whether it is a refresh.
        issued: Returns the response to a token request with a token.
        sent: Returns the token of a request to the API; None if it has none.
        headers: `client.headers`.
    """

    def __init__(
        self, auth: dict[str, Any], login: Callable[[Seen], bool], issued: Callable[[str, str], Say],
        sent: Callable[[Seen], str | None], headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.auth, self.login, self.issued, self.sent, self.headers = auth, login, issued, sent, headers or {}
        self.good: set[str] = set()
        self.logins: list[str] = []
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, seen: Seen) -> Say:
        if not seen.target.startswith("/v1/"):
            with self._lock:
                try:
                    self.logins.append("refresh" if self.login(seen) else "login")
                except (AssertionError, KeyError, ValueError) as error:
                    self.wrong.append(f"{error!r} for {seen}")
                    return Say({"error": "no"}, 400)
                token = f"token/of+vendor=number~{len(self.logins):08}"
                self.good = {token}
                return self.issued(token, f"refresh-token-number-{len(self.logins):08}")
        sent = self.sent(seen)
        time.sleep(0.02)
        if sent not in self.good:
            return Say({"error": f"bad token {sent}"}, 401)
        offset = int(parse_qs(urlsplit(seen.target).query).get("offset", ["0"])[0])
        more: dict[str, Any] = (
            {"renewable": f"refresh-token-number-{len(self.logins):08}"} if "refresh" in self.auth else {}
        )
        return Say({"data": devices(300, echo=f"<{sent}>", **more)[offset : offset + 100], "total": 300})

    def connection(self, url: str, **changes: Any) -> Connection:
        """Returns a connection to the server, with the secrets that it refers to."""
        said = json.loads(json.dumps({"auth": self.auth, "headers": self.headers}).replace("URL", url))
        text = json.dumps([said, changes])
        used = {name: {"env": f"ACME_{name}"} for name in SECRETS if f"{{secrets.{name}}}" in text}
        paging = {"paginator": {"type": "offset", "limit": 100, "total_path": "total"}}
        return connection(
            resource(endpoint=paging), client={"base_url": url, **said}, secrets=used, api_key=None, **changes
        )


def form(seen: Seen) -> dict[str, str]:
    assert seen.headers["content-type"] == "application/x-www-form-urlencoded"
    return {name: value[0] for name, value in parse_qs(seen.body.decode(), strict_parsing=True).items()}


def scheme(name: str) -> Callable[[Seen], str | None]:
    return lambda seen: seen.headers.get("authorization", "").removeprefix(f"{name} ")


def datto() -> Vendor:
    def login(seen: Seen) -> bool:
        assert (seen.method, seen.target) == ("POST", "/auth/oauth/token")
        assert base64.b64decode(seen.headers["authorization"].removeprefix("Basic ")) == b"public-client:public"
        assert form(seen) == {
            "grant_type": "password", "username": SECRETS["USER"], "password": SECRETS["PASSWORD"],
        }  # fmt: skip
        return False

    auth = {
        "type": "token",
        "access_token_url": "URL/auth/oauth/token",
        "access_token_request": {
            "http_basic": {"username": "public-client", "password": "public"},
            "data": {"grant_type": "password", "username": "{secrets.USER}", "password": "{secrets.PASSWORD}"},
        },
        "access_token_path": "access_token",
        "expires_in_path": "expires_in",
    }
    return Vendor(auth, login, lambda token, _: Say({"access_token": token, "expires_in": 360000}), scheme("Bearer"))


def manage_engine() -> Vendor:
    def login(seen: Seen) -> bool:
        assert (seen.method, seen.target) == ("POST", "/oauth/v2/token")
        assert form(seen) == {
            "grant_type": "refresh_token", "refresh_token": SECRETS["REFRESH"], "client_id": "1000.ABC",
            "client_secret": SECRETS["PASSWORD"],
        }  # fmt: skip
        return False

    auth = {
        "type": "token",
        "access_token_url": "URL/oauth/v2/token",
        "access_token_request": {
            "data": {
                "grant_type": "refresh_token", "refresh_token": "{secrets.REFRESH}", "client_id": "1000.ABC",
                "client_secret": "{secrets.PASSWORD}",
            },
        },
        "access_token_path": "access_token",
        "expires_in_path": "expires_in",
        "send": {"name": "Authorization", "location": "header", "value": "Zoho-oauthtoken {token}"},
    }  # fmt: skip
    issued = lambda token, _: Say({"access_token": token, "expires_in": "3600"})  # noqa: E731
    return Vendor(auth, login, issued, scheme("Zoho-oauthtoken"))


def n_central() -> Vendor:
    kept: list[str] = []

    def login(seen: Seen) -> bool:
        if seen.target == "/api/auth/refresh":
            assert seen.headers["content-type"] == "text/plain"
            assert seen.body.decode() == kept[-1]
            return True
        assert (seen.method, seen.target, seen.body) == ("POST", "/api/auth/authenticate", b"")
        assert seen.headers["authorization"] == f"Bearer {SECRETS['USER']}"
        return False

    def issued(token: str, refresh_token: str) -> Say:
        kept.append(refresh_token)
        return Say({"tokens": {"access": {"token": token, "expirySeconds": 3600}, "refresh": {"token": refresh_token}}})

    auth = {
        "type": "token",
        "access_token_url": "URL/api/auth/authenticate",
        "access_token_request": {"headers": {"Authorization": "Bearer {secrets.USER}"}},
        "access_token_path": "tokens.access.token",
        "expires_in_path": "tokens.access.expirySeconds",
        "refresh": {
            "url": "URL/api/auth/refresh",
            "refresh_token_path": "tokens.refresh.token",
            "headers": {"Content-Type": "text/plain"},
            "data": "{refresh_token}",
        },
    }
    return Vendor(auth, login, issued, scheme("Bearer"))


def automate() -> Vendor:
    def login(seen: Seen) -> bool:
        assert (seen.method, seen.target) == ("POST", "/apitoken?tenant=7")
        assert seen.headers["clientid"] == SECRETS["APP"]
        assert seen.headers["content-type"] == "application/json"
        assert json.loads(seen.body) == {"UserName": SECRETS["USER"], "Password": SECRETS["PASSWORD"]}
        return False

    auth = {
        "type": "token",
        "access_token_url": "URL/apitoken",
        "access_token_request": {
            "headers": {"ClientId": "{secrets.APP}"},
            "params": {"tenant": 7},
            "json": {"UserName": "{secrets.USER}", "Password": "{secrets.PASSWORD}"},
        },
        "access_token_path": "AccessToken",
        "default_token_expiration": 3600,
    }
    return Vendor(
        auth, login, lambda token, _: Say({"AccessToken": token, "ExpirationDate": "2027-01-01T00:00:00Z"}),
        scheme("Bearer"), {"ClientId": "{secrets.APP}"},
    )  # fmt: skip


def glpi() -> Vendor:
    def login(seen: Seen) -> bool:
        assert (seen.method, seen.target) == ("GET", "/apirest.php/initSession")
        assert seen.headers["app-token"] == SECRETS["APP"]
        assert seen.headers["authorization"] == f"user_token {SECRETS['USER']}"
        return False

    def sent(seen: Seen) -> str | None:
        assert seen.headers["app-token"] == SECRETS["APP"]
        return seen.headers.get("session-token")

    auth = {
        "type": "token",
        "access_token_url": "URL/apirest.php/initSession",
        "access_token_request": {
            "method": "get",
            "headers": {"App-Token": "{secrets.APP}", "Authorization": "user_token {secrets.USER}"},
        },
        "access_token_path": "session_token",
        "send": {"name": "Session-Token", "location": "header"},
    }
    return Vendor(auth, login, lambda token, _: Say({"session_token": token}), sent, {"App-Token": "{secrets.APP}"})


def by_cookie() -> Vendor:
    def login(seen: Seen) -> bool:
        assert json.loads(seen.body) == {"user": SECRETS["USER"], "password": SECRETS["PASSWORD"]}
        return False

    def issued(token: str, _: str) -> Say:
        cookies = (("Set-Cookie", "lang=en; Path=/"), ("Set-Cookie", f"sid={token}; Path=/; HttpOnly; Secure"))
        return Say({"status": "ok"}, headers=cookies)

    auth = {
        "type": "token",
        "access_token_url": "URL/login",
        "access_token_request": {"json": {"user": "{secrets.USER}", "password": "{secrets.PASSWORD}"}},
        "send": {"name": "sid", "location": "cookie"},
    }
    return Vendor(auth, login, issued, lambda seen: seen.headers.get("cookie", "").removeprefix("sid="))


def by_query() -> Vendor:
    """Secrets and token are in query parameters, which is where logs show most."""

    def login(seen: Seen) -> bool:
        assert parse_qs(urlsplit(seen.target).query) == {"user": [SECRETS["USER"]], "pass": [SECRETS["PASSWORD"]]}
        return False

    auth = {
        "type": "token",
        "access_token_url": "URL/login",
        "access_token_request": {"params": {"user": "{secrets.USER}", "pass": "{secrets.PASSWORD}"}},
        "access_token_path": "Result.Token",
        "send": {"name": "token", "location": "query"},
    }
    sent: Callable[[Seen], str | None] = lambda seen: parse_qs(urlsplit(seen.target).query).get("token", [None])[0]  # noqa: E731
    return Vendor(auth, login, lambda token, _: Say({"Result": {"Token": token}}), sent)


VENDORS = [datto, manage_engine, n_central, automate, glpi, by_cookie, by_query]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Transport]]:
    with ExitStack() as stack:

        def build(made: Connection, tokens: Tokens | None = None, secrets: Secrets | None = None) -> Transport:
            redactor = Redactor()
            auth = build_auth(made.client.auth, secrets or secrets_of(made), redactor, tokens=tokens)
            rate_limit = RateLimit(tmp_path / "pace", max_concurrency=8)
            transport = Transport(
                str(made.client.base_url), auth=auth, redactor=redactor, rate_limit=rate_limit, retry=made.retry,
                limits=made.limits, headers=made.client.headers,
            )  # fmt: skip
            stack.callback(rate_limit.close)
            stack.callback(transport.close)
            return transport

        yield build


def secrets_of(made: Connection) -> Secrets:
    return Secrets(None, {name: SecretStr(SECRETS[name]) for name in made.secrets})


def ask(transport: Transport) -> bytes:
    return transport.send(Request("/v1/devices", label="devices page 1"), lambda reply: reply.body)


@pytest.mark.parametrize("vendor_of", VENDORS)
def test_a_refusal_in_mid_run_fetches_one_token_for_all_workers(
    vendor_of: Callable[[], Vendor], make: Callable[[Connection], Transport]
) -> None:
    vendor = vendor_of()
    with Scripted(vendor) as server:
        transport = make(vendor.connection(server.url))
        with ThreadPoolExecutor(8) as workers:
            list(workers.map(lambda _: ask(transport), range(16)))
            assert (vendor.wrong, vendor.logins) == ([], ["login"])
            vendor.good.clear()
            list(workers.map(lambda _: ask(transport), range(16)))
    assert (vendor.wrong, transport.traffic.retries) == ([], 0)
    assert vendor.logins == ["login", "refresh" if vendor_of is n_central else "login"]


@pytest.mark.parametrize("vendor_of", VENDORS)
def test_a_shared_token_is_renewed_once_and_masked_for_all(
    vendor_of: Callable[[], Vendor], make: Callable[..., Transport]
) -> None:
    vendor, tokens = vendor_of(), Tokens()
    with Scripted(vendor) as server:
        transports = [make(vendor.connection(server.url), tokens) for _ in range(2)]
        bodies = [ask(transport) for transport in transports]
        assert (vendor.wrong, vendor.logins) == ([], ["login"])
        # One that begins later also masks what it has not fetched itself.
        transports.append(make(vendor.connection(server.url), tokens))
        vendor.good.clear()
        with ThreadPoolExecutor(8) as workers:
            bodies += workers.map(ask, transports * 4)
    assert (vendor.wrong, len(vendor.logins)) == ([], 2)
    for body in bodies:
        assert b"token/of" not in body and MASK.encode() in body
    for transport in transports:
        for number in (1, 2):
            assert f"{number:08}" not in transport.redactor.text(f"token/of+vendor=number~{number:08}")


def test_other_secrets_or_settings_never_share_a_token(make: Callable[..., Transport]) -> None:
    vendor, tokens = datto(), Tokens()
    with Scripted(vendor) as server:
        made = vendor.connection(server.url)
        ask(make(made, tokens))
        others = Secrets(None, {**secrets_of(made).named, "PASSWORD": SecretStr("another-password-0815")})
        with pytest.raises(TransportError, match="no token from"):
            ask(make(made, tokens, others))
        assert (len(vendor.wrong), vendor.logins) == (1, ["login"])
        auth = {**vendor.auth, "default_token_expiration": 60}
        vendor.auth = auth
        ask(make(vendor.connection(server.url), tokens))
        assert vendor.logins == ["login", "login"]
        ask(make(made))
    assert len(vendor.logins) == 3


@pytest.mark.slow
@pytest.mark.parametrize("vendor_of", VENDORS)
def test_no_token_and_no_secret_of_its_request_is_in_any_file(
    vendor_of: Callable[[], Vendor], everything_kept: Path
) -> None:
    vendor = vendor_of()
    with Scripted(vendor) as server:
        made = vendor.connection(server.url)
        sync(made, made.resource("devices"), secrets_of(made), store=store_in(everything_kept))
        vendor.good.clear()
        vendor.issued = lambda *_: Say({"error": "locked"}, 403)
        with pytest.raises(Exception, match=r"no token from .*HTTP 403"):
            sync(made, made.resource("devices"), secrets_of(made), store=store_in(everything_kept / "refused"))
    assert vendor.wrong == []
    rows = rows_of(everything_kept)
    assert (len(rows), rows[0]["echo"]) == (300, f"<{MASK}>")
    tokens = [f"token/of+vendor=number~{number:08}" for number in (1, 2)]
    searched, finds = leaks_in(everything_kept, [*SECRETS.values(), *tokens, "refresh-token-number-00000001"])
    assert searched > 5 and not finds, finds
    assert "GET /v1/devices" in (everything_kept / "debug.log").read_text()


def test_settings_are_filled_in_the_requests_for_rows_and_for_tokens(tmp_path: Path) -> None:
    auth = {
        "type": "token",
        "access_token_url": "{settings.url}/{settings.region}/token",
        "access_token_request": {"headers": {"X-Region": "{settings.region}"}, "json": {"{settings.region}": "{a}"}},
        "access_token_path": "{settings.region}.token",
        "send": {"name": "X-{settings.region}", "value": "{settings.region} {token}"},
    }
    endpoint = {
        "path": "/v1/{settings.region}/devices", "method": "POST", "json": {"query": "{ a(b: {settings.region}) }"},
        "params": {"in": "{settings.region}"}, "headers": {"X-In": "{settings.region}"}, "paginator": "single_page",
    }  # fmt: skip

    def answer(seen: Seen) -> Say:
        return Say({"eu": {"token": "token-number-1"}} if seen.target == "/eu/token" else {"data": devices(1)})

    with Scripted(answer) as server:
        made = connection(
            resource(endpoint=endpoint), api_key=None, settings={"region": "eu", "url": server.url},
            client={"base_url": "{settings.url}", "auth": auth},
        )  # fmt: skip
        read(tmp_path, None, made)
    first, second = server.seen[:2]
    assert (first.headers["x-region"], json.loads(first.body)) == ("eu", {"eu": "{a}"})
    assert second.target == "/v1/eu/devices?in=eu"
    assert (second.headers["x-in"], second.headers["x-eu"]) == ("eu", "eu token-number-1")
    assert json.loads(second.body) == {"query": "{ a(b: eu) }"}


# Renewal


@pytest.mark.parametrize(
    ("stated", "default", "logins"), [(0.4, None, 2), ("0.4", 3600, 2), (None, 0.4, 2), (None, None, 1), (3600, 0.4, 1)]
)
def test_a_token_is_renewed_before_it_expires(
    stated: Any, default: float | None, logins: int, make: Callable[[Connection], Transport]
) -> None:
    vendor = glpi()
    vendor.auth |= {"expires_in_path": "lifetime", "default_token_expiration": default}
    vendor.issued = lambda token, _: Say({"session_token": token, "lifetime": stated})
    with Scripted(vendor) as server:
        transport = make(vendor.connection(server.url))
        ask(transport)
        time.sleep(0.21)  # half of the lifetime
        ask(transport)
    # The first token may have become old before it was used.
    assert len(vendor.logins) == logins or (logins == 2 and len(vendor.logins) == 3)


def test_each_refresh_uses_the_newest_refresh_token(make: Callable[[Connection], Transport]) -> None:
    vendor = n_central()
    first = vendor.issued
    with Scripted(vendor) as server:
        transport = make(vendor.connection(server.url))
        for number in range(4):
            ask(transport)
            vendor.good.clear()
            if number == 1:  # no new refresh token: the last one is valid
                vendor.issued = lambda token, _: Say({"tokens": {"access": {"token": token}}})
            if number == 2:
                vendor.issued = first
        ask(transport)
    assert (vendor.wrong, vendor.logins) == ([], ["login", *["refresh"] * 4])


REFUSALS = [Say({"error": "expired"}, 401), Say({"error": "invalid_grant"}, 400), Say({"error": "invalid_code"})]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_refresh_falls_back_to_the_first_request(
    refusal: Say, make: Callable[[Connection], Transport]
) -> None:
    vendor = n_central()
    with Scripted(lambda seen: refusal if seen.target == "/api/auth/refresh" else vendor(seen)) as server:
        transport = make(vendor.connection(server.url))
        ask(transport)
        vendor.good.clear()
        ask(transport)
    assert (vendor.logins, transport.traffic.retries) == (["login", "login"], 0)
    assert [seen.target for seen in server.seen].count("/api/auth/refresh") == 1


def test_a_refresh_is_retried_if_the_endpoint_is_down(make: Callable[[Connection], Transport]) -> None:
    vendor, troubles = n_central(), [Say(status=503)]
    with Scripted(
        lambda seen: troubles.pop() if seen.target == "/api/auth/refresh" and troubles else vendor(seen)
    ) as server:
        transport = make(vendor.connection(server.url))
        ask(transport)
        vendor.good.clear()
        ask(transport)
    assert (vendor.logins, transport.traffic.retries) == (["login", "refresh"], 1)


def test_a_token_that_is_always_refused_is_renewed_once(make: Callable[[Connection], Transport]) -> None:
    vendor = by_cookie()
    vendor.sent = lambda seen: None
    with Scripted(vendor) as server, pytest.raises(TransportError, match="HTTP 401: the API refused the key"):
        ask(make(vendor.connection(server.url)))
    assert vendor.logins == ["login", "login"]


def test_a_next_link_loses_the_echoed_token(make: Callable[[Connection], Transport]) -> None:
    vendor = by_query()
    with Scripted(vendor) as server:
        transport = make(vendor.connection(server.url))
        ask(transport)
        assert transport.same_origin("/v1/devices?token=***&page=2") == f"{server.url}/v1/devices?page=2"


# Faults


@pytest.mark.parametrize(
    ("vendor_of", "answer", "says"),
    [
        (glpi, Say({"sesion_token": "x", "id": 1}), "no text at access_token_path `session_token`; the response contains "
                                                    "`sesion_token`, `id`"),
        (glpi, Say({"session_token": 7}), "no text at access_token_path `session_token`"),
        (glpi, Say({"session_token": ""}), "no text at access_token_path"),
        (glpi, Say({}), "the response contains nothing"),
        (glpi, Say(b"<html>", headers=(("Content-Type", "text/html"),)), "HTTP 200, text/html: not a JSON object"),
        (by_cookie, Say({"sid": "x"}), "sets no cookie `sid`"),
        (datto, Say({"access_token": "token-number-1", "expires_in": "2027-01-01"}), "lifetime at `expires_in` is not a number"),
        (glpi, Say({"error": "locked"}, 403), r"no token from \S+/initSession: HTTP 403"),
    ],
)  # fmt: skip
def test_a_response_without_a_token_says_what_is_missing(
    vendor_of: Callable[[], Vendor], answer: Say, says: str, make: Callable[[Connection], Transport]
) -> None:
    vendor = vendor_of()
    with Scripted(lambda _: answer) as server, pytest.raises(TransportError, match=says) as raised:
        ask(make(vendor.connection(server.url)))
    assert len(server.seen) == 1
    assert str(raised.value).startswith("devices page 1: ") and not any(
        s in str(raised.value) for s in SECRETS.values()
    )


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirected_token_request_sends_no_secret_elsewhere(
    status: int, make: Callable[[Connection], Transport]
) -> None:
    vendor = datto()
    with Scripted(lambda _: Say()) as other:
        there = (("Location", f"{other.url}/login"),)
        answer = Say(status=status, headers=there)
        says = f"HTTP {status}: a redirect that cannot be followed"
        with Scripted(lambda _: answer) as server, pytest.raises(TransportError, match=says):
            ask(make(vendor.connection(server.url)))
    assert (len(server.seen), other.seen) == (1, [])


def test_an_issuer_at_another_origin_receives_only_its_own_request(make: Callable[[Connection], Transport]) -> None:
    vendor = automate()
    vendor.headers["X-Tenant"] = "7"
    with Scripted(vendor) as issuer, Scripted(vendor) as server:
        made = vendor.connection(issuer.url)
        ask(make(made.model_copy(update={"client": made.client.model_copy(update={"base_url": server.url})})))
    assert vendor.wrong == []
    assert [(seen.target, "x-tenant" in seen.headers) for seen in issuer.seen] == [("/apitoken?tenant=7", False)]
    assert [(seen.target, "x-tenant" in seen.headers) for seen in server.seen] == [("/v1/devices", True)]


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "a plain http issuer": ({"access_token_url": "http://login.example.com/t"}, "access_token_url", "plain http"),
    "a plain http refresh": (
        {"refresh": {"url": "http://login.example.com/t", "refresh_token_path": "r"}}, "refresh.url", "plain http",
    ),
    "no place for the token": ({"access_token_path": None}, "access_token_path", "`access_token_path: access_token`"),
    "a path that is none": ({"access_token_path": "a..[b"}, "access_token_path", "not a JSONPath"),
    "a value without a token": ({"send": {"value": "Bearer"}}, "send.value", "write `{token}` in its place"),
    "two bodies": ({"access_token_request": {"json": {"a": 1}, "data": "b"}}, "data", "either `json` or `data`"),
    "a secret in the address": ({"access_token_url": "https://h/{secrets.USER}"}, "access_token_url", "headers, auth"),
    "an unknown secret": ({"access_token_request": {"data": {"a": "{secrets.USR}"}}}, "data.a", "did you mean `USER`?"),
    "a password in plain text": (
        {"access_token_request": {"http_basic": {"username": "me", "password": "hunter2"}}}, "http_basic.password",
        "a secret must not be in the file",
    ),
    "a refresh token in the first request": (
        {"access_token_request": {"data": {"refresh_token": "{refresh_token}"}}}, "data.refresh_token",
        "a secret must not be in the file",
    ),
    "an unknown key": ({"access_token_request": {"body": "x"}}, "access_token_request.body", "unknown key `body`"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_token_auth_is_refused_with_what_to_write(case: str) -> None:
    changes, place, says = WRONG[case]
    vendor = datto()
    vendor.auth |= changes
    vendor.headers = {"X-User": "{secrets.USER}", "X-Password": "{secrets.PASSWORD}"}
    with pytest.raises(ValidationError) as raised:
        vendor.connection("https://rmm.example.com")
    told = [f"{'.'.join(str(part) for part in path)}: {message}" for path, message in messages(raised.value)]
    assert any(re.search(rf"{re.escape(place)}: .*{re.escape(says)}", line) for line in told), told
    assert "hunter2" not in str(raised.value)


def test_an_api_key_besides_a_token_is_refused() -> None:
    said = connection().model_dump(exclude_unset=True) | {"secrets": {}}
    said["client"]["auth"] = {
        **datto().auth,
        "access_token_url": "https://rmm.example.com/t",
        "access_token_request": {},
    }
    with pytest.raises(ValidationError, match=r"api_key\n.*token takes its secrets from `secrets`; move it there"):
        Connection.model_validate(said)
