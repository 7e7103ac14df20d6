"""Only rows that are new, have changed or are back are written, and every other row stays exactly as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from rmm_assets.config import Connection
from rmm_assets.errors import SuspiciousLossError
from rmm_assets.loading.outcome import Outcome
from rmm_assets.rows import stored_keys
from rmm_assets.simulator import Simulator
from rmm_assets_tests.commands import FORKS
from rmm_assets_tests.syncing import Row, absent, connection, devices, resource, rows_of, run

pytestmark = pytest.mark.slow


class Fleet:
    """A server whose rows change between runs, and the table they land in."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self.connection = folder, connection(resource(**{"max_absent_share": 1, **changes}))
        self.server = Simulator(tables={"devices": []})

    def holds(self, rows: list[Row], made: Connection | None = None) -> Outcome:
        """Runs once while the server holds these rows."""
        self.server.set_rows("devices", rows)
        return run(self.folder, self.server.base_url, made or self.connection)

    def loads(self) -> dict[Any, str]:
        """The load that last wrote each row, by id."""
        return {row["id"]: row["_dlt_load_id"] for row in rows_of(self.folder, own=True)}


def counts(outcome: Outcome) -> tuple[int, int, int, int]:
    return outcome.rows_loaded, outcome.rows_written, outcome.rows_new, outcome.rows_changed


BOTH = pytest.mark.parametrize("normalizer", ["arrow", "dlt"])


@BOTH
def test_only_rows_that_are_new_changed_or_back_are_written(normalizer: str, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, normalizer=normalizer)
    assert counts(fleet.holds(devices(10))) == (10, 10, 10, 0)
    fleet.holds(devices(9))  # 10 goes
    first = fleet.loads()
    wanted = [*devices(1, name="renamed"), *devices(8, first=2), *devices(2, first=10)]
    outcome = fleet.holds(wanted)
    assert counts(outcome) == (11, 3, 1, 2)
    second = fleet.loads()
    assert {id for id in second if second[id] != first.get(id)} == {1, 10, 11}
    assert {second[1], second[10], second[11]} == {outcome.load_id}
    assert rows_of(tmp_path) == wanted
    assert absent(tmp_path) == set()


@BOTH
def test_a_read_that_does_not_fit_into_memory_is_compared_in_parts(
    normalizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_keys, "PART_ROWS", 16)
    fleet = Fleet(tmp_path, normalizer=normalizer)
    assert counts(fleet.holds(devices(100))) == (100, 100, 100, 0)
    fleet.holds(devices(97))  # 98 to 100 go
    first = fleet.loads()
    wanted = [*devices(5, name="renamed"), *devices(85, first=6), *devices(3, first=99), *devices(2, first=201)]
    outcome = fleet.holds(wanted)
    assert counts(outcome) == (95, 10, 3, 7)
    second = fleet.loads()
    assert {id for id in second if second[id] != first.get(id)} == {1, 2, 3, 4, 5, 99, 100, 101, 201, 202}
    assert absent(tmp_path) == {*range(91, 99)}


@BOTH
def test_a_read_that_found_nothing_new_writes_nothing_and_still_sees_what_is_gone(
    normalizer: str, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, normalizer=normalizer)
    fleet.holds(devices(10))
    before = fleet.loads()
    outcome = fleet.holds(devices(8))
    assert counts(outcome) == (8, 0, 0, 0)
    assert outcome.load_id not in {"", *before.values()}
    assert outcome.row_count == 10
    assert outcome.absences.marked == 2
    assert absent(tmp_path) == {9, 10}
    assert fleet.loads() == before


def test_types_of_every_kind_are_recognized_as_unchanged(tmp_path: Path) -> None:
    row = {
        "id": 1, "name": "ä \x1f'\"", "flag": False, "count": 7, "big": 2**62, "share": 0.1, "zero": -0.0, "none": None,
        "when": "2026-11-29T10:11:12.123456+02:00", "day": "2026-11-29", "mixed": "12", "list": [1, {"b": None, "a": 2}],
        "nested": {"city": "Köln", "geo": {"lat": 50.9}}, "price": "12.50",
    }  # fmt: skip
    fleet = Fleet(tmp_path, columns={"price": {"data_type": "decimal"}, "day": {"data_type": "date"}})
    fleet.holds([row, {**row, "id": 2, "mixed": 12}, {"id": 3}])
    assert counts(fleet.holds([row, {**row, "id": 2, "mixed": 12}, {"id": 3}])) == (3, 0, 0, 0)
    # The same content, written in another way.
    other = {**dict(reversed(row.items())), "when": "2026-11-29T08:11:12.123456Z", "price": 12.5, "list": [1, {"a": 2}]}
    assert counts(fleet.holds([other, {**row, "id": 2, "mixed": 12}, {"id": 3, "name": None}])) == (3, 0, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""}, {"name": "b"}, {"flag": True}, {"count": 8}, {"share": 0.2}, {"when": "2026-11-29T10:11:12.000001Z"},
        {"list": [2, 1]}, {"nested": {"city": None}}, {"nested": {"town": "Bonn"}}, {"more": 0}, {"more": ""},
    ],
    ids=str,
)  # fmt: skip
def test_a_change_of_any_value_is_written(change: Row, tmp_path: Path) -> None:
    row = {
        "id": 1, "name": None, "flag": False, "count": 7, "share": 0.1, "when": "2026-11-29T10:11:12Z", "list": [1, 2],
        "nested": {"city": "Bonn"},
    }  # fmt: skip
    fleet = Fleet(tmp_path)
    fleet.holds([row, {**row, "id": 2}])
    assert counts(fleet.holds([{**row, **change}, {**row, "id": 2}])) == (2, 1, 0, 1)


