"""Measures what a code location costs with 1, 10 and 40 connections: `python -m benchmarks.location [NUMBER ...]`.

For each number, a process of its own builds the definitions and serializes them as Dagster's webserver and daemon get them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import yaml

RESOURCES = ("devices", "alerts", "patches", "tickets", "software")


def write_connection(folder: Path, name: str, base_url: str, **more: Any) -> None:
    """Writes a connection file of five resources into a folder of its own."""
    attributes = {
        "name": name,
        "client": {"base_url": base_url, "auth": {"type": "bearer"}},
        "api_key": {"env": "RMM_KEY"},
        "schedule": {"cron": "0 * * * *"},
        "resource_defaults": {
            "primary_key": "id",
            "write_disposition": "merge",
            "endpoint": {"data_selector": "data", "paginator": {"type": "offset", "limit": 100}},
        },
        "resources": [{"name": each, "endpoint": {"path": f"/v1/{each}"}} for each in RESOURCES],
        **more,
    }
    (folder / name).mkdir()
    file = {"type": "rmm_assets.RmmConnection", "attributes": attributes}
    (folder / name / "defs.yaml").write_text(yaml.safe_dump(file))


def write(folder: Path, number: int) -> None:
    """Writes that many connection files into a folder."""
    for index in range(number):
        write_connection(folder, f"rmm_{index}", "https://127.0.0.1")


def measure(folder: Path) -> tuple[float, int]:
    """Returns the CPU seconds to build the definitions of a folder, without imports, and their size in bytes."""
    from dagster._core.remote_representation.external_data import RepositorySnap
    from dagster._serdes import serialize_value

    from rmm_assets.definitions import broken_connections, build_defs

    began = time.process_time()
    definitions = build_defs(folders=[folder])
    repository = definitions.get_repository_def()
    seconds = time.process_time() - began
    assert not broken_connections(definitions)
    return seconds, len(serialize_value(RepositorySnap.from_def(repository)))


@click.command(help=__doc__)
@click.argument("numbers", nargs=-1, type=int)
@click.option("--folder", type=Path, hidden=True, help="Measure this folder, in this process.")
def main(numbers: tuple[int, ...], folder: Path | None) -> None:
    if folder is not None:
        print(*measure(folder))
        return
    print(
        "| connections of 5 resources | CPU s | CPU s per connection | KB | KB per connection |\n|---|---|---|---|---|"
    )
    for number in numbers or (1, 10, 40):
        with tempfile.TemporaryDirectory() as made:
            write(Path(made), number)
            command = [sys.executable, "-m", "benchmarks.location", "--folder", made]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        seconds, size = float(told[-2]), int(told[-1]) / 1000
        print(f"| {number} | {seconds:.2f} | {seconds / number:.2f} | {size:,.0f} | {size / number:.0f} |", flush=True)


if __name__ == "__main__":
    main()
