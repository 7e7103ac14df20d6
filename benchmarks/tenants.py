"""Measures a connection with 1, 100 and 1,000 tenants of 5 resources with 50 rows: `python -m benchmarks.tenants [NUMBER ...]`.

For each number, a process of its own builds the definitions, evaluates a tick of the schedule, and syncs all tenants twice through
Dagster, in batches of 50, from a server in another process. Rows are counted afterwards.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click

from benchmarks.location import RESOURCES, measure, write_connection

ROWS = 50


def serve(port: multiprocessing.Queue[int]) -> None:
    """Answers every request with the same rows."""
    rows = [
        {"id": i, "name": f"PC-{i}", "status": "online", "os": {"name": "Windows", "build": i}, "tags": ["a", "b"]}
        for i in range(1, ROWS + 1)
    ]
    body = json.dumps({"data": rows, "total": ROWS}).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_address[1])
    server.serve_forever()


def write(folder: Path, number: int, port: int) -> None:
    """Writes a connection file and a list of that many tenants."""
    address = f"http://127.0.0.1:{port}/{{settings.path}}"
    write_connection(folder, "msp", address, tenants={"file": "tenants.csv"})
    (folder / "msp" / "tenants.csv").write_text("name,path\n" + "".join(f"t{i},t{i}\n" for i in range(number)))


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def measured(folder: Path, number: int) -> dict[str, float]:
    """Returns what one process measures, in seconds of CPU and kilobytes."""
    import dagster as dg

    from rmm_assets.definitions import build_defs

    os.chdir(folder)
    (folder / "home").mkdir()
    (folder / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    loading, size = measure(folder / "connections")
    found = {"location": loading, "snapshot KB": size / 1000}
    definitions = build_defs(folders=[folder / "connections"])
    repository = definitions.get_repository_def()
    logging.disable(logging.CRITICAL)
    with dg.DagsterInstance.from_config(str(folder / "home")) as instance:
        schedule = repository.get_schedule_def("sync_msp_schedule")
        now, began = datetime.now(UTC), time.process_time()
        with dg.build_schedule_context(instance=instance, scheduled_execution_time=now) as context:
            requests = schedule.evaluate_tick(context).run_requests or []
        found["tick"] = time.process_time() - began
        job = repository.get_job("sync_msp")
        for name in ("first", "second"):
            before, began = size_of(folder / "home"), time.process_time()
            for request in requests:
                silent = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
                assert job.execute_in_process(instance=instance, tags=request.tags, run_config=silent).success
            found[name] = (time.process_time() - began) / number / len(RESOURCES)
            found[f"instance KB, {name}"] = (size_of(folder / "home") - before) / 1000
            found[f"warehouse KB, {name}"] = size_of(folder / "data") / 1000
    import duckdb

    with duckdb.connect(str(folder / "data" / "rmm.duckdb")) as client:
        for table in RESOURCES:
            [[rows]] = client.sql(f"SELECT count(*) FROM msp.{table}").fetchall()
            assert rows == number * ROWS, (table, rows)
    return found


@click.command(help=__doc__)
@click.argument("numbers", nargs=-1, type=int)
@click.option("--folder", type=Path, hidden=True, help="Measure this folder, in this process.")
def main(numbers: tuple[int, ...], folder: Path | None) -> None:
    if folder is not None:
        print(json.dumps(measured(folder, numbers[0])))
        return
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    server.start()
    at = port.get()
    for number in numbers or (1, 100, 1000):
        with tempfile.TemporaryDirectory() as made:
            (Path(made) / "connections").mkdir()
            write(Path(made) / "connections", number, at)
            command = [sys.executable, "-m", "benchmarks.tenants", str(number), "--folder", made]
            environment = {**os.environ, "RMM_KEY": "a-key-of-all-4711"}
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
        figures = json.loads(told.strip().splitlines()[-1])
        print(f"{number} tenants: " + ", ".join(f"{name} {value:,.3f}" for name, value in figures.items()), flush=True)
    server.terminate()


if __name__ == "__main__":
    main()
