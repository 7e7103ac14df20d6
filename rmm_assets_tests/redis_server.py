"""Runs a Redis server for the tests."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from rmm_assets_tests.postgres import STARTS_WITHIN

PASSWORD = "redis-not-secret"


def free_port() -> int:
    """Returns a port of 127.0.0.1 that was free just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def redis_server(port: int | None = None, addresses: Sequence[str] = ("127.0.0.1",)) -> Iterator[str]:
    """Yields the URL of a new server that keeps nothing on disk. Skips the test if Redis is not installed.

    Args:
        port: Its port; a free one by default.
        addresses: Where it listens; the URL has the last one.
    """
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not installed: apt-get install redis-server")
    port = port or free_port()
    command = [program, "--port", str(port), "--bind", *addresses, "--save", "", "--requirepass", PASSWORD]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port, server)
            yield f"redis://:{PASSWORD}@{addresses[-1]}:{port}/0"
        finally:
            server.kill()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + STARTS_WITHIN
    while True:
        assert server.poll() is None and time.monotonic() < until, "Redis does not start"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
