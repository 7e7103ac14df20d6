"""Runs the installed commands in processes forked from one that has imported the libraries, which takes two CPU seconds.

For shells, make and Dagster, which start commands by their file: `forked_commands` writes a file for each that asks the server here
for a process with the same arguments, folder, variables and files. The package itself is imported anew in each process. If `python`
is one of the commands, the processes that these processes start with `sys.executable` are forked, too.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
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

from rmm_assets_tests.preloading import LIBRARIES, preload

COMMANDS = ("dagster._cli", "dagster_dg_cli.cli", "dagster_graphql")
BIN = Path(sys.executable).parent
_MOST_FILES = 64
# No file of a client has a number as high.
_ABOVE = 512
_CLIENT = """\
#!{python} -IS
import json, os, signal, socket, sys
files = [number for number in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{{number}}")]
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps([files, {script!r}, {executable!r}, sys.argv, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(asked).to_bytes(8)], files)
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
    executable = str(folder / "python") if "python" in names else sys.executable
    for name in names:
        file = folder / name
        file.unlink(missing_ok=True)
        client = _CLIENT.format(python=sys.executable, address=address, script=str(BIN / name), executable=executable)
        file.write_text(client)
        file.chmod(0o755)


def serve(address: str) -> None:
    """Forks a process for each request, until it is killed; kills a process whose client is gone, and what it has started."""
    preload((*LIBRARIES, *COMMANDS))
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
                    for kill in (os.killpg, os.kill):  # it may not lead a group yet
                        with suppress(ProcessLookupError):
                            kill(key.data[1], signal.SIGKILL)
                    waiting.unregister(key.data[0])
                else:
                    _end(waiting, key)


def _begin(listener: socket.socket, waiting: selectors.BaseSelector) -> None:
    client, _ = listener.accept()
    length, files, _, _ = socket.recv_fds(client, 8, _MOST_FILES)
    asked = b""
    while len(asked) < int.from_bytes(length) and (more := client.recv(1 << 20)):
        asked += more
    process = os.fork()
    if process == 0:
        _run(files, asked)
    for file in files:
        os.close(file)
    with suppress(OSError):  # the client is gone already
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


def _run(files: list[int], asked: bytes) -> Any:
    """Runs what a client asked for and ends this process."""
    code = 1
    try:
        numbers, script, executable, words, folder, environment = json.loads(asked)
        _take(files, numbers)
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.executable = executable
        multiprocessing.set_executable(executable)
        ours = str(Path(__file__).parents[1])
        paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
        paths += [path for path in sys.path if path not in (ours, "")]
        if Path(script).name == "python":
            sys.path[:] = [folder, *paths]
            _python(words)
        else:
            sys.path[:] = [str(BIN), *paths]
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


def _take(files: list[int], numbers: list[int]) -> None:
    """Gives these files the numbers that they have in the client, and closes all others."""
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, _ABOVE) for file in files]
    os.closerange(0, _ABOVE)
    for file, number in zip(moved, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def _python(words: list[str]) -> None:
    """Runs a module or code, as `python -m` and `python -c` do; other options have no effect."""
    at = next(at for at, word in enumerate(words) if word in ("-m", "-c"))
    kind, said = words[at : at + 2]
    sys.argv = [kind, *words[at + 2 :]]
    if kind == "-m":
        runpy.run_module(said, run_name="__main__", alter_sys=True)
    else:
        exec(compile(said, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    serve(sys.argv[1])
