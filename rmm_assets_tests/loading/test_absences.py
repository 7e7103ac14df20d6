"""Tests that rows that disappear at the source are marked, removed or kept, and only after a complete full read."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from rmm_assets.config import Connection
from rmm_assets.errors import IncompleteError, SuspiciousLossError
from rmm_assets.loading.outcome import Outcome
from rmm_assets.simulator import Simulator
from rmm_assets.simulator.faults import Faults, Move
from rmm_assets.tables.absences import Absences
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import absent, connection, devices, ids, resource, rows_of, run

pytestmark = pytest.mark.slow


class Fleet:
    """A server whose rows change between runs, and the table that they are loaded into."""

    def __init__(self, folder: Path, made: Connection | None = None) -> None:
        self.folder, self.connection = folder, made or connection()
        self.server = Simulator(tables={"devices": []})

    def holds(self, rows: list[dict[str, Any]], **options: Any) -> Outcome:
        """Runs once while the server has these rows."""
        self.server.set_rows("devices", rows)
        return run(self.folder, self.server.base_url, options.pop("connection", self.connection), **options)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self.folder)

    @property
    def absent(self) -> set[Any]:
        return absent(self.folder)

    def since(self, row_id: int) -> datetime | None:
        [found] = [row["_absent_since"] for row in rows_of(self.folder, own=True) if row["id"] == row_id]
        return found  # type: ignore[no-any-return]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_a_missing_row_is_marked_once_and_cleared_when_it_returns(fleet: Fleet) -> None:
    fleet.holds(devices(10))
    assert fleet.absent == set()

    assert fleet.holds(devices(9)).absences == Absences(gone=1, marked=1)
    assert fleet.absent == {10}
    first = fleet.since(10)

    assert fleet.holds(devices(9)).absences == Absences()
    assert fleet.since(10) == first

    assert fleet.holds(devices(10)).absences == Absences()
    assert fleet.absent == set()
    assert fleet.rows == devices(10)


def test_a_mark_does_not_change_when_another_row_disappears(fleet: Fleet) -> None:
    fleet.holds(devices(10))
    fleet.holds(devices(9))
    first = fleet.since(10)
    assert fleet.holds(devices(8)).absences == Absences(gone=1, marked=1)
    second = fleet.since(9)
    assert first is not None
    assert second is not None
    assert fleet.since(10) == first < second


def test_missing_rows_keep_their_values(fleet: Fleet) -> None:
    fleet.holds(devices(10))
    assert fleet.holds(devices(9, name="renamed")).row_count == 10
    assert fleet.rows[9] == devices(1, first=10)[0]


def test_absent_remove_deletes_rows_and_absent_keep_leaves_them(tmp_path: Path) -> None:
    removes = Fleet(tmp_path / "removes", connection(resource(absent="remove")))
    keeps = Fleet(tmp_path / "keeps", connection(resource(absent="keep")))
    for fleet in (removes, keeps):
        fleet.holds(devices(10))
    assert removes.holds(devices(8)).absences == Absences(gone=2, marked=2)
    assert removes.holds(devices(8)).absences == Absences(removed=2)
    assert removes.rows == devices(8)
    assert keeps.holds(devices(8)).absences == Absences()
    assert keeps.rows == devices(10)
    assert "_absent_since" not in rows_of(keeps.folder, own=True)[0]


def test_a_row_marked_earlier_is_deleted_after_switching_to_remove(fleet: Fleet) -> None:
    fleet.holds(devices(10))
    fleet.holds(devices(9))
    fleet.holds(devices(9), connection=connection(resource(absent="remove")))
    assert fleet.rows == devices(9)


@pytest.mark.parametrize(("absent_is", "normalizer"), [("mark", "arrow"), ("remove", "dlt")])
def test_child_rows_stay_with_a_marked_row_and_are_deleted_with_a_removed_one(
    absent_is: str, normalizer: str, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, connection(resource(absent=absent_is, child_tables=True, normalizer=normalizer)))
    tagged = [{**row, "disks": [{"name": "C", "parts": [{"size": 1}, {"size": 2}]}]} for row in devices(4)]
    fleet.holds(tagged)
    assert len(rows_of(tmp_path, "devices__disks__parts")) == 8
    for _ in range(2):
        fleet.holds(tagged[:3])
    left = 4 if absent_is == "mark" else 3
    assert len(rows_of(tmp_path, "devices__disks")) == left
    assert len(rows_of(tmp_path, "devices__disks__parts")) == 2 * left
    assert fleet.absent == ({4} if absent_is == "mark" else set())
    fleet.holds(tagged)
    assert fleet.absent == set()
    assert len(rows_of(tmp_path, "devices__disks__parts")) == 8


# Cases in which nothing is marked

TOO_MANY = "more than max_absent_share ({}%) of the rows that were present"


def test_a_read_of_mostly_different_rows_marks_none_and_warns(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    # As many rows as before, but different ones, such as another customer's fleet. Their number alone shows nothing.
    fleet.holds(devices(10))
    with caplog.at_level(logging.WARNING, "rmm_assets"):
        assert fleet.holds(devices(10, first=101)).absences == Absences(gone=10, held_back=TOO_MANY.format(50))
    assert fleet.absent == set()
    assert (
        f"10 rows of the table are missing from the read; they stay as they are: {TOO_MANY.format(50)}" in caplog.text
    )


def test_max_absent_share_is_relative_to_the_rows_before(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, connection(resource(max_absent_share=0.2)))
    fleet.holds(devices(10))
    # 3 of 10 are missing, which is above the share although the table now has 100 rows.
    assert fleet.holds([*devices(7), *devices(90, first=101)]).absences == Absences(
        gone=3, held_back=TOO_MANY.format(20)
    )
    # The next read sees the same three among 100.
    assert fleet.holds([*devices(7), *devices(90, first=101)]).absences == Absences(gone=3, marked=3)


def test_max_absent_share_is_relative_to_the_rows_that_are_not_marked(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, connection(resource(max_absent_share=0.5)))
    fleet.holds(devices(20))
    assert fleet.holds([*devices(10), *devices(10, first=101)]).absences == Absences(gone=10, marked=10)
    # 15 of 30 rows of the table, but of only 20 that the API last had.
    assert fleet.holds([*devices(5, first=101), *devices(10, first=201)]).absences == Absences(
        gone=15, held_back=TOO_MANY.format(50)
    )


def test_an_empty_read_of_a_filled_table_is_red_and_the_table_unchanged(fleet: Fleet) -> None:
    fleet.holds(devices(10))
    before = rows_of(fleet.folder, own=True)
    for left in (0, 4):
        with pytest.raises(SuspiciousLossError, match=f"sent {left} rows but the last read had 10"):
            fleet.holds(devices(left))
        assert rows_of(fleet.folder, own=True) == before
    assert fleet.holds(devices(5)).absences.marked == 5


def test_a_loss_of_rows_without_a_key_is_not_made_up_for_by_repeats(tmp_path: Path) -> None:
    endpoint = {"paginator": {"type": "offset", "limit": 2}}
    made = connection(resource(write_disposition="replace", primary_key=None, endpoint=endpoint))
    fleet = Fleet(tmp_path, made)
    fleet.holds(devices(6))
    with pytest.raises(SuspiciousLossError, match="sent 2 rows but the last read had 6"):
        fleet.holds([*devices(2), *devices(2)])
    assert rows_of(tmp_path) == devices(6)


def test_an_empty_200_for_a_wrong_key_is_red_and_the_table_unchanged(fleet: Fleet) -> None:
    fleet.holds(devices(10))
    fleet.server.set_faults(Faults(empty=True))
    with pytest.raises(SuspiciousLossError, match="This also happens if the key has lost permissions"):
        fleet.holds(devices(10))
    assert fleet.absent == set()


def test_an_empty_fleet_is_accepted_if_the_connection_allows_it(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, connection(resource(max_absent_share=1)))
    fleet.holds(devices(3))
    outcome = fleet.holds([])
    assert (outcome.absences, outcome.row_count) == (Absences(gone=3, marked=3), 3)
    fleet.holds(devices(3))
    assert fleet.absent == set()


def test_after_an_incomplete_read_nothing_is_marked(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, connection(resource(on_incomplete="warn", max_absent_share=1)))
    fleet.holds(devices(300))
    fleet.server.set_faults(Faults(total_off=1))
    outcome = fleet.holds(devices(290))
    assert not outcome.report.complete
    assert "reports 291 rows; 290 distinct rows" in outcome.report.reason
    assert fleet.absent == set()
    fleet.server.set_faults([])
    assert fleet.holds(devices(290)).absences.marked == 10


def test_on_incomplete_warn_loads_the_received_rows_although_rows_kept_moving(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, connection(resource(on_incomplete="warn")))
    fleet.server.set_faults(Faults(move=Move(delete=1)))
    outcome = fleet.holds(devices(600))
    assert not outcome.report.complete
    assert outcome.row_count > 500
    with pytest.raises(IncompleteError):
        fleet.holds(devices(600), connection=connection())


def test_on_incomplete_warn_reads_to_the_end_if_rows_moved_in_every_pass(tmp_path: Path) -> None:
    # The second page exists, the third one never does: each of the three passes ends there.
    rows = devices(450)

    def answer(seen: Seen) -> Say:
        offset = int(dict(parse_qsl(urlsplit(seen.target).query))["offset"])
        if offset > 100:
            del rows[0]
        return Say({"data": rows[offset : offset + 100], "total": 450})

    made = connection(resource(on_incomplete="warn"), limits={"max_concurrency": 1})
    with Scripted(answer) as server:
        outcome = run(tmp_path, server.url, made)
    assert not outcome.report.complete
    assert outcome.report.reason == "rows moved between pages while they were read"
    assert outcome.row_count > 400
    assert ids(rows_of(tmp_path))[-1] == 450


def test_after_a_partial_read_nothing_is_marked(tmp_path: Path) -> None:
    fleet, maximum = Fleet(tmp_path), 200
    fleet.holds(devices(300))
    paginator = {"type": "offset", "limit": 100, "maximum_offset": maximum}
    outcome = fleet.holds(devices(300), connection=connection(resource(endpoint={"paginator": paginator})))
    assert outcome.report.partial
    assert (outcome.rows_loaded, fleet.absent) == (maximum, set())


@pytest.mark.parametrize(
    ("cut", "paging", "some_of_them"),
    [
        ("parent", {"type": "offset", "limit": 4}, {"maximum_offset": 4}),
        ("child", {"type": "page_number", "base_page": 1, "total_path": None}, {"maximum_page": 2}),
    ],
    ids=["parent by offset", "child by page number"],
)
def test_after_a_partial_read_of_a_parent_or_of_a_child_nothing_is_marked(
    cut: str, paging: dict[str, Any], some_of_them: dict[str, Any], tmp_path: Path
) -> None:
    organizations = [{"id": number} for number in range(1, 7)]
    rows = [{**row, "organization_id": 1 + row["id"] % 6} for row in devices(36)]

    def made(**maximum: Any) -> Connection:
        own = {"paginator": {**paging, **maximum}, "params": {} if paging["type"] == "offset" else {"per_page": 4}}
        whole: dict[str, Any] = {"paginator": {"type": "offset", "limit": 100}}
        path = {"path": "/v1/organizations/{resources.organizations.id}/devices"}
        parent, child = (own, whole) if cut == "parent" else (whole, own)
        return connection(resource("organizations", endpoint=parent), resource(endpoint={**path, **child}))

    with Simulator(tables={"organizations": organizations, "devices": rows}) as server:
        assert run(tmp_path, server.base_url, made()).row_count == 36
        outcome = run(tmp_path, server.base_url, made(**some_of_them))
    assert outcome.report.partial
    assert outcome.rows_loaded == 24
    assert outcome.absences == Absences()
    assert absent(tmp_path) == set()


def test_after_an_incremental_read_nothing_is_marked(tmp_path: Path) -> None:
    stamped = [{**row, "updated_at": f"2024-01-{row['id']:02}T00:00:00Z"} for row in devices(10)]
    incremental = {"cursor_path": "updated_at", "start_param": "updated_since", "initial_value": "2024-01-01T00:00:00Z"}
    fleet = Fleet(tmp_path, connection(resource(endpoint={"incremental": incremental})))
    fleet.holds(stamped)
    assert fleet.holds(stamped[5:]).absences == Absences()
    assert ids(fleet.rows) == list(range(1, 11))
    assert fleet.absent == set()


def test_a_rejected_row_is_not_marked(tmp_path: Path) -> None:
    columns = {"id": {"data_type": "bigint"}, "age": {"data_type": "bigint"}}
    for policy in ("mark", "remove"):
        fleet = Fleet(tmp_path / policy, connection(resource(columns=columns, absent=policy)))
        fleet.holds(devices(10, age=1))
        for gone in (1, 0):
            outcome = fleet.holds([*devices(8, age=2), *devices(1, first=9, age="unknown")])
            assert outcome.rows_rejected == 1
            assert outcome.absences.gone == gone
        assert fleet.absent == ({10} if policy == "mark" else set())
        assert 9 in ids(fleet.rows)


def test_rejected_rows_are_not_marked_however_many(tmp_path: Path) -> None:
    columns = {"id": {"data_type": "bigint"}, "age": {"data_type": "bigint"}}
    fleet = Fleet(tmp_path, connection(resource(columns=columns, absent="remove")))
    fleet.holds(devices(2100, age=1))
    for expected in (Absences(gone=2, marked=2), Absences(removed=2)):
        outcome = fleet.holds([*devices(1095, age=2), *devices(1003, first=1096, age="unknown")])
        assert outcome.rows_rejected == 1003
        assert outcome.absences == expected
    assert ids(fleet.rows) == list(range(1, 2099))


# History


def versions(fleet: Fleet) -> list[tuple[int, str, bool]]:
    """Returns id, name and whether it is valid for every version."""
    found = rows_of(fleet.folder, own=True)
    return sorted((row["id"], row["name"], row["_dlt_valid_to"] is None) for row in found)


def test_history_keeps_every_version_and_ends_missing_rows(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, connection(resource(history=True)))
    fleet.holds(devices(3))
    fleet.holds([*devices(1), *devices(1, first=2, name="new")])
    assert versions(fleet) == [
        (1, "PC-0001", True), (2, "PC-0002", False), (2, "new", True), (3, "PC-0003", False),
    ]  # fmt: skip
    fleet.holds(devices(3))
    assert [version for version in versions(fleet) if version[2]] == [(i, f"PC-{i:04}", True) for i in (1, 2, 3)]


def test_a_loss_that_is_not_accepted_does_not_end_history(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, connection(resource(history=True)))
    fleet.holds(devices(10))
    fleet.holds([*devices(9), *devices(1, first=10, name="renamed")])
    # One row has the last load id, but ten are valid.
    with pytest.raises(SuspiciousLossError, match="sent 4 rows but the last read had 10"):
        fleet.holds(devices(4))


def test_an_incomplete_or_partial_read_does_not_end_history(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, connection(resource(history=True, on_incomplete="warn")))
    fleet.holds(devices(300))
    fleet.server.set_faults(Faults(total_off=1))
    with pytest.raises(IncompleteError, match="history would end every row missing from this read"):
        fleet.holds(devices(290))
    fleet.server.set_faults([])
    paginator = {"type": "offset", "limit": 100, "maximum_offset": 200}
    partial = connection(resource(history=True, on_incomplete="warn", endpoint={"paginator": paginator}))
    with pytest.raises(IncompleteError, match="history would end every row missing from this read"):
        fleet.holds(devices(300), connection=partial)
    assert [(number, valid) for number, _, valid in versions(fleet)] == [(i, True) for i in range(1, 301)]


def test_history_ends_every_version_if_an_empty_fleet_is_accepted(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, connection(resource(history=True, max_absent_share=1)))
    fleet.holds(devices(3))
    assert fleet.holds([]).load_id
    assert versions(fleet) == [(i, f"PC-{i:04}", False) for i in (1, 2, 3)]
    fleet.holds(devices(2))
    assert [number for number, _, valid in versions(fleet) if valid] == [1, 2]


def test_history_with_an_incremental_range_only_ends_changed_rows(tmp_path: Path) -> None:
    stamped = [{**row, "updated_at": f"2024-01-{row['id']:02}T00:00:00Z"} for row in devices(5)]
    incremental = {"cursor_path": "updated_at", "start_param": "updated_since", "initial_value": "2024-01-01T00:00:00Z"}
    fleet = Fleet(tmp_path, connection(resource(history=True, endpoint={"incremental": incremental})))
    fleet.holds(stamped)
    fleet.holds([*stamped[:4], {**stamped[4], "name": "new", "updated_at": "2024-02-01T00:00:00Z"}])
    assert [version for version in versions(fleet) if version[2]] == [
        *((i, f"PC-{i:04}", True) for i in range(1, 5)), (5, "new", True),
    ]  # fmt: skip


# Other write dispositions


def test_replace_contains_the_rows_of_the_api(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, connection(resource(write_disposition="replace")))
    fleet.holds(devices(10))
    fleet.holds(devices(8, first=3))
    assert fleet.rows == devices(8, first=3)
    with pytest.raises(SuspiciousLossError):
        fleet.holds([])


@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_replace_empties_the_table_if_an_empty_fleet_is_accepted(normalizer: str, tmp_path: Path) -> None:
    made = connection(resource(write_disposition="replace", max_absent_share=1, normalizer=normalizer))
    fleet = Fleet(tmp_path, made)
    fleet.holds(devices(3))
    emptied = fleet.holds([])
    assert emptied.load_id
    assert emptied.row_count == 0
    assert fleet.rows == []


def test_a_loss_is_relative_to_the_last_load_not_to_the_whole_table(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, connection(resource(absent="keep")))
    for first in (1, 11, 21, 31):
        fleet.holds(devices(10, first=first))
    assert len(fleet.rows) == 40
    with pytest.raises(SuspiciousLossError, match="sent 4 rows but the last read had 10"):
        fleet.holds(devices(4, first=41))


@pytest.mark.parametrize("strategy", ["upsert", "delete-insert"])
@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_marks_are_the_same_for_every_merge_strategy(strategy: str, normalizer: str, tmp_path: Path) -> None:
    disposition = {"disposition": "merge", "strategy": strategy}
    fleet = Fleet(tmp_path, connection(resource(write_disposition=disposition, normalizer=normalizer)))
    fleet.holds(devices(6))
    fleet.holds(devices(4))
    assert fleet.absent == {5, 6}
    fleet.holds(devices(6))
    assert fleet.absent == set()
    assert fleet.rows == devices(6)


def test_marks_are_right_with_skip_unchanged_rows(tmp_path: Path) -> None:
    disposition = {"disposition": "merge", "strategy": "upsert", "skip_unchanged_rows": True}
    fleet = Fleet(tmp_path, connection(resource(write_disposition=disposition)))
    fleet.holds(devices(10))
    assert fleet.holds([*devices(7, name="renamed"), *devices(2, first=8)]).absences == Absences(gone=1, marked=1)
    with pytest.raises(SuspiciousLossError, match="sent 4 rows but the last read had 9"):
        fleet.holds(devices(4))
    fleet.holds([*devices(7, name="renamed"), *devices(3, first=8)])
    assert fleet.absent == set()


@pytest.mark.parametrize(
    "disposition",
    [
        {"disposition": "merge", "strategy": "insert-only"},
        {"disposition": "merge", "strategy": "upsert", "source_filter": "id <= 20"},
    ],
    ids=["insert-only", "source_filter"],
)
def test_a_row_that_a_merge_leaves_unchanged_is_not_marked(disposition: dict[str, str], tmp_path: Path) -> None:
    made = connection(resource(write_disposition=disposition, max_absent_share=1))
    with Simulator(tables={"devices": devices(30)}) as server:
        run(tmp_path, server.base_url, connection(resource()))
        run(tmp_path, server.base_url, made)
    assert absent(tmp_path) == set()
