"""Provides a working folder in which everything that a run writes can be searched."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import rmm_assets.loading.run


@pytest.fixture
def everything_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder that keeps every log line of every library, at DEBUG, and every file of a run."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "DEBUG")
    # Keeps the files that a run removes at its end, to search them.
    monkeypatch.setattr(rmm_assets.loading.run, "shutil", SimpleNamespace(rmtree=lambda *args, **options: None))
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    handler = logging.FileHandler(folder / "debug.log")
    watched = [logging.getLogger(name) for name in ("", "dlt", "urllib3", "rmm_assets", "filelock")]
    levels = [logger.level for logger in watched]
    for logger in watched:
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
    yield folder
    for logger, level in zip(watched, levels):
        logger.setLevel(level)
        logger.removeHandler(handler)
    handler.close()
