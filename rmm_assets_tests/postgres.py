"""Runs a PostgreSQL server for the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest

STARTS_WITHIN = 300.0  # seconds


def program(name: str) -> str | None:
    """Returns the path of one of PostgreSQL's programs, which Debian keeps out of the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else None)


@contextmanager
def postgresql(addresses: Sequence[str] = ("127.0.0.1",)) -> Iterator[str]:
    """Yields the URL of a new server's database, as dlt expects it. Skips the test if PostgreSQL is not installed.

    Args:
        addresses: Where it listens, and accepts connections of the same /24; the URL has the last one.
    """
    initdb, postgres = program("initdb"), program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # PostgreSQL does not run as root, and other users have no access to pytest's temporary folders.
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    with TemporaryDirectory(prefix="rmm-postgres-") as folder:
        yield from _running(Path(folder), initdb, postgres, user, addresses)


@contextmanager
def new_database(server: str, template: str = "template0") -> Iterator[str]:
    """Yields the URL of a database of its own on the server of a URL, and drops it afterwards."""
    name = f"test_{uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield f"{server.rpartition('/')[0]}/{name}"
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(server: str, statement: str) -> None:
    import psycopg2  # type: ignore[import-untyped]

    with closing(psycopg2.connect(server)) as client:
        client.autocommit = True
        client.cursor().execute(statement)


def _running(folder: Path, initdb: str, postgres: str, user: list[str], addresses: Sequence[str]) -> Iterator[str]:
    data, password = folder / "data", folder / "password"
    data.mkdir()
    password.write_text("not-secret")
    if user:
        folder.chmod(0o755)
        shutil.chown(data, 65534, 65534)
    make = [initdb, "-D", str(data), "-U", "rmm", "-E", "UTF8", "--auth=password", f"--pwfile={password}", "-N"]
    subprocess.run([*user, *make], check=True, capture_output=True)
    with (data / "pg_hba.conf").open("a") as allowed:
        allowed.writelines(f"host all all {address}/24 password\n" for address in addresses)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    command = [postgres, "-D", str(data), "-h", ",".join(addresses), "-p", str(port), "-k", "", "-F"]
    with log.open("wb") as output, subprocess.Popen([*user, *command], stderr=output, stdout=output) as server:
        try:
            until = time.monotonic() + STARTS_WITHIN
            while "ready to accept connections" not in log.read_text():
                assert server.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.05)
            yield f"postgresql://rmm:not-secret@{addresses[-1]}:{port}/postgres"
        finally:
            server.terminate()
