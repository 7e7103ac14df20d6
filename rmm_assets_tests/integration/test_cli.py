"""Tests the `rmm` command as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import duckdb
import pytest
from click.testing import CliRunner

from rmm_assets.cli import main
from rmm_assets.simulator import Faults, Simulator
from rmm_assets_tests.commands import rmm as run_rmm

RMM = str(Path(sys.executable).with_name("rmm"))

pytestmark = pytest.mark.slow

CONNECTION = """\
type: rmm_assets.RmmConnection
attributes:
  name: acme
  client:
    base_url: {base_url}
    auth: {{type: api_key, name: api_key, location: query}}
  api_key: {{env: ACME_API_KEY}}
  retry: {{backoff_factor: 0.01}}
  resource_defaults:
    primary_key: id
    write_disposition: merge
    endpoint: {{data_selector: data, paginator: {{type: offset, limit: 100}}}}
  resources:
    - {{name: computers, endpoint: {{path: /v1/computers}}, checks: {{not_null: [status]}}}}
    - {{name: tickets, endpoint: {{path: /v1/tickets}}}}
"""


def rows(number: int) -> list[dict[str, object]]:
    return [{"id": i, "status": "online"} for i in range(1, number + 1)]


def sync(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return command(folder, "sync", *words, **environment)


def command(folder: Path, *words: str, said: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "home").mkdir(exist_ok=True)
    places = {"DAGSTER_HOME": str(folder / "home"), "RMM_CONNECTIONS": str(folder / "connections")}
    return run_rmm(words, folder, {**os.environ, **places, **environment}, said or "")


@pytest.fixture
def rmm(tmp_path: Path) -> Simulator:
    simulator = Simulator(tables={"computers": rows(250), "tickets": rows(30)})
    (tmp_path / "connections" / "acme").mkdir(parents=True)
    (tmp_path / "connections" / "acme" / "defs.yaml").write_text(CONNECTION.format(base_url=simulator.base_url))
    return simulator


def line(text: str, asset: str) -> list[str]:
    """Returns the cells of an asset's line."""
    (found,) = [line for line in text.splitlines() if f" {asset} " in line]
    return [cell.strip() for cell in found.strip("│| ").split("│")]


def test_a_second_run_says_what_changed(rmm: Simulator, tmp_path: Path) -> None:
    with rmm:
        first = sync(tmp_path, "acme", ACME_API_KEY="demo-key")
        assert first.returncode == 0, first.stdout + first.stderr
        assert line(first.stdout, "acme/computers")[1:5] == ["250", "first load", "3", "7 of 7"]
        assert "The tables of acme are in data/rmm.duckdb." in first.stdout

        rmm.set_rows("computers", rows(253)[2:])
        second = sync(tmp_path, ACME_API_KEY="demo-key")
        assert second.returncode == 0, second.stdout + second.stderr
        change = line(second.stdout, "acme/computers")[2]
        assert "3" in change
        assert "2 gone at the source" in change
        assert line(second.stdout, "acme/tickets")[1] == "30"


def test_a_failing_asset_shows_its_error_and_the_command_fails(rmm: Simulator, tmp_path: Path) -> None:
    with rmm:
        rmm.set_faults(Faults(resource="tickets", status=404, text="no [such] thing"))
        done = sync(tmp_path, ACME_API_KEY="demo-key")
    assert done.returncode == 1
    assert line(done.stdout, "acme/computers")[1] == "250"
    assert line(done.stdout, "acme/tickets")[1] == "failed"
    (sentence,) = [text for text in done.stdout.splitlines() if text.startswith("acme/tickets ")]
    assert "404" in sentence
    assert "Traceback" not in done.stdout + done.stderr
    assert "demo-key" not in done.stdout + done.stderr


def test_a_failing_check_is_named_and_the_command_fails(rmm: Simulator, tmp_path: Path) -> None:
    with rmm:
        rmm.set_rows("computers", [{"id": 1, "status": None}])
        done = sync(tmp_path, ACME_API_KEY="demo-key")
    assert done.returncode == 1
    assert line(done.stdout, "acme/computers")[4] == "6 of 7 (not_null_status)"


