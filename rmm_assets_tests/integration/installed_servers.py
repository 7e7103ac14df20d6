"""Tests reads from servers that Debian packages, each in its own process; `make servers` runs them.

They are not a part of the suite, because it would have to install the servers. A test whose server is missing is skipped.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

import pytest

from rmm_assets.config import Connection
from rmm_assets.errors import IncompleteError, PagingError, RmmError, TransportError
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.run import sync
from rmm_assets.reading.report import Evidence
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.integration.test_foreign_servers import free_port
from rmm_assets_tests.syncing import rows_of, store_in

STARTS_WITHIN = 300.0  # seconds
PASSWORD = "a-made-up-password"

Endpoint = dict[str, Any]


class Server:
    """A running server.

    Attributes:
        url: Base URL of its API.
        auth: The auth of a connection to it, as in a connection file.
        headers: The same for requests by hand.
        certificates: PEM file with the CA of its certificate, if it is not a public one.
        secret: The key or password of a connection to it.
    """

    def __init__(
        self, url: str, auth: Mapping[str, Any], headers: Mapping[str, str], certificates: Path | None = None,
        secret: str = PASSWORD,
    ) -> None:  # fmt: skip
        self.secret = secret
        self.url, self.auth, self.headers, self.certificates = url, auth, headers, certificates

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Any:
        """Sends a request by hand and returns the JSON of the response."""
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **self.headers, **headers}
        context = None if self.certificates is None else ssl.create_default_context(cafile=str(self.certificates))
        with urlopen(Request(self.url + path, data, sent, method=method), timeout=60, context=context) as answer:
            return json.loads(answer.read() or b"null")

    def connection(self, *resources: Mapping[str, Any], **client: Any) -> Connection:
        tls = {} if self.certificates is None else {"tls": {"ca_file": str(self.certificates)}}
        return Connection.model_validate(
            {
                "name": "acme",
                "client": {"base_url": self.url, "auth": self.auth, **client},
                "api_key": {"env": "ACME_API_KEY"},
                "retry": {"backoff_factor": 0.001},
                "resources": list(resources),
                **tls,
            }
        )

    def load(self, folder: Path, made: Connection, name: str) -> Outcome:
        """Loads a resource into the folder's database.

        Raises:
            Exception: The error that explains why the run is red.
        """
        try:
            return sync(made, made.resource(name), self.secret, store=store_in(folder))
        except Exception as error:
            cause: BaseException = error
            while (deeper := cause.__cause__ or cause.__context__) is not None and not isinstance(cause, RmmError):
                cause = deeper
            raise cause from None


def resource(name: str, key: Any, endpoint: Endpoint, **more: Any) -> dict[str, Any]:
    return {"name": name, "primary_key": key, "write_disposition": "merge", "endpoint": endpoint, **more}


@contextmanager
def running(command: list[str], folder: Path, ready: Any, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """Runs a server until the block ends.

    Args:
        command: Its command line.
        folder: Its working directory, which gets its log.
        ready: Asks it something; raises an `OSError` until it answers.
        env: Environment variables in addition to this process's.
    """
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=folder, env={**os.environ, **(env or {})}, start_new_session=True
        )
    try:
        until = time.monotonic() + STARTS_WITHIN
        while True:
            assert process.poll() is None and time.monotonic() < until, log.read_text(errors="replace")[-3000:]
            with suppress(URLError, ConnectionError, TimeoutError):
                ready()
                break
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(60)


def installed(program: str, package: str) -> str:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/bin")
    if found is None:
        pytest.skip(f"{package} is not installed: apt-get install --no-install-recommends {package}")
    return found


def basic(user: str) -> tuple[dict[str, Any], dict[str, str]]:
    text = base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
    return {"type": "http_basic", "username": user}, {"Authorization": f"Basic {text}"}


@contextmanager
def meddling(server: Server, before: Callable[[int], None]) -> Iterator[Server]:
    """Forwards to a server; before each page, calls a function with the page's number."""
    pages = itertools.count(1)
    root = server.url.removesuffix(urlsplit(server.url).path)

    def answer(seen: Seen) -> Say:
        if seen.method == "GET":
            before(next(pages))
        sent = {**server.headers, "Host": seen.headers["host"]}
        with urlopen(Request(root + seen.target, headers=sent, method=seen.method), timeout=60) as found:
            kept = ("Next-Page", "Total-Records")
            return Say(
                found.read(), headers=tuple((name, found.headers[name]) for name in kept if name in found.headers)
            )

    with Scripted(answer) as proxy:
        yield Server(proxy.url + urlsplit(server.url).path, server.auth, server.headers, secret=server.secret)


