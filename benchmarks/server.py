"""Serves rows over an HTTP API that responds faster than any contender can request.

Every row is serialized once, before the first request. A page is a slice of one long byte string between two
constants, so every offset and limit costs the same, and the latency per page is a timer, not work. The API is the
generic one: ``GET /v1/resource?offset=&limit=&api_key=`` returns ``{"data": [...], "total": N}``.

See ``rmm_assets.simulator`` for faults, changing rows and other paging styles.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import orjson
import uvloop

from benchmarks.contenders.task import API_KEY

HOST = "127.0.0.1"
SMALL_ROWS = 200
CHANGED_EVERY = 100
"""One of this many rows changes in each revision: 1 %."""

_STATUSES = ("online", "offline", "warning")
_SYSTEMS = ("Windows 11 Pro", "Windows Server 2025", "macOS 26", "Ubuntu 24.04 LTS", "Debian 13")
_SITES = ("Zürich", "Lyon", "Kraków", "Oslo", "Porto", "Gent", "Graz")
_TAGS = ("server", "laptop", "vip", "backup", "kiosk", "lab", "remote")


def row(number: int, revision: int) -> dict[str, Any]:
    """Returns device ``number`` (from 1) as the API returns it: 24 fields, about 600 bytes of JSON.

    One of ``CHANGED_EVERY`` rows changes with ``revision``; the others are the same in every revision.
    """
    mixed = number * 2654435761 % 4294967296
    changes = revision if number % CHANGED_EVERY == 0 else 0
    day = f"{1 + mixed % 28:02d}"
    clock = f"{mixed % 24:02d}:{mixed % 60:02d}:{mixed // 7 % 60:02d}"
    return {
        "id": number,
        "uid": f"{mixed:08x}{number:08x}",
        "hostname": f"{_TAGS[mixed % 7]}-{number:07d}",
        "display_name": f"{_SITES[mixed % 7]} desk {number}",
        "status": _STATUSES[(mixed + changes) % 3],
        "ip_address": f"10.{mixed % 256}.{mixed // 256 % 256}.{mixed // 65536 % 254 + 1}",
        "mac_address": ":".join(f"{number + 0x020000000000:012x}"[at : at + 2] for at in range(0, 12, 2)),
        "os_name": _SYSTEMS[mixed % 5],
        "os_version": f"{10 + mixed % 3}.{mixed % 10}.{20000 + mixed % 6000}",
        "agent_version": f"5.{mixed % 12}.{mixed % 40}",
        "serial_number": f"SN{mixed:010d}",
        "created_at": f"2024-{1 + mixed % 12:02d}-{day}T{clock}Z",
        "updated_at": f"2026-10-{day}T{clock}.{changes:03d}Z",
        "last_seen_at": f"2026-11-{day}T{clock}.{mixed % 1000:03d}Z",
        "cpu_load": mixed % 10000 / 100,
        "memory_gib": float(4 << mixed % 5),
        "disk_free": None if mixed % 9 == 0 else mixed % 1000 / 1000,
        "is_online": mixed % 3 == 0,
        "needs_reboot": mixed % 11 == 0,
        "warranty_until": None if mixed % 3 == 0 else f"2028-{1 + mixed % 12:02d}-{day}T00:00:00Z",
        "note": "replaced after the water damage in spring" if mixed % 10 == 0 else None,
        "revision": changes,
        "organization": {"id": 1 + mixed % 50, "name": f"Client {1 + mixed % 50}", "site": _SITES[mixed % 7]},
        "tags": [_TAGS[(mixed + step) % 7] for step in range(mixed % 4)],
    }


def software(number: int, revision: int) -> dict[str, Any]:
    """Returns row ``number`` (from 1) of a fleet's installed software: 12 fields, about 250 bytes of JSON."""
    mixed = number * 2654435761 % 4294967296
    changes = revision if number % CHANGED_EVERY == 0 else 0
    return {
        "id": number,
        "device_id": 1 + mixed % 50_000,
        "name": f"{_TAGS[mixed % 7]} suite {mixed % 900}",
        "publisher": f"Publisher {mixed % 200}",
        "version": f"{mixed % 20}.{mixed // 20 % 30}.{changes}",
        "status": _STATUSES[mixed % 3],
        "architecture": ("x64", "arm64")[mixed % 2],
        "size_mb": mixed % 40_000 / 10,
        "installed_at": f"2024-{1 + mixed % 12:02d}-{1 + mixed % 28:02d}T08:00:00Z",
        "is_update": mixed % 4 == 0,
        "uninstall_id": f"{mixed:08x}-{number:012x}",
        "revision": changes,
    }


