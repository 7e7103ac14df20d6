"""Runs a server of S3 buckets, moto's, for the tests."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from rmm_assets_tests.postgres import STARTS_WITHIN

BUCKET = "lake"


@contextmanager
def bucket_server() -> Iterator[str]:
    """Yields the URL of a new server with a bucket. Skips the test if moto is not installed."""
    if find_spec("moto") is None:
        pytest.skip("moto is not installed: pip install 'rmm_assets[dev]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url, until = f"http://127.0.0.1:{port}", time.monotonic() + STARTS_WITHIN
            while True:
                assert server.poll() is None and time.monotonic() < until, "moto did not start"
                try:
                    urllib.request.urlopen(
                        urllib.request.Request(f"{url}/{BUCKET}", method="PUT"), timeout=STARTS_WITHIN
                    )
                    break
                except urllib.error.URLError:
                    time.sleep(0.05)
            yield url
        finally:
            server.terminate()
