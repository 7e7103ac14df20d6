"""Serves generated APIs over HTTP on loopback: any mixture of paging styles, caps, totals, faults and moving rows.

A `World` is one API and everything that happens to it, decided in advance: the response to each request is fixed by its
number, so a world that breaks a promise breaks it again. `Worlds` serves many of them, each under its own path.
"""

from __future__ import annotations

import json
import random
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

Style = Literal["offset", "page_number", "keyset", "cursor", "json_link", "header_link"]
Fault = Literal[
    "503", "500", "drop", "cut", "html", "error", "empty", "short", "null", "null_rows", "object", "nothing", "204"
]
Signal = Literal["link", "next", "flag", "full", "header_total", "pages", "range", "cursor"]
Drift = Literal["insert", "delete", "move", "update"]

_GREATEST = 1_000_000


_BODIES: dict[Fault, bytes] = {"null": b"null", "object": b"{}", "nothing": b"", "204": b""}


@dataclass(frozen=True)
class World:
    """The definition of an API.

    Attributes:
        rows: Number of rows at first.
        limit: Rows per page that a client requests.
        cap: Maximum rows per page, whatever is requested.
        total: Error of the stated total; None if none is stated.
        base: Number of the first page.
        pages_total: Whether page numbers state the number of pages instead of rows.
        round_offsets: Whether offsets are rounded down to whole pages, or refused if they are not whole.
        repeat: Every n-th row is served twice, some rows apart; 0 for none.
        total_counts_repeats: Whether the stated total counts repeated rows twice.
        drift: The rows that move before a request, by its number.
        faults: The fault of a request, by its number.
        mark: Whether a field says that more rows follow.
        lie: A meaningless total next to the rows, if none is stated.
        signals: Other signals of more rows, as APIs send them, that the configuration does not name.
        base_said: The number of the first page in the configuration.
        misread: Whether the page size that a client sends is read as a filter that no row passes.
        window: Number of pages that the client can request at a time.
    """

    style: Style = "offset"
    rows: int = 0
    limit: int = 10
    cap: int | None = None
    total: int | None = 0
    base: int = 0
    pages_total: bool = False
    round_offsets: Literal["no", "floor", "refuse"] = "no"
    repeat: int = 0
    total_counts_repeats: bool = True
    drift: dict[int, tuple[Drift, ...]] = field(default_factory=dict)
    faults: dict[int, Fault] = field(default_factory=dict)
    mark: bool = False
    lie: Literal["", "zero", "minus", "one", "page"] = ""
    signals: tuple[Signal, ...] = ()
    base_said: int | None = None
    misread: bool = False
    window: int = 8
    seed: int = 0