def expected(rows: int, revision: int) -> tuple[int, int, int]:
    """Returns rows, distinct ids and sum of the column ``revision`` of a correct table."""
    return rows, rows, revision * (rows // CHANGED_EVERY)


class Rows:
    """The rows of one revision, serialized as one byte string, with the position of each row."""

    def __init__(self, count: int, revision: int) -> None:
        self.count = count
        self.revision = revision
        self.starts = array("Q", [0])
        parts: list[bytes] = []
        position = 0
        for number in range(1, count + 1):
            part = orjson.dumps(row(number, revision))
            parts.append(part)
            position += len(part) + 1
            self.starts.append(position)
        self.text = memoryview(b",".join(parts) + b",")
        self._tail = b'],"total":%d}' % count

    def page(self, offset: int, limit: int) -> tuple[bytes, memoryview, bytes]:
        """Returns the body of one page in three parts: before the rows, the rows, after the rows."""
        first = min(max(offset, 0), self.count)
        last = min(first + max(limit, 0), self.count)
        start, end = self.starts[first], self.starts[last]
        return b'{"data":[', self.text[start : max(start, end - 1)], self._tail

    def page_bytes(self, limit: int) -> int:
        """Returns the size of the first page's body in bytes."""
        return sum(len(part) for part in self.page(0, limit))


class SoftwareRows(Rows):
    """Rows that are made when they are requested, so that there can be more of them than fit into memory."""

    def __init__(self, count: int, revision: int) -> None:
        self.count, self.revision = count, revision
        self._tail = b'],"total":%d}' % count

    def page(self, offset: int, limit: int) -> tuple[bytes, memoryview, bytes]:
        """Returns the body of one page in three parts: before the rows, the rows, after the rows."""
        last = min(max(offset, 0) + max(limit, 0), self.count)
        rows = (orjson.dumps(software(number + 1, self.revision)) for number in range(max(offset, 0), last))
        return b'{"data":[', memoryview(b",".join(rows)), self._tail


@dataclass
class State:
    """The server's data and settings; ``rows`` is replaced as a whole when the revision changes."""

    rows: Rows
    small: Rows
    resources: int
    page_size: int
    latency: float


class Connection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection, one request at a time."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class does not inherit from it

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
            status, body = self._answer(head.split(b" ", 2)[1].decode())
            if self._state.latency > 0:
                asyncio.get_running_loop().call_later(self._state.latency, self._send, status, body)
            else:
                self._send(status, body)

    def _send(self, status: bytes, body: tuple[bytes | memoryview, ...]) -> None:
        if self._transport is not None:
            facts = (status, sum(map(len, body)))
            head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % facts
            self._transport.writelines([head, *body])

    def _answer(self, target: str) -> tuple[bytes, tuple[bytes | memoryview, ...]]:
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if url.path == "/control/revision":
            self._state.rows = type(self._state.rows)(self._state.rows.count, int(query["to"]))
            return b"200 OK", (b"{}",)
        if query.get("api_key") != API_KEY:
            return b"401 Unauthorized", (b'{"error":"wrong api_key"}',)
        rows = self._rows(url.path)
        if rows is None:
            return b"404 Not Found", (b'{"error":"no such resource"}',)
        limit = int(query.get("limit", self._state.page_size))
        return b"200 OK", rows.page(int(query.get("offset", 0)), limit)

    def _rows(self, path: str) -> Rows | None:
        if path == "/v1/resource":
            return self._state.rows
        suffix = path.removeprefix("/v1/resource_")
        return self._state.small if suffix.isdecimal() and int(suffix) < self._state.resources else None


@dataclass(frozen=True)
class Ceiling:
    """How fast the server responds to a client that discards the responses."""

    connections: int
    pages_per_second: float
    megabytes_per_second: float

    def __str__(self) -> str:
        return (
            f"{self.pages_per_second:,.0f} pages/s, {self.megabytes_per_second:,.0f} MB/s "
            f"over {self.connections} connection{'s' if self.connections > 1 else ''}"
        )


def measure(port: int, *, limit: int, pages: int = 1000, connections: int = 1) -> Ceiling:
    """Reads ``pages`` pages of ``limit`` rows over raw sockets and discards them.

    The client uses one core itself, so on two cores this is the most that any contender can get.
    """
    target = f"/v1/resource?offset=0&limit={limit}&api_key={API_KEY}"
    request = f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    each = pages // connections

    def read() -> int:
        scratch = bytearray(262_144)
        received = 0
        with socket.create_connection((HOST, port)) as client:
            for _ in range(each):
                client.sendall(request)
                size = 0
                while (end := scratch.find(b"\r\n\r\n", 0, size)) < 0:
                    size += client.recv_into(memoryview(scratch)[size:]) or _gone()
                missing = int(scratch[:end].rpartition(b"Content-Length: ")[2]) + end + 4 - size
                received += size + missing
                while missing > 0:
                    missing -= client.recv_into(scratch) or _gone()
        return received

    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        received = sum(pool.map(lambda _: read(), range(connections)))
    took = time.perf_counter() - began
    return Ceiling(connections, each * connections / took, received / took / 1e6)


def _gone() -> int:
    raise ConnectionError("the benchmark server closed the connection in the middle of a response")


class RunningServer:
    """The server in its own process, as a context manager that ends it.

    Args:
        rows: Rows of ``/v1/resource``.
        page_size: Rows per page if a request sets no limit.
        latency_ms: Milliseconds before each response.
        resources: Number of additional resources of ``SMALL_ROWS`` rows.
        software: Whether the rows are those of `software`.
    """

    def __init__(self, *, rows: int, page_size: int, latency_ms: float, resources: int, software: bool = False) -> None:
        command = [sys.executable, "-m", "benchmarks.server", "--rows", str(rows)]
        command += [
            "--page-size",
            str(page_size),
            "--latency",
            str(latency_ms),
            "--resources",
            str(resources),
        ]
        command += ["--software"] if software else []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the benchmark server did not start: {' '.join(command)}")
        facts = json.loads(line)
        self.port = int(facts["port"])
        self.page_bytes = int(facts["page_bytes"])
        self.base_url = f"http://{HOST}:{self.port}"

    def set_revision(self, revision: int) -> None:
        """Changes 1 % of the rows; returns when requests see the change."""
        urlopen(f"{self.base_url}/control/revision?to={revision}", timeout=300).close()

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


async def _serve(state: State) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(state), HOST, 0)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"port": port, "page_bytes": state.rows.page_bytes(state.page_size)}), flush=True)
    await server.serve_forever()


def main() -> None:
    """Serves until terminated; with ``--measure``, prints the server's throughput and exits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--page-size", type=int, default=100, help="rows per page if a request sets no limit")
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds before each response")
    parser.add_argument("--resources", type=int, default=0, help=f"additional resources of {SMALL_ROWS} rows")
    parser.add_argument("--software", action="store_true", help="serve the software table, made page by page")
    parser.add_argument("--revision", type=int, default=0, help="1 changes 1 %% of the rows of 0")
    parser.add_argument("--measure", action="store_true", help="print the server's throughput and exit")
    options = parser.parse_args()
    if options.measure:
        with RunningServer(
            rows=options.rows, page_size=options.page_size, latency_ms=options.latency, resources=0
        ) as server:
            for connections in (1, 8):
                print(measure(server.port, limit=options.page_size, connections=connections))
        return
    state = State(
        rows=(SoftwareRows if options.software else Rows)(options.rows, options.revision),
        small=Rows(SMALL_ROWS, options.revision),
        resources=options.resources,
        page_size=options.page_size,
        latency=options.latency / 1000,
    )
    uvloop.run(_serve(state))


if __name__ == "__main__":
    main()
