"""Looks up in dlt what a destination can do, without credentials and without connecting to it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from rmm_assets.tables.settings import FILES

if TYPE_CHECKING:
    from dlt.common.destination import DestinationCapabilitiesContext

# The destinations with an extra of this package; dlt has extras for others, too.
EXTRAS = (
    "postgres", "lake", "sqlalchemy", "snowflake", "bigquery", "redshift", "databricks", "motherduck", "clickhouse", "mssql",
    "synapse", "ducklake",
)  # fmt: skip
# dlt's extras of the table formats that it writes to files.
_FORMATS = {"delta": "deltalake", "iceberg": "pyiceberg"}


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


def missing_extra(kind: str, table_formats: Iterable[str], bucket_url: str) -> tuple[str, list[str]] | None:
    """Returns what to install for a destination, and the packages that are missing; None if all are installed.

    dlt's extras have the names of its destinations, table formats and URL schemes, and say what each needs; ours may
    narrow the versions.

    Args:
        kind: dlt's name of the destination.
        table_formats: The table formats that are used.
        bucket_url: The URL of a filesystem; empty if it is not in the file.
    """
    wanted = [kind.rpartition(".")[2]]
    if kind in FILES:
        formats = [_FORMATS[name] for name in sorted({*table_formats}) if name in _FORMATS]
        wanted = [*formats, bucket_url.partition("://")[0]]
    for extra in wanted:
        if missing := _missing(extra):
            own = "lake" if extra in _FORMATS.values() else extra
            return (f"rmm_assets[{own}]" if own in EXTRAS else f"dlt[{extra}]"), missing
    return None


@cache
def _missing(extra: str) -> list[str]:
    """Returns the packages of one of dlt's extras that are not installed, or not in a version that works here."""
    narrower = {needed.name: needed.specifier for needed in _required("rmm_assets", extra)}
    found = []
    for needed in _required("dlt", extra):
        own = narrower.get(needed.name, SpecifierSet())
        wanted = needed.specifier & own
        if not any(_is_installed(name, wanted) for name in (needed.name, needed.name.removesuffix("-binary"))):
            found.append(f"{needed.name}{own}")
    return found


def _required(package: str, extra: str) -> list[Requirement]:
    """Returns what only one of a package's extras requires."""
    return [
        needed
        for needed in map(Requirement, requires(package) or ())
        if needed.marker is not None
        and not needed.marker.evaluate({"extra": ""})
        and needed.marker.evaluate({"extra": extra})
    ]


def _is_installed(package: str, versions: SpecifierSet) -> bool:
    with suppress(PackageNotFoundError):
        return versions.contains(version(package), prereleases=True)
    return False


def stores_nul(kind: str) -> bool:
    """Returns whether texts at a destination may contain the character NUL."""
    found = capabilities(kind)
    return found is None or found.sqlglot_dialect not in ("postgres", "redshift")


def speaks_sql(kind: str) -> bool:
    """Returns whether a destination's tables can be read in SQL; a database of SQLAlchemy tells its dialect when it is opened."""
    found = capabilities(kind)
    return kind == "sqlalchemy" or bool(found and found.sqlglot_dialect)


def changes_rows(kind: str) -> bool:
    """Returns whether SQL can update and delete rows. It cannot in files, which dlt presents as views."""
    return kind not in FILES


def merges_at_once(kind: str) -> bool:
    """Returns whether a merge into a table and its child tables is one transaction; False if dlt does not say."""
    found: Any = capabilities(kind)
    if found is None or found.supports_transactions is False:
        return False
    return bool(found.supports_transactions or found.supports_ddl_transactions)
