"""Starts a `dagster dev` for some connection folders, with a free port, and its instance and data in one temporary folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import yaml

import rmm_assets

PROJECT = Path(rmm_assets.__file__).parents[1]
READY_WITHIN = 600.0  # seconds, on a machine that runs other tests at the same time


@contextmanager
def dagster_dev(
    folder: Path,
    connections: Sequence[Path],
    forked: Path,
    *,
    example: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Starts `dagster dev` as `make dev` does, with only our own code location.

    Args:
        folder: Its working directory, to which it writes.
        connections: Folders for `RMM_CONNECTIONS`.
        forked: The folder of the command `dagster`.
        example: Another workspace to load next to ours.
        more: Further environment variables.

    Yields:
        Its URL, such as `http://127.0.0.1:40123`, when it responds.

    Raises:
        RuntimeError: It ended or did not respond in time; the message contains the end of its log.
    """
    home = folder / "dagster_home"
    home.mkdir(parents=True)
    shutil.copy(PROJECT / "dagster.yaml", home / "dagster.yaml")
    (own,) = yaml.safe_load((PROJECT / "workspace.yaml").read_text())["load_from"]
    own["python_module"]["working_directory"] = str(PROJECT)
    (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [own]}))
    workspaces = ["--workspace", "workspace.yaml"]
    if example is not None:
        workspaces += ["--workspace", str(example)]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER_", "RMM_"))},
        "DAGSTER_HOME": str(home),
        "DO_NOT_TRACK": "1",
        "RMM_CONNECTIONS": os.pathsep.join(str(path) for path in connections),
        # So that pages show paths as a user sees them, not temporary paths.
        "RMM_DATABASE": "data/rmm.duckdb",
        "ACME_API_KEY": "demo-key",
        **(more or {}),
        "PATH": f"{forked}{os.pathsep}{os.environ['PATH']}",
    }
    port = _free_port()
    url, log = f"http://127.0.0.1:{port}", folder / "dagster_dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(forked / "dagster"), "dev", "--host", "127.0.0.1", "--port", str(port), *workspaces],
            cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, url, log)
        yield url
    finally:
        _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + READY_WITHIN
    while time.monotonic() < until and process.poll() is None:
        with suppress(URLError, ConnectionError, TimeoutError), urlopen(f"{url}/server_info", timeout=5):
            return
        time.sleep(0.3)
    raise RuntimeError(f"dagster dev does not respond; its log ends with:\n{log.read_text()[-4000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills it and its children, because a clean shutdown takes half a minute and its files are discarded anyway."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(READY_WITHIN)
