"""Builds dlt credentials for a DuckDB file without importing SQLAlchemy."""

from __future__ import annotations

from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials


class FileCredentials(DuckDbCredentials):
    """Credentials of a DuckDB file.

    dlt imports SQLAlchemy, which takes a quarter of a second, to find out that a path is not a URL and to format it in the
    report of each load. Here the path is set as an attribute and formatted directly.
    """

    def __str__(self) -> str:
        return f"{self.drivername}:///{self.database}"


def file_credentials(path: str, *, read_only: bool) -> FileCredentials:
    """Returns a file's credentials, resolved once, as dlt asks for its destination's capabilities thirty times a run."""
    credentials = FileCredentials(read_only=read_only)
    credentials.database = path
    credentials.resolve()
    return credentials
