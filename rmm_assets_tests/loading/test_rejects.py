"""Tests that rejected rows are kept once and not marked absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rmm_assets.config import Connection
from rmm_assets.loading.outcome import Outcome
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.loading.test_absences import Fleet
from rmm_assets_tests.syncing import connection, resource, rows_of, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("deviceId", ["003", "007", "x"]),
        ("at", ["2024-01-01T02:00:00+02:00", "2024-01-02T00:00:00Z", "2024-01-03T00:00:00.5Z"]),
        ("Serial No", [0.1, 1.5, 1e22]),
        ("n__id", [1, 2, 3]),
    ],
)
def test_a_rejected_row_is_not_marked_whatever_its_key(tmp_path: Path, key: str, values: list[Any]) -> None:
    def row(value: Any, age: Any) -> dict[str, Any]:
        return {"n": {"Id": value}, "age": age} if key == "n__id" else {key: value, "age": age}

    fleet = Fleet(
        tmp_path, connection(resource(primary_key=key, columns={"age": {"data_type": "bigint"}}, absent="remove"))
    )
    fleet.holds([row(value, 1) for value in values])
    outcome = fleet.holds([row(values[0], 2), row(values[1], "unknown"), row(values[2], 2)])
    assert (outcome.rows_rejected, outcome.absences.gone) == (1, 0)
    assert sorted(row["age"] for row in rows_of(tmp_path)) == [1, 2, 2]


def holds(folder: Path, made: Connection, *rows: dict[str, Any]) -> Outcome:
    """Runs once while a server has these rows."""

    def answer(seen: Seen) -> Say:
        return Say(
            {
                "data": [] if "offset=0" not in seen.target and "offset" in seen.target else list(rows),
                "total": len(rows),
            }
        )

    with Scripted(answer) as server:
        return run(folder, server.url, made)


@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_a_lone_surrogate_in_a_key_does_not_stop_a_load(tmp_path: Path, normalizer: str) -> None:
    made = connection(resource(absent="remove", normalizer=normalizer))
    for _ in range(2):
        outcome = holds(tmp_path, made, {"id": "a", "v": "1"}, {"id": "\ud800", "v": "2"}, {"id": "b", "v": "\udc00"})
        assert (outcome.rows_rejected, outcome.row_count) == (2, 1)


@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_a_row_rejected_by_every_load_is_kept_once_with_first_and_last_time(tmp_path: Path, normalizer: str) -> None:
    made = connection(resource(normalizer=normalizer))
    bad = {"id": 2, "v": "\udc00"}
    for name in ("x", "y", "z"):
        assert holds(tmp_path, made, {"id": 1}, {**bad, "name": name}, {"v": "a"}).rows_rejected == 2
    found = sorted(rows_of(tmp_path, "devices_rejected", own=True), key=lambda row: str(row["row_json"]))
    assert [row["row_json"] for row in found] == ['{"id":2,"v":"\\udc00","name":"z"}', '{"v":"a"}']
    assert all(row["first_rejected_at"] < row["rejected_at"] for row in found)
    assert len({row["_dlt_load_id"] for row in found}) == 1
    holds(tmp_path, made, {"id": 1}, {"id": 2, "v": "b"})
    assert len(rows_of(tmp_path, "devices_rejected")) == 2
    holds(tmp_path, made, {"id": 1}, bad, {"v": "c"})
    assert len(rows_of(tmp_path, "devices_rejected")) == 3, "another row is a separate rejection"


def test_a_key_rejected_for_two_reasons_is_kept_twice(tmp_path: Path) -> None:
    made = connection(resource(columns={"n": {"data_type": "bigint"}, "m": {"data_type": "bigint"}}))
    for field in ("n", "m", "n"):
        holds(tmp_path, made, {"id": 1}, {"id": 2, field: "x"})
    found = sorted(rows_of(tmp_path, "devices_rejected"), key=lambda row: str(row["reason"]))
    assert [row["reason"].partition(":")[0] for row in found] == ["m", "n"]


def test_a_row_marked_as_deleted_only_needs_its_key(tmp_path: Path) -> None:
    columns = {
        "deleted": {"data_type": "bool", "hard_delete": True},
        "name": {"data_type": "text", "nullable": False},
        "at": {"data_type": "timestamp", "nullable": False},
    }
    full = {"deleted": False, "name": "a", "at": "2024-01-01T00:00:00Z"}
    made = connection(resource(columns=columns, absent="keep"))
    holds(tmp_path, made, {"id": 1, **full}, {"id": 2, **full})
    outcome = holds(tmp_path, made, {"id": 1, "deleted": True}, {"id": 3, "deleted": False})
    assert [row["id"] for row in rows_of(tmp_path)] == [2]
    assert outcome.rows_rejected == 1
    appended = connection(resource(columns=columns, write_disposition="append"))
    (tmp_path / "appended").mkdir()
    assert holds(tmp_path / "appended", appended, {"id": 1, **full}, {"id": 1, "deleted": True}).rows_rejected == 1


@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_a_text_longer_than_its_column_is_rejected(tmp_path: Path, normalizer: str) -> None:
    made = connection(resource(columns={"v": {"data_type": "text", "precision": 3}}, normalizer=normalizer))
    for end in "ab":
        rows: list[dict[str, Any]] = [
            {"id": 1, "v": f"ö{end}"},
            {"id": 2, "v": f"😀{end}c"},
            {"id": 3, "v": f"abc{end}"},
            {"id": 4},
        ]
        assert holds(tmp_path, made, *rows).rows_rejected == 1
        assert [row["v"] for row in rows_of(tmp_path)] == [f"ö{end}", f"😀{end}c", None]
    reasons = {row["reason"] for row in rows_of(tmp_path, "devices_rejected")}
    assert reasons == {"v: this text does not fit text (of at most 3 characters)"}


def test_integers_beyond_64_bits_land_as_text_with_dlt_s_normalizer(tmp_path: Path) -> None:
    made = connection(resource(normalizer="dlt"))
    for first in (2**63, 2**63 + 1):
        assert holds(tmp_path, made, {"id": 1, "n": first, "l": [-(2**70)]}, {"id": 2, "n": None}).rows_rejected == 0
        [one, _] = rows_of(tmp_path)
        assert (one["n"], one["l"]) == (str(first), f'["{-(2**70)}"]')
