"""Keeps every name of Dagster's that is not public in one place.

All were seen in Dagster 1.13.1 and 1.13.27. `rmm_assets_tests/orchestration/test_dagster_internals.py` says in a sentence which one
has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import dagster as dg
from dagster._serdes import deserialize_value, serialize_value
from dagster._utils.schedules import schedule_execution_time_iterator
from dagster_shared.yaml_utils.source_position import SourcePosition, SourcePositionTree

__all__ = ["SourcePosition", "SourcePositionTree", "short_column", "stored_bytes", "ticks"]


def ticks(cron: str, timezone: str, count: int) -> list[datetime]:
    """Returns the first ticks of a cron expression from 2024 on, as Dagster's own schedules read it."""
    start = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
    return list(islice(schedule_execution_time_iterator(start, cron, timezone), count))


def stored_bytes(value: Any) -> int:
    """Returns how many bytes Dagster's event log takes for a value."""
    return len(serialize_value(value))


class _ShortColumn(dg.TableColumn):
    """A column of which there is nothing to say but name and type."""


def short_column(name: str, kind: str = "string") -> dg.TableColumn:
    """A column without constraints and description, stored in a third of the room.

    Dagster stores 180 bytes with each column, most of them defaults; a device has up to a hundred columns, and every
    dot of a plot loads them. What is left out here is what `TableColumn` fills in when it is read: it is the same
    column for whoever reads it, with or without this package.
    """
    return _ShortColumn(name, kind)


def _store_short() -> bool:
    """Has Dagster store short columns as what they are to everybody else, and returns whether that works."""
    try:
        from dagster_shared.serdes.serdes import _WHITELIST_MAP, RecordSerializer

        class Short(RecordSerializer[Any]):
            def object_as_mapping(self, value: Any) -> Mapping[str, Any]:
                return {"name": value.name} | ({"type": value.type} if value.type != "string" else {})

        # One entry more; nobody else's column is stored in another way than before.
        _WHITELIST_MAP.object_serializers[_ShortColumn.__name__] = Short(klass=dg.TableColumn)
        return bool(deserialize_value(serialize_value(_ShortColumn("a", "b"))) == dg.TableColumn("a", "b"))
    except Exception:  # it is Dagster's own and may change in any way; columns are stored at length then
        return False


if not _store_short():
    _ShortColumn = dg.TableColumn  # type: ignore[misc,assignment]
