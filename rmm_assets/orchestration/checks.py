"""A resource's rules to Dagster asset checks: their specs, and their results.

Checks run in the op that loads the table, while its pipeline is open. Selected alone, the same op evaluates them and loads
nothing: rules about rows are asked of the table in SQL, rules about the load are read from its materialization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from rmm_assets.connection_file import Resource, rules
from rmm_assets.orchestration.metadata import schema_of
from rmm_assets.warehouse.inspection import Finding, duplicates, nulls, unaccepted
from rmm_assets.warehouse.pipeline import Table

COMPLETE = "complete"
SCHEMA_CHANGE = "schema_change"
NO_REJECTED_ROWS = "no_rejected_rows"

# Columns that a load adds to what the API sends; they say nothing of the API.
_OWN_COLUMNS = ("_dlt_id", "_dlt_load_id", "_absent_since")


@dataclass(frozen=True)
class Loaded:
    """What is known of the load that is checked.

    Attributes:
        metadata: Of its materialization; empty where there was none yet.
        before: Of the materialization before it.
    """

    metadata: Mapping[str, Any]
    before: Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """One check of a resource.

    Attributes:
        evaluate: From the table and the load to a result; the table is None for checks that need none.
    """

    name: str
    description: str
    evaluate: Callable[[Table, Loaded], tuple[bool, dict[str, Any]]]
    blocking: bool = False
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR

    def spec(self, key: dg.AssetKey) -> dg.AssetCheckSpec:
        """The check as Dagster lists it."""
        return dg.AssetCheckSpec(self.name, asset=key, description=self.description, blocking=self.blocking)

    def result(self, key: dg.AssetKey, table: Table, loaded: Loaded) -> dg.AssetCheckResult:
        """The check, evaluated."""
        passed, metadata = self.evaluate(table, loaded)
        return dg.AssetCheckResult(
            asset_key=key, check_name=self.name, passed=passed, severity=self.severity, metadata=metadata
        )


def checks_of(resource: Resource) -> tuple[Check, ...]:
    """Every check of a resource, its names as the contract has them."""
    return tuple(_row_checks(resource)) + (
        Check(COMPLETE, "Every row that the API held was read.", _complete),
        Check(
            SCHEMA_CHANGE,
            "The columns and types are those of the load before.",
            _schema_change,
            severity=dg.AssetCheckSeverity.WARN,
        ),
        Check(
            NO_REJECTED_ROWS,
            f"No row had to go to `{resource.table}_rejected`.",
            _no_rejected_rows,
            severity=dg.AssetCheckSeverity.ERROR if resource.on_rejected == "fail" else dg.AssetCheckSeverity.WARN,
        ),
    )


def _row_checks(resource: Resource) -> Iterator[Check]:
    key = tuple(rules.normalized_column(name) for name in resource.keys)
    for columns in resource.unique:
        named = tuple(rules.normalized_column(column) for column in columns)
        yield Check(
            f"unique_{'_'.join(named)}",
            f"No two rows share a value of `{', '.join(named)}`.",
            lambda table, _, named=named: _of_finding(duplicates(table, named)),
            blocking=named == key,
        )
    for column in resource.checks.not_null:
        name = rules.normalized_column(column)
        yield Check(
            f"not_null_{name}",
            f"Every row has a value in `{name}`.",
            lambda table, _, name=name: _of_finding(nulls(table, name, key)),
        )
    for column, accepted in resource.checks.accepted_values.items():
        name = rules.normalized_column(column)
        yield Check(
            f"accepted_values_{name}",
            f"`{name}` is one of {', '.join(map(str, accepted))}.",
            lambda table, _, name=name, accepted=accepted: _of_finding(unaccepted(table, name, accepted, key)),
        )


def _of_finding(finding: Finding) -> tuple[bool, dict[str, Any]]:
    metadata: dict[str, Any] = {
        "rows_looked_at": finding.looked_at,
        "rows_at_fault": finding.at_fault,
        "examples": list(finding.examples),
    }
    if finding.note:
        metadata["note"] = finding.note
    return finding.passed, metadata


def _complete(_: Table, loaded: Loaded) -> tuple[bool, dict[str, Any]]:
    if "complete" not in loaded.metadata:
        return False, {"reason": "not loaded yet"}
    said = {
        key: loaded.metadata[key]
        for key in ("completeness", "rows_loaded", "rows_repeated", "pages", "passes", "requests")
        if key in loaded.metadata
    }
    return bool(_plain(loaded.metadata["complete"])), said


def _schema_change(_: Table, loaded: Loaded) -> tuple[bool, dict[str, Any]]:
    now, before = schema_of(loaded.metadata), schema_of(loaded.before)
    if now is None or before is None:
        return True, {"note": "nothing to compare with yet"}
    added = [name for name in now if name not in before and name not in _OWN_COLUMNS]
    removed = [name for name in before if name not in now and name not in _OWN_COLUMNS]
    changed = [f"{name}: {before[name]} to {now[name]}" for name in now if name in before and before[name] != now[name]]
    changed += [str(text) for text in _plain(loaded.metadata.get("changed_types")) or []]
    return not (added or removed or changed), {"added": added, "removed": removed, "changed_types": changed}


def _no_rejected_rows(_: Table, loaded: Loaded) -> tuple[bool, dict[str, Any]]:
    rejected = int(_plain(loaded.metadata.get("rows_rejected")) or 0)
    return rejected == 0, {"rows_rejected": rejected}


def _plain(value: Any) -> Any:
    """A metadata value without Dagster's wrapping."""
    return value.value if isinstance(value, dg.MetadataValue) else value
