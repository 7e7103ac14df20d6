"""Runs connections in separate processes that report their phase, so that tests can kill them there."""

from __future__ import annotations

import logging
import resource as limits
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from dlt.common.runtime.collector import Collector  # type: ignore[attr-defined]

from rmm_assets.config import Connection
from rmm_assets.loading.run import open_run
from rmm_assets_tests.commands import FORKS
from rmm_assets_tests.syncing import KEY, store_in

PHASES = ("fetching", "normalizing", "loading", "marking")
_STEPS = {"Extract": "fetching", "Normalize": "normalizing", "Load": "loading"}


class _Phases(Collector):
    """Reports each step of dlt that starts through a pipe."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    def _start(self, step: str) -> None:
        _say(self._pipe, "phase", _STEPS.get(step.split(" ", 1)[0], step))

    def update(self, *_: Any, **__: Any) -> None:
        pass

    def _stop(self) -> None:
        pass


def _say(pipe: Pipe, kind: str, value: str) -> None:
    with suppress(OSError):  # no one is listening any more
        pipe.send((kind, value))


class _Lines(logging.Handler):
    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        _say(self._pipe, "log", record.getMessage())


def _run(pipe: Pipe, made: Connection, name: str, folder: Path, base_url: str, largest_file: int | None) -> None:
    if largest_file is not None:
        limits.setrlimit(limits.RLIMIT_FSIZE, (largest_file, largest_file))
    log = logging.getLogger("rmm_assets.runs")
    log.setLevel(logging.INFO)
    log.addHandler(_Lines(pipe))
    try:
        with open_run(
            made, made.resource(name), KEY, base_url=base_url, store=store_in(folder), log=log, progress=_Phases(pipe)
        ) as run:
            run.pipeline.drop()
            load_info = run.pipeline.run(run.source)
            load_info.raise_on_failed_jobs()
            _say(pipe, "phase", "marking")
            run.finish(load_info)
    except Exception:
        _say(pipe, "red", traceback.format_exc())
    else:
        _say(pipe, "green", "")


class Running:
    """A run in its own process.

    Args:
        largest_file: Maximum size of a file in that process, in bytes, to simulate a full disk.
    """

    def __init__(
        self, folder: Path, base_url: str, made: Connection, name: str = "devices", *, largest_file: int | None = None
    ) -> None:
        self._pipe, theirs = FORKS.Pipe(duplex=False)
        self.process = FORKS.Process(
            target=_run, args=(theirs, made, name, folder, base_url, largest_file), daemon=True
        )
        self.process.start()
        theirs.close()
        self.phase = ""
        self.log: list[str] = []
        self.verdict: str | None = None
        self.trouble = ""

    def listen(self, seconds: float) -> bool:
        """Receives what the run reports within this many seconds; returns whether it reported anything."""
        try:
            if not self._pipe.poll(seconds):
                return False
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            return False
        if kind == "phase":
            self.phase = value
        elif kind == "log":
            self.log.append(value)
        else:
            self.verdict, self.trouble = kind, value
        return True

    def reaches(self, phase: str, seconds: float = 60) -> None:
        """Waits until the run reaches a phase or ends."""
        while self.phase != phase and self.verdict is None and self.listen(seconds):
            pass

    def kill(self) -> None:
        """Kills the run with `kill -9` in its current phase."""
        while self.listen(0):
            pass
        self.process.kill()
        self.process.join()
        self._pipe.close()

    def end(self, seconds: float = 120) -> Mapping[str, str]:
        """Waits for the result: `green`, or `red` with the error."""
        while self.verdict is None and self.listen(seconds):
            pass
        self.process.join(seconds)
        self._pipe.close()
        return {"verdict": self.verdict or "killed", "trouble": self.trouble}
