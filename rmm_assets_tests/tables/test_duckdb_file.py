"""Tests that DuckDB files are opened as DuckDB opens them, although databases of the process are used again."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import duckdb
import pytest

from rmm_assets.errors import DatabaseInUseError
from rmm_assets.tables import store as stores
from rmm_assets.tables.duckdb_file import OpenFile, is_in_use
from rmm_assets.tables.store import Store

WITHIN = 120.0


def write(path: Path, value: int = 1) -> None:
    with closing(OpenFile(str(path))) as file, closing(file.cursor()) as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS acme; CREATE OR REPLACE TABLE acme.t AS SELECT {value} AS n")


def read(path: Path) -> list[tuple[int]]:
    with closing(OpenFile(str(path), read_only=True)) as file, closing(file.cursor()) as connection:
        rows: list[tuple[int]] = connection.execute("SELECT n FROM acme.t").fetchall()
        return rows


def read_by_another(path: Path) -> str:
    code = f"import duckdb; print(duckdb.connect({str(path)!r}, read_only=True).execute('SELECT n FROM acme.t').fetchall())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WITHIN)
    return done.stdout


def setting(file: OpenFile, name: str) -> str:
    with closing(file.cursor()) as connection:
        return str(connection.execute(f"SELECT current_setting('{name}')").fetchall()[0][0])


@pytest.mark.parametrize("name", ["rmm", "memory", "temp", "system", "main", "acme.north", 'O\'Neil "1"'])
def test_a_file_has_the_catalog_that_duckdb_gives_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.duckdb"
    with duckdb.connect(str(path)) as connection:
        catalogs = connection.execute("SELECT current_database()").fetchall()
    with closing(OpenFile(str(path))) as file, closing(file.cursor()) as connection:
        assert connection.execute("SELECT current_database()").fetchall() == catalogs
        # A schema may be named like a catalog of the database that the file is attached to.
        for schema in {"memory", "idle"} - {name}:
            connection.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.t AS SELECT 1 AS n")
            assert connection.execute(f"SELECT n FROM {schema}.t").fetchall() == [(1,)]


def test_a_closed_file_is_complete_and_free(tmp_path: Path) -> None:
    path = tmp_path / "rmm.duckdb"
    write(path, 7)
    assert [file.name for file in tmp_path.iterdir()] == ["rmm.duckdb"]
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("SELECT n FROM acme.t").fetchall() == [(7,)]
    assert read_by_another(path) == "[(7,)]\n"


def test_files_of_one_name_are_open_at_the_same_time(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) / "rmm.duckdb" for number in range(4)]
    together = Barrier(len(paths), timeout=WITHIN)

    def change(number: int) -> list[tuple[int]]:
        paths[number].parent.mkdir()
        with closing(OpenFile(str(paths[number]))) as file:
            together.wait()
            write(paths[number], number)
            together.wait()
            with closing(file.cursor()) as connection:
                rows: list[tuple[int]] = connection.execute("SELECT n FROM acme.t").fetchall()
                return rows

    for _ in range(2):
        with ThreadPoolExecutor(len(paths)) as pool:
            assert list(pool.map(change, range(len(paths)))) == [[(number,)] for number in range(len(paths))]
        for path in paths:
            path.unlink()
            path.parent.rmdir()


def test_settings_and_temporary_files_of_one_file_are_not_those_of_the_next(tmp_path: Path) -> None:
    first, second = tmp_path / "first" / "rmm.duckdb", tmp_path / "second" / "rmm.duckdb"
    for path in (first, second):
        path.parent.mkdir()
    with closing(OpenFile(str(first))) as file, closing(file.cursor()) as connection:
        file.limit_memory("40MB")
        connection.execute(
            "CREATE TEMP TABLE t AS SELECT i, hash(i)::VARCHAR || repeat('x', 99) AS s FROM range(800000) r(i)"
        )
        limit = setting(file, "memory_limit")
        assert (tmp_path / "first" / "rmm.duckdb.tmp").exists()
    assert [path.name for path in first.parent.iterdir()] == ["rmm.duckdb"]
    with closing(OpenFile(str(second))) as file:
        assert setting(file, "memory_limit") != limit
        assert setting(file, "temp_directory") == f"{second}.tmp"


def test_a_share_of_the_machine_s_memory_is_a_limit(tmp_path: Path) -> None:
    limits = []
    for share in ("80%", "40%", "20.0 %"):
        with closing(OpenFile(str(tmp_path / "rmm.duckdb"))) as file:
            file.limit_memory(share)
            size, unit = setting(file, "memory_limit").split()
            limits.append(float(size) * {"MiB": 1, "GiB": 1024}[unit])
    with closing(OpenFile(str(tmp_path / "rmm.duckdb"))) as file:
        size, unit = setting(file, "memory_limit").split()
    assert limits[0] == pytest.approx(float(size) * {"MiB": 1, "GiB": 1024}[unit], rel=0.05)
    assert limits == pytest.approx([limits[0], limits[0] / 2, limits[0] / 4], rel=0.05)


def test_readers_share_a_file_and_a_writer_waits_for_them(tmp_path: Path) -> None:
    path = tmp_path / "rmm.duckdb"
    write(path)
    with closing(OpenFile(str(path), read_only=True)):
        assert read(path) == [(1,)]
        assert read_by_another(path) == "[(1,)]\n"
        with pytest.raises(duckdb.Error) as raised:
            OpenFile(str(path))
        assert is_in_use(raised.value)
    write(path, 2)
    assert read(path) == [(2,)]


def in_this_process(path: Path) -> Callable[[], None]:
    return duckdb.connect(str(path)).close


def in_another(path: Path) -> Callable[[], None]:
    code = f"import duckdb, sys; held = duckdb.connect({str(path)!r}); print(flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdin is not None
    process.stdout.readline()

    def end() -> None:
        process.communicate(timeout=WITHIN)

    return end


@pytest.mark.parametrize("held", [in_this_process, in_another])
def test_a_file_that_is_open_elsewhere_is_waited_for_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: Callable[[Path], Callable[[], None]]
) -> None:
    path = tmp_path / "rmm.duckdb"
    monkeypatch.setattr(stores, "PATIENCE", 0.3)
    end = held(path)
    store = Store("duckdb", str(path), "acme", tmp_path / "work")
    with pytest.raises(DatabaseInUseError, match="open in another program"), store.held():
        pass
    end()
    with store.held():
        pass


def test_an_error_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "rmm.duckdb"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(duckdb.Error) as raised:
        OpenFile(str(path))
    assert not is_in_use(raised.value)
    path.unlink()
    write(path, 3)
    assert read(path) == [(3,)]


def _in_a_fork(held: Path, free: Path) -> None:
    write(free, 4)
    try:
        OpenFile(str(held))
    except duckdb.Error as error:
        os._exit(0 if is_in_use(error) and read(free) == [(4,)] else 1)
    os._exit(2)


def test_a_fork_opens_files_itself(tmp_path: Path) -> None:
    held, free = tmp_path / "held.duckdb", tmp_path / "free.duckdb"
    write(free)
    with closing(OpenFile(str(held))):
        child = multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(held, free))
        child.start()
        child.join(WITHIN)
        assert child.exitcode == 0
    assert read(free) == [(4,)]


def test_a_database_is_used_for_the_next_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "first.duckdb")

    def connect(*_: object) -> None:
        raise AssertionError("a database was made")

    monkeypatch.setattr(duckdb, "connect", connect)
    write(tmp_path / "second.duckdb", 2)
    assert read(tmp_path / "second.duckdb") == [(2,)]