def test_a_field_that_the_api_no_longer_sends_is_emptied(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.holds([{"id": 1, "name": "a", "site": "HQ"}, {"id": 2, "name": "b", "site": None}])
    assert counts(fleet.holds([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])) == (2, 1, 0, 1)
    assert [row["site"] for row in rows_of(tmp_path)] == [None, None]


@BOTH
def test_a_row_whose_list_alone_has_changed_is_written_with_its_children(normalizer: str, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, child_tables=True, normalizer=normalizer)
    rows: list[Row] = [{"id": n, "disks": [{"name": "C", "parts": [{"size": 1}, {"size": n}]}]} for n in (1, 2, 3)]
    fleet.holds(rows)
    assert counts(fleet.holds(rows)) == (3, 0, 0, 0)
    changed: list[Row] = [rows[0], {"id": 2, "disks": [{"name": "C", "parts": [{"size": 9}]}]}, {"id": 3, "disks": []}]
    assert counts(fleet.holds(changed)) == (3, 2, 0, 2)
    assert sorted(row["size"] for row in rows_of(tmp_path, "devices__disks__parts")) == [1, 1, 9]
    assert len(rows_of(tmp_path, "devices__disks")) == 2
    moved: list[Row] = [{"id": 1, "disks": [{"name": "C", "parts": [{"size": 1}, {"size": 1}][::-1]}]}, *changed[1:]]
    assert counts(fleet.holds(moved)) == (3, 0, 0, 0)


def test_rows_of_a_table_without_hashes_are_all_written_once(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.holds(devices(10))
    fleet.holds(devices(9))
    with duckdb.connect(str(tmp_path / "rmm.duckdb")) as client:
        client.execute("UPDATE acme.devices SET _content_hash = NULL")
    outcome = fleet.holds([*devices(8), *devices(2, first=10)])
    assert counts(outcome) == (10, 10, 1, 1)  # 11 is new and 10 is back
    assert "8 rows of the table were written by an older version" in outcome.report.warnings[-1]
    assert absent(tmp_path) == {9}
    assert counts(fleet.holds([*devices(8), *devices(2, first=10)])) == (10, 0, 0, 0)


def _load_once(folder: Path) -> None:
    (folder / "counts").write_text(str(counts(Fleet(folder).holds(devices(5)))))


def test_a_hash_means_the_same_in_every_process(tmp_path: Path) -> None:
    # Python's own hashes of texts differ from process to process.
    assert counts(Fleet(tmp_path).holds(devices(5))) == (5, 5, 5, 0)
    other = FORKS.Process(target=_load_once, args=(tmp_path,))
    other.start()
    other.join(300)
    assert (tmp_path / "counts").read_text() == "(5, 0, 0, 0)"


def test_a_loss_is_judged_by_the_last_read_and_not_by_the_rows_that_were_written(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, max_absent_share=0.5)
    fleet.holds(devices(10))
    assert counts(fleet.holds([*devices(1, name="renamed"), *devices(9, first=2)])) == (10, 1, 0, 1)
    with pytest.raises(SuspiciousLossError, match="sent 4 rows but the last read had 10"):
        fleet.holds(devices(4))


def test_rows_flagged_as_deleted_leave_and_are_not_counted_again(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, columns={"gone": {"data_type": "bool", "hard_delete": True}})
    fleet.holds([{**row, "gone": False} for row in devices(3)])
    rows = [{**row, "gone": row["id"] == 2} for row in devices(3)]
    outcome = fleet.holds(rows)
    assert (outcome.rows_written, outcome.rows_new, outcome.rows_changed, outcome.row_count) == (1, 0, 0, 2)
    outcome = fleet.holds(rows)
    assert (outcome.rows_written, outcome.rows_new, outcome.rows_changed, outcome.row_count) == (0, 0, 0, 2)


def test_a_merge_key_replaces_all_rows_that_share_it(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, merge_key="site", absent="keep")
    rows = [{**row, "site": row["id"] % 2} for row in devices(6)]
    fleet.holds(rows)
    assert len(rows_of(tmp_path)) == 6
    fleet.holds([{**rows[0], "name": "renamed"}, *rows[1:]])
    assert len(rows_of(tmp_path)) == 6
