"""Tests that a server cannot make a run exceed its limits: each makes the read red and names what to set."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from rmm_assets.errors import BodyError, PagingError, RmmError, TransportError
from rmm_assets.rows.decode import read_page, read_pages
from rmm_assets.rows.type_memory import TypeMemory
from rmm_assets_tests.http.servers import Say, Scripted, Seen, raw_server
from rmm_assets_tests.reading.reading import endpoint_of, read
from rmm_assets_tests.syncing import connection, devices, resource, run

CURSOR = {"type": "cursor", "cursor_path": "next", "cursor_param": "after"}


def endless(seen: Seen) -> Say:
    """Serves an endless chain of cursors, each of them new."""
    at = int(parse_qs(urlsplit(seen.target).query).get("after", ["0"])[0])
    return Say({"data": devices(2, 2 * at + 1), "next": str(at + 1)})


def empty(seen: Seen) -> Say:
    """Serves an endless chain of cursors, of which only the first one's page has rows."""
    at = int(parse_qs(urlsplit(seen.target).query).get("after", ["0"])[0])
    return Say({"data": devices(2) if at == 0 else [], "next": str(at + 1)})


def wide(seen: Seen) -> Say:
    """Serves ten new columns per page."""
    at = int(parse_qs(urlsplit(seen.target).query).get("after", ["0"])[0])
    rows = [{"id": i, **{f"c{at}_{n}": {"x": n} for n in range(10)}} for i in (2 * at, 2 * at + 1)]
    return Say({"data": rows, "next": str(at + 1)})


def deep(seen: Seen) -> Say:
    return Say(b'{"data": [{"id": 1, "x": ' + b"[" * 30 + b"]" * 30 + b"}]}")


LIMITS: dict[str, tuple[dict[str, Any], Callable[[Seen], Say], str, int]] = {
    "max_pages": ({"max_pages": 20}, endless, r"more than 20 pages were received.* raise limits\.max_pages", 22),
    "max_pages, without rows": (
        {"max_pages": 12_000},
        empty,
        r"121 pages in a row have no rows.* limits\.max_pages",
        123,
    ),
    "max_total_bytes": ({"max_total_bytes": 3_000}, endless, r"exceed limits\.max_total_bytes \(3,000\)", 40),
    "max_columns": ({"max_columns": 95}, wide, r"more than 95 different fields.*limits\.max_columns", 11),
    "max_nesting": ({"max_nesting": 30}, deep, r"nested more than 30 levels deep \(limits\.max_nesting\)", 1),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_endless_responses_are_red_with_the_limit_to_set(limit: str, tmp_path: Path) -> None:
    settings, answer, words, requests = LIMITS[limit]
    made = connection(resource(endpoint={"paginator": CURSOR}), limits=settings)
    with Scripted(answer) as server, pytest.raises(RmmError, match=words) as raised:
        run(tmp_path, server.url, made)
    assert isinstance(raised.value, (PagingError, TransportError))
    assert len(server.seen) <= requests


def test_pages_without_rows_are_no_end(tmp_path: Path) -> None:
    """As of an API that filters the rows of each page after it has read them."""

    def answer(seen: Seen) -> Say:
        at = int(parse_qs(urlsplit(seen.target).query).get("after", ["0"])[0])
        return Say({"data": devices(1, at) if at % 100 == 0 else [], "next": str(at + 1) if at < 300 else None})

    with Scripted(answer) as server:
        found = read(server.url, tmp_path, endpoint_of(CURSOR), limits={"max_pages": 301})
    assert [row["id"] for row in found.rows] == [0, 100, 200, 300]


def test_endless_positions_are_bounded_too(tmp_path: Path) -> None:
    paging = endpoint_of({"type": "page_number", "base_page": 1})
    with (
        Scripted(
            lambda seen: Say({"data": devices(2, 2 * int(parse_qs(urlsplit(seen.target).query)["page"][0]))})
        ) as server,
        pytest.raises(PagingError, match="more than 10 pages"),
    ):
        read(server.url, tmp_path, paging, limits={"max_pages": 10})


def test_a_row_as_wide_as_allowed_is_read_however_it_is_decoded() -> None:
    rows = [{"id": 1, "a": {"b": 1, "c": {}}, "d": [{"e": 1}]}, {"id": 2, "f": 2}]
    body = json.dumps({"data": rows}).encode()
    for exact in (False, True):
        assert read_page(body, "data", TypeMemory(6), exact=exact).rows == 2
        with pytest.raises(BodyError, match="more than 4 different fields"):
            read_page(body, "data", TypeMemory(4), exact=exact)
    assert read_pages([body, body], "data", TypeMemory(4)) is None


WIDE_OBJECT = """
import resource, sys
from rmm_assets.errors import BodyError
from rmm_assets.rows.decode import read_page
from rmm_assets.rows.type_memory import TypeMemory
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
write = {"flat": '"k%d" :1', "escaped": '"k\\\\"%d":1', "nested": '"k%d":{}', "maps": '"k%d":{"a":":"}'}
body = ('{"data":[{' + ",".join(write[sys.argv[1]] % n for n in range(1_000_000)) + "}]}").encode()
before = peak()
for exact in (False, True):
    try:
        read_page(body, "data", TypeMemory(), exact=exact)
    except BodyError as error:
        print(peak() - before, error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flat", "escaped", "nested", "maps"])
def test_an_object_of_a_million_keys_does_not_exhaust_memory(kind: str) -> None:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", WIDE_OBJECT, kind], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("more than 5,000 different fields" in line for line in lines), done.stdout
    grown = max(int(line.split()[0]) for line in lines)
    assert grown < 40, f"{grown} MB"
    assert time.monotonic() - started < 120


@pytest.mark.slow
def test_headers_count_towards_the_size_of_a_response(tmp_path: Path) -> None:
    big = Say({"data": []}, headers=(("X-Big", "x" * 2000),))
    with Scripted(lambda seen: big) as server, pytest.raises(TransportError, match=r"limits\.max_response_bytes"):
        run(tmp_path, server.url, connection(resource(), limits={"max_response_bytes": 1500}))


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (b"X-A: b\r\n" * 200, "headers"),
        (b"X-A: " + b"b" * 100_000 + b"\r\n", "header|line"),
        (b"X-A: b\r\n" * 10_000_000, "headers"),
    ],
    ids=["many", "long", "no end"],
)
def test_endless_headers_are_red(headers: bytes, words: str, tmp_path: Path) -> None:
    def talk(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\n" + headers)
        client.sendall(b"Content-Length: 11\r\n\r\n" + b'{"data":[]}')

    with raw_server(talk) as (url, _), pytest.raises(TransportError, match=words):
        read(url, tmp_path, endpoint_of("single_page"))