def complete_or_red(server: Server, folder: Path, endpoint: Endpoint, key: str, held: set[Any], **more: Any) -> str:
    """Loads a table and returns its evidence, or `red`; fails if the run is green without all rows.

    Args:
        held: The values of `key` that the server has.
    """
    made = server.connection(resource("tried", key, endpoint, **more))
    try:
        outcome = server.load(folder, made, "tried")
    except (IncompleteError, PagingError, TransportError):
        return "red"
    assert {row[key] for row in rows_of(folder, "tried")} == held, endpoint
    return str(outcome.report.evidence)


# RabbitMQ's management API: pages by number with totals, or everything at once.

QUEUES = 1234


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    installed("rabbitmqctl", "rabbitmq-server")
    folder, ports = tmp_path_factory.mktemp("rabbitmq"), [free_port() for _ in range(4)]
    auth, headers = basic("rmm")
    (folder / "plugins").write_text("[rabbitmq_management].")
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.default = 127.0.0.1:{ports[0]}\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {ports[1]}\n"
        f"default_user = rmm\ndefault_pass = {PASSWORD}\n"
    )
    env = {
        "HOME": str(folder), "RABBITMQ_NODENAME": "rmm@localhost", "RABBITMQ_BASE": str(folder),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"), "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"), "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull, "RABBITMQ_DIST_PORT": str(ports[2]), "ERL_EPMD_PORT": str(ports[3]),
    }  # fmt: skip
    server = Server(f"http://127.0.0.1:{ports[1]}/api", auth, headers)
    try:
        with running(["/usr/lib/rabbitmq/bin/rabbitmq-server"], folder, lambda: server.ask("/overview"), env):
            for number in range(QUEUES):
                arguments = {"x-max-length": number} if number % 3 else {}
                server.ask(f"/queues/%2F/q{number:04}%20%C3%BC", "PUT", {"durable": False, "arguments": arguments})
            # Statistics, of which some fields consist, arrive a moment later.
            until = time.monotonic() + STARTS_WITHIN
            while any("messages" not in queue for queue in server.ask("/queues")):
                assert time.monotonic() < until
                time.sleep(1)
            yield server
    finally:
        # Erlang's port mapper outlives the server.
        subprocess.run(["epmd", "-port", str(ports[3]), "-kill"], capture_output=True, check=False)


BY_PAGE: Endpoint = {
    "path": "/queues",
    "params": {"page_size": 100},
    "data_selector": "items",
    "paginator": {"type": "page_number", "base_page": 1, "total_path": "page_count"},
}


def names(server: Server, path: str = "/queues") -> set[str]:
    return {row["name"] for row in server.ask(path)}


@pytest.mark.parametrize(
    "endpoint",
    [BY_PAGE, {"path": "/queues", "data_selector": "$", "paginator": "single_page"}],
    ids=["page_number", "single_page"],
)
def test_rabbitmq_is_read_to_the_last_queue(rabbitmq: Server, endpoint: Endpoint, tmp_path: Path) -> None:
    more = {"total_path": "total_count"} if endpoint is BY_PAGE else {}
    made = rabbitmq.connection(resource("queues", ["vhost", "name"], endpoint, **more))
    outcome = rabbitmq.load(tmp_path, made, "queues")
    held = {row["name"]: row for row in rabbitmq.ask("/queues")}
    found = rows_of(tmp_path, "queues")
    assert (outcome.report.complete, len(found), len(held)) == (True, QUEUES, QUEUES)
    for row in found:
        assert row["vhost"] == "/"
        assert row["arguments__x_max_length"] == held[row["name"]]["arguments"].get("x-max-length")
        assert (row["state"], row["type"], row["node"]) == tuple(
            held[row["name"]][k] for k in ("state", "type", "node")
        )


