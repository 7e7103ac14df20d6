"""Provides a working folder in which everything that a run writes can be searched."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import rmm_assets.loading.opening
import rmm_assets.loading.run


@pytest.fixture
def everything_kept(work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder that keeps every log line of every library, at DEBUG, and every file of a run."""
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "DEBUG")
    # Keeps the files that a run removes at its end, to search them.
    kept = SimpleNamespace(rmtree=lambda *args, **options: None)
    monkeypatch.setattr(rmm_assets.loading.run, "shutil", kept)
    monkeypatch.setattr(rmm_assets.loading.opening, "shutil", kept)
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    handler = logging.FileHandler(work / "debug.log")
    watched = [logging.getLogger(name) for name in ("", "dlt", "urllib3", "rmm_assets", "filelock")]
    levels = [logger.level for logger in watched]
    for logger in watched:
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
    yield work
    for logger, level in zip(watched, levels):
        logger.setLevel(level)
        logger.removeHandler(handler)
    handler.close()
