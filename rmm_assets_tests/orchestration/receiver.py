"""Runs a webhook receiver on loopback that keeps the messages it received."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self

SECRET = "T0SECRET/B0SECRET"


class Receiver:
    """Responds with the given statuses, one per message, then with 200.

    Attributes:
        bodies: Bodies of the messages that were answered with 200.
        url: Its URL, whose path contains a secret, as Slack's does.
    """

    def __init__(self, answers: Iterable[int] = ()) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.requests = 0
        statuses = iter(answers)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.requests += 1
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = next(statuses, 200)
                assert self.path == f"/services/{SECRET}"
                if status == 200:
                    receiver.bodies.append(body)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", receiver.url)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/services/{SECRET}"

    @property
    def texts(self) -> list[str]:
        return [body["text"] for body in self.bodies]

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
