"""Tests `full_every`: full reads between incremental ones settle absences, find late rows and move nothing on failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from rmm_assets.errors import IncompleteError, SuspiciousLossError
from rmm_assets.loading.outcome import Outcome
from rmm_assets.simulator import Simulator
from rmm_assets.simulator.faults import Faults
from rmm_assets_tests.audit.auditing import tamper
from rmm_assets_tests.orchestration import bench
from rmm_assets_tests.syncing import Row, absent, connection, ids, resource, rows_of, run

START = "2024-01-01T00:00:00Z"


def stamped(*numbers: int, day: int = 1, **more: Any) -> list[Row]:
    return [{"id": i, "name": f"PC-{i}", "updated_at": f"2024-02-{day:02}T00:00:00Z", **more} for i in numbers]


def ranged(**cursor: Any) -> dict[str, Any]:
    incremental = {
        "cursor_path": "updated_at",
        "start_param": "updated_since",
        "initial_value": START,
        "full_every": "7d",
    }
    return {"incremental": {**incremental, **cursor}}


class Fleet:
    """A server whose rows change between runs, a table, and a clock."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self.made = folder, connection(resource(endpoint=ranged(), **changes))
        self.server = Simulator(tables={"devices": []})

    def holds(self, rows: list[Row], made: Any = None) -> Outcome:
        self.server.set_rows("devices", rows)
        self.asked = len(self.server.requests)
        return run(self.folder, self.server.base_url, made or self.made)

    @property
    def since(self) -> set[str | None]:
        return {request.query.get("updated_since") for request in self.server.requests[self.asked :]}

    def days_pass(self, days: int) -> None:
        tamper(self.folder, f"UPDATE acme.rmm_syncs SET last_full_read = last_full_read - INTERVAL {days} DAY")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_full_every_reads_everything_when_it_is_due(normalizer: str, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, normalizer=normalizer)
    fleet.holds(stamped(1, 2, 3))
    assert fleet.since == {START}
    # 3 is gone, 4 is late, and 5 is new.
    now = [*stamped(1, 2), *stamped(4, day=1, name="late"), *stamped(5, day=9)]
    now[2]["updated_at"] = "2024-01-15T00:00:00Z"
    fleet.days_pass(6)
    for start in ("2024-01-31T23:55:00Z", "2024-02-08T23:55:00Z"):
        fleet.holds(now)
        assert fleet.since == {start}
    assert (ids(rows_of(tmp_path)), absent(tmp_path)) == ([1, 2, 3, 5], set())
    fleet.days_pass(1)
    outcome = fleet.holds(now)
    assert fleet.since == {START}
    assert (ids(rows_of(tmp_path)), absent(tmp_path)) == ([1, 2, 3, 4, 5], {3})
    assert (outcome.rows_new, outcome.rows_changed, outcome.absences.marked) == (1, 0, 1)
    # The next run continues after the newest row, and clears the mark of a row that is back.
    fleet.holds([*now, *stamped(3, day=9)])
    assert fleet.since == {"2024-02-08T23:55:00Z"}
    assert absent(tmp_path) == set()


@pytest.mark.slow
def test_a_full_read_that_fails_moves_nothing_and_stays_due(fleet: Fleet, tmp_path: Path) -> None:
    for _ in range(2):
        assert fleet.holds([*stamped(*range(1, 10)), *stamped(10, day=5)]).report.complete
    fleet.days_pass(8)
    before = rows_of(tmp_path, own=True)
    fleet.server.set_faults([Faults(total_off=1)])
    with pytest.raises(IncompleteError):
        fleet.holds(stamped(*range(1, 10), day=20))
    assert rows_of(tmp_path, own=True) == before
    fleet.server.set_faults([])
    # A key without permissions sees hardly anything.
    with pytest.raises(SuspiciousLossError):
        fleet.holds(stamped(1, 2))
    assert rows_of(tmp_path, own=True) == before
    fleet.holds(stamped(*range(1, 10), day=20))
    assert fleet.since == {START}
    assert absent(tmp_path) == {10}
    fleet.holds(stamped(*range(1, 10), day=20))
    assert fleet.since == {"2024-02-19T23:55:00Z"}


@pytest.mark.slow
def test_a_full_read_that_is_not_proven_complete_stays_due(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, on_incomplete="warn")
    fleet.holds(stamped(1, 2, 3))
    fleet.days_pass(8)
    fleet.server.set_faults([Faults(total_off=1)])
    assert fleet.holds(stamped(1, 2)).last_full_read is not None
    fleet.server.set_faults([])
    assert absent(tmp_path) == set()
    fleet.holds(stamped(1, 2))
    assert fleet.since == {START}
    assert absent(tmp_path) == {3}


@pytest.mark.slow
def test_a_full_read_starts_where_the_table_begins_although_the_file_has_moved_on(fleet: Fleet, tmp_path: Path) -> None:
    fleet.holds(stamped(1, 2))
    later = connection(resource(endpoint=ranged(initial_value="2024-02-02T00:00:00Z")))
    for _ in range(2):
        fleet.days_pass(8)
        fleet.holds([*stamped(1, 2), *stamped(3, day=9)], later)
        assert fleet.since == {START}
    assert absent(tmp_path) == set()


@pytest.mark.slow
def test_a_dropped_table_is_read_in_full(fleet: Fleet, tmp_path: Path) -> None:
    fleet.holds(stamped(1, 2))
    tamper(tmp_path, "DROP TABLE acme.devices")
    fleet.holds(stamped(1, 2))
    assert fleet.since == {START}
    assert ids(rows_of(tmp_path)) == [1, 2]


@pytest.mark.slow
def test_a_check_warns_if_the_last_full_read_is_overdue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACME_API_KEY", bench.KEY)
    made = {"name": "devices", "endpoint": {"path": "/v1/devices", **ranged()}}
    with dg.DagsterInstance.ephemeral() as instance, Simulator(tables={"devices": stamped(1, 2)}) as server:
        target = bench.connection(server.base_url, [made])
        found = bench.checks(bench.sync(target, instance))["last_full_read"]
        assert found.passed
        assert found.severity is dg.AssetCheckSeverity.WARN
        for days, passed in ((13, True), (2, False)):
            bench.query(f"UPDATE acme.rmm_syncs SET last_full_read = last_full_read - INTERVAL {days} DAY")
            assert bench.check_alone(target, instance, "last_full_read")["last_full_read"].passed is passed
        assert "last_full_read" not in bench.checks(bench.sync(bench.connection(server.base_url), instance))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"write_disposition": "append"}, "only a merge without history"),
        ({"history": True}, "only a merge without history"),
        ({"endpoint": ranged(end_value="2024-03-01T00:00:00Z")}, "never moves on"),
        ({"endpoint": ranged(full_every="weekly")}, "full_every"),
        ({"endpoint": ranged(full_every="0d")}, "full_every"),
    ],
)
def test_full_every_is_refused_where_it_does_not_work(changes: Row, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        connection(resource(**{"endpoint": ranged(), **changes}))
