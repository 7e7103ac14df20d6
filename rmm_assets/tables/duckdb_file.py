"""Opens DuckDB files by attaching them to databases in memory, which the process keeps for the next file.

To open a file, DuckDB makes a database and everything that is built into it, which takes 50 ms of CPU with closing it
(2.0.0), several times a load. Attaching the file to a database that exists takes 8 ms (`python -m benchmarks.opening`).
"""

from __future__ import annotations

import os
import threading
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

from dlt.destinations.impl.duckdb.configuration import DuckDbConnectionPool, DuckDbCredentials

# A database serves one file at a time, so that no name is ambiguous and each file has its own settings.
_idle: list[_Database] = []
_open: dict[str, _Database] = {}
_lock = threading.Lock()
_of_the_parent: list[Any] = []


def _forget() -> None:
    """Leaves databases to the process that a fork copied: their threads do not exist here, and closing them would hang."""
    global _lock
    _of_the_parent.append((list(_idle), dict(_open)))
    _idle.clear()
    _open.clear()
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)


class _Database:
    """A DuckDB database in memory, to which files are attached one after the other."""

    def __init__(self) -> None:
        import duckdb

        self._root = duckdb.connect(":memory:")
        # A file may be called memory.duckdb.
        self._own = uuid4().hex
        self._root.execute(f"ATTACH ':memory:' AS {_name(self._own)}; USE {_name(self._own)}; DETACH memory")
        self._spills_to = ""
        self.users = 0
        self.read_only = False
        self.catalog = ""

    def attach(self, path: str, *, read_only: bool) -> None:
        self._spills_to = f"{path}.tmp"
        self._root.execute(f"SET temp_directory = {_literal(self._spills_to)}; RESET memory_limit")
        self._root.execute(f"ATTACH {_literal(path)}" + (" (READ_ONLY)" if read_only else ""))
        query = f"SELECT database_name FROM duckdb_databases() WHERE NOT internal AND database_name <> '{self._own}'"
        self.catalog = str(self._root.execute(query).fetchall()[0][0])
        self.read_only = read_only

    def detach(self) -> None:
        """Writes the file's log into the file and closes it."""
        self._root.execute(f"DETACH {_name(self.catalog)}")

    @property
    def has_spilled(self) -> bool:
        """Whether there are temporary files, which DuckDB deletes with the database, and can write to no other folder."""
        return Path(self._spills_to).exists()

    def cursor(self) -> Any:
        connection = self._root.cursor()
        connection.execute(f"USE {_name(self.catalog)}")
        return connection

    def close(self) -> None:
        self._root.close()


class OpenFile:
    """A DuckDB file that is open until `close`; the file is shared by all that have it open in this process.

    Args:
        path: The file.
        read_only: Whether others may read it at the same time.

    Raises:
        duckdb.Error: The file cannot be opened; see `is_in_use`.
    """

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        self._key = os.path.realpath(path)
        with _lock:
            database = _open.get(self._key)
            if database is None:
                database = _attached(path, read_only=read_only)
                _open[self._key] = database
            elif database.read_only and not read_only:
                import duckdb

                raise duckdb.IOException(f"{path} is in use: this process is reading it")
            database.users += 1
            self._database: _Database | None = database

    def cursor(self) -> Any:
        """Returns a new connection to the file; close it before the file."""
        assert self._database is not None, "the file is closed"
        with _lock:
            return self._database.cursor()

    def limit_memory(self, limit: str) -> None:
        """Sets how much memory DuckDB may use for the file: a size, or a share of the machine's memory such as `25%`."""
        with closing(self.cursor()) as connection:
            if limit.endswith("%"):  # new in DuckDB 2.0; the default is 80 % in all versions
                ((default,),) = connection.execute("SELECT current_setting('memory_limit')").fetchall()
                size, unit = str(default).split()
                limit = f"{float(size) * float(limit[:-1]) / 80:.3f}{unit}"
            connection.execute(f"SET memory_limit = {_literal(limit)}")

    def close(self) -> None:
        """Closes the file if nobody else in this process has it open."""
        with _lock:
            database, self._database = self._database, None
            if database is None:
                return
            database.users -= 1
            if database.users:
                return
            del _open[self._key]
            try:
                database.detach()
            except BaseException:
                database.close()
                raise
            if database.has_spilled:
                database.close()
            else:
                _idle.append(database)


def _attached(path: str, *, read_only: bool) -> _Database:
    database = _idle.pop() if _idle else _Database()
    try:
        database.attach(path, read_only=read_only)
    except BaseException:
        database.close()
        raise
    return database


def is_in_use(error: Exception) -> bool:
    """Returns whether a file could not be opened because it is open elsewhere, in this process or in another."""
    text = str(error).lower()
    return "lock on file" in text or "is already attached" in text or "in use" in text


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


class _Pool(DuckDbConnectionPool):
    """Lends dlt connections to a file, and closes the file when the last is returned."""

    _file: OpenFile | None = None

    def borrow_conn(
        self,
        global_config: dict[str, Any] | None = None,
        local_config: dict[str, Any] | None = None,
        pragmas: list[str] | None = None,
    ) -> Any:
        with self._conn_lock:
            if first := self._file is None:
                self._file = OpenFile(str(self.credentials.database), read_only=self.credentials.read_only)
            self._conn_borrows += 1
            connection = self._file.cursor()
            try:
                if first:
                    self._apply_config(connection, "GLOBAL", global_config or {})
                self._apply_local_config(connection, local_config or {}, pragmas or [])
            except BaseException:
                self.return_conn(connection)
                raise
            return connection

    def _close_conn(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


class FileCredentials(DuckDbCredentials):
    """Credentials of a DuckDB file.

    dlt imports SQLAlchemy, which takes a quarter of a second, to find out that a path is not a URL and to format it in the
    report of each load. Here the path is set as an attribute and formatted directly.
    """

    def __str__(self) -> str:
        return f"{self.drivername}:///{self.database}"

    def on_resolved(self) -> None:
        super().on_resolved()
        self.conn_pool = _Pool(self)


def file_credentials(path: str, *, read_only: bool) -> FileCredentials:
    """Returns a file's credentials, resolved once, as dlt asks for its destination's capabilities thirty times a run."""
    credentials = FileCredentials(read_only=read_only)
    credentials.database = path
    credentials.resolve()
    return credentials