def test_a_filter_that_rabbitmqs_total_ignores_is_red_until_the_file_says_so(rabbitmq: Server, tmp_path: Path) -> None:
    held = {name for name in names(rabbitmq) if name.startswith("q00")}
    filtered = {**BY_PAGE, "params": {"page_size": 30, "name": "^q00", "use_regex": "true"}}
    assert complete_or_red(rabbitmq, tmp_path, filtered, "name", held, total_path="total_count") == "red"
    assert complete_or_red(rabbitmq, tmp_path, filtered, "name", held) == "red"
    told = {**filtered, "wrong_signals": ["total_count"]}
    assert complete_or_red(rabbitmq, tmp_path, told, "name", held, total_path="filtered_count") == str(
        Evidence.STATED_TOTAL
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"params": {"page_size": 501}},
        {"params": {}},
        {"params": {"pagesize": 500}},
        {"params": {"per_page": 500}},
        {"paginator": {"type": "page_number", "base_page": 0}},
        {"paginator": {"type": "page_number", "base_page": 1, "total_path": None}},
        {"paginator": {"type": "page_number", "base_page": 1, "total_path": "pages"}},
        {"paginator": {"type": "page_number", "base_page": 1, "page_param": "pagenumber"}},
        {"paginator": {"type": "page_number", "base_page": 1, "page": 2}},
        {"paginator": {"type": "offset", "limit": 100}},
        {"paginator": {"type": "offset", "limit": 100}, "data_selector": "$"},
        {"paginator": {"type": "offset", "limit": 100, "total_path": None}, "data_selector": "$"},
        {"paginator": {"type": "cursor", "cursor_path": "next"}, "params": {"page": 1}},
        {"paginator": {"type": "json_link", "next_url_path": "next"}, "params": {"page": 1, "page_size": 100}},
        {"paginator": "header_link", "params": {"page": 1, "page_size": 500}},
        {"paginator": "single_page", "params": {"page": 1}},
        {"paginator": "single_page"},
        {"paginator": "single_page", "data_selector": "$"},
        {"data_selector": None},
    ],
    ids=json.dumps,
)
def test_rabbitmq_is_read_completely_or_red_however_it_is_misconfigured(
    rabbitmq: Server, changes: Endpoint, tmp_path: Path
) -> None:
    endpoint = {name: value for name, value in {**BY_PAGE, **changes}.items() if value is not None}
    how = complete_or_red(rabbitmq, tmp_path, endpoint, "name", names(rabbitmq))
    print(f"\n{json.dumps(changes)}: {how}", file=sys.stderr)


# PowerDNS: no paging; the records of a zone are in the zone.

ZONES = 120


@pytest.fixture(scope="module")
def powerdns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program, schema = (
        installed("pdns_server", "pdns-server"),
        Path("/usr/share/doc/pdns-backend-sqlite3/schema.sqlite3.sql"),
    )
    if not schema.exists():
        pytest.skip(
            "pdns-backend-sqlite3 is not installed: apt-get install --no-install-recommends pdns-backend-sqlite3"
        )
    import sqlite3

    folder, ports = tmp_path_factory.mktemp("powerdns"), [free_port() for _ in range(2)]
    with sqlite3.connect(folder / "zones.db") as db:
        db.executescript(schema.read_text())
    db.close()
    (folder / "pdns.conf").write_text(
        f"launch=gsqlite3\ngsqlite3-database={folder}/zones.db\napi=yes\napi-key={PASSWORD}\nwebserver-address=127.0.0.1\n"
        f"webserver-port={ports[0]}\nwebserver-allow-from=127.0.0.1\nlocal-address=127.0.0.1\nlocal-port={ports[1]}\n"
        f"socket-dir={folder}\n"
    )
    auth = {"type": "api_key", "name": "X-API-Key", "location": "header"}
    server = Server(f"http://127.0.0.1:{ports[0]}/api/v1/servers/localhost", auth, {"X-API-Key": PASSWORD})
    with running([program, f"--config-dir={folder}"], folder, lambda: server.ask("")):
        for number in range(ZONES):
            # A name whose slash is encoded in the id.
            zone = f"z{number:03}.example." if number % 10 else f"{number}/26.2.0.192.in-addr.arpa."
            sets = [
                {
                    "name": f"h{n}.{zone}",
                    "type": "TXT",
                    "ttl": 60,
                    "records": [{"content": f'"{n} ü"', "disabled": False}],
                }
                for n in range(number % 7)
            ]
            server.ask(
                "/zones", "POST", {"name": zone, "kind": "Native", "nameservers": ["ns.example."], "rrsets": sets}
            )
        yield server


