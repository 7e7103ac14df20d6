"""Tests how a secret is sent, and that every form of it is redacted from responses and messages."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest

from rmm_assets.errors import TransportError
from rmm_assets.http.auth import BearerAuth, build_auth
from rmm_assets.http.rate_limit import RateLimit
from rmm_assets.http.redaction import MASK, Redactor
from rmm_assets.http.request import Request
from rmm_assets.http.settings import Limits, Retry
from rmm_assets.http.transport import Transport
from rmm_assets_tests.http.auths import read_auth
from rmm_assets_tests.http.leaks import WRITTEN
from rmm_assets_tests.http.servers import Say, Scripted, Seen

PLAIN = "plain-key-0123456789"
ODD = "k3y/+=&%ü\"'\\<€> ~:zz"
KEYS = [PLAIN, ODD]


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("key", KEYS)
def test_every_written_form_is_redacted_from_messages_bodies_and_headers(key: str, form: str) -> None:
    redactor = Redactor()
    redactor.add(key)
    written = WRITTEN[form](key)
    assert redactor.text(f"before {written} after") == f"before {MASK} after"
    assert redactor.body(f'{{"a": "{written}"}}'.encode()) == f'{{"a": "{MASK}"}}'.encode()
    as_header = f"/x?a={written}&b=1".encode().decode("latin-1")
    assert redactor.header(as_header) == f"/x?a={MASK}&b=1"


@pytest.mark.parametrize("before", ["", "u", "us", "user:"])
@pytest.mark.parametrize("key", KEYS)
def test_base64_is_redacted_at_every_alignment(key: str, before: str) -> None:
    redactor = Redactor()
    redactor.add(key)
    for after in ("", "a", "ab", "abc"):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            written = encode(f"{before}{key}{after}".encode())
            masked = redactor.body(written)
            assert MASK.encode() in masked
            # Only the letters that also encode the neighbours remain.
            assert len(masked) <= len(MASK) + 4 * (len(before) + 2) // 3 + 4 * (len(after) + 2) // 3 + 4
            assert redactor.text(written.decode()) == masked.decode()


def test_a_short_secret_is_redacted_from_messages_but_not_from_rows() -> None:
    redactor = Redactor()
    redactor.add("id")
    assert redactor.text("the id was refused") == f"the {MASK} was refused"
    assert redactor.body(b'{"id": 1}') == b'{"id": 1}'
    assert redactor.header('</a?id=1>; rel="next"') == '</a?id=1>; rel="next"'


def test_other_text_is_not_redacted() -> None:
    redactor = Redactor()
    redactor.add(ODD)
    body = json.dumps([{"name": "Ünïcode/+=&%", "key": "k3y"}]).encode()
    assert redactor.body(body) is body


# Requests


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Transport]]:
    made: list[Transport] = []

    def build(url: str, auth: Any, secret: str, **more: Any) -> Transport:
        redactor = Redactor()
        made.append(
            Transport(
                url,
                auth=build_auth(read_auth(auth), secret, redactor),
                redactor=redactor,
                limits=Limits(),
                rate_limit=RateLimit(tmp_path, max_concurrency=8),
                retry=Retry(backoff_factor=0.01),
                **more,
            )
        )
        return made[-1]

    yield build
    for transport in made:
        transport.close()


def ask(transport: Transport) -> bytes:
    return transport.send(Request("/v1/devices?limit=2", label="devices page 1"), lambda reply: reply.body)


@pytest.mark.parametrize("key", [PLAIN, ODD])
@pytest.mark.parametrize(
    ("auth", "place"),
    [
        ({"type": "api_key", "name": "api key", "location": "query"}, "query"),
        ({"type": "api_key", "name": "k", "location": "param"}, "query"),
        ({"type": "api_key", "name": "X-API-KEY", "location": "header"}, "x-api-key"),
        ({"type": "api_key", "name": "session", "location": "cookie"}, "cookie"),
        ("bearer", "authorization"),
        ({"type": "http_basic", "username": "me"}, "authorization"),
    ],
)
def test_the_server_receives_the_whole_secret(make: Callable[..., Transport], auth: Any, place: str, key: str) -> None:
    with Scripted(lambda seen: Say()) as server:
        ask(make(server.url, auth, key))
    [seen] = server.seen
    if place == "query":
        assert parse_qs(seen.target.partition("?")[2]) == {"limit": ["2"], auth["name"]: [key]}
        return
    assert seen.target == "/v1/devices?limit=2"
    value = seen.headers[place].encode("latin-1")
    if place == "authorization" and auth != "bearer":
        assert base64.b64decode(value.removeprefix(b"Basic ")).decode() == f"me:{key}"
        return
    expected = {"x-api-key": key, "cookie": f"session={key}", "authorization": f"Bearer {key}"}[place]
    assert value == expected.encode("latin-1" if key == PLAIN else "utf-8")


def test_the_secret_replaces_a_header_with_the_same_name(make: Callable[..., Transport]) -> None:
    with Scripted(lambda seen: Say()) as server:
        ask(make(server.url, "bearer", PLAIN, headers={"authorization": "nobody", "X-Tenant": "7"}))
    assert server.seen[0].headers["authorization"] == f"Bearer {PLAIN}"
    assert server.seen[0].headers["x-tenant"] == "7"


@pytest.mark.parametrize("secret", ["line\nbreak-in-it", "ends-with-one\n", "a\0b-and-more", "bad\udcffletter", ""])
def test_a_secret_that_cannot_be_sent_is_refused_without_repeating_it(secret: str) -> None:
    with pytest.raises(ValueError, match="the secret") as caught:
        build_auth(BearerAuth(), secret, Redactor())
    assert not secret or secret not in str(caught.value)


def test_an_auth_without_a_secret_names_what_to_set() -> None:
    with pytest.raises(ValueError, match="set api_key in the connection file"):
        build_auth(BearerAuth(), None, Redactor())


# OAuth


class Issuer:
    """An API with tokens: it issues them, and accepts those that it has not revoked."""

    def __init__(self, *, same: bool = False, lifetime: Any = 3600) -> None:
        self.same, self.lifetime = same, lifetime
        self.issued = 0
        self.good: set[str] = set()
        self.troubles: list[Say] = []

    def __call__(self, seen: Seen) -> Say:
        if seen.target == "/token":
            if self.troubles:
                return self.troubles.pop(0)
            self.issued += 1
            token = "token-that-stays-one" if self.same else f"token-number-{self.issued:08}"
            self.good.add(token)
            return Say({"access_token": token, "expires_in": self.lifetime})
        token = seen.headers.get("authorization", "").removeprefix("Bearer ")
        time.sleep(0.02)
        return Say({"data": []}) if token in self.good else Say({"error": f"bad token {token}"}, 401)


def oauth(server: Scripted) -> dict[str, Any]:
    return {
        "type": "oauth2_client_credentials",
        "access_token_url": f"{server.url}/token",
        "client_id": "me",
        "access_token_request_data": {"scope": "read"},
    }


def test_one_token_serves_many_requests(make: Callable[..., Transport]) -> None:
    issuer = Issuer()
    with Scripted(issuer) as server:
        transport = make(server.url, oauth(server), ODD)
        with ThreadPoolExecutor(8) as workers:
            list(workers.map(lambda _: ask(transport), range(40)))
    form = parse_qs(server.seen[0].body.decode())
    assert form == {
        "grant_type": ["client_credentials"],
        "client_id": ["me"],
        "client_secret": [ODD],
        "scope": ["read"],
    }
    assert (issuer.issued, transport.traffic.requests, transport.traffic.retries) == (1, 40, 0)
    assert not any(ODD in unquote(seen.target) for seen in server.seen)


@pytest.mark.parametrize(("lifetime", "most"), [(0.4, 3), ("0.4", 3), (3600, 1), ("3600", 1)])
def test_a_token_is_renewed_before_it_expires(make: Callable[..., Transport], lifetime: Any, most: int) -> None:
    issuer = Issuer(lifetime=lifetime)
    with Scripted(issuer) as server:
        transport = make(server.url, oauth(server), PLAIN)
        for _ in range(3):
            ask(transport)
            time.sleep(0.15)  # half of the short lifetime passes during the three requests
    assert min(most, 2) <= issuer.issued <= most


def test_eight_workers_that_are_refused_together_fetch_one_new_token(make: Callable[..., Transport]) -> None:
    issuer = Issuer()
    with Scripted(issuer) as server:
        transport = make(server.url, oauth(server), PLAIN)
        ask(transport)
        issuer.good.clear()
        with ThreadPoolExecutor(8) as workers:
            list(workers.map(lambda _: ask(transport), range(16)))
    assert (issuer.issued, transport.traffic.retries) == (2, 0)


def test_a_server_may_return_the_same_token_again(make: Callable[..., Transport]) -> None:
    issuer = Issuer(same=True)
    with Scripted(issuer) as server:
        transport = make(server.url, oauth(server), PLAIN)
        ask(transport)
        issuer.good.clear()
        ask(transport)
    assert issuer.issued == 2


def test_a_token_that_is_always_refused_is_renewed_once(make: Callable[..., Transport]) -> None:
    issuer = Issuer()
    with (
        Scripted(lambda seen: issuer(seen) if seen.target == "/token" else Say({"token": seen.headers}, 401)) as server,
        pytest.raises(TransportError, match="HTTP 401: the API refused the key") as caught,
    ):
        ask(make(server.url, oauth(server), PLAIN))
    assert (issuer.issued, len(server.seen)) == (2, 4)
    assert "token-number" not in str(caught.value)


def test_a_token_request_is_retried_if_the_endpoint_is_down(make: Callable[..., Transport]) -> None:
    issuer = Issuer()
    issuer.troubles = [Say(status=503, headers=(("Retry-After", "0.3"),)), Say(status=500)]
    with Scripted(issuer) as server:
        ask(make(server.url, oauth(server), PLAIN))
    assert [seen.target[:6] for seen in server.seen] == ["/token", "/token", "/token", "/v1/de"]
    assert server.seen[1].at - server.seen[0].at >= 0.3


@pytest.mark.parametrize(
    "answer",
    [
        Say({"error": "invalid_client", "secret": PLAIN}, 401),
        Say({"secret": PLAIN}),
        Say(PLAIN.encode()),
        Say({"access_token": ["x"], "secret": PLAIN}),
        Say({"access_token": "x", "expires_in": PLAIN}),
        Say(status=302, headers=(("Location", f"http://127.0.0.1:1/{PLAIN}"),)),
        Say({"error": "invalid_client"}, 401, (("Content-Type", f"application/json; secret={PLAIN}"),)),
        Say([], 200, (("Content-Type", f"application/json; secret={PLAIN}"),)),
    ],
)
def test_a_response_without_a_token_fails_immediately_and_says_so(make: Callable[..., Transport], answer: Say) -> None:
    with Scripted(lambda seen: answer) as server, pytest.raises(TransportError, match="devices page 1: ") as caught:
        ask(make(server.url, oauth(server), PLAIN))
    assert len(server.seen) == 1
    assert PLAIN not in str(caught.value)


@pytest.mark.parametrize("shown", [4, 12])
def test_no_error_contains_part_of_a_secret_at_the_end_of_a_long_token_response(
    make: Callable[..., Transport], shown: int
) -> None:
    # An excerpt only uses the beginning of a long body; the secret must be redacted before it is cut.
    answer = Say(b" " * ((1 << 16) - shown) + PLAIN.encode(), 401)
    with Scripted(lambda seen: answer) as server, pytest.raises(TransportError, match="HTTP 401") as caught:
        ask(make(server.url, oauth(server), PLAIN))
    assert PLAIN[:shown] not in str(caught.value)


def test_the_client_secret_is_not_posted_over_plain_http(make: Callable[..., Transport]) -> None:
    with Scripted(lambda seen: Say()) as server:
        auth = {**oauth(server), "access_token_url": "http://login.example.com/token"}
        with pytest.raises(TransportError, match=r"access_token_url: plain http"):
            ask(make(server.url, auth, PLAIN))


# Core files

CRASH = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
from rmm_assets.http.auth import BearerAuth, build_auth
from rmm_assets.http.redaction import Redactor
if sys.argv[1] == "secret":
    build_auth(BearerAuth(), os.environ["KEY"], Redactor())
print(resource.getrlimit(resource.RLIMIT_CORE)[0], flush=True)
os.abort()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no core dumps")
def test_a_process_with_a_secret_leaves_no_core_dump(tmp_path: Path) -> None:
    import resource

    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("core dumps are disabled on this machine anyway")
    found = {}
    for case in ("secret", "none"):
        folder = tmp_path / case
        folder.mkdir()
        environment = {**os.environ, "KEY": PLAIN, "PYTHONPATH": str(Path(__file__).parents[2])}
        ran = subprocess.run(
            [sys.executable, "-c", CRASH, case], cwd=folder, env=environment, capture_output=True, text=True
        )
        found[case] = (int(ran.stdout), [file.name for file in folder.iterdir()])
    assert found["secret"] == (0, [])
    assert found["none"][0] == resource.RLIM_INFINITY


# A new kind of auth

NEW_KIND = """
from typing import Literal

from rmm_assets.http.attach import Auth, HeaderAuth
from rmm_assets.http.auth import AuthSettings


class SchemeAuth(AuthSettings):
    type: Literal["scheme"] = "scheme"
    prefix: str = "Token"

    def build(self, secret, named, redactor) -> Auth:
        return HeaderAuth("Authorization", f"{self.prefix} {secret}")


from rmm_assets.config import Connection
from rmm_assets.http.auth import build_auth
from rmm_assets.http.redaction import Redactor

said = {"name": "acme", "api_key": {"env": "ACME"}, "resources": [{"name": "devices", "endpoint": {"paginator": "single_page"}}]}
said["client"] = {"base_url": "https://rmm.example.com", "auth": {"type": "scheme", "prefix": "Key"}}
connection = Connection.model_validate(said)
print(build_auth(connection.client.auth, "s3cret", Redactor()).attach("/v1", {})[1]["Authorization"])
said["client"]["auth"] = "schem"
try:
    Connection.model_validate(said)
except ValueError as error:
    print("scheme" in str(error))
"""


@pytest.mark.slow
def test_one_class_adds_a_kind_of_auth() -> None:
    done = subprocess.run([sys.executable, "-c", NEW_KIND], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["Key s3cret", "True"]
