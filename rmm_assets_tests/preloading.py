"""Imports what loads and commands need, once for all processes that are forked from the one that imports this module.

A process that imported it later would spend more time on that than on its load.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from contextlib import suppress

# What Dagster and dlt import only when a run starts, or for a destination.
LIBRARIES = (
    *("dagster", "dagster_dlt", "dagster._core.execution.execute_in_process", "dagster._core.secrets.env_file"),
    *("dagster._core.storage.sqlite_storage", "dagster._core.storage.local_compute_log_manager"),
    *("dlt", "dlt.destinations", "dlt.sources.rest_api", "dlt.sources.helpers.requests", "dlt._workspace.cli._plugins"),
    *("dlt.destinations.impl.duckdb.duck", "dlt.destinations.impl.filesystem.sql_client"),
    *("dlt.destinations.impl.postgres.postgres", "dlt.destinations.impl.sqlalchemy.sqlalchemy_job_client"),
    *("dlt.common.libs.deltalake", "dlt.common.libs.pyiceberg", "upath.implementations.local"),
    *("pyiceberg.catalog.sql", "pyiceberg.io.pyarrow", "pyiceberg.table.puffin", "pyiceberg.table.upsert_util"),
    *("deltalake.fs", "pyarrow.parquet", "pyarrow.acero"),
    *("duckdb", "psycopg2", "pymysql", "adbc_driver_postgresql.dbapi", "sqlalchemy.dialects.postgresql"),
    *("sqlglot.dialects.duckdb", "sqlglot.dialects.mysql", "sqlglot.dialects.postgres"),
    *("matplotlib.figure", "numpy.ma", "pendulum.locales.en.locale", "rich.table"),
)
OURS = (
    *("rmm_assets.cli", "rmm_assets.definitions", "rmm_assets.loading.sample", "rmm_assets.orchestration.assets"),
    *("rmm_assets.tables.duckdb_file", "rmm_assets.tables.lake", "rmm_assets.tables.postgres"),
    "rmm_assets_tests.syncing",
)


def preload(names: Iterable[str]) -> None:
    """Imports those of the modules that are installed, and keeps the garbage collection of later forks away from them."""
    gc.disable()
    for name in names:
        with suppress(ImportError):
            __import__(name)
    gc.freeze()
    gc.enable()