ZONE: Endpoint = {"path": "/zones", "data_selector": "$", "paginator": "single_page"}


def test_powerdns_zones_and_records_are_read_to_the_last_one(powerdns: Server, tmp_path: Path) -> None:
    records: Endpoint = {"path": "/zones/{resources.zones.id}", "data_selector": "rrsets", "paginator": "single_page"}
    made = powerdns.connection(
        resource("zones", "id", ZONE),
        resource("records", ["_zones_id", "name", "type"], records, include_from_parent=["id"]),
    )
    assert powerdns.load(tmp_path, made, "zones").report.complete
    assert powerdns.load(tmp_path, made, "records").report.complete
    zones = powerdns.ask("/zones")
    assert rows_of(tmp_path, "zones") == [
        {**row, "masters": json.dumps(row["masters"])} for row in sorted(zones, key=lambda row: str(row["id"]))
    ]
    held = {
        (zone["id"], row["name"], row["type"], json.dumps(row["records"], separators=(",", ":"), ensure_ascii=False))
        for zone in zones
        for row in powerdns.ask(f"/zones/{quote(zone['id'])}")["rrsets"]
    }
    found = [(row["_zones_id"], row["name"], row["type"], row["records"]) for row in rows_of(tmp_path, "records")]
    assert len(found) == len(held) > 2 * ZONES
    assert {(*key, records) for *key, records in found} == held


def test_powerdns_statistics_keep_values_of_two_types(powerdns: Server, tmp_path: Path) -> None:
    endpoint: Endpoint = {"path": "/statistics", "data_selector": "$", "paginator": "single_page"}
    made = powerdns.connection(resource("statistics", ["type", "name"], endpoint))
    assert powerdns.load(tmp_path, made, "statistics").rows_rejected == 0
    held = powerdns.ask("/statistics")
    found = {(row["type"], row["name"]): row for row in rows_of(tmp_path, "statistics")}
    assert found.keys() == {(row["type"], row["name"]) for row in held}
    assert {type(row["value"]) for row in held} == {str, list}
    assert {type(json.loads(row["value"])) for row in found.values()} == {str, list}


@pytest.mark.parametrize(
    "changes",
    [
        {"paginator": {"type": "offset", "limit": 100}},
        {"paginator": {"type": "offset", "limit": 100, "total_path": None}},
        {"paginator": {"type": "offset", "limit": ZONES, "total_path": None}},
        {"paginator": {"type": "page_number", "base_page": 1, "total_path": None}, "params": {"per_page": 50}},
        {"paginator": {"type": "page_number", "base_page": 0}},
        {"paginator": "header_link"},
        {"paginator": {"type": "json_link", "next_url_path": "next"}},
        {"paginator": {"type": "cursor", "cursor_path": "next"}},
    ],
    ids=json.dumps,
)
def test_powerdns_which_ignores_paging_is_read_completely_or_red(
    powerdns: Server, changes: Endpoint, tmp_path: Path
) -> None:
    held = {row["id"] for row in powerdns.ask("/zones")}
    how = complete_or_red(powerdns, tmp_path, {**ZONE, **changes}, "id", held)
    print(f"\n{json.dumps(changes)}: {how}", file=sys.stderr)


# Icinga 2: no paging, TLS with a certificate of its own.

HOSTS = 300
ICINGA = """
const NodeName = "localhost"
const ZoneName = NodeName
const TicketSalt = ""
include <itl>
object Endpoint NodeName {{}}
object Zone ZoneName {{ endpoints = [ NodeName ] }}
object ApiListener "api" {{ bind_host = "127.0.0.1", bind_port = {port} }}
object ApiUser "rmm" {{ password = "{password}", permissions = [ "*" ] }}
for (i in range({hosts})) {{
  object Host "h" + string(i) use(i) {{
    check_command = "dummy"
    address = "192.0.2.1"
    vars.n = i
    vars.disks = if (i % 3 == 0) {{ [ "C", "D" ] }} else {{ {{ root = "/" }} }}
  }}
}}
apply Service "ping #1" {{ check_command = "dummy"; assign where host.vars.n % 2 == 0 }}
"""


