"""Reads the tables of a filesystem: Delta and Iceberg with the libraries that write them, and Parquet files.

dlt reads them with extensions of DuckDB, which are downloaded when they are first used, and finds only those of the schema that
a pipeline has loaded (1.31.0).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.schema.typing import TTableFormat
from dlt.common.storages.configuration import FileSystemCredentials
from dlt.destinations import filesystem
from dlt.destinations.impl.filesystem.filesystem import FilesystemClient
from dlt.destinations.impl.filesystem.sql_client import FilesystemSqlClient
from dlt.destinations.sql_client import SqlClientBase, raise_database_error
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem


class LakeSqlClient(FilesystemSqlClient):
    """dlt's SQL client of a filesystem, with a view of the newest version of each table, found by its place."""

    def create_secret(
        self,
        scope: str,
        credentials: FileSystemCredentials,
        secret_name: str | None = None,
        persist_secrets: bool = False,
    ) -> bool:
        """Lets DuckDB read a bucket through dlt's client: its own, the extension httpfs, is downloaded and needs the credentials.

        dlt's method also fails with DuckDB 2.0 (1.31.0).
        """
        if (protocol := self.remote_client.config.protocol) != "file":
            self._register_filesystem(self.remote_client.fs_client, protocol)
        return True

    @raise_database_error
    def create_views_for_tables(self, tables: dict[str, str]) -> None:
        """Adds the tables of a query as views, before each query."""
        others = dict(tables)
        for name, view in tables.items():
            data = _newest(self.remote_client, name)
            if data is not None:
                del others[name]
                source, target = f"{view} in Arrow", self.make_qualified_table_name(view)
                self._conn.register(source, data)
                self._conn.execute(f'CREATE OR REPLACE VIEW {target} AS SELECT * FROM "{source}"')
        super().create_views_for_tables(others)


def _newest(client: FilesystemClient, name: str) -> Any:
    """Returns a table's newest version, in a form of Arrow that DuckDB reads; None if there is none, or in JSON."""
    files, config = client.fs_client, client.config
    location = client.get_open_table_location("delta", name).rstrip("/")
    folder = files._strip_protocol(location)
    if files.exists(f"{folder}/_delta_log"):
        from deltalake import DeltaTable
        from dlt.common.libs.deltalake import deltalake_storage_options

        options = deltalake_storage_options(config.credentials, config.deltalake_storage_options)
        return DeltaTable(location, storage_options=options).to_pyarrow_dataset()
    if files.exists(f"{folder}/metadata"):
        from dlt.common.libs.pyiceberg import _get_fileio_config, get_last_metadata_file
        from pyiceberg.table import StaticTable

        metadata = get_last_metadata_file(f"{location}/metadata", files, config)
        table = StaticTable.from_metadata(metadata, _get_fileio_config(config.credentials))
        tasks = list(table.scan().plan_files())
        if any(task.delete_files for task in tasks):  # by another program: dlt replaces files
            return table.scan().to_arrow()
        paths = [files._strip_protocol(task.file.file_path) for task in tasks]
        return _dataset(client, paths, table.schema().as_arrow())
    try:
        paths = client.list_table_files(name)
    except (DestinationUndefinedEntity, FileNotFoundError):
        return None
    if not paths or not all(path.endswith(".parquet") for path in paths):
        return None
    arrow = PyFileSystem(FSSpecHandler(files))
    schemas = [pq.read_schema(path, filesystem=arrow) for path in paths]
    return _dataset(client, paths, pa.unify_schemas(schemas, promote_options="permissive"))


def _dataset(client: FilesystemClient, paths: list[str], schema: pa.Schema) -> ds.Dataset:
    return ds.dataset(paths, schema=schema, format="parquet", filesystem=PyFileSystem(FSSpecHandler(client.fs_client)))


class WholeFiles(LocalFileSystem):  # type: ignore[misc]
    """A disk on which files appear when they are complete, as in a bucket: a killed process leaves no part of one."""

    def write_text(self, path: str, value: str, encoding: str | None = None, **options: Any) -> None:
        with self._complete(path) as hidden:
            hidden.write_text(value, encoding)

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        if self.isdir(path1):  # of a folder's copy, only the folder: its files come one by one
            super().cp_file(path1, path2, **options)
            return
        with self._complete(path2) as hidden:
            shutil.copyfile(self._strip_protocol(path1), hidden)

    @contextmanager
    def _complete(self, path: str) -> Iterator[Path]:
        place = Path(self._strip_protocol(path))
        if self.auto_mkdir:
            place.parent.mkdir(parents=True, exist_ok=True)
        # Not in the folder itself: the files in a table's folder are the table.
        hidden = place.parent.parent / f".{uuid4().hex}.part"
        try:
            yield hidden
            hidden.replace(place)
        finally:
            hidden.unlink(missing_ok=True)


class LakeClient(FilesystemClient):
    """dlt's client of a filesystem, with that SQL client, whole files, and merges that add columns to Iceberg tables."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.is_local_filesystem:
            self.fs_client = WholeFiles(auto_mkdir=self.fs_client.auto_mkdir)

    def create_dataset(self) -> None:
        """Creates the dataset's folder. It exists if somebody made it, or if a run was killed at once (dlt 1.31.0 would fail)."""
        self.fs_client.makedirs(self.dataset_path, exist_ok=True)

    def load_open_table(self, table_format: TTableFormat, table_name: str, **kwargs: Any) -> Any:
        """Opens a table. The newest snapshot of one to be loaded has the newest schema.

        pyiceberg's upsert reads the table with the schema of its newest snapshot, and fails if a column was added since
        (apache/iceberg-python#3105, 0.12.0).
        """
        table = super().load_open_table(table_format, table_name, **kwargs)
        if table_format == "iceberg" and kwargs:
            snapshot = table.current_snapshot()
            if snapshot is not None and snapshot.schema_id != table.metadata.current_schema_id:
                table.append(table.schema().as_arrow().empty_table())
        return table

    @property
    def sql_client(self) -> SqlClientBase[Any]:
        if not self._sql_client:
            self._sql_client = LakeSqlClient(self, self.dataset_name)
        return self._sql_client

    @sql_client.setter
    def sql_client(self, client: SqlClientBase[Any]) -> None:
        self._sql_client = client


class Lake(filesystem):
    """dlt's filesystem, with that client."""

    @property
    def client_class(self) -> type[FilesystemClient]:
        return super().client_class if self.is_hf else LakeClient
