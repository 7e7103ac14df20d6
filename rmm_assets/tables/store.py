"""Opens the dlt pipelines and SQL clients of a connection's dataset, one user at a time where the destination needs it.

Each resource has its own pipeline, so that a failing endpoint does not affect the others; all of a connection's pipelines
share one dataset. One run at a time uses a pipeline's working folder; state and schema are restored from the destination.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import dlt
import portalocker
from dlt.common.destination import Destination
from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.errors import DatabaseInUseError
from rmm_assets.tables.locks import DEAD, Lock, locked
from rmm_assets.tables.settings import DEFAULT_MEMORY, FILES

if TYPE_CHECKING:
    from rmm_assets.tables.duckdb_file import OpenFile

# Seconds to wait for a program that reads the database file, such as a person's query.
PATIENCE = 30.0
_BETWEEN_TRIES = 0.1


def _is_news(record: logging.LogRecord) -> bool:
    """Filters out dlt's warning, repeated for each batch, that a JSON column is text in Arrow, as it always is."""
    return "when merging arrow schema with dlt schema" not in record.getMessage()


logging.getLogger("dlt").addFilter(_is_news)

# dlt sleeps this long at the end of each of a load's two extractions; its default is 10 ms.
_POLL_INTERVAL = "extract.futures_poll_interval"


