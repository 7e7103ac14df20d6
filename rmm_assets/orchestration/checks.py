"""Turns a resource's rules into Dagster asset checks: their specs and their results.

Checks run in the op that loads the table, while its pipeline is open. If only checks are selected, the same op
evaluates them without loading: rules about rows are SQL queries on the table, rules about the load read its
materialization.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from statistics import median
from typing import Any

import dagster as dg

from rmm_assets.config import Connection, Resource
from rmm_assets.config.checks import RowCount
from rmm_assets.config.names import normalized_column
from rmm_assets.loading.plan import LoadPlan, plan_load
from rmm_assets.orchestration.column_schema import schema_of
from rmm_assets.orchestration.metadata import shorten
from rmm_assets.orchestration.problems import span
from rmm_assets.orchestration.schedules import fresh_within
from rmm_assets.tables.inspection import Finding, dangling, duplicates, nulls, selected, unaccepted
from rmm_assets.tables.syncs import Sync, latest_loaded, latest_of_tenants
from rmm_assets.tables.table import Table

COMPLETE = "complete"
SCHEMA_CHANGE = "schema_change"
NO_REJECTED_ROWS = "no_rejected_rows"
NOT_EMPTY = "not_empty"
LAST_FULL_READ = "last_full_read"
FRESH_TENANTS = "fresh_tenants"

# Columns that a load adds; they do not reflect a change of the API.
_OWN_COLUMNS = ("_dlt_id", "_dlt_load_id", "_absent_since", "_content_hash")

# Stale tenants that the check names, the oldest first.
_OLDEST = 20

# A user's query may select all columns of a table, so examples are truncated.
_EXAMPLE_LETTERS = 200


@dataclass(frozen=True)
class Loaded:
    """Metadata of the load to check.

    Attributes:
        metadata: Metadata of its materialization; empty if there is none yet.
        before: Metadata of the previous materializations, newest first.
        tenants: The names of all tenants; empty in a connection without tenants.
    """

    metadata: Mapping[str, Any]
    before: Sequence[Mapping[str, Any]] = ()
    tenants: Sequence[str] = ()

    @property
    def counts(self) -> list[int]:
        """Returns the row counts of the previous loads."""
        counts = (_plain(metadata.get("dagster/row_count")) for metadata in self.before)
        return [int(count) for count in counts if count is not None]


@dataclass(frozen=True)
class Check:
    """One check of a resource.

    Attributes:
        evaluate: Takes the table and the load; returns whether the check passed, and the metadata that says why.
    """

    name: str
    description: str
    evaluate: Callable[[Table, Loaded], tuple[bool, dict[str, Any]]]
    blocking: bool = False
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR

    def spec(self, key: dg.AssetKey, *others: dg.AssetKey) -> dg.AssetCheckSpec:
        """Returns the check's spec, for an asset and others whose tables it also reads."""
        return dg.AssetCheckSpec(
            self.name, asset=key, description=self.description, blocking=self.blocking, additional_deps=others
        )

    def result(self, key: dg.AssetKey, table: Table, loaded: Loaded) -> dg.AssetCheckResult:
        """Evaluates the check; a check that cannot be evaluated fails, without failing the load."""
        try:
            passed, metadata = self.evaluate(table, loaded)
        except Exception as error:  # a user's query may raise anything
            reason = shorten(f"the check could not be evaluated: {error}", _EXAMPLE_LETTERS)
            passed, metadata = False, {"reason": reason}
        return dg.AssetCheckResult(
            asset_key=key, check_name=self.name, passed=passed, severity=self.severity, metadata=metadata
        )


def checks_of(connection: Connection, resource: Resource) -> tuple[Check, ...]:
    """Returns every check of a resource, named as documented in the contracts."""
    return (
        *_row_checks(plan_load(connection, resource)),
        *_further_checks(connection, resource),
        Check(
            NOT_EMPTY,
            "The table has rows, or had some after an earlier load: for a key without permissions, an API often returns "
            "no rows instead of an error. Set `row_count: {min: 0}` if an empty table is fine.",
            partial(_not_empty, resource),
            severity=dg.AssetCheckSeverity.WARN,
        ),
        *_full_read_check(resource),
        *_fresh_tenants_check(connection, resource),
        Check(COMPLETE, "The load read every row of the API.", _complete),
        Check(
            SCHEMA_CHANGE,
            "Columns and types are the same as after the previous load.",
            _schema_change,
            severity=dg.AssetCheckSeverity.WARN,
        ),
        Check(
            NO_REJECTED_ROWS,
            f"No row was written to `{resource.table}_rejected`.",
            _no_rejected_rows,
            severity=dg.AssetCheckSeverity.ERROR if resource.on_rejected == "fail" else dg.AssetCheckSeverity.WARN,
        ),
    )