@pytest.fixture(scope="module")
def icinga(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program, openssl = installed("icinga2", "icinga2-bin"), installed("openssl", "openssl")
    folder, port = tmp_path_factory.mktemp("icinga"), free_port()
    keys = folder / "data" / "certs"
    for name in ("data/certs", "log", "cache", "spool", "run"):
        (folder / name).mkdir(parents=True)
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "localhost.key", "-out", "localhost.crt"]
    subprocess.run(command, check=True, capture_output=True, cwd=keys)
    shutil.copy(keys / "localhost.crt", keys / "ca.crt")
    (folder / "icinga2.conf").write_text(ICINGA.format(port=port, password=PASSWORD, hosts=HOSTS))
    places = {"DataDir": "data", "LogDir": "log", "CacheDir": "cache", "SpoolDir": "spool", "InitRunDir": "run"}
    defined = [f"{name}={folder / place}" for name, place in places.items()]
    user = "root" if os.geteuid() == 0 else str(os.environ.get("USER"))
    defined += [f"ConfigDir={folder}", f"RunAsUser={user}", f"RunAsGroup={user}"]
    command = [program, "daemon", "-c", "icinga2.conf", *(part for value in defined for part in ("-D", value))]
    auth, headers = basic("rmm")
    server = Server(f"https://localhost:{port}/v1", auth, headers, keys / "ca.crt")
    with running(command, folder, lambda: server.ask("/status")):
        yield server


@pytest.mark.parametrize("kind", ["hosts", "services"])
def test_icinga_objects_are_read_to_the_last_one(icinga: Server, kind: str, tmp_path: Path) -> None:
    endpoint: Endpoint = {"path": f"/objects/{kind}", "data_selector": "results", "paginator": "single_page"}
    made = icinga.connection(resource("objects", ["type", "name"], endpoint))
    # The second load meets a table in which variables are JSON.
    for _ in range(2):
        outcome = icinga.load(tmp_path, made, "objects")
        assert (outcome.report.complete, outcome.rows_rejected) == (True, 0)
    held = {row["name"]: row["attrs"] for row in icinga.ask(f"/objects/{kind}")["results"]}
    found = {row["name"]: row for row in rows_of(tmp_path, "objects")}
    assert found.keys() == held.keys()
    assert len(held) == HOSTS if kind == "hosts" else HOSTS // 2
    for name, row in found.items():
        assert row["attrs__check_command"] == held[name]["check_command"]
        if kind == "hosts":
            assert row["attrs__vars__n"] == held[name]["vars"]["n"]
            disks = held[name]["vars"]["disks"]
            lists, root = row["attrs__vars__disks"], row["attrs__vars__disks__root"]
            assert (lists and json.loads(lists), root) == ((disks, None) if isinstance(disks, list) else (None, "/"))


@pytest.mark.parametrize(
    "paginator",
    [
        {"type": "offset", "limit": 100},
        {"type": "offset", "limit": HOSTS, "total_path": None},
        {"type": "page_number", "base_page": 1, "total_path": None},
        {"type": "json_link", "next_url_path": "next"},
        "header_link",
    ],
    ids=json.dumps,
)
def test_icinga_which_ignores_paging_is_read_completely_or_red(icinga: Server, paginator: Any, tmp_path: Path) -> None:
    endpoint: Endpoint = {"path": "/objects/hosts", "data_selector": "results", "paginator": paginator}
    how = complete_or_red(icinga, tmp_path, endpoint, "name", {f"h{number}" for number in range(HOSTS)})
    print(f"\n{json.dumps(paginator)}: {how}", file=sys.stderr)


# JupyterHub: at most 200 rows per response. A bare list says nothing of more, unless a header asks for an envelope.

USERS = 650
ENVELOPE = {"Accept": "application/jupyterhub-pagination+json"}


