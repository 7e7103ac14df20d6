"""Tests requests that write the start of a range in another way than the rows do."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from pydantic import ValidationError

from rmm_assets.errors import CursorError
from rmm_assets.rows.stamps import Stamp
from rmm_assets_tests.audit.auditing import audited
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import Row, connection, ids, resource, rows_of, run

# 2024-05-01T10:00:00.750Z
MOMENT = 1_714_557_600_750
START = "2024-01-01T00:00:00Z"


def made(
    columns: dict[str, Any] | None = None,
    disposition: str = "merge",
    *,
    endpoint: dict[str, Any] | None = None,
    **cursor: Any,
) -> Any:
    incremental = {"cursor_path": "at", "initial_value": START, **cursor}
    if endpoint is None:
        incremental = {"start_param": "since", **incremental}
    endpoint = {"paginator": "single_page", "incremental": incremental, **(endpoint or {})}
    return connection(resource(endpoint=endpoint, columns=columns or {}, write_disposition=disposition))


def asked_of(seen: Seen) -> str | None:
    return dict(parse_qsl(urlsplit(seen.target).query)).get("since")


def ranges(folder: Path, file: Any, *stages: list[Row]) -> tuple[list[str | None], list[str]]:
    """Runs once per stage; returns the requested starts and the last run's warnings."""
    held: list[Row] = []
    warnings: list[str] = []
    with Scripted(lambda _: Say({"data": held})) as server:
        for stage in stages:
            held[:] = stage
            warnings = list(run(folder, server.url, file).report.warnings)
        return [asked_of(seen) for seen in server.seen], warnings


