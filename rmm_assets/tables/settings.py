"""Defines the settings of a destination in a connection file."""

from __future__ import annotations

import os
from typing import Any

from pydantic import Field

from rmm_assets.settings import Settings

# dlt's names of the destination that has files instead of a database.
FILES = ("filesystem", "dlt.destinations.filesystem")
# The DuckDB file of connections that do not name one; relative to the working directory.
DEFAULT_DATABASE = "data/rmm.duckdb"
DATABASE_VARIABLE = "RMM_DATABASE"
# DuckDB's own default is four fifths of the machine's memory, too much where several loads run.
DEFAULT_MEMORY = "25%"


class Destination(Settings):
    """Where tables are stored: a dlt destination."""

    type: str = Field(
        default="duckdb", min_length=1, description="dlt's name for the destination, for example `postgres`."
    )
    credentials: str | dict[str, Any] | None = Field(
        default=None,
        description="Connection string or mapping, without a password: dlt looks that up itself, for example in "
        "`DESTINATION__POSTGRES__CREDENTIALS`. For DuckDB, the path of the file; by default the value of the "
        "environment variable `RMM_DATABASE`, or `data/rmm.duckdb`.",
    )
    memory_limit: str = Field(
        default=DEFAULT_MEMORY,
        pattern=r"^\d+(\.\d+)? ?([KMGT]i?B|%)$",
        description="DuckDB only: how much memory a load may use, for example `2GB` or a share of the machine's; what does not "
        "fit is kept in temporary files.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Other arguments of dlt's destination, for example `bucket_url`."
    )

    def resolved_credentials(self) -> str | dict[str, Any] | None:
        """Returns the credentials to pass to dlt: those in the file, DuckDB's file, or None if dlt should look them up.

        It reads the environment, so call it when a run starts.
        """
        if self.credentials is None and self.type == "duckdb":
            return os.environ.get(DATABASE_VARIABLE) or DEFAULT_DATABASE
        return self.credentials


def as_destination(value: Any) -> Any:
    """Returns a destination as a mapping; a string is its `type`."""
    return {"type": value} if isinstance(value, str) else value