class Api:
    """A world while it is served: its current rows, and every row and value that it ever had."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._random = random.Random(world.seed)
        self._lock = threading.Lock()
        self.requests = 0
        ids = sorted(self._random.sample(range(1, _GREATEST), world.rows))
        self._rows = [{"id": row_id, "value": self._random.randrange(100)} for row_id in ids]
        self.ever: dict[int, set[int]] = {row["id"]: {row["value"]} for row in self._rows}
        self.throughout: set[int] = set(self.ever)

    def answer(self, query: dict[str, str]) -> tuple[int, dict[str, str], bytes] | None:
        """Returns status, headers and body of the next response; None drops the connection."""
        with self._lock:
            self.requests += 1
            for change in self.world.drift.get(self.requests, ()):
                self._change(change)
            fault = self.world.faults.get(self.requests)
            if fault == "drop":
                return None
            if fault in ("503", "500"):
                return int(fault), {}, b'{"error": "busy"}'
            if fault == "html":
                return 200, {"Content-Type": "text/html"}, b"<html><body>Please wait</body></html>"
            if fault == "error":
                return 200, {}, b'{"error": "internal"}'
            if fault in _BODIES:
                return 204 if fault == "204" else 200, {}, _BODIES[fault]
            status, headers, body = self._page(query)
            if fault == "null_rows":
                body["data"] = None
            if fault in ("empty", "short") and "data" in body:
                body["data"] = body["data"][: len(body["data"]) // 2 if fault == "short" else 0]
            content = json.dumps(body).encode()
            return status, headers, content[: len(content) // 2] if fault == "cut" else content

    def _change(self, change: Drift) -> None:
        rows, rng = self._rows, self._random
        sorted_by_id = self.world.style in ("keyset",)
        if change == "insert":
            row = {"id": rng.choice([i for i in (rng.randrange(1, _GREATEST) for _ in range(9)) if i not in self.ever])}
            row["value"] = rng.randrange(100)
            self.ever[row["id"]] = {row["value"]}
            rows.insert(rng.randrange(len(rows) + 1), row)
            if sorted_by_id:
                rows.sort(key=lambda other: other["id"])
        elif not rows:
            return
        elif change == "delete":
            self.throughout.discard(rows.pop(rng.randrange(len(rows)))["id"])
        elif change == "move" and not sorted_by_id:
            rows.insert(rng.randrange(len(rows)), rows.pop(rng.randrange(len(rows))))
        elif change == "update":
            row = rng.choice(rows)
            row["value"] = rng.randrange(100)
            self.ever[row["id"]].add(row["value"])

    def _served(self) -> list[dict[str, int]]:
        """Returns the rows in order, including those that are served twice."""
        if not self.world.repeat:
            return self._rows
        served: list[dict[str, int]] = []
        for place, row in enumerate(self._rows):
            served.append(row)
            if place % self.world.repeat == self.world.repeat - 1:
                served.append(self._rows[max(place - self.world.seed % 40, 0)])
        return served

    def _page(self, query: dict[str, str]) -> tuple[int, dict[str, str], dict[str, Any]]:
        world = self.world
        rows = [] if world.misread and "limit" in query else self._served()
        size = min(int(query.get("limit", 10)), world.cap or _GREATEST)
        start = 0
        if world.style == "offset":
            start = int(query.get("offset", 0))
            if world.round_offsets == "refuse" and start % size:
                return 400, {}, {"error": "offset must be a multiple of limit"}
            if world.round_offsets == "floor":
                start -= start % size
        elif world.style == "page_number":
            start = (int(query.get("page", world.base)) - world.base) * size
        elif world.style == "keyset":
            after = int(query.get("after") or 0)
            start = next((place for place, row in enumerate(rows) if row["id"] > after), len(rows))
        else:
            start = int(query.get("cursor") or 0)
        page = rows[start : start + size]
        more = start + size < len(rows)
        body: dict[str, Any] = {"data": page}
        headers: dict[str, str] = {}
        if world.total is not None:
            counted = len(rows) if world.total_counts_repeats else len(self._rows)
            body["total"] = -(-counted // size) if world.pages_total else max(counted + world.total, 0)
        elif world.lie:
            body["total"] = {"zero": 0, "minus": -1, "one": 1, "page": len(page)}[world.lie]
        if world.mark:
            body["more"] = more
        self._say(page, start, more, len(rows), size, headers, body)
        if world.style == "cursor":
            body["cursor"] = str(start + size) if more else None
        elif world.style == "json_link":
            body["next"] = f"?limit={size}&cursor={start + size}" if more else None
        elif world.style == "header_link":
            headers["Link"] = '<?limit=1&cursor=0>; rel="first"'
            if more:
                headers["Link"] += f', <?limit={size}&cursor={start + size}>; rel="next"'
        return 200, headers, body

    def _say(
        self,
        page: list[Any],
        start: int,
        more: bool,
        held: int,
        size: int,
        headers: dict[str, str],
        body: dict[str, Any],
    ) -> None:
        """Adds signals that the configuration does not name."""
        signals = self.world.signals
        if "link" in signals and more and self.world.style != "header_link":
            headers["Link"] = f'</elsewhere?from={start + size}>; rel="next"'
        if "next" in signals and self.world.style != "json_link":
            body["paging"] = {"next": f"?from={start + size}" if more else None}
        if "flag" in signals:
            body["meta"] = {"has_more": more}
        if "full" in signals:
            body["pagination"] = {"has_more": len(page) == size}
        if "header_total" in signals:
            headers["X-Total-Count"] = str(held)
        if "pages" in signals and self.world.style == "page_number":
            body["total_pages"] = -(-held // size)
        if "range" in signals and page:
            headers["Content-Range"] = f"{start}-{start + len(page) - 1}/{held}"
        if "cursor" in signals and self.world.style != "cursor":
            body["cursors"] = {"after": "always"}


class Worlds:
    """Serves any number of worlds over HTTP."""

    def __init__(self) -> None:
        self._apis: dict[str, Api] = {}
        worlds = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                answer = worlds._apis[parts.path].answer(dict(parse_qsl(parts.query)))
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, body = answer
                self.send_response_only(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingMixIn, TCPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()

    def add(self, world: World) -> tuple[str, Api]:
        """Serves a world; returns its path and its state."""
        path, api = f"/w/{len(self._apis)}/rows", Api(world)
        self._apis[path] = api
        return path, api

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def paginator_of(world: World) -> dict[str, Any]:
    """Returns the paginator that a connection file would set for a world."""
    mark = {"has_more_path": "more"} if world.mark else {}
    if world.style == "offset":
        return {"type": "offset", "limit": world.limit, **mark}
    if world.style == "page_number":
        return {
            "type": "page_number",
            "base_page": world.base if world.base_said is None else world.base_said,
            "total_path": "total" if world.pages_total else None,
            **mark,
        }
    return {
        "keyset": {"type": "cursor", "cursor_path": "data[-1].id", "cursor_param": "after"},
        "cursor": {"type": "cursor", "cursor_path": "cursor", "cursor_param": "cursor", **mark},
        "json_link": {"type": "json_link", "next_url_path": "next"},
        "header_link": {"type": "header_link"},
    }[world.style]
