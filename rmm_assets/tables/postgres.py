"""Loads Parquet files without rows into PostgreSQL: with ADBC, dlt fails at them (1.31.0)."""

from __future__ import annotations

import pyarrow.parquet as pq
from dlt.common.destination.client import LoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.destinations import postgres
from dlt.destinations.impl.postgres.postgres import PostgresClient
from dlt.destinations.job_impl import FinalizedLoadJobWithFollowupJobs


class _Client(PostgresClient):
    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        if file_path.endswith(".parquet") and pq.read_metadata(file_path).num_rows == 0:
            return FinalizedLoadJobWithFollowupJobs(file_path)
        return super().create_load_job(table, file_path, load_id, restore)


class Postgres(postgres):
    """dlt's PostgreSQL, with a client that has nothing to do for such a file."""

    @property
    def client_class(self) -> type[PostgresClient]:
        return _Client