@pytest.fixture(scope="module")
def jupyterhub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = installed("jupyterhub", "jupyterhub")
    folder, ports = tmp_path_factory.mktemp("jupyterhub"), [free_port() for _ in range(3)]
    (folder / "jupyterhub_config.py").write_text(
        f'c.JupyterHub.bind_url = "http://127.0.0.1:{ports[0]}/"\nc.JupyterHub.hub_port = {ports[1]}\n'
        f'c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{ports[2]}"\nc.JupyterHub.authenticator_class = "dummy"\n'
        f'c.JupyterHub.services = [{{"name": "rmm", "api_token": "{PASSWORD}"}}]\n'
        'c.JupyterHub.load_roles = [{"name": "rmm", "services": ["rmm"],\n'
        '    "scopes": ["admin:users", "admin:groups", "list:users", "read:users", "list:groups"]}]\n'
    )
    headers = {"Authorization": f"Bearer {PASSWORD}"}
    server = Server(f"http://127.0.0.1:{ports[1]}/hub/api", {"type": "bearer"}, headers)
    # Its proxy is written for Debian's Node.js, which looks for modules there.
    with running([program], folder, lambda: server.ask("/"), {"NODE_PATH": "/usr/share/nodejs"}):
        for start in range(0, USERS, 50):
            server.ask("/users", "POST", {"usernames": [f"u{number:04}" for number in range(start, start + 50)]})
        yield server


def users(server: Server) -> set[str]:
    found: list[str] = []
    while page := server.ask(f"/users?offset={len(found)}&limit=100"):
        found += [row["name"] for row in page]
    assert len(found) == USERS
    return set(found)


@pytest.mark.parametrize(
    ("changes", "headers"),
    [
        ({"paginator": {"type": "offset", "limit": 100, "total_path": "_pagination.total"}}, ENVELOPE),
        ({"paginator": {"type": "offset", "limit": 1000, "total_path": "_pagination.total"}}, ENVELOPE),
        ({"paginator": {"type": "json_link", "next_url_path": "_pagination.next.url"}}, ENVELOPE),
        ({"paginator": {"type": "offset", "limit": 100, "total_path": None}}, {}),
        ({"paginator": {"type": "offset", "limit": 1000, "total_path": None}}, {}),
    ],
    ids=json.dumps,
)
def test_jupyterhub_is_read_to_the_last_user(
    jupyterhub: Server, changes: Endpoint, headers: dict[str, str], tmp_path: Path
) -> None:
    endpoint: Endpoint = {"path": "/users", "data_selector": "items" if headers else "$", **changes}
    made = jupyterhub.connection(resource("users", "name", endpoint), headers=headers)
    outcome = jupyterhub.load(tmp_path, made, "users")
    assert outcome.report.complete
    assert {row["name"] for row in rows_of(tmp_path, "users")} == users(jupyterhub)


@pytest.mark.parametrize(
    ("changes", "headers"),
    [
        ({"paginator": "single_page"}, {}),
        ({"paginator": "single_page"}, ENVELOPE),
        ({"paginator": "header_link"}, {}),
        ({"paginator": {"type": "json_link", "next_url_path": "next"}}, ENVELOPE),
        ({"paginator": {"type": "cursor", "cursor_path": "_pagination.next"}}, ENVELOPE),
        (
            {"paginator": {"type": "cursor", "cursor_path": "_pagination.next.offset", "cursor_param": "offset"}},
            ENVELOPE,
        ),
        ({"paginator": {"type": "page_number", "base_page": 1, "total_path": None}}, {}),
        ({"paginator": {"type": "page_number", "base_page": 1}}, ENVELOPE),
        ({"paginator": {"type": "offset", "limit": 100, "offset_param": "start"}}, ENVELOPE),
        ({"paginator": {"type": "offset", "limit": 50, "limit_param": "size"}}, {}),
    ],
    ids=json.dumps,
)
def test_jupyterhub_is_read_completely_or_red_however_it_is_misconfigured(
    jupyterhub: Server, changes: Endpoint, headers: dict[str, str], tmp_path: Path
) -> None:
    endpoint: Endpoint = {"path": "/users", "data_selector": "items" if headers else "$", "headers": headers, **changes}
    how = complete_or_red(jupyterhub, tmp_path, endpoint, "name", users(jupyterhub))
    print(f"\n{json.dumps(changes)}: {how}", file=sys.stderr)
