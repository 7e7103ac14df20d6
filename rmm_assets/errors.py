"""Defines the errors that a user can act on; catch `RmmError` for all of them.

Their messages say what went wrong, where, and what to do, without the secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


class RmmError(Exception):
    """The base class of all errors that a user can act on."""


class ConnectionFileError(RmmError):
    """A connection file cannot be loaded.

    Attributes:
        faults: Everything that is wrong with it.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a connection file.

    Attributes:
        path: The key at fault, for example `attributes.resources[0].endpoint.paginator`.
        message: What is wrong and what to write; never a value that could be a secret.
        file: The file; None if the connection is not from a file.
        line: Line in the file, starting at 1.
    """

    path: str
    message: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        return ": ".join([*([f"{self.file}:{self.line}"] if self.file else []), self.path, self.message])


class TransportError(RmmError):
    """A request failed and is not retried. The text is redacted and contains at most 200 characters of a response.

    Attributes:
        status: The HTTP status; None if there was no response.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class BodyError(RmmError):
    """A body cannot be read as a page. The text says why and quotes nothing of it, because bodies contain customer data.

    Attributes:
        reason: `not_json`; `not_xml`; `no_selector` if the selected key is missing; `not_rows` if it contains no objects;
            `too_large` if it exceeds a limit.
    """

    def __init__(
        self, reason: Literal["not_json", "not_xml", "no_selector", "not_rows", "too_large"], message: str
    ) -> None:
        super().__init__(message)
        self.reason = reason


class PagingError(RmmError):
    """Paging cannot be followed to the end, because the server does not page as the connection file says."""


class IncompleteError(RmmError):
    """The read ended without proof that every row was received."""


class ConflictingRowsError(IncompleteError):
    """Rows of one read share a primary key but differ, so all but one of them would be lost."""


class CursorError(RmmError):
    """A row lacks the cursor of an incremental read, or its cursor cannot be used as the file says."""


class ParentRowError(RmmError):
    """A row of a parent resource lacks a value that can be used in a request for its children."""


class SchemaContractError(RmmError):
    """What was received does not fit the table, and the connection's schema contract freezes it."""


class ChildTablesError(RmmError):
    """A table that was loaded without child tables cannot get them."""


class MisfitError(RmmError):
    """A table was loaded in another way than the connection file says now, and cannot take the next load."""


class DatabaseInUseError(RmmError):
    """Another program keeps the database file open."""


class TableInUseError(RmmError):
    """Another run has begun to load the table meanwhile."""


class QueryError(RmmError):
    """A query of a connection file is not one SELECT that only reads tables."""


class TenantError(RmmError):
    """A tenant cannot be read, or the list of tenants has faults."""


class ForeignTableError(RmmError):
    """An existing table belongs to another connection or resource."""


class PublishedError(RmmError):
    """The rows of a load are in the table, but a step after the load failed."""


class SuspiciousLossError(RmmError):
    """The API sent far fewer rows than last time, as it may if the key has lost permissions."""
