"""Tests that nothing that Dagster writes contains the secret: event log, compute logs, metadata, command lines."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import pytest

import rmm_assets
from rmm_assets.definitions import FOLDERS_VARIABLE, build_defs
from rmm_assets.orchestration.resources import RmmApi
from rmm_assets_tests.http.leaks import leaks_in, needles
from rmm_assets_tests.reading.hostile import ODD, PLAIN, Case, Hostile

DEBUG_LOGS = {
    "python_logs": {
        "managed_python_loggers": ["root", "dlt", "rmm_assets", "urllib3", "filelock"],
        "python_log_level": "DEBUG",
    }
}


# Failures that take different paths through our code and Dagster's; test_secret covers each failure without Dagster.
THROUGH_DAGSTER = {
    *("refused_401", "down", "page_of_html", "other_selector", "redirect_away", "next_away", "rows", "rejected"),
    *("nobody_there", "reset", "bad_headers", "untrusted"),
}


def write_connections(folder: Path, hostile: Hostile, cases: Sequence[Case], api_key: dict[str, str]) -> None:
    """Writes a connection file for each way to fail; their runs are independent."""
    for number, case in enumerate(cases):
        attributes = case.connection(hostile.auth(), name=f"c{number}") | {"api_key": api_key}
        (folder / f"c{number}").mkdir(parents=True)
        text = json.dumps({"type": "rmm_assets.RmmConnection", "attributes": attributes})
        (folder / f"c{number}" / "defs.yaml").write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "api_key", [{"env": "ACME_API_KEY"}, {"dlt_secret": "sources.acme.api_key"}], ids=["env", "dlt"]
)
def test_dagsters_instance_contains_no_secret(
    api_key: dict[str, str], work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("ACME_API_KEY", ODD)
    monkeypatch.setenv("SOURCES__ACME__API_KEY", ODD)
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "DEBUG")
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    hostile = Hostile("query", ODD, tmp_path / "certificates")
    (work / "home").mkdir()
    with hostile.running() as cases:
        wanted = THROUGH_DAGSTER if "env" in api_key else {"refused_401", "rows", "reset"}
        chosen = [case for case in cases if case.name in wanted]
        write_connections(tmp_path / "connections", hostile, chosen, api_key)
        definitions = build_defs(folders=[tmp_path / "connections"])
        with dg.instance_for_test(temp_dir=str(work / "home"), overrides=DEBUG_LOGS) as instance:
            for number, case in enumerate(chosen):
                job = definitions.resolve_job_def(f"sync_c{number}")
                result = job.execute_in_process(instance=instance, raise_on_error=False)
                assert result.success != case.red, case.name
            assert len(instance.get_runs()) == len(chosen)
    captured = capfd.readouterr()
    (work / "stdout").write_text(captured.out)
    (work / "stderr").write_text(captured.err)

    searched, finds = leaks_in(work, hostile.secrets)
    assert not finds, "\n".join(finds[:20])
    assert searched > 10 * len(chosen)
    assert hostile.arrived >= len(chosen) - 3
    names = [file.name for file in work.rglob("*") if file.is_file()]
    assert any(name.endswith(".db") for name in names)
    log = b"".join(file.read_bytes() for file in (work / "home").rglob("*.db"))
    assert b"HTTP 401" in log
    assert b"/refused_401" in log


def test_the_resource_does_not_print_its_key() -> None:
    api = RmmApi(api_key=PLAIN)
    with api.session() as session:
        for shown in (repr(api), str(api), repr(session), str(session), f"{session}"):
            assert PLAIN not in shown


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="command lines are read from /proc")
def test_no_file_or_command_line_of_a_real_dagster_process_contains_the_secret(work: Path, tmp_path: Path) -> None:
    hostile = Hostile("bearer", ODD, tmp_path / "certificates")
    home = work / "home"
    home.mkdir()
    settings = {"telemetry": {"enabled": False}, **DEBUG_LOGS}
    (home / "dagster.yaml").write_text(json.dumps(settings))
    seen: set[bytes] = set()
    environment = {
        **os.environ,
        "ACME_API_KEY": ODD,
        "DAGSTER_HOME": str(home),
        FOLDERS_VARIABLE: str(tmp_path / "connections"),
        "PYTHONPATH": str(Path(rmm_assets.__file__).parents[1]),
        "RUNTIME__LOG_LEVEL": "DEBUG",
    }
    with hostile.running() as cases:
        chosen = [
            case for case in cases if case.name in ("refused_401", "rows", "rejected", "next_away", "bad_headers")
        ]
        write_connections(tmp_path / "connections", hostile, chosen, {"env": "ACME_API_KEY"})
        command = [
            sys.executable,
            "-m",
            "dagster",
            "asset",
            "materialize",
            "--select",
            "*",
            "-m",
            "rmm_assets.definitions",
        ]
        with (work / "stdout").open("wb") as out, (work / "stderr").open("wb") as errors:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=errors)
            while process.poll() is None:
                seen |= command_lines_below(process.pid)
                time.sleep(0.05)
    assert process.returncode != 0  # most of it is red
    assert hostile.arrived >= 3

    searched, finds = leaks_in(work, hostile.secrets)
    assert not finds, "\n".join(finds[:20])
    assert searched > 20
    assert any(b"dagster" in line for line in seen)
    assert not [line for line in seen for needle in needles(hostile.secrets) if needle in line]
    everything = b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
    for expected in (b"HTTP 401", b"another origin", b"rows_loaded", b"GET /refused_401"):
        assert expected in everything, expected
    assert any("compute_logs" in str(file) for file in home.rglob("*"))


def command_lines_below(pid: int) -> set[bytes]:
    """Yields the command lines and titles of a process and its descendants."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and pid in (int(folder.name), _parent(folder)):
                found |= {(folder / "cmdline").read_bytes(), (folder / "comm").read_bytes()}
                if int(folder.name) != pid:
                    found |= command_lines_below(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def _parent(folder: Path) -> int:
    return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