def _full_read_check(resource: Resource) -> Iterator[Check]:
    seconds = resource.incremental.full_seconds if resource.incremental is not None else None
    if resource.incremental is not None and seconds is not None:
        yield Check(
            LAST_FULL_READ,
            f"The last complete read of everything is at most twice `full_every` ({resource.incremental.full_every}) ago.",
            partial(_last_full_read, resource.name, 2 * seconds),
            severity=dg.AssetCheckSeverity.WARN,
        )


def _last_full_read(resource: str, most_seconds: int, table: Table, loaded: Loaded) -> tuple[bool, dict[str, Any]]:
    if loaded.tenants:
        reads = [sync.last_full_read for sync in _loads_of_tenants(table, resource, loaded).values()]
    else:
        sync = latest_loaded(table.client).get(resource)
        reads = [sync.last_full_read if sync is not None else None]
    found = [read for read in reads if read is not None]
    if len(found) < len(reads) or not found:
        return False, {"reason": "no complete read of everything yet"}
    last = min(found)
    ago = (datetime.now(UTC) - last).total_seconds()
    return ago <= most_seconds, {"last_full_read": dg.MetadataValue.timestamp(last), "hours_ago": round(ago / 3600, 1)}


def _fresh_tenants_check(connection: Connection, resource: Resource) -> Iterator[Check]:
    window = fresh_within(connection, resource)
    if connection.tenants is not None and window is not None:
        yield Check(
            FRESH_TENANTS,
            f"Every tenant was last loaded at most {span(window)} ago, as far as it was ever read.",
            partial(_fresh_tenants, resource.name, window),
        )


def _fresh_tenants(resource: str, window: timedelta, table: Table, loaded: Loaded) -> tuple[bool, dict[str, Any]]:
    times = {name: sync.started for name, sync in _loads_of_tenants(table, resource, loaded).items()}
    tried = {sync.tenant for sync in latest_of_tenants(table.client) if sync.resource == resource}
    never = [name for name in loaded.tenants if name in tried and name not in times]
    until = datetime.now(UTC) - window
    old = sorted((name for name, time in times.items() if time < until), key=lambda name: times[name])
    ages = dict.fromkeys(never, "never loaded") | {name: times[name].isoformat(timespec="seconds") for name in old}
    metadata = {"tenants": len(loaded.tenants), "stale": len(ages), "oldest": dict(islice(ages.items(), _OLDEST))}
    return not ages, metadata


def _loads_of_tenants(table: Table, resource: str, loaded: Loaded) -> dict[str, Sync]:
    """Returns the last sync of each tenant that loaded something."""
    found = {sync.tenant: sync for sync in latest_of_tenants(table.client, loaded=True) if sync.resource == resource}
    return {name: found[name] for name in loaded.tenants if name in found}


def _row_checks(plan: LoadPlan) -> Iterator[Check]:
    resource, key = plan.resource, plan.key
    # Earlier versions of a row have the same key.
    versions = None if plan.history is None else (plan.history.valid_to, plan.history.open_end)
    for columns in resource.unique:
        named = tuple(normalized_column(column) for column in columns)
        yield Check(
            f"unique_{'_'.join(named)}",
            f"No two rows have the same value of `{', '.join(named)}`.",
            _in_sql(partial(duplicates, columns=named, versions=versions)),
            blocking=named == key,
        )
    for column in resource.checks.not_null:
        name = normalized_column(column)
        yield Check(
            f"not_null_{name}",
            f"Every row has a value in `{name}`.",
            _in_sql(partial(nulls, column=name, key=key)),
        )
    for column, accepted in resource.checks.accepted_values.items():
        name = normalized_column(column)
        yield Check(
            f"accepted_values_{name}",
            f"`{name}` is one of {', '.join(map(str, accepted))}.",
            _in_sql(partial(unaccepted, column=name, accepted=accepted, key=key)),
        )


def _further_checks(connection: Connection, resource: Resource) -> Iterator[Check]:
    tables = {other.name: other.table for other in connection.resources}
    for name, query in resource.checks.sql.items():
        yield Check(
            f"sql_{name}",
            f"This query selects no rows:\n```sql\n{query.strip()}\n```",
            _in_sql(partial(_selected, query=query, tables=tables)),
        )
    if resource.checks.row_count is not None:
        yield Check(
            "row_count", "The number of rows is within its bounds.", partial(_row_count, resource.checks.row_count)
        )
    yield Check(
        "no_sudden_loss",
        f"At most {resource.max_absent_share:.0%} of the rows disappeared in one load.",
        _no_sudden_loss,
    )


