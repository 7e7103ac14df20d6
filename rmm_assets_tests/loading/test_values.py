"""Tests that values which an API writes in its own way land as what they mean, on both paths into the table."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from pydantic import ValidationError

from rmm_assets.audit.columns import stated_moment
from rmm_assets.config.table_hints import Column
from rmm_assets.rows.chunk import column_of
from rmm_assets.rows.decode import read_page, read_pages
from rmm_assets.rows.stamps import Stamp, Unit
from rmm_assets.rows.targets import fit, fit_value, target_of
from rmm_assets.rows.timestamps import from_numbers
from rmm_assets.rows.type_memory import TypeMemory
from rmm_assets_tests.audit.auditing import audited
from rmm_assets_tests.http.servers import Say, Scripted
from rmm_assets_tests.syncing import Row, connection, ids, resource, rows_of, run

PATHS: dict[str, dict[str, Any]] = {
    "arrow": {},
    "arrow, child tables": {"child_tables": True},
    "dlt": {"normalizer": "dlt"},
    "dlt, child tables": {"normalizer": "dlt", "child_tables": True},
}


def made(**changes: Any) -> Any:
    return connection(resource(endpoint={"paginator": "single_page"}, **changes))


def serving(*rows: Row) -> Scripted:
    return Scripted(lambda seen: Say({"data": rows}))


NULLISH: list[Row] = [
    {"id": 1, "a": "", "b": {"c": "N/A", "d": "x"}, "tags": ["", "x", None], "parts": [{"p": ""}, {"p": "q"}], "n": 0},
    {"id": 2, "a": "y", "b": {"c": "z", "d": ""}, "tags": [], "parts": [], "n": 1},
    {"id": 3, "a": " ", "b": None, "tags": None, "parts": [{"p": "N/A"}], "n": None},
    {"id": 4, "a": None, "tags": ["a"], "n": 2},
]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("start", [0, 1])
def test_null_values_become_null_everywhere_in_the_rows(exact: bool, start: int) -> None:
    body = json.dumps({"data": NULLISH, "mark": ""}).encode()
    expected = json.loads(json.dumps(NULLISH).replace('""', "null").replace('"N/A"', "null"))[start:]
    pages = [read_page(body, "data", exact=exact, null_values=frozenset({"", "N/A"}))]
    if not exact:
        pages += read_pages([body, body], "data", TypeMemory(), null_values=frozenset({"", "N/A"})) or []
        assert all(page.structs is not None for page in pages) and len(pages) == 3
    for page in (page.slice(start) for page in pages):
        assert page.objects() == expected
        assert page.envelope == {"mark": ""}
        if page.structs is not None:
            page.structs.validate(full=True)
            assert [
                {name: row[name] for name in sent} for row, sent in zip(page.structs.to_pylist(), expected)
            ] == expected


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_null_values_are_null_in_the_table_and_in_its_audit(path: str, tmp_path: Path) -> None:
    file = made(null_values=["", "N/A"], **PATHS[path])
    keyless = {"id": "", "a": "no key"}
    with serving(*NULLISH, keyless) as server:
        outcome = run(tmp_path, server.url, file)
        result = audited(tmp_path, server.url, file)
    rows = rows_of(tmp_path)
    assert outcome.rows_rejected == 1
    assert ids(rows) == [1, 2, 3, 4]
    assert [row["a"] for row in rows] == [None, "y", " ", None]
    assert (result.found["different"], result.found["missing"], result.rejected) == (0, 0, 1)
    if "child" in path:
        assert sorted(str(row["p"]) for row in rows_of(tmp_path, "devices__parts")) == ["None", "None", "q"]
    else:
        assert [json.loads(row["tags"]) if row["tags"] else None for row in rows] == [
            [None, "x", None],
            [],
            None,
            ["a"],
        ]


@pytest.mark.slow
def test_null_values_of_a_resource_replace_those_of_its_defaults(tmp_path: Path) -> None:
    file = connection(
        resource(endpoint={"paginator": "single_page"}),
        resource("sites", endpoint={"paginator": "single_page"}, null_values=[]),
        resource_defaults={"null_values": ""},
    )
    with serving({"id": 1, "name": ""}, {"id": 2, "name": "x"}) as server:
        for name in ("devices", "sites"):
            run(tmp_path, server.url, file, name)
    assert [[row["name"] for row in rows_of(tmp_path, name)] for name in ("devices", "sites")] == [
        [None, "x"],
        ["", "x"],
    ]


def micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


NOW = 1_700_000_000_123_456
# How 2023-11-14T22:13:20.123456Z is written, and what does not fit, by column.
STAMPS: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "s": ({"unit": "s"}, [1_700_000_000.123456, "1700000000.123456", 1.700000000123456e9], ["soon", True, [1]]),
    "ms": ({"unit": "ms"}, [1_700_000_000_123.456, "1700000000123.456"], ["2023-11-14T22:13:20Z", 1e300]),
    "us": ({"unit": "us", "data_type": "timestamp"}, [NOW, str(NOW), float(NOW)], ["", "1_700", 2**63]),
    "pattern": (
        {"format": "%d.%m.%Y %H:%M:%S.%f", "timezone": "Europe/Vienna"},
        ["14.11.2023 23:13:20.123456"],
        ["2023-11-14", 5, "31.02.2023 00:00:00.0"],
    ),
    "offset": ({"format": "%Y%m%dT%H%M%S.%f%z"}, ["20231114T221320.123456+0000", "20231115T001320.123456+0200"], ["x"]),
    "local": (
        {"timezone": "America/New_York"},
        ["2023-11-14T17:13:20.123456", "2023-11-14T22:13:20.123456Z"],
        ["noon"],
    ),
}


@pytest.mark.parametrize("name", STAMPS)
def test_timestamps_are_exact_however_they_are_written(name: str) -> None:
    column, fitting, others = STAMPS[name]
    hints = Column.model_validate(column)
    assert hints.stamp is not None
    target = target_of(name, {"data_type": "timestamp"}, declared=True, required=False, stamp=hints.stamp)
    for value in fitting:
        assert micros(fit_value(value, target)) == NOW
        moment = stated_moment(value, hints)
        assert moment is not None and micros(moment) == NOW
    for value in others:
        assert fit_value(value, target) is None


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_each_microsecond_is_read_exactly_from_integers_and_floats(unit: Unit) -> None:
    per: int = {"s": 1_000_000, "ms": 1000, "us": 1}[unit]
    chance = random.Random(7)
    target = target_of(
        "at",
        {"data_type": "timestamp"},
        declared=True,
        required=False,
        stamp=Stamp(unit),
    )
    whole = [chance.randrange(-(10**10), 10**10) * per for _ in range(2000)]
    exact = [chance.randrange(0, 4_000_000_000_000_000) for _ in range(20_000)]
    for numbers, written in ((exact, [n / per for n in exact]), (whole, [n // per for n in whole])):
        column = column_of([*written, None])
        array, misfit = fit(column.values, column.kind, target)
        assert misfit is None
        assert from_numbers(column.values, unit) == array, "the values were read one by one"
        assert array.cast(pa.int64()).to_pylist() == [*numbers, None]


def test_a_float_with_more_digits_is_rounded_to_the_nearest_microsecond_whatever_is_beside_it() -> None:
    target = target_of("at", {"data_type": "timestamp"}, declared=True, required=False, stamp=Stamp("s"))
    chance = random.Random(7)
    written = [round(chance.uniform(0, 10 ** chance.randrange(12)), 6) + 5e-7 for _ in range(5000)]
    for value in (1_700_000_000.1234567, *written):
        for beside in ([], [0.5], [1e300]) if value == 1_700_000_000.1234567 else ([],):
            column = column_of([value, *beside])
            array, _ = fit(column.values, column.kind, target)
            assert array[0].value == Stamp("s").micros(value)
    assert Stamp("s").micros(1_700_000_000.1234567) == 1_700_000_000_123_457


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_stated_timestamps_land_as_utc_and_other_values_are_rejected(path: str, tmp_path: Path) -> None:
    columns = {
        "seen": {"unit": "s", "nullable": True},
        "made": {"unit": "ms"},
        "at": {"format": "%d.%m.%Y %H:%M", "timezone": "Europe/Vienna"},
        "ticks": {"unit": "us"},
        "local": {"timezone": "America/New_York"},
        "key": {"data_type": "text"},
    }
    rows: list[Row] = [
        {"id": 1, "seen": 1_700_000_000.25, "made": 1_700_000_000_250, "at": "14.11.2023 23:13", "key": "17000000"},
        {"id": 2, "seen": None, "made": None, "at": None, "key": "1700000000"},
        {"id": 3, "seen": "1700000000.25", "ticks": 1_700_000_000_250_000, "local": "2023-11-14T17:13:20.25"},
        {"id": 4, "seen": "never", "made": 0},
        {"id": 5, "at": "14.11.2023", "seen": 0},
    ]
    if "child" in path:
        rows[0]["disks"] = [{"name": "C"}]
    file = made(columns=columns, **PATHS[path])
    with serving(*rows) as server:
        first = run(tmp_path, server.url, file)
        result = audited(tmp_path, server.url, file)
        second = run(tmp_path, server.url, file)
    found = rows_of(tmp_path)
    moment = datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=UTC)
    assert ids(found) == [1, 2, 3]
    assert [row["seen"] for row in found] == [moment, None, moment]
    assert [row["made"] for row in found] == [moment, None, None]
    assert [row["at"] for row in found] == [moment.replace(second=0, microsecond=0), None, None]
    assert (found[2]["ticks"], found[2]["local"]) == (moment, moment)
    assert [row["key"] for row in found] == ["17000000", "1700000000", None]
    assert first.rows_rejected == 2
    assert (second.rows_new, second.rows_changed) == (0, 0)
    assert [number for number in result.found.values() if number] == []
    assert result.rejected == 2
    with duckdb.connect(str(tmp_path / "rmm.duckdb"), read_only=True) as client:
        reasons = client.sql("SELECT reason FROM acme.devices_rejected ORDER BY reason").fetchall()
    assert [("at" in reason, "(unit s)" in reason) for (reason,) in reasons] == [(True, False), (False, True)]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["arrow", "dlt"])
def test_a_row_is_written_again_if_the_file_reads_its_timestamps_in_another_way(path: str, tmp_path: Path) -> None:
    with serving({"id": 1, "at": 1_700_000_000}) as server:
        for unit, year in (("s", 2023), ("ms", 1970)):
            outcome = run(tmp_path, server.url, made(columns={"at": {"unit": unit}}, **PATHS[path]))
            assert rows_of(tmp_path)[0]["at"].year == year
    assert outcome.rows_changed == 1


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"unit": "ms", "format": "%Y-%m-%d"}, "numbers since 1970 have a unit only"),
        ({"unit": "ms", "timezone": "UTC"}, "numbers since 1970 have a unit only"),
        ({"unit": "ms", "data_type": "text"}, "write timestamp"),
        ({"timezone": "Vienna"}, "unknown time zone `Vienna`; write an IANA name"),
        ({"format": "%H:%M"}, "lacks a year, month or day"),
        ({"format": "%Q %"}, "not a pattern of strptime"),
    ],
)
def test_a_wrong_way_to_write_timestamps_is_refused(column: Row, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        made(columns={"at": column})


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_each_snapshot_has_the_time_of_its_read(path: str, tmp_path: Path) -> None:
    file = made(write_disposition="append", read_at_column="readAt", **PATHS[path])
    rows: list[Row] = [{"id": 1, "read_at": "mine", "disks": [{"read_at": "C"}]}, {"id": 2}]
    times = []
    with serving(*rows) as server:
        for _ in range(2):
            begun = datetime.now(UTC)
            run(tmp_path, server.url, file)
            times.append((begun, datetime.now(UTC)))
        result = audited(tmp_path, server.url, file)
    found = rows_of(tmp_path)
    assert ids(found) == [1, 1, 2, 2]
    read_at = sorted({row["read_at"] for row in found})
    assert len(read_at) == 2
    assert all(begun <= moment <= ended for moment, (begun, ended) in zip(read_at, times, strict=True))
    # A field of that name keeps its value in another column.
    [other] = [name for name in found[0] if name.startswith("read_at_")]
    assert sorted(row[other] for row in found if row["id"] == 1) == ["mine", "mine"]
    assert [number for number in (result.found["different"], result.found["missing"]) if number] == []
    if "child" in path:
        assert {row["read_at"] for row in rows_of(tmp_path, "devices__disks")} == {"C"}


def test_a_time_of_the_read_is_refused_with_a_merge() -> None:
    with pytest.raises(ValidationError, match="a merge writes only rows that have changed"):
        made(read_at_column="read_at")