@pytest.mark.parametrize("broken", ["a folder", "a database", "the configuration"])
def test_an_unusable_instance_of_dagster_is_named_without_a_traceback(
    broken: str, rmm: Simulator, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    file = {"a folder": "history", "a database": "history/runs.db", "the configuration": "dagster.yaml"}[broken]
    (home / file).parent.mkdir(parents=True)
    (home / file).write_text("unknown_key: 1")
    with rmm:
        done = sync(tmp_path, ACME_API_KEY="demo-key")
    assert done.returncode == 1
    assert f"Error: Dagster's instance in {home} cannot be used: " in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_check_that_warns_fails_the_command_only_if_it_is_strict(rmm: Simulator, tmp_path: Path) -> None:
    with rmm:
        rmm.set_rows("tickets", [])
        done = sync(tmp_path, "acme", ACME_API_KEY="demo-key")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "(warns: not_empty)" in line(done.stdout, "acme/tickets")[4]
        assert sync(tmp_path, "acme", "--strict", ACME_API_KEY="demo-key").returncode == 1
    # A log has a line for each start and end.
    said = done.stderr.splitlines()
    assert said.index("acme/computers: reading") < said.index("acme/computers: done")


def test_a_broken_file_fails_the_command_but_other_connections_are_synced(rmm: Simulator, tmp_path: Path) -> None:
    (tmp_path / "connections" / "bad").mkdir()
    (tmp_path / "connections" / "bad" / "defs.yaml").write_text(
        "type: rmm_assets.RmmConnection\nattributes: {name: bad, resuorces: [devices]}\n"
    )
    with rmm:
        done = sync(tmp_path, ACME_API_KEY="demo-key")
        assert done.returncode == 1
        assert line(done.stdout, "acme/computers")[1] == "250"
        assert "bad is not loaded: " in done.stdout and "resuorces" in done.stdout
        # With explicit names, only those are reported.
        assert sync(tmp_path, "acme", ACME_API_KEY="demo-key").returncode == 0
        assert sync(tmp_path, "bad", ACME_API_KEY="demo-key").returncode == 1


TENANTS = "  tenants: {from: customers/customers, name: slug}\n"


def test_the_rows_of_a_connection_are_the_tenants_of_another(tmp_path: Path) -> None:
    def named(*names: str) -> list[dict[str, object]]:
        return [{"id": number, "slug": name} for number, name in enumerate(names)]

    with Simulator(tables={"computers": rows(2), "customers": named("north", "a/b")}) as server:
        text = CONNECTION.format(base_url=server.base_url)
        computers, tickets = (f"    - {{name: {name}," for name in ("computers", "tickets"))
        for name, own in {
            "acme": text.partition(tickets)[0] + TENANTS,
            "customers": text.partition(computers)[0].replace("acme", "customers")
            + "    - {name: customers, endpoint: {path: /v1/customers}}\n",
        }.items():
            (tmp_path / "connections" / name).mkdir(parents=True)
            (tmp_path / "connections" / name / "defs.yaml").write_text(own)
        key = {"ACME_API_KEY": "demo-key"}
        # Alone, there is no list yet; the other connection does not wait for it.
        alone = sync(tmp_path, "acme", **key)
        assert alone.returncode == 1 and "acme customers/customers: the table does not exist yet" in alone.stdout
        done = sync(tmp_path, **key)
        assert line(done.stdout, "customers/customers")[1:3] == ["2", "first load"]
        assert line(done.stdout, "acme/computers")[1:3] == ["2", "first load"], done.stdout
        assert done.returncode == 1 and "acme customers/customers: tenant 1, `a/b`: name:" in done.stdout
        status = command(tmp_path, "status")
        assert status.returncode == 1 and "customers/customers: tenant 1, `a/b`" in status.stdout
        server.set_rows("customers", named("north", "south"))
        done = sync(tmp_path, **key)
        assert done.returncode == 0 and line(done.stdout, "acme/computers")[1] == "4"
        assert command(tmp_path, "status").returncode == 0


def test_a_missing_variable_is_named_without_a_traceback(rmm: Simulator, tmp_path: Path) -> None:
    with rmm:
        done = sync(tmp_path)
        assert not rmm.requests
    assert "acme has no tables yet." in done.stdout
    assert done.returncode == 1
    assert "acme/tickets No API key: set the environment variable ACME_API_KEY" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout + done.stderr


def test_the_error_about_an_unknown_connection_lists_the_known_ones(rmm: Simulator, tmp_path: Path) -> None:
    rmm.close()
    done = sync(tmp_path, "acne")
    assert done.returncode == 2
    assert "unknown connection acne; known connections: acme" in done.stderr


def test_the_exit_code_of_an_audit_is_its_result(rmm: Simulator, tmp_path: Path) -> None:
    with rmm:
        assert sync(tmp_path, ACME_API_KEY="demo-key").returncode == 0
        equal = command(tmp_path, "audit", "acme", ACME_API_KEY="demo-key")
        assert equal.returncode == 0, equal.stdout + equal.stderr
        assert line(equal.stdout, "acme/computers")[1:4] == ["equal", "250", "250"]

        rmm.set_rows("tickets", rows(31))
        differs = command(tmp_path, "audit", "acme", "tickets", "--json", ACME_API_KEY="demo-key")
        assert differs.returncode == 1, differs.stdout + differs.stderr
        (found,) = json.loads(differs.stdout)
        assert (found["resource"], found["verdict"], found["found"]["missing"]) == ("tickets", "differences", 1)
        assert found["examples"]["missing"] == ["id 31"]

        rmm.set_rows("tickets", [])
        assert command(tmp_path, "audit", "acme", "tickets", ACME_API_KEY="demo-key").returncode == 2
        keyless = command(tmp_path, "audit", "acme")
        assert keyless.returncode == 2
        assert "No API key: set the environment variable ACME_API_KEY" in " ".join(keyless.stdout.split())
    assert "demo-key" not in equal.stdout + differs.stdout
    assert command(tmp_path, "audit", "acme", "nothing").returncode == 2


def test_a_connection_is_removed_with_its_history_after_confirmation(rmm: Simulator, tmp_path: Path) -> None:
    with rmm:
        assert sync(tmp_path, ACME_API_KEY="demo-key").returncode == 0
        asked = command(tmp_path, "remove", "acme", said="n\n")
        assert asked.returncode == 1
        assert "acme.computers (250 rows)" in asked.stdout and "acme.tickets (30 rows)" in asked.stdout
        assert command(tmp_path, "reset", "acme", "tickets", "--yes").returncode == 0
        found = json.loads(command(tmp_path, "status", "--json").stdout)
        assert [one["rows"] for one in found["connections"][0]["resources"]] == [250, 30]
        with duckdb.connect(str(tmp_path / "data" / "rmm.duckdb")) as db:
            tables = {name for (name,) in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        assert "computers" in tables and "tickets" not in tables

        assert command(tmp_path, "remove", "acme", "--yes").returncode == 0
        with duckdb.connect(str(tmp_path / "data" / "rmm.duckdb")) as db:
            assert db.execute("SELECT table_name FROM duckdb_tables()").fetchall() == []
        found = json.loads(command(tmp_path, "status", "--json").stdout)
        assert [one["last_success"] for one in found["connections"][0]["resources"]] == [None, None]
        # Like a first load.
        again = sync(tmp_path, ACME_API_KEY="demo-key")
        assert again.returncode == 0
        assert line(again.stdout, "acme/computers")[1:3] == ["250", "first load"]


def test_on_a_terminal_each_resource_has_a_line_with_its_progress(rmm: Simulator, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, 160))
    with rmm, os.fdopen(ours, "rb", buffering=0) as terminal:
        rmm.set_faults(Faults(delay=0.3))
        environment = {
            **os.environ, "DAGSTER_HOME": str(tmp_path / "home"), "RMM_CONNECTIONS": str(tmp_path / "connections"),
            "ACME_API_KEY": "demo-key", "TERM": "xterm-256color",
        }  # fmt: skip
        with subprocess.Popen(
            [RMM, "sync", "acme"], cwd=tmp_path, env=environment, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs
        ) as process:
            os.close(theirs)
            shown = b""
            # Linux ends a terminal that nobody has open any more with an error.
            with suppress(OSError):
                while part := terminal.read(65536):
                    shown += part
            assert process.stdout is not None
            printed = process.stdout.read().decode()
    assert process.returncode == 0, printed
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    frames = [line.strip() for line in re.split(r"[\r\n]+", text)]
    for name in ("computers", "tickets"):
        lines = [line for line in frames if f"acme/{name} " in line]
        assert len(lines) > 1, "the line is drawn anew while the run goes on"
        assert any(re.search(r"acme/\w+ +\d:\d\d:\d\d +done$", line) for line in lines), lines
    # The lines are erased at the end; the table, on standard output, is what stays.
    assert b"\x1b[2K" in shown[-200:]
    assert "acme/computers: reads" not in text
    assert line(printed, "acme/computers")[1] == "250"


def test_what_was_never_loaded_is_reset_and_removed_without_creating_a_database(rmm: Simulator, tmp_path: Path) -> None:
    rmm.close()
    for name in ("reset", "remove"):
        done = command(tmp_path, name, "acme", "--yes")
        assert done.returncode == 0 and "nothing: there are no tables" in done.stdout, done.stdout + done.stderr
        assert command(tmp_path, name, "acme", "printers", "--yes").returncode == 2
    assert not (tmp_path / "data" / "rmm.duckdb").exists()


def test_the_status_ends_with_1_if_something_needs_a_person(rmm: Simulator, tmp_path: Path) -> None:
    with rmm:
        assert sync(tmp_path, ACME_API_KEY="demo-key").returncode == 0
        right = command(tmp_path, "status")
        assert right.returncode == 0, right.stdout + right.stderr
        rmm.set_faults(Faults(resource="tickets", status=404))
        sync(tmp_path, ACME_API_KEY="demo-key")
        failed = command(tmp_path, "status")
        assert failed.returncode == 1 and "acme/tickets failed in run" in failed.stdout
        rmm.set_faults([])
        assert sync(tmp_path, ACME_API_KEY="demo-key").returncode == 0
        assert command(tmp_path, "status", "--json").returncode == 0
    file = tmp_path / "connections" / "bad" / "defs.yaml"
    file.parent.mkdir()
    file.write_text("type: rmm_assets.RmmConnection\nattributes: {name: bad}\n")
    assert command(tmp_path, "status").returncode == 1


def test_a_connection_and_a_resource_are_renamed_with_their_tables(rmm: Simulator, tmp_path: Path) -> None:
    file = tmp_path / "connections" / "acme" / "defs.yaml"
    with rmm:
        assert sync(tmp_path, ACME_API_KEY="demo-key").returncode == 0
        early = command(tmp_path, "rename", "acme", "north", "--yes")
        assert early.returncode == 2 and "write `name: north` in the connection file of acme" in early.stderr
        file.write_text(file.read_text().replace("name: acme", "name: north"))
        asked = command(tmp_path, "rename", "acme", "north", said="n\n")
        assert asked.returncode == 1
        assert "acme.computers to north.computers (250 rows)" in asked.stdout
        assert command(tmp_path, "rename", "acme", "north", "--yes").returncode == 0

        file.write_text(file.read_text().replace("name: tickets", "name: cases"))
        assert command(tmp_path, "rename", "north", "tickets", "cases", "--yes").returncode == 0
        found = json.loads(command(tmp_path, "status", "--json").stdout)
        assert [(one["name"], one["rows"]) for one in found["connections"][0]["resources"]] == [
            ("computers", 250), ("cases", 30)
        ]  # fmt: skip
        again = command(tmp_path, "rename", "acme", "north", "--yes")
        assert again.returncode == 2 and "the dataset acme has no tables of acme" in " ".join(again.stderr.split())

        done = sync(tmp_path, ACME_API_KEY="demo-key")
        assert done.returncode == 0, done.stdout + done.stderr
        assert line(done.stdout, "north/cases")[1] == "30"
    with duckdb.connect(str(tmp_path / "data" / "rmm.duckdb")) as db:
        assert db.execute("SELECT count(*), count(DISTINCT _dlt_load_id) FROM north.cases").fetchall() == [(30, 1)]
        schemas = {name for (name,) in db.execute("SELECT DISTINCT schema_name FROM duckdb_tables()").fetchall()}
    assert schemas == {"north"}


def test_rejected_rows_are_tried_again_when_the_file_has_changed(rmm: Simulator, tmp_path: Path) -> None:
    file = tmp_path / "connections" / "acme" / "defs.yaml"
    written = file.read_text()
    strict = "columns: {status: {data_type: bigint}}, endpoint: {path: /v1/tickets}"
    file.write_text(written.replace("endpoint: {path: /v1/tickets}", strict))
    with rmm:
        assert command(tmp_path, "retry-rejected", "acme").stdout.count("no rejected rows") == 2
        assert not (tmp_path / "data" / "rmm.duckdb").exists()
        sync(tmp_path, ACME_API_KEY="demo-key")
    # Neither the API nor its key is needed.
    again = command(tmp_path, "retry-rejected", "acme", "tickets")
    assert (again.returncode, again.stdout) == (0, "acme/tickets: 30 are rejected again\n")
    file.write_text(written)
    done = command(tmp_path, "retry-rejected", "acme")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "acme/computers: no rejected rows\n" in done.stdout
    assert "acme/tickets: 30 rejected rows were loaded (30 new, 0 changed)\n" in done.stdout
    with duckdb.connect(str(tmp_path / "data" / "rmm.duckdb")) as db:
        assert db.execute("SELECT count(*) FROM acme.tickets").fetchall() == [(30,)]
        assert db.execute("SELECT count(*) FROM acme.tickets_rejected").fetchall() == [(0,)]
    file.write_text(written.replace("{name: tickets,", "{name: tickets, history: true,"))
    refused = command(tmp_path, "retry-rejected", "acme", "tickets")
    assert refused.returncode == 1 and "rejected rows cannot be tried again" in refused.stderr


def test_a_rename_that_a_destination_cannot_do_is_refused_and_says_what_to_do(
    rmm: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmm.close()
    file = tmp_path / "connections" / "acme" / "defs.yaml"
    monkeypatch.setenv("RMM_CONNECTIONS", str(tmp_path / "connections"))
    monkeypatch.chdir(tmp_path)
    missing = CliRunner().invoke(main, ["rename", "south", "acme"])
    assert missing.exit_code == 2 and "data/rmm.duckdb does not exist" in missing.output
    lake = "  destination: {type: filesystem, options: {bucket_url: /data/lake}}\n"
    file.write_text(file.read_text().replace("write_disposition: merge", "write_disposition: append") + lake)
    done = CliRunner().invoke(main, ["rename", "south", "acme"])
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert "filesystem cannot be renamed" in said and "keep the name south" in said
    kept = CliRunner().invoke(main, ["reset", "acme", "--yes"])
    assert kept.exit_code == 2 and "filesystem cannot be dropped" in " ".join(kept.output.split())
    assert not (tmp_path / "data" / "rmm.duckdb").exists()


def test_the_simulator_runs_standalone_and_stops_on_an_interrupt() -> None:
    process = subprocess.Popen([RMM, "simulate", "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        base_url, key = said.split()[3].rstrip(","), said.split(" API key ")[1].split(",")[0]
        with urlopen(f"{base_url}/v1/devices?limit=2&api_key={key}", timeout=60) as answer:
            assert len(json.load(answer)["data"]) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert "Stop with Ctrl-C" in process.stdout.read()
    finally:
        process.kill()
        process.wait()
