"""Describes a DuckDB file to dlt, without SQLAlchemy."""

from __future__ import annotations

from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials


class FileCredentials(DuckDbCredentials):
    """Names a file by its path.

    dlt asks SQLAlchemy, whose import takes a quarter of a second, to see that a path is not an address and to write one for
    the report of each load. Here the path is set as an attribute, and written as it is.
    """

    def __str__(self) -> str:
        return f"{self.drivername}:///{self.database}"


def file_credentials(path: str, *, read_only: bool) -> FileCredentials:
    """Returns the credentials of a file, resolved: dlt asks for its destination's capabilities thirty times a run."""
    credentials = FileCredentials(read_only=read_only)
    credentials.database = path
    credentials.resolve()
    return credentials
