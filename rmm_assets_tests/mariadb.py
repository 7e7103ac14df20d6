"""Runs a MariaDB server for the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy.engine import make_url

from rmm_assets_tests.postgres import STARTS_WITHIN


def program(name: str) -> str | None:
    """Returns the path of one of MariaDB's programs; the PATH of a user may lack the server's folder."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def mariadb() -> Iterator[str]:
    """Yields the URL of a new server's database, as dlt expects it. Skips the test if MariaDB is not installed."""
    install, server = program("mariadb-install-db"), program("mariadbd")
    if install is None or server is None:
        pytest.skip("MariaDB is not installed: apt-get install mariadb-server")
    with TemporaryDirectory(prefix="rmm-mariadb-") as name:
        folder = Path(name)
        data, log, setup = folder / "data", folder / "log", folder / "setup.sql"
        user = ["--user=root"] if os.geteuid() == 0 else []
        setup.write_text(
            "CREATE DATABASE rmm;\nCREATE USER rmm@'127.0.0.1' IDENTIFIED BY 'not-secret';\n"
            "GRANT ALL ON *.* TO rmm@'127.0.0.1';\n"
        )
        subprocess.run([install, "--no-defaults", f"--datadir={data}", *user], check=True, capture_output=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [
            server, "--no-defaults", f"--datadir={data}", "--bind-address=127.0.0.1", f"--port={port}",
            f"--socket={folder}/socket", f"--pid-file={folder}/pid", f"--init-file={setup}", "--skip-name-resolve", *user,
        ]  # fmt: skip
        with log.open("wb") as output, subprocess.Popen(command, stderr=output, stdout=output) as running:
            try:
                until = time.monotonic() + STARTS_WITHIN
                while "ready for connections" not in log.read_text(errors="replace"):
                    assert running.poll() is None and time.monotonic() < until, log.read_text(errors="replace")
                    time.sleep(0.05)
                yield f"mysql+pymysql://rmm:not-secret@127.0.0.1:{port}/rmm"
            finally:
                running.terminate()


def drop_datasets(url: str) -> None:
    """Drops what dlt has made on a server: each dataset is a database there."""
    import pymysql  # type: ignore[import-untyped]

    at = make_url(url)
    with closing(
        pymysql.connect(host=at.host, port=at.port, user=at.username, password=at.password, autocommit=True)
    ) as client:
        cursor = client.cursor()
        cursor.execute("SHOW DATABASES")
        for (name,) in cursor.fetchall():
            if name not in ("rmm", "information_schema", "mysql", "performance_schema", "sys"):
                cursor.execute(f"DROP DATABASE `{name}`")
