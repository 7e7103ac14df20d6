"""Runs `rmm` commands in processes that are forked from one with Dagster and dlt, as importing both takes four CPU seconds.

The installed script itself runs in `test_docs.py`, `integration/test_lost_runs.py` and `integration/test_project.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

# Starts processes in milliseconds that share nothing with the tests. Python has one fork server for all that a test does.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["rmm_assets.cli", "rmm_assets.definitions", "rmm_assets_tests.syncing"])
_LIMIT = 600


def rmm(words: Sequence[str], folder: Path, environment: Mapping[str, str], said: str = "") -> CompletedProcess[str]:
    """Runs a command in a process of its own and returns what it printed.

    Args:
        words: Its arguments.
        folder: The working directory.
        environment: All its environment variables.
        said: Its standard input.
    """
    with TemporaryDirectory() as place:
        inside = Path(place)
        (inside / "0").write_text(said)
        process = FORKS.Process(target=_command, args=(tuple(words), folder, dict(environment), inside))
        process.start()
        process.join(_LIMIT)
        if process.is_alive():
            process.kill()
            process.join()
        output, errors = ((inside / name).read_text() if (inside / name).exists() else "" for name in "12")
        assert process.exitcode is not None
        return CompletedProcess(list(words), process.exitcode, output, errors)


def _command(words: tuple[str, ...], folder: Path, environment: dict[str, str], place: Path) -> None:
    for number, mode in enumerate(("r", "w", "w")):
        with (place / str(number)).open(mode) as file:
            os.dup2(file.fileno(), number)
    sys.stdin = os.fdopen(0)  # multiprocessing has replaced it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["rmm", *words]
    from rmm_assets.cli import main

    main()
