"""Runs Zabbix's API as Debian packages it: its PHP files over a database of its own, without the server that polls hosts."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from rmm_assets_tests.http.servers import Say
from rmm_assets_tests.postgres import program
from rmm_assets_tests.vendors.dialect import KEY, Asked, Dialect, Rows

FRONTEND, SCHEMA = Path("/usr/share/zabbix"), Path("/usr/share/zabbix-server-pgsql")
PACKAGES = "zabbix-frontend-php zabbix-server-pgsql php-cli php-pgsql"
STARTS_WITHIN = 300.0  # seconds
# The rows that an installation without hosts and templates needs.
_TABLES = "config|hstgrp|ids|role|role_rule|users|users_groups|usrgrp"
_CONFIG_FILE = "/etc/zabbix/zabbix.conf.php"


@dataclass
class Zabbix(Dialect):
    """Zabbix: its own API, which checks the token and every parameter.

    Attributes:
        api: URL of the API; empty if no server is running.
        token: The API token.
        in_body: Whether this version takes the token in the body, as those before 6.4 do.
    """

    profile = "zabbix"
    settings: ClassVar[Mapping[str, str]] = {"url": "zabbix.example.com"}
    hosts = ("zabbix.example.com",)

    api: str = ""
    token: str = ""
    in_body: bool = False

    def call(self, method: str, params: Any, *, token: str | None = None) -> Any:
        """Returns the result of a call by hand."""
        reply = json.loads(self._send({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, token).body)
        assert "result" in reply, reply
        return reply["result"]

    def _send(self, body: dict[str, Any], token: str | None) -> Say:
        headers = {"Content-Type": "application/json"}
        if token and self.in_body:
            body = {**body, "auth": token}
        elif token:
            headers["Authorization"] = f"Bearer {token}"
        with urlopen(Request(self.api, json.dumps(body).encode(), headers), timeout=120) as answer:
            return Say(answer.read(), answer.status)

    def resources(self) -> Mapping[str, Rows]:
        raise NotImplementedError("the rows are those of the server")

    def respond(self, asked: Asked) -> Say:
        if asked.path != "/api_jsonrpc.php" or asked.method != "POST":
            return Say(b"", 404)
        sent = asked.headers.get("authorization", "")
        # The connection has a made-up key, and the server another one.
        token = self.token if sent == f"Bearer {KEY}" else sent.removeprefix("Bearer ") or None
        answer = self._send(asked.json, token)
        found = json.loads(answer.body).get("result")
        if isinstance(found, list):
            self.answered.append((asked.json["method"], len(found)))
        return replace(answer, headers=(("Content-Type", "application/json"),))


@contextmanager
def running(database: str) -> Iterator[Zabbix]:
    """Yields the API over a new, empty database of PostgreSQL. Skips the test if Zabbix is not installed."""
    php, psql = shutil.which("php"), program("psql")
    if php is None or psql is None or not FRONTEND.is_dir() or not SCHEMA.is_dir():
        pytest.skip(f"Zabbix is not installed: apt-get install --no-install-recommends {PACKAGES}")
    rows = gzip.decompress((SCHEMA / "data.sql.gz").read_bytes()).decode()
    kept = re.findall(rf"^INSERT INTO (?:{_TABLES}) .*;$", rows, re.MULTILINE)
    schema = gzip.decompress((SCHEMA / "schema.sql.gz").read_bytes()).decode()
    for text in (schema, "BEGIN;\n" + "\n".join(kept) + "\nCOMMIT;"):
        command = [psql, database, "-q", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=STARTS_WITHIN)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
    with TemporaryDirectory(prefix="rmm-zabbix-") as folder, socket.socket() as free:
        web = Path(folder) / "web"
        shutil.copytree(FRONTEND, web)
        reader = web / "include/classes/core/CConfigFile.php"
        config = web / "zabbix.conf.php"
        reader.write_text(reader.read_text().replace(_CONFIG_FILE, str(config)))
        config.write_text(_configuration(database))
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(
                [php, "-S", address, "-t", str(web)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "PHP_CLI_SERVER_WORKERS": "4"}, start_new_session=True,
            )  # fmt: skip
            try:
                yield _signed_in(Zabbix(api=f"http://{address}/api_jsonrpc.php"))
            finally:
                os.killpg(server.pid, signal.SIGKILL)  # its workers, too
                server.wait(60)


def _configuration(database: str) -> str:
    parts = urlsplit(database)
    values = {
        "TYPE": "POSTGRESQL", "SERVER": parts.hostname, "PORT": str(parts.port), "DATABASE": parts.path[1:],
        "USER": parts.username, "PASSWORD": parts.password, "SCHEMA": "public", "KEY_FILE": "", "CERT_FILE": "",
        "CA_FILE": "", "CIPHER_LIST": "", "VAULT_URL": "", "VAULT_DB_PATH": "", "VAULT_TOKEN": "",
    }  # fmt: skip
    lines = [f"$DB['{name}'] = '{value}';" for name, value in values.items()]
    flags = ("$DB['ENCRYPTION'] = false;", "$DB['VERIFY_HOST'] = false;", "$DB['DOUBLE_IEEE754'] = true;")
    others = ("$ZBX_SERVER_NAME = '';", "$IMAGE_FORMAT_DEFAULT = IMAGE_FORMAT_PNG;")
    return "\n".join(("<?php", *lines, *flags, *others))


def _signed_in(zabbix: Zabbix) -> Zabbix:
    """Returns the API with a token of its administrator."""
    until = time.monotonic() + STARTS_WITHIN
    while True:
        try:
            version = zabbix.call("apiinfo.version", [])
            break
        except OSError:
            assert time.monotonic() < until, "Zabbix does not answer"
            time.sleep(0.2)
    major, minor = (int(part) for part in version.split(".")[:2])
    zabbix.in_body = (major, minor) < (6, 4)
    session = zabbix.call("user.login", {"username": "Admin", "password": "zabbix"})
    made = zabbix.call("token.create", {"name": "reporting", "userid": "1"}, token=session)
    zabbix.token = zabbix.call("token.generate", made["tokenids"], token=session)[0]["token"]
    return zabbix
