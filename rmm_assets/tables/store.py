"""A resource's name and a place to a dlt pipeline of its own, and to tables that can be asked in SQL.

One pipeline a resource, all of a connection in one dataset: a failing endpoint leaves the others alone. The working
folder belongs to one run at a time; state and schema come back from the destination.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dlt
import portalocker
from dlt.common.destination import Destination
from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.errors import DatabaseInUseError

_LOAD_MEMORY = "400MB"

# Seconds to wait for a program that reads the database file, such as a person's query.
PATIENCE = 30.0
_BETWEEN_TRIES = 0.1


def _is_news(record: logging.LogRecord) -> bool:
    """dlt warns on each batch that a JSON column is text in Arrow, which is how JSON columns travel."""
    return "when merging arrow schema with dlt schema" not in record.getMessage()


logging.getLogger("dlt").addFilter(_is_news)

# dlt sleeps for as long as that at the end of each of a load's two extractions, by default for a hundredth of a second.
_POLL_INTERVAL = "extract.futures_poll_interval"


@dataclass(frozen=True)
class Store:
    """Where tables land.

    Attributes:
        destination: dlt's name of the destination, such as `duckdb`.
        credentials: What dlt takes for it: a path, a connection string, a mapping; None leaves the look-up to dlt.
        dataset: Dataset (schema) of the tables.
        work: Folder for dlt's working files.
        options: Further arguments of dlt's destination.
        run_id: Of the run that uses it, for others that wait for it.
    """

    destination: str
    credentials: Any
    dataset: str
    work: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it is one DuckDB file, which has one writer at a time."""
        return (
            self.destination == "duckdb"
            and isinstance(self.credentials, str)
            and "://" not in self.credentials
            and not self.credentials.startswith((":memory:", "md:"))
        )

    def prepare(self) -> None:
        """Make the folder of a database file that is not there yet.

        Raises:
            ValueError: the file is named like the dataset.
        """
        if self.is_file:
            path = Path(self.credentials)
            if path.stem.lower() == self.dataset.lower():
                # DuckDB calls the database after its file, and then reads `acme.devices` both ways.
                raise ValueError(
                    f"the database file {path.name} is named like the dataset {self.dataset}, and DuckDB cannot tell the "
                    "two apart: give the file another name, or set `dataset` in the connection file"
                )
            path.parent.mkdir(parents=True, exist_ok=True)

    def place(self) -> str:
        """Where the data is, for people: a file, or destination and dataset."""
        if self.is_file:
            return str(self.credentials)
        return f"{self.destination}, dataset {self.dataset}"

    def factory(self, *, read_only: bool = False) -> Destination[Any, Any]:
        """dlt's destination."""
        credentials = self.credentials
        if self.is_file:
            from rmm_assets.tables.duckdb_file import file_credentials

            # A file that is not there yet is made for a writer only.
            read_only = read_only and Path(self.credentials).exists()
            credentials = file_credentials(self.credentials, read_only=read_only)
        options = dict(self.options) if credentials is None else {**self.options, "credentials": credentials}
        destination = Destination.from_reference(self.destination, **options)
        assert destination is not None, "a destination without a name"
        return destination

    def pipeline(self, name: str, *, read_only: bool = False, progress: Any = None) -> dlt.Pipeline:
        """The pipeline of that name.

        Args:
            read_only: DuckDB only: open the file so that others can read it at the same time.
            progress: dlt's progress collector.
        """
        if dlt.config.get(_POLL_INTERVAL) is None:
            dlt.config[_POLL_INTERVAL] = 0.001
        return self._pipeline_in("read" if read_only else "load", name, progress=progress)

    def _pipeline_in(self, folder: str, name: str, *, progress: Any = None) -> dlt.Pipeline:
        return dlt.pipeline(
            pipeline_name=name,
            destination=self.factory(read_only=folder == "read"),
            dataset_name=self.dataset,
            pipelines_dir=str(self.work / folder),
            progress=progress,
        )

    def working_folder(self, name: str) -> Path:
        """Where the pipeline of that name keeps its files while it loads."""
        return self.work / "load" / name

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the database file open: dlt opens it half a dozen times a load, 20 ms each, and shares what is open."""
        if not self.is_file:
            yield
            return
        connection = self._connected()
        # DuckDB would take four fifths of the machine for one merge; with less it spills, hardly slower (measured: a
        # million rows in 0.5 GB instead of 0.9, same time).
        connection.execute(f"SET memory_limit = '{_LOAD_MEMORY}'")
        try:
            yield
        finally:
            connection.close()

    def _connected(self) -> Any:
        """Opens the database file, once whoever reads it has let go of it.

        Raises:
            DatabaseInUseError: nobody did in time.
        """
        import duckdb

        until = time.monotonic() + PATIENCE
        while True:
            try:
                return duckdb.connect(str(self.credentials))
            except duckdb.IOException as error:
                if "lock" not in str(error).lower():
                    raise
                if time.monotonic() > until:
                    raise DatabaseInUseError(
                        f"{self.credentials} has been open in another program for {PATIENCE:g} seconds, and DuckDB lets "
                        "nobody write meanwhile: close it there and run again"
                    ) from error
            time.sleep(_BETWEEN_TRIES)

    @contextmanager
    def alone(self, name: str, log: logging.Logger | None = None) -> Iterator[None]:
        """Waits until no other run of this machine works in the folder of the pipeline of that name."""
        self.work.mkdir(parents=True, exist_ok=True)
        with self._locked(self.work / f"{name}.lock", f"another run of {name}", log):
            yield

    @contextmanager
    def writing(self, log: logging.Logger | None = None) -> Iterator[None]:
        """Waits until nobody else of this machine has the database file open: DuckDB has one writer and no reader beside
        it. Other destinations take several writers.
        """
        with self._file_lock(log, shared=False):
            yield

    @contextmanager
    def reading(self, name: str, log: logging.Logger | None = None) -> Iterator[SqlClientBase[Any]]:
        """Yields an SQL client of the dataset that writes nothing, once nobody writes to the database file."""
        with (
            self.alone(f"{name}.read", log),
            self._file_lock(log, shared=True),
            self.pipeline(name, read_only=True).sql_client() as client,
        ):
            yield client

    @contextmanager
    def changing(self, name: str, log: logging.Logger | None = None) -> Iterator[SqlClientBase[Any]]:
        """Yields an SQL client of the dataset that may write, beside any load; the database file is its own meanwhile."""
        with (
            self.alone(f"{name}.change", log),
            self.writing(log),
            self.held(),
            self._pipeline_in("change", name).sql_client() as client,
        ):
            yield client

    @contextmanager
    def _file_lock(self, log: logging.Logger | None, *, shared: bool) -> Iterator[None]:
        if not self.is_file:
            yield
            return
        path = Path(f"{self.credentials}.lock")
        with self._locked(path, f"another run that is using {self.place()}", log, shared=shared):
            yield

    @contextmanager
    def _locked(self, path: Path, what: str, log: logging.Logger | None, *, shared: bool = False) -> Iterator[None]:
        """Holds a lock file. The kernel lets go of it when the process dies; the file stays, so that nobody locks one that
        is being removed. Who holds it stands in it, for those who wait.
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
            file.write(f"process {os.getpid()} on {socket.gethostname()}, run {self.run_id or 'without id'}".encode())
            file.flush()
            yield