def reference_checks(connection: Connection, resource: Resource) -> dict[str, Check]:
    """Returns the checks that read another resource's table, by that resource's name.

    They do not run in the op that loads, but after both tables are loaded, so that a failed resource does not fail other
    resources.
    """
    key = tuple(normalized_column(name) for name in resource.keys)
    within = None if connection.tenants is None else connection.tenants.column
    checks = {}
    for column, target in resource.checks.references.items():
        name, _, other_column = target.partition(".")
        rule = partial(
            _dangling, column=column, other=connection.resource(name).table, other_column=other_column, key=key,
            within=within,
        )  # fmt: skip
        checks[name] = Check(f"references_{column}", f"Every value of `{column}` exists in `{target}`.", _in_sql(rule))
    return checks


def all_checks(connection: Connection, resource: Resource) -> list[tuple[str, Check]]:
    """Returns the checks of a resource, each with the resource whose table it also reads."""
    return [("", check) for check in checks_of(connection, resource)] + list(
        reference_checks(connection, resource).items()
    )


def _dangling(
    table: Table, *, column: str, other: str, other_column: str, key: Sequence[str], within: str | None
) -> Finding:
    return dangling(table, column, Table(table.client, other), other_column, key, within)


def _selected(table: Table, *, query: str, tables: Mapping[str, str]) -> Finding:
    for name, other in tables.items():
        query = query.replace(f"{{{name}}}", Table(table.client, other).qualified)
    return selected(table, query)


def _row_count(bounds: RowCount, table: Table, loaded: Loaded) -> tuple[bool, dict[str, Any]]:
    rows = table.count()
    least, most = bounds.min or 0, bounds.max
    metadata: dict[str, Any] = {"rows": rows}
    if bounds.band is not None and loaded.counts:
        usual = median(loaded.counts)
        metadata["usual"] = usual
        least = max(least, math.ceil(usual * (1 - bounds.band)))
        highest = math.floor(usual * (1 + bounds.band))
        most = highest if most is None else min(most, highest)
    metadata["at_least"] = least
    if most is not None:
        metadata["at_most"] = most
    return rows >= least and (most is None or rows <= most), metadata


def _not_empty(resource: Resource, table: Table, loaded: Loaded) -> tuple[bool, dict[str, Any]]:
    bounds = resource.checks.row_count
    rows = table.count()
    if rows or any(loaded.counts) or (bounds is not None and bounds.min == 0):
        return True, {"rows": rows}
    return False, {"rows": 0, "reason": "no rows; a key without permissions gets the same response"}


def _no_sudden_loss(_: Table, loaded: Loaded) -> tuple[bool, dict[str, Any]]:
    held_back = bool(_plain(loaded.metadata.get("absences_held_back")))
    return not held_back, {"rows_absent": int(_plain(loaded.metadata.get("rows_absent")) or 0)}


def _in_sql(rule: Callable[[Table], Finding]) -> Callable[[Table, Loaded], tuple[bool, dict[str, Any]]]:
    """Returns the `evaluate` of a check whose rule is a query on the table."""

    def evaluate(table: Table, _: Loaded) -> tuple[bool, dict[str, Any]]:
        finding = rule(table)
        metadata: dict[str, Any] = {
            "rows_looked_at": finding.looked_at,
            "rows_at_fault": finding.at_fault,
            "examples": [shorten(example, _EXAMPLE_LETTERS) for example in finding.examples],
        }
        return finding.passed, {**metadata, "note": finding.note} if finding.note else metadata

    return evaluate


def _complete(_: Table, loaded: Loaded) -> tuple[bool, dict[str, Any]]:
    if "complete" not in loaded.metadata:
        return False, {"reason": "not loaded yet"}
    metadata = {
        key: loaded.metadata[key]
        for key in (
            "completeness",
            "evidence",
            "signals",
            "rows_loaded",
            "rows_repeated",
            "pages",
            "passes",
            "requests",
        )
        if key in loaded.metadata
    }
    return bool(_plain(loaded.metadata["complete"])), metadata


def _schema_change(_: Table, loaded: Loaded) -> tuple[bool, dict[str, Any]]:
    now, before = schema_of(loaded.metadata), schema_of(loaded.before[0] if loaded.before else {})
    if now is None or before is None:
        return True, {"note": "no previous load to compare with"}
    added = [name for name in now if name not in before and name not in _OWN_COLUMNS]
    removed = [name for name in before if name not in now and name not in _OWN_COLUMNS]
    changed = [f"{name}: {before[name]} to {now[name]}" for name in now if name in before and before[name] != now[name]]
    changed += [str(text) for text in _plain(loaded.metadata.get("changed_types")) or []]
    return not (added or removed or changed), {"added": added, "removed": removed, "changed_types": changed}


def _no_rejected_rows(_: Table, loaded: Loaded) -> tuple[bool, dict[str, Any]]:
    rejected = int(_plain(loaded.metadata.get("rows_rejected")) or 0)
    return rejected == 0, {"rows_rejected": rejected}


def _plain(value: Any) -> Any:
    """Returns a metadata value without Dagster's wrapper."""
    return value.value if isinstance(value, dg.MetadataValue) else value
