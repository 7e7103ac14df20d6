"""Starts a PostgreSQL server of its own for a test, where its programs are installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rmm_assets.tables.store import Store

_NOBODY = 65534


@contextmanager
def postgres(folder: Path) -> Iterator[Store]:
    """A store in a server that lives in this folder, on loopback."""
    if shutil.which("initdb") is None or shutil.which("postgres") is None:
        pytest.skip("PostgreSQL is not installed: `apt-get install postgresql` and put its programs on the PATH")
    # It refuses to run as root.
    as_user = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    data = folder / "data"
    data.mkdir()
    (folder / "password").write_text("not-secret")
    if as_user:
        for place in (data, folder, *list(folder.parents)[:2]):
            place.chmod(0o755)
        shutil.chown(data, _NOBODY, _NOBODY)
    initialize = ["initdb", "-D", str(data), "-U", "rmm", "--auth=password", f"--pwfile={folder / 'password'}", "-N"]
    subprocess.run([*as_user, *initialize], check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["postgres", "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", "", "-F"]
    with subprocess.Popen([*as_user, *command], stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            for line in server.stderr:
                if "ready to accept connections" in line:
                    break
            yield Store("postgres", f"postgresql://rmm:not-secret@127.0.0.1:{port}/postgres", "acme", folder / "work")
        finally:
            server.terminate()
