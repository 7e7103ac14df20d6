"""Looks up in dlt what a destination can do, without credentials and without connecting to it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlt.common.destination import DestinationCapabilitiesContext

_FILES = ("filesystem", "dlt.destinations.filesystem")


@cache
def capabilities(kind: str) -> DestinationCapabilitiesContext | None:
    """Returns the capabilities that dlt declares for a destination.

    Args:
        kind: dlt's name of the destination.
    """
    from dlt.common.destination import Destination

    destination = Destination.from_reference(kind)
    return destination.capabilities() if destination else None


def merge_strategies(kind: str, table_format: str | None) -> tuple[str, ...]:
    """Returns the merge strategies that a destination supports for a table of this format."""
    found = capabilities(kind)
    strategies: Any = (found.supported_merge_strategies if found else None) or ()
    if found is not None and found.merge_strategies_selector is not None:
        table: Any = {"name": "table", "columns": {}, **({"table_format": table_format} if table_format else {})}
        strategies = found.merge_strategies_selector(strategies, table_schema=table)
    return tuple(strategies)


def changes_rows(kind: str) -> bool:
    """Returns whether SQL can update and delete rows. It cannot in files, which dlt presents as views."""
    return kind not in _FILES


def merges_at_once(kind: str) -> bool:
    """Returns whether a merge into a table and its child tables is one transaction; False if dlt does not say."""
    found: Any = capabilities(kind)
    if found is None or found.supports_transactions is False:
        return False
    return bool(found.supports_transactions or found.supports_ddl_transactions)