MILLIS = {"at": {"unit": "ms"}}
SECONDS = {"at": {"unit": "s"}}
LOCAL = {"at": {"format": "%d.%m.%Y %H:%M:%S", "timezone": "Europe/Vienna"}}
WAYS: dict[str, tuple[dict[str, Any], Any, dict[str, Any], list[str | None]]] = {
    "iso from ms": (MILLIS, MOMENT, {"start_format": "iso"}, [START, "2024-05-01T09:55:00.750000Z"]),
    "seconds from iso": ({}, "2024-05-01T10:00:00.750Z", {"start_format": "epoch_s"}, ["1704067200", "1714557300"]),
    "ms from float seconds": (SECONDS, MOMENT / 1000, {"start_format": "epoch_ms"}, ["1704067200000", "1714557300000"]),
    "a local pattern": (
        MILLIS, MOMENT, {"start_format": "%Y-%m-%d %H:%M", "start_timezone": "America/New_York"},
        ["2023-12-31 19:00", "2024-05-01 05:55"],
    ),
    "iso in a zone from a pattern": (
        LOCAL, "01.05.2024 12:00:00", {"start_format": "iso", "start_timezone": "Europe/Vienna", "lag": 60},
        ["2024-01-01T01:00:00+01:00", "2024-05-01T11:59:00+02:00"],
    ),
    "as in the field": (SECONDS, MOMENT / 1000, {"initial_value": 0}, ["0", "1714557300"]),
    "as in the field, a day before": (
        {"at": {"format": "%d.%m.%Y"}}, "01.05.2024", {"initial_value": "01.01.2024", "lag": 2}, ["01.01.2024", "29.04.2024"],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_range_starts_where_the_last_one_ended_however_it_is_written(way: str, tmp_path: Path) -> None:
    columns, at, cursor, expected = WAYS[way]
    rows = [{"id": 1, "at": at}]
    asked, warnings = ranges(tmp_path, made(columns, **cursor), rows, rows)
    assert asked == expected
    assert warnings == []


@pytest.mark.slow
@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_an_append_lands_each_row_once_although_its_requests_start_at_whole_seconds(
    normalizer: str, tmp_path: Path
) -> None:
    file = made(MILLIS, "append", start_format="epoch_s")
    file = file.model_copy(
        update={"resources": tuple(r.model_copy(update={"normalizer": normalizer}) for r in file.resources)}
    )
    first = [{"id": 1, "at": MOMENT - 500}, {"id": 2, "at": MOMENT}]
    asked, warnings = ranges(tmp_path, file, first, [*first, {"id": 3, "at": MOMENT}, {"id": 4, "at": MOMENT + 1}])
    assert asked[1] == "1714557600"
    assert ids(rows_of(tmp_path)) == [1, 2, 3, 4]
    assert warnings == []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["params", "json", "path"])
def test_the_start_can_be_a_part_of_a_text(place: str, tmp_path: Path) -> None:
    places: dict[str, dict[str, Any]] = {
        "params": {"params": {"conditions": "lastUpdated>[{incremental.start_value}]"}},
        "json": {"method": "POST", "json": {"query": "{ a(since: {incremental.start_value}) }"}},
        "path": {"path": "since/{incremental.last_value}"},
    }
    file = made(MILLIS, endpoint=places[place], start_format="%Y%m%d %H:%M:%S")
    rows = [{"id": 1, "at": MOMENT}]
    with Scripted(lambda _: Say({"data": rows})) as server:
        for _ in range(2):
            run(tmp_path, server.url, file)
        audited(tmp_path, server.url, file)
        found = [dict(parse_qsl(urlsplit(seen.target).query)).get("conditions") or seen.raw for seen in server.seen]
    for text, start in zip(found, ("20240101 00:00:00", "20240501 09:55:00", "20240101 00:00:00"), strict=True):
        assert start in text or start.replace(":", "%3A").replace(" ", "%20") in text
    assert place != "params" or found[0] == "lastUpdated>[20240101 00:00:00]"


@pytest.mark.slow
def test_a_parameter_without_a_start_is_left_out(tmp_path: Path) -> None:
    endpoint = {"params": {"since": "{incremental.start_value}"}}
    file = made(MILLIS, endpoint=endpoint, initial_value=None, start_format="epoch_s")
    rows = [{"id": 1, "at": MOMENT}]
    assert ranges(tmp_path, file, rows, rows)[0] == [None, "1714557300"]


def test_an_hour_that_occurs_twice_starts_before_it() -> None:
    pattern = Stamp(format="%Y-%m-%d %H:%M", zone="Europe/Vienna")
    for micros in (1_729_989_000_000_000, 1_729_992_600_000_000):  # 02:30 in summer time, and an hour later
        assert pattern.write(micros) == "2024-10-27 01:30"
    assert pattern.write(1_711_848_600_000_000) == "2024-03-31 03:30"


@pytest.mark.slow
def test_a_cursor_that_is_no_timestamp_is_red_with_what_to_write(tmp_path: Path) -> None:
    rows = [{"id": 1, "at": MOMENT}]
    with pytest.raises(CursorError, match="`unit` or `format` in the hints of its column"):
        ranges(tmp_path, made(start_format="iso"), rows, rows)


@pytest.mark.slow
def test_an_end_that_would_be_another_one_is_red(tmp_path: Path) -> None:
    ending: dict[str, Any] = {"end_param": "until", "end_value": "2024-06-01T00:00:30Z"}
    with pytest.raises(CursorError, match="`end_value` cannot be written"):
        ranges(tmp_path, made(start_format="%Y-%m-%d", **ending), [])
    assert ranges(tmp_path, made(start_format="epoch_s", **ending), [])[0] == ["1704067200"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_format": "unix"}, "write iso, epoch_s, epoch_ms or a pattern"),
        ({"start_format": "%H"}, "lacks a year, month or day"),
        ({"start_format": "iso", "start_timezone": "Vienna"}, "unknown time zone"),
        ({"start_format": "epoch_s", "start_timezone": "UTC"}, "needs `start_format: iso` or a pattern"),
        ({"start_timezone": "UTC"}, "needs `start_format: iso` or a pattern"),
        ({"start_format": "iso", "last_value_func": "min"}, "loses rows with `min`"),
        ({"start_format": "iso", "endpoint": {}}, "no request contains the range"),
        (
            {"initial_value": None, "endpoint": {"params": {"c": "at>[{incremental.start_value}]"}}},
            "has no value in the first run",
        ),
        ({"endpoint": {"json": {"c": "{incremental.end_value}"}}}, "write `end_value`"),
        ({"endpoint": {"path": "x/{incremental.newest}"}}, "unknown placeholder `incremental.newest`"),
        ({"endpoint": {"params": {"c": "{incremental.start_value}"}, "incremental": None}}, "has no range"),
    ],
)
def test_a_range_that_no_request_can_contain_is_refused(changes: Row, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        made(**changes)
