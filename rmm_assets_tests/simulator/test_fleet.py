"""Tests the fleet: the same rows from the same seed, valid references, and changes over time."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from rmm_assets.simulator.fleet import RESOURCES, STATUSES, Fleet

TICKS = (0, 1, 2, 50, 333, 100_000)


@pytest.mark.slow
@pytest.mark.parametrize("resource", RESOURCES)
def test_the_same_seed_gives_the_same_rows_in_another_process(resource: str) -> None:
    program = (
        "import json; from rmm_assets.simulator import Fleet;"
        f"print(json.dumps(Fleet(seed=3, devices=30).rows({resource!r}, 12)))"
    )
    other = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert json.loads(other) == Fleet(seed=3, devices=30).rows(resource, 12)


def test_another_seed_gives_another_fleet() -> None:
    assert Fleet(seed=1).rows("devices") != Fleet(seed=2).rows("devices")


def test_the_default_fleet_has_the_sizes_it_states() -> None:
    sizes = {resource: len(Fleet().rows(resource)) for resource in RESOURCES}
    assert sizes == {"organizations": 12, "devices": 400, "alerts": 250, "patches": 900, "resource": 250}


@pytest.mark.parametrize("tick", TICKS)
def test_every_reference_points_to_a_row_of_the_same_tick(tick: int) -> None:
    fleet = Fleet()
    organizations = {row["id"]: row["name"] for row in fleet.rows("organizations", tick)}
    devices = fleet.rows("devices", tick)
    assert all(organizations[row["organization"]["id"]] == row["organization"]["name"] for row in devices)
    device_ids = {row["id"] for row in devices}
    assert {row["device_id"] for row in fleet.rows("alerts", tick)} <= device_ids
    assert {row["device_id"] for row in fleet.rows("patches", tick)} <= device_ids


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("tick", TICKS)
def test_ids_are_unique_and_statuses_are_known(resource: str, tick: int) -> None:
    rows = Fleet().rows(resource, tick)
    ids = [row["id"] for row in rows]
    assert ids == sorted(set(ids))
    assert {row["status"] for row in rows} <= set(STATUSES[resource])


@pytest.mark.slow
def test_few_rows_change_appear_or_disappear_per_tick() -> None:
    fleet = Fleet()
    flipped = came = went = 0
    before = {row["id"]: row for row in fleet.rows("devices", 0)}
    for tick in range(1, 31):
        after = {row["id"]: row for row in fleet.rows("devices", tick)}
        stayed = before.keys() & after.keys()
        flips = sum(before[key]["status"] != after[key]["status"] for key in stayed)
        assert flips + len(before.keys() ^ after.keys()) < 40
        flipped, came, went = (
            flipped + flips,
            came + len(after.keys() - before.keys()),
            went + len(before.keys() - after.keys()),
        )
        before = after
    assert flipped > 10
    assert came > 5
    assert went > 5


@pytest.mark.parametrize("resource", RESOURCES)
def test_a_row_only_changes_together_with_its_updated_at(resource: str) -> None:
    fleet = Fleet()
    changes = 0
    before = {row["id"]: row for row in fleet.rows(resource, 0)}
    for tick in (1, 2, 3, 40, 41, 200, 201):
        after = {row["id"]: row for row in fleet.rows(resource, tick)}
        for key in before.keys() & after.keys():
            if before[key] != after[key]:
                changes += 1
                assert before[key]["updated_at"] < after[key]["updated_at"]
        before = after
    assert changes


@pytest.mark.parametrize("resource", RESOURCES)
def test_updated_at_is_never_in_the_future_and_has_an_offset(resource: str) -> None:
    fleet = Fleet()
    for tick in TICKS:
        now = fleet.start + tick * fleet.tick_length
        moments = [datetime.fromisoformat(row["updated_at"]) for row in fleet.rows(resource, tick)]
        assert all(moment.tzinfo for moment in moments)
        assert max(moments) <= now


@pytest.mark.slow
@pytest.mark.parametrize("resource", ["alerts", "patches", "devices"])
def test_an_id_is_never_reused(resource: str) -> None:
    fleet = Fleet(devices=20, alerts=30, patches=30)
    constant = "device_id" if resource != "devices" else "uid"
    meanings: dict[int, object] = {}
    for tick in range(0, 2000, 7):
        for row in fleet.rows(resource, tick):
            assert meanings.setdefault(row["id"], row[constant]) == row[constant]


def test_device_rows_contain_every_kind_of_value() -> None:
    rows = Fleet().rows("devices")
    kinds = {type(value) for row in rows for value in row.values()}
    assert kinds == {int, float, str, bool, list, dict, type(None)}
    assert any(not name.isascii() for name in (row["name"] for row in rows))
    assert any(not row["organization"]["name"].isascii() for row in rows)
    assert any(row["manufacturer"] == "" for row in rows)
    assert any(row["location"] is None for row in rows)
    assert any(row["location"] and row["location"]["latitude"] is None for row in rows)
    assert any(row["tags"] == [] for row in rows)
    assert any(row["last_seen_at"].endswith("+09:00") for row in rows)


@pytest.mark.parametrize("resource", RESOURCES)
def test_null_statuses_appear_if_requested_and_change_nothing_else(resource: str) -> None:
    plain, holed = (
        Fleet(organizations=40).rows(resource),
        Fleet(organizations=40, null_statuses=0.3).rows(resource),
    )
    nulls = [row for row in holed if row["status"] is None]
    assert 0 < len(nulls) < len(holed)
    assert [{**row, "status": None} for row in plain] == [{**row, "status": None} for row in holed]


def test_tick_at_returns_the_tick_that_started_last() -> None:
    fleet = Fleet(tick_length=timedelta(minutes=1))
    assert fleet.tick_at(fleet.start + timedelta(seconds=119)) == 1
    assert fleet.tick_at(fleet.start + timedelta(seconds=120)) == 2
    assert fleet.tick_at(fleet.start - timedelta(days=1)) == 0


def test_a_fleet_can_be_empty() -> None:
    fleet = Fleet(organizations=0, devices=0, resources=0)
    assert [fleet.rows(resource) for resource in RESOURCES] == [[], [], [], [], []]


def test_impossible_fleets_and_ticks_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        Fleet(devices=-1)
    with pytest.raises(ValueError, match="at least one organization"):
        Fleet(organizations=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Fleet(null_statuses=2)
    with pytest.raises(ValueError, match="offset"):
        Fleet(start=Fleet().start.replace(tzinfo=None))
    with pytest.raises(ValueError, match="tick must not be negative"):
        Fleet().rows("devices", -1)
    with pytest.raises(KeyError):
        Fleet().rows("printers")
