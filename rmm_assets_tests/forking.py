"""Runs the installed commands in processes forked from one that has imported the libraries, which takes four CPU seconds.

For shells and make, which start commands by their file: `forked_commands` writes a file for each that asks the server here for
a process with the same arguments, folder, variables and files. The package itself is imported anew in each process.
"""

from __future__ import annotations

import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LIBRARIES = [
    *("dagster", "dagster._cli", "dagster_dg_cli.cli", "dagster_dlt", "dagster_graphql"),
    *("dlt", "dlt.destinations", "dlt.sources.rest_api", "duckdb", "pandas", "pyarrow.parquet", "psycopg2"),
    *("matplotlib.figure", "rich.table", "sqlalchemy.dialects.postgresql"),
]
BIN = Path(sys.executable).parent
_CLIENT = """\
#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps([{script!r}, sys.argv, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(asked).to_bytes(8)], [0, 1, 2])
server.sendall(asked)
process = int.from_bytes(server.recv(8))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(process, number))
code = int.from_bytes(server.recv(8), signed=True)
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@contextmanager
def forking_server(folder: Path) -> Iterator[str]:
    """Starts the server of forked commands and yields its address."""
    address = str(folder / "socket")
    command = [sys.executable, "-m", __name__, address]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        try:
            yield address
        finally:
            server.kill()


def forked_commands(address: str, folder: Path, *names: str) -> None:
    """Writes files for these commands into a folder, which the server at an address runs."""
    for name in names:
        file = folder / name
        file.unlink(missing_ok=True)
        file.write_text(_CLIENT.format(python=sys.executable, address=address, script=str(BIN / name)))
        file.chmod(0o755)


def serve(address: str) -> None:
    """Forks a process for each request, until it is killed; kills a process whose client is gone."""
    for name in LIBRARIES:
        with suppress(ImportError):
            __import__(name)
    ours = [name for name in sys.modules if name == "rmm_assets" or name.startswith("rmm_assets.")]
    assert not ours, ours
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as waiting:
        listener.bind(address)
        listener.listen()
        waiting.register(listener, selectors.EVENT_READ, None)
        print("ready", flush=True)
        while True:
            for key, _ in waiting.select():
                if key.data is None:
                    _begin(listener, waiting)
                elif key.fileobj is key.data[0]:  # the client is gone
                    with suppress(ProcessLookupError):
                        os.kill(key.data[1], signal.SIGKILL)
                    waiting.unregister(key.data[0])
                else:
                    _end(waiting, key)


def _begin(listener: socket.socket, waiting: selectors.BaseSelector) -> None:
    client, _ = listener.accept()
    length, files, _, _ = socket.recv_fds(client, 8, 3)
    asked = b""
    while len(asked) < int.from_bytes(length):
        asked += client.recv(1 << 20)
    process = os.fork()
    if process == 0:
        listener.close()
        client.close()
        _run(files, *json.loads(asked))
    for file in files:
        os.close(file)
    client.sendall(process.to_bytes(8))
    watched = os.pidfd_open(process)
    waiting.register(client, selectors.EVENT_READ, (client, process, watched))
    waiting.register(watched, selectors.EVENT_READ, (client, process, watched))


def _end(waiting: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    client, process, watched = key.data
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    waiting.unregister(watched)
    os.close(watched)
    with suppress(KeyError):
        waiting.unregister(client)
    with suppress(OSError):
        client.sendall(code.to_bytes(8, signed=True))
    client.close()


def _run(files: list[int], script: str, words: list[str], folder: str, environment: dict[str, str]) -> Any:
    code = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        ours = str(Path(__file__).parents[1])
        paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
        sys.path[:] = [str(BIN), *paths, *(path for path in sys.path if path not in (ours, ""))]
        sys.argv = words
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        code = 0 if ended.code is None else ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
