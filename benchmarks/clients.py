"""Measures what a request costs with several HTTP clients: `python -m benchmarks.clients [--python PYTHON] [--runs 3]`.

Each client requests 1,000 pages of 100 rows, 8 at a time, in a process of its own, as `rmm_assets.http` does: it reads the body in
chunks up to a limit, checks a deadline, follows no redirect and keeps connections open. PYTHON has
`benchmarks/clients.requirements.txt` installed, which the project's environment must not: niquests replaces urllib3.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import click

from benchmarks.contenders.task import API_KEY

PAGES, PAGE, WIDTH = 1_000, 100, 8
MOST, SECONDS, CHUNK = 64 * 2**20, 30.0, 1 << 18
AGENT = {"User-Agent": "benchmark", "Accept": "application/json"}


def checked(chunks: Any, until: float) -> int:
    """Reads a body and returns its size."""
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > MOST or time.monotonic() > until:
            raise ValueError("too large or too late")
    return len(bytes(body))


def threads(get: Callable[[str], int], urls: list[str]) -> int:
    with ThreadPoolExecutor(WIDTH) as pool:
        return sum(pool.map(get, urls))


def ours(urls: list[str]) -> int:
    from rmm_assets.http.attach import NoAuth
    from rmm_assets.http.redaction import Redactor
    from rmm_assets.http.settings import Limits
    from rmm_assets.http.wire import Wire

    wire = Wire(urls[0], auth=NoAuth(), redactor=Redactor(), limits=Limits(max_concurrency=WIDTH), context=None)
    return threads(lambda url: len(wire.exchange("GET", url, AGENT, None, until=time.monotonic() + SECONDS).body), urls)


def urllib3(urls: list[str]) -> int:
    import urllib3

    pool = urllib3.PoolManager(maxsize=WIDTH, block=True).connection_from_url(urls[0])

    def get(url: str) -> int:
        until = time.monotonic() + SECONDS
        found = pool.urlopen(
            "GET", url, headers=AGENT, retries=False, redirect=False, preload_content=False, timeout=SECONDS
        )
        size = checked(iter(lambda: found.read1(CHUNK), b""), until)
        found.release_conn()
        return size

    return threads(get, urls)


def niquests(urls: list[str]) -> int:
    import niquests

    session = niquests.Session(pool_maxsize=WIDTH)

    def get(url: str) -> int:
        until = time.monotonic() + SECONDS
        with session.get(url, headers=AGENT, timeout=SECONDS, allow_redirects=False, stream=True) as found:
            return checked(found.iter_content(CHUNK), until)

    return threads(get, urls)


def httpx(urls: list[str]) -> int:
    import httpx

    client = httpx.Client(limits=httpx.Limits(max_connections=WIDTH), timeout=SECONDS, headers=AGENT)

    def get(url: str) -> int:
        until = time.monotonic() + SECONDS
        with client.stream("GET", url) as found:
            return checked(found.iter_bytes(), until)

    return threads(get, urls)


def aiohttp(urls: list[str]) -> int:
    import aiohttp

    async def read() -> int:
        connector = aiohttp.TCPConnector(limit=WIDTH)
        async with aiohttp.ClientSession(connector=connector, headers=AGENT) as session:
            left, sizes = iter(urls), list[int]()

            async def work() -> None:
                for url in left:
                    async with asyncio.timeout(SECONDS), session.get(url, allow_redirects=False) as found:
                        body = bytearray()
                        async for chunk in found.content.iter_any():
                            body += chunk
                            if len(body) > MOST:
                                raise ValueError("too large")
                        sizes.append(len(bytes(body)))

            await asyncio.gather(*(work() for _ in range(WIDTH)))
            return sum(sizes)

    return asyncio.run(read())


def pycurl(urls: list[str]) -> int:
    import pycurl

    own = threading.local()

    def get(url: str) -> int:
        if not hasattr(own, "curl"):
            own.curl = pycurl.Curl()
            for name, value in (
                ("FOLLOWLOCATION", 0),
                ("TIMEOUT_MS", int(SECONDS * 1000)),
                ("MAXFILESIZE", MOST),
                ("NOSIGNAL", 1),
            ):
                own.curl.setopt(getattr(pycurl, name), value)
            own.curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in AGENT.items()])
        body, headers = bytearray(), list[bytes]()

        def add(chunk: bytes) -> int:
            body.extend(chunk)
            return len(chunk) if len(body) <= MOST else -1

        own.curl.setopt(pycurl.URL, url)
        own.curl.setopt(pycurl.WRITEFUNCTION, add)
        own.curl.setopt(pycurl.HEADERFUNCTION, headers.append)
        own.curl.perform()
        return len(bytes(body))

    return threads(get, urls)


CLIENTS = {client.__name__: client for client in (ours, urllib3, niquests, httpx, aiohttp, pycurl)}


@click.command(help=__doc__)
@click.option("--python", default=sys.executable)
@click.option("--runs", default=3)
@click.option("--client", hidden=True)
@click.option("--base-url", hidden=True)
def main(python: str, runs: int, client: str | None, base_url: str) -> None:
    if client is not None:
        urls = [f"{base_url}/v1/resource?offset={PAGE * page}&limit={PAGE}&api_key={API_KEY}" for page in range(PAGES)]
        CLIENTS[client](urls[:WIDTH])  # imports
        wall, cpu = time.perf_counter(), time.process_time()
        size = CLIENTS[client](urls)
        click.echo(f"{time.perf_counter() - wall} {time.process_time() - cpu} {size}")
        return
    from benchmarks.server import RunningServer  # needs what the other Python lacks

    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in CLIENTS}
    sizes = set[int]()
    with RunningServer(rows=PAGES * PAGE, page_size=PAGE, latency_ms=0, resources=0) as server:
        for _ in range(runs):
            for name in CLIENTS:
                executable = sys.executable if name in ("ours", "urllib3") else python
                command = [executable, "-m", "benchmarks.clients", "--client", name, "--base-url", server.base_url]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                figures[name].append((float(said[0]), float(said[1])))
                sizes.add(int(said[2]))
    assert len(sizes) == 1, "a client did not read everything"
    click.echo("| client | wall s | CPU s | CPU ms per request |\n|---|---|---|---|")
    for name, lines in figures.items():
        wall, cpu = (median(values) for values in zip(*lines, strict=True))
        click.echo(f"| {name} | {wall:.2f} | {cpu:.2f} | {1000 * cpu / PAGES:.2f} |")


if __name__ == "__main__":
    main()