@dataclass(frozen=True)
class Store:
    """Where tables are stored.

    Attributes:
        destination: dlt's name of the destination, such as `duckdb`.
        credentials: dlt's credentials: a path, a connection string or a mapping; None lets dlt look them up.
        dataset: Dataset (schema) of the tables.
        work: Folder for dlt's working files.
        options: Further arguments of dlt's destination.
        memory_limit: How much memory DuckDB may use for a load, as DuckDB writes it; the rest goes to temporary files.
        run_id: Id of the run that uses it, shown to runs that wait for it.
        dead_after: Seconds after which a run on another machine that gives no sign of life is dead.
    """

    destination: str
    credentials: Any
    dataset: str
    work: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    memory_limit: str = DEFAULT_MEMORY
    run_id: str = ""
    dead_after: float = DEAD

    @property
    def password(self) -> str | None:
        """The database's password, as far as the credentials hold one."""
        if isinstance(self.credentials, Mapping):
            return self.credentials.get("password")
        with suppress(ValueError):
            return unquote(urlsplit(str(self.credentials or "")).password or "") or None
        return None

    @property
    def is_file(self) -> bool:
        """Whether the destination is a DuckDB file, which takes one writer at a time."""
        return (
            self.destination == "duckdb"
            and isinstance(self.credentials, str)
            and "://" not in self.credentials
            and not self.credentials.startswith((":memory:", "md:"))
        )

    @cached_property
    def shared_file(self) -> Path | None:
        """The one file that runs of all connections write to in turn; None if the destination takes several writers.

        It is a DuckDB or SQLite database, or one of these that is the catalog of a DuckLake.
        """
        if self.is_file:
            return Path(self.credentials)
        if self.destination not in ("sqlalchemy", "ducklake"):
            return None
        credentials: Any = self._made_in("lock", "file").destination_client().config.credentials
        place = credentials.catalog if self.destination == "ducklake" else credentials
        return Path(place.database) if place.drivername in ("duckdb", "sqlite") and place.database else None

    @property
    def locks_in_files(self) -> bool:
        """Whether runs take turns by lock files only, so that all of them must be on one machine.

        Databases in files have no other user meanwhile, and a filesystem has no rows that can be changed.
        """
        in_memory = self.destination == "duckdb" and not str(self.credentials).startswith("md:")
        return in_memory or self.destination in FILES or self.shared_file is not None

    @property
    def is_missing(self) -> bool:
        """Whether it is a DuckDB file that does not exist yet: even a reader would create it."""
        return self.is_file and not Path(self.credentials).exists()

    def prepare(self) -> None:
        """Creates the folder of the `shared_file` if it is missing.

        Raises:
            ValueError: The file has the same name as the dataset.
        """
        if self.is_file:
            path = Path(self.credentials)
            if path.stem.lower() == self.dataset.lower():
                # DuckDB names the database after its file, so `acme.devices` would be ambiguous.
                raise ValueError(
                    f"the database file {path.name} has the same name as the dataset {self.dataset}, and DuckDB cannot "
                    "tell them apart: rename the file or set `dataset` in the connection file"
                )
        if self.shared_file is not None:
            self.shared_file.parent.mkdir(parents=True, exist_ok=True)

    def place(self) -> str:
        """Returns where the data is, for messages: the file, or the destination and dataset."""
        if self.is_file:
            return str(self.credentials)
        return f"{self.destination}, dataset {self.dataset}"

    def factory(self, *, read_only: bool = False) -> Destination[Any, Any]:
        """Returns the dlt destination."""
        credentials = self.credentials
        if self.is_file:
            from rmm_assets.tables.duckdb_file import file_credentials

            # DuckDB cannot open a missing file read-only.
            read_only = read_only and not self.is_missing
            credentials = file_credentials(self.credentials, read_only=read_only)
        options = dict(self.options) if credentials is None else {**self.options, "credentials": credentials}
        if self.destination in ("duckdb", "ducklake", "postgres"):
            # Without this, dlt deletes rows and inserts others in two transactions (1.31.0).
            options.setdefault("supports_transactions", True)
        if self.destination in FILES:
            from rmm_assets.tables.lake import Lake

            return _configured_once(Lake(destination_name="filesystem", **options))
        if self.destination == "postgres":
            from rmm_assets.tables.postgres import Postgres

            return _configured_once(Postgres(destination_name="postgres", **options))
        if self.destination == "sqlalchemy":
            # JSON is text already, and SQLAlchemy would make a JSON string of it.
            options["engine_kwargs"] = {"json_serializer": _as_json, **options.get("engine_kwargs", {})}
            from rmm_assets.tables.sql_types import SqlDatabase

            return _configured_once(SqlDatabase(destination_name="sqlalchemy", **options))
        destination = Destination.from_reference(self.destination, **options)
        assert destination is not None, "a destination without a name"
        return _configured_once(destination)

    def pipeline(self, name: str, *, read_only: bool = False, progress: Any = None) -> dlt.Pipeline:
        """Returns the pipeline of that name.

        Args:
            name: Name of the pipeline.
            read_only: DuckDB only: opens the file so that others can read it at the same time.
            progress: dlt's progress collector.
        """
        if dlt.config.get(_POLL_INTERVAL) is None:
            dlt.config[_POLL_INTERVAL] = 0.001
        return self._made_in("read" if read_only else "load", name, progress=progress)

    def _made_in(self, folder: str, name: str, *, progress: Any = None) -> dlt.Pipeline:
        return dlt.pipeline(
            pipeline_name=name,
            destination=self.factory(read_only=folder == "read"),
            dataset_name=self.dataset,
            pipelines_dir=str(self.work / folder),
            progress=progress,
        )

    def working_folder(self, name: str) -> Path:
        """Returns the folder in which the pipeline of that name keeps its files during a load."""
        return self.work / "load" / name

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps the database file open, with the memory limit of a load: dlt opens it half a dozen times."""
        if not self.is_file:
            yield
            return
        with closing(self._opened()) as file:
            file.limit_memory(self.memory_limit)
            yield

    def _opened(self) -> OpenFile:
        """Opens the database file, waiting for other programs to close it.

        Raises:
            DatabaseInUseError: It is still open after `PATIENCE` seconds.
        """
        import duckdb

        from rmm_assets.tables.duckdb_file import OpenFile, is_in_use

        path, until = Path(self.credentials), time.monotonic() + PATIENCE
        is_new = not path.exists()
        while True:
            try:
                return OpenFile(str(path))
            except duckdb.Error as error:
                if not is_in_use(error):
                    if is_new:  # on a full disk, DuckDB leaves the beginning of a file that it could never open again
                        path.unlink(missing_ok=True)
                    raise
                if time.monotonic() > until:
                    raise DatabaseInUseError(
                        f"{self.credentials} has been open in another program for {PATIENCE:g} seconds, and DuckDB cannot "
                        "write to it meanwhile: close it there and run again"
                    ) from error
            time.sleep(_BETWEEN_TRIES)

    @contextmanager
    def alone(self, name: str, log: logging.Logger | None = None) -> Iterator[None]:
        """Waits until no other run on this machine uses the working folder of the pipeline of that name."""
        self.work.mkdir(parents=True, exist_ok=True)
        with self._locked(self.work / f"{name}.lock", f"another run of {name}", log):
            yield

    @contextmanager
    def locked(self, name: str, log: logging.Logger | None = None) -> Iterator[Lock | None]:
        """Waits until no run on another machine loads the resource of the pipeline of that name. Use it inside of `alone`.

        Yields None if `locks_in_files`.
        """
        if self.locks_in_files:
            yield None
            return
        place = self.work / f"{name}.id"
        if not place.exists():
            place.write_text(uuid4().hex)
        pipeline, log = self._made_in("lock", name), log or logging.getLogger("rmm_assets")
        with locked(pipeline.sql_client, name, place.read_text(), self._holder, log, self.dead_after) as lock:
            yield lock

    @property
    def _holder(self) -> str:
        return f"process {os.getpid()} on {socket.gethostname()}, run {self.run_id or 'without id'}"

    @contextmanager
    def writing(self, log: logging.Logger | None = None) -> Iterator[None]:
        """Waits until no other run on this machine uses the `shared_file`, as DuckDB allows no reader next to its one writer.
        Other destinations take several writers, so there is no wait.
        """
        with self._file_lock(log, shared=False):
            yield

    @contextmanager
    def reading(self, name: str, log: logging.Logger | None = None) -> Iterator[SqlClientBase[Any]]:
        """Yields a read-only SQL client of the dataset once no run writes to the database file."""
        with (
            self.alone(f"{name}.read", log),
            self._file_lock(log, shared=True),
            self.pipeline(name, read_only=True).sql_client() as client,
        ):
            yield client

    @contextmanager
    def changing(self, name: str, log: logging.Logger | None = None) -> Iterator[SqlClientBase[Any]]:
        """Yields an SQL client of the dataset that may write outside a load, with exclusive use of a database file."""
        with (
            self.alone(f"{name}.change", log),
            self.writing(log),
            self.held(),
            self._made_in("change", name).sql_client() as client,
        ):
            yield client

    @contextmanager
    def _file_lock(self, log: logging.Logger | None, *, shared: bool) -> Iterator[None]:
        if self.shared_file is None:
            yield
            return
        path = Path(f"{self.shared_file}.lock")
        # DuckDB locks the catalog of a DuckLake for readers, too.
        shared = shared and self.destination != "ducklake"
        with self._locked(path, f"another run that is using {self.place()}", log, shared=shared):
            yield

    @contextmanager
    def _locked(self, path: Path, what: str, log: logging.Logger | None, *, shared: bool = False) -> Iterator[None]:
        """Holds a file lock, which the kernel releases if the process dies.

        The file names the holder for those who wait. It is never removed, as a process that waits for a removed file would
        lock another file than the next one.
        """
        flags = portalocker.LockFlags.SHARED if shared else portalocker.LockFlags.EXCLUSIVE
        with path.open("a+b") as file:
            try:
                portalocker.lock(file, flags | portalocker.LockFlags.NON_BLOCKING)
            except portalocker.LockException:
                if log is not None:
                    file.seek(0)
                    log.info(
                        "waiting for %s: %s", what, file.read(200).decode(errors="replace") or "it does not say who"
                    )
                # Sleeps in the kernel until the lock is free, or a signal comes.
                portalocker.lock(file, flags)
            file.truncate(0)
            file.write(self._holder.encode())
            file.flush()
            yield


def _as_json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _configured_once(destination: Destination[Any, Any]) -> Destination[Any, Any]:
    """Keeps the destination's configuration: dlt resolves it for each of its clients, a dozen times a load (1.31.0)."""
    resolve: Any = destination.configuration
    resolved: dict[str, Any] = {}

    def configuration(initial_config: Any, accept_partial: bool = False) -> Any:
        asked = {name: value for name, value in dict(initial_config).items() if name != "credentials"}
        key = repr((asked, accept_partial))
        if key not in resolved:
            resolved[key] = resolve(initial_config, accept_partial)
        return resolved[key]

    destination.configuration = configuration  # type: ignore[method-assign]
    return destination
