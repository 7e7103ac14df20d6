"""Wraps everything private to Dagster that this package uses.

All of these names exist in Dagster 1.13.1 and 1.13.27. If one of them changes,
`rmm_assets_tests/orchestration/test_dagster_internals.py` fails and says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._serdes import deserialize_value, serialize_value
from dagster._utils.schedules import schedule_execution_time_iterator
from dagster_shared.yaml_utils import parse_yaml_with_source_position
from dagster_shared.yaml_utils.source_position import SourcePosition, SourcePositionTree
from pydantic import BaseModel
from sqlalchemy import func, select

__all__ = [
    "CheckRunHealthResult",
    "SourcePosition",
    "SourcePositionTree",
    "WorkerStatus",
    "backfills_of",
    "delete_run",
    "documents",
    "failed_checks",
    "file_model",
    "positions_in",
    "purge_ticks",
    "runs_of_last_checks",
    "schedule_is_running",
    "short_column",
    "stored_bytes",
    "ticks",
]


def file_model(decl: Any) -> Any:
    """Returns the top-level keys of a component's YAML document; None for a component that was not read from one."""
    document = getattr(decl, "component_file_model", None)
    return document if isinstance(document, BaseModel) else None


def positions_in(file: Path) -> SourcePositionTree:
    """Returns the position of each key in a YAML file."""
    return parse_yaml_with_source_position(file.read_text(encoding="utf-8"), str(file)).source_position_tree


def documents(tree: dg.ComponentTree) -> Iterator[tuple[type[dg.Component], Any]]:
    """Yields the component and the top-level keys of each YAML document of a folder, before any of them is loaded."""
    for decl in tree.find_root_decl().iterate_all_component_decls():
        if (document := file_model(decl)) is not None:
            yield decl.component_type, document


def ticks(cron: str, timezone: str, count: int) -> list[datetime]:
    """Returns the first ticks of a cron expression since 2024, as Dagster's schedules interpret it."""
    start = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
    return list(islice(schedule_execution_time_iterator(start, cron, timezone), count))


def schedule_is_running(
    instance: dg.DagsterInstance, schedule: dg.ScheduleDefinition, location: str | None = None
) -> bool:
    """Returns whether a schedule is on: as set in the UI or by a command, else by its definition.

    Args:
        location: Its code location; None for any.
    """
    # An ephemeral instance, as in tests, does not store this state.
    known = instance.schedule_storage is not None
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE) if known else ():
        origin = state.origin.repository_origin.code_location_origin
        if state.instigator_name == schedule.name and location in (None, origin.location_name):
            return bool(state.is_running)
    return schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def backfills_of(instance: dg.DagsterInstance, connection: str) -> bool:
    """Returns whether a backfill of a connection's assets is in progress."""
    unfinished = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]
    found = instance.get_backfills(filters=BulkActionsFilter(statuses=unfinished))
    return any(key.path[0] == connection for backfill in found for key in backfill.asset_selection or ())


def failed_checks(instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey]) -> list[dg.AssetCheckKey]:
    """Returns the checks whose last result is a failure of severity ERROR."""
    failed = []
    for key, record in instance.event_log_storage.get_latest_asset_check_execution_by_key(keys).items():
        event = record.event.dagster_event if record.event is not None else None
        if event is None or event.event_type is not dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            continue
        result = event.asset_check_evaluation_data
        if not result.passed and result.severity is dg.AssetCheckSeverity.ERROR:
            failed.append(key)
    return failed


def runs_of_last_checks(instance: dg.DagsterInstance) -> list[str]:
    """Returns the ids of the runs that produced the last result of each check."""
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return []
    table = AssetCheckExecutionsTable.c
    latest = select(func.max(table.id)).group_by(table.asset_key, table.check_name)
    with storage.index_connection() as connection:
        return [str(run_id) for (run_id,) in connection.execute(select(table.run_id).where(table.id.in_(latest)))]


def delete_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Deletes a run with its events, check results and logs. Dagster's own `delete_run` leaves the latter two."""
    instance.delete_run(run_id)
    storage = instance.event_log_storage
    if isinstance(storage, SqlEventLogStorage):
        with storage.index_connection() as connection:
            connection.execute(AssetCheckExecutionsTable.delete().where(AssetCheckExecutionsTable.c.run_id == run_id))
    if isinstance(storage, SqliteEventLogStorage):
        # SQLite storage has one file per run, which Dagster only empties.
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(storage.path_for_shard(run_id) + suffix).unlink(missing_ok=True)
    instance.compute_log_manager.delete_logs(prefix=[run_id])


def purge_ticks(instance: dg.DagsterInstance, before: datetime) -> None:
    """Deletes all ticks of schedules and sensors that are older than `before`."""
    if instance.schedule_storage is None:
        return
    for state in instance.all_instigator_state():
        instance.purge_ticks(state.instigator_origin_id, state.selector_id, before.timestamp())


def stored_bytes(value: Any) -> int:
    """Returns the number of bytes that a value takes in Dagster's event log."""
    return len(serialize_value(value))


class _ShortColumn(dg.TableColumn):
    """A column with nothing but a name and a type."""


def short_column(name: str, kind: str = "string") -> dg.TableColumn:
    """Returns a column without constraints and description, stored in a third of the space.

    Dagster stores 180 bytes per column, most of them default values; a device has up to a hundred columns, and the UI
    loads them for every point of a plot. Only what `TableColumn` fills in when it is read is omitted here, so readers
    get the same column, with or without this package.
    """
    return _ShortColumn(name, kind)


def _store_short() -> bool:
    """Registers a serializer that stores short columns as plain `TableColumn`s, and returns whether that works."""
    try:
        from dagster_shared.serdes.serdes import _WHITELIST_MAP, RecordSerializer

        class Short(RecordSerializer[Any]):
            def object_as_mapping(self, value: Any) -> Mapping[str, Any]:
                return {"name": value.name} | ({"type": value.type} if value.type != "string" else {})

        # This only adds an entry; other columns are stored as before.
        _WHITELIST_MAP.object_serializers[_ShortColumn.__name__] = Short(klass=dg.TableColumn)
        return bool(deserialize_value(serialize_value(_ShortColumn("a", "b"))) == dg.TableColumn("a", "b"))
    except Exception:  # these are Dagster internals and may change in any way; columns are then stored in full
        return False


if not _store_short():
    _ShortColumn = dg.TableColumn  # type: ignore[misc,assignment]
