"""Runs `rmm` commands in processes that are forked from one with Dagster and dlt, as importing both takes two CPU seconds.

The installed script itself runs in `test_docs.py`, `integration/test_cli.py` and `integration/test_lost_runs.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import resource as limits
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

# Starts processes in milliseconds that share nothing with the tests. Python has one fork server for all that a test does.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["rmm_assets_tests.preloaded"])
_LIMIT = 600


class Started:
    """A command in a process of its own, whose output goes to files.

    Attributes:
        pid: The id of its process.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        *,
        said: str = "",
        largest_file: int | None = None,
    ) -> None:
        self._words, self._place = list(words), TemporaryDirectory()
        (Path(self._place.name) / "0").write_text(said)
        inside = (tuple(words), folder, dict(environment), Path(self._place.name), largest_file)
        self._process = FORKS.Process(target=_command, args=inside)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def is_over(self) -> bool:
        return not self._process.is_alive()

    def send_signal(self, number: int) -> None:
        """Sends a signal to the process if it is not over."""
        if not self.is_over:
            os.kill(self.pid, number)

    def end(self, within: float = _LIMIT) -> CompletedProcess[str]:
        """Waits for the process, kills it if it is not over within these seconds, and returns what it printed."""
        self._process.join(within)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        files = (Path(self._place.name) / name for name in "12")
        output, errors = (file.read_text() if file.exists() else "" for file in files)
        assert self._process.exitcode is not None
        self._place.cleanup()
        return CompletedProcess(self._words, self._process.exitcode, output, errors)


def rmm(words: Sequence[str], folder: Path, environment: Mapping[str, str], said: str = "") -> CompletedProcess[str]:
    """Runs a command in a process of its own and returns what it printed.

    Args:
        words: Its arguments.
        folder: The working directory.
        environment: All its environment variables.
        said: Its standard input.
    """
    return Started(words, folder, environment, said=said).end()


def _command(
    words: tuple[str, ...], folder: Path, environment: dict[str, str], place: Path, largest_file: int | None
) -> None:
    if largest_file is not None:
        limits.setrlimit(limits.RLIMIT_FSIZE, (largest_file, largest_file))
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
