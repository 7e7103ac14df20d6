"""Tests reads from third-party servers, json-server and Datasette; every row is compared."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import dagster as dg
import pytest

import rmm_assets
from rmm_assets.simulator import Fleet
from rmm_assets_tests.orchestration.bench import checks, connection, failures, metadata, query, sync

JSON_SERVER = Path(rmm_assets.__file__).parents[1] / ".tools" / "node_modules" / ".bin" / "json-server"

pytestmark = pytest.mark.slow


def devices() -> list[dict[str, Any]]:
    """Returns about 1,200 devices with nested objects, lists, nulls and Unicode."""
    return Fleet(devices=1234, organizations=12).rows("devices")


@contextmanager
def served(*command: str, url: str, log: Path) -> Iterator[None]:
    """Runs a server in its own process."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent)
    try:
        until = time.monotonic() + 60
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            with suppress(URLError, ConnectionError, TimeoutError), urlopen(url, timeout=5):
                break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def landed() -> list[dict[str, Any]]:
    """Returns the devices in the table, in the form in which an RMM sends them."""
    columns = "id, name, status, organization__id, organization__name, tags, last_seen_at"
    names = columns.split(", ")
    return [dict(zip(names, row, strict=True)) for row in query(f"SELECT {columns} FROM acme.devices ORDER BY id")]


def assert_same(rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    assert len(found) == len(rows) > 1000
    for row, got in zip(sorted(rows, key=lambda row: row["id"]), found, strict=True):
        assert got["id"] == row["id"]
        assert got["name"] == row["name"]
        assert got["status"] == row["status"]
        assert got["organization__id"] == row["organization"]["id"]
        assert got["organization__name"] == row["organization"]["name"]
        assert json.loads(got["tags"]) == row["tags"]


def test_json_server_is_read_to_the_last_row(workplace: Path, instance: dg.DagsterInstance) -> None:
    if not JSON_SERVER.exists():
        pytest.skip("json-server is not in .tools: `.ci/run` installs it with npm")
    rows = devices()
    (workplace / "db.json").write_text(json.dumps({"devices": rows}, ensure_ascii=False), encoding="utf-8")
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    resource = {
        "name": "devices",
        "endpoint": {
            "path": "/devices",
            "data_selector": "$",
            "paginator": {
                "type": "offset",
                "limit": 100,
                "offset_param": "_start",
                "limit_param": "_limit",
                "total_path": None,
            },
        },
        "checks": {"not_null": ["id"]},
    }
    target = connection(
        base_url,
        [resource],
        client={},
        api_key=None,
        resource_defaults={"primary_key": "id", "write_disposition": "merge"},
    )
    command = (str(JSON_SERVER), "--host", "127.0.0.1", "--port", str(port), "--quiet", "db.json")
    with served(*command, url=f"{base_url}/devices?_limit=1", log=workplace / "server.log"):
        result = sync(target, instance)
        assert result.success, failures(result)
        assert all(check.passed for check in checks(result).values())
        with urlopen(f"{base_url}/devices") as answer:
            held = json.load(answer)
    assert_same(held, landed())
    assert held == rows
    assert metadata(result)["dagster/row_count"] == len(rows)


def test_datasette_is_read_to_the_last_row(workplace: Path, instance: dg.DagsterInstance) -> None:
    pytest.importorskip("datasette", reason="the dev extra installs it")
    rows = devices()
    with sqlite3.connect("fleet.db") as db:
        db.execute("CREATE TABLE devices (id INTEGER PRIMARY KEY, name TEXT, status TEXT, ram INTEGER, said TEXT)")
        db.executemany(
            "INSERT INTO devices VALUES (?, ?, ?, ?, ?)",
            [(row["id"], row["name"], row["status"], index, "ü\n\"'\\ 東京") for index, row in enumerate(rows)],
        )
    db.close()
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    resource = {
        "name": "devices",
        "endpoint": {
            "path": "/fleet/devices.json",
            "params": {"_shape": "objects", "_size": 100},
            "data_selector": "rows",
            # The URL of the next page; null on the last one.
            "paginator": {"type": "json_link", "next_url_path": "next_url"},
        },
        "total_path": "filtered_table_rows_count",
        "checks": {"not_null": ["id"]},
    }
    target = connection(
        base_url,
        [resource],
        client={},
        api_key=None,
        resource_defaults={"primary_key": "id", "write_disposition": "merge"},
    )
    command = (sys.executable, "-m", "datasette", "serve", "fleet.db", "--host", "127.0.0.1", "--port", str(port))
    with served(*command, url=f"{base_url}/fleet.json", log=workplace / "server.log"):
        result = sync(target, instance)
    assert result.success, failures(result)
    assert all(check.passed for check in checks(result).values())
    with sqlite3.connect("fleet.db") as db:
        held = db.execute("SELECT id, name, status, ram, said FROM devices ORDER BY id").fetchall()
    db.close()
    assert query("SELECT id, name, status, ram, said FROM acme.devices ORDER BY id") == held
    assert len(held) > 1000
