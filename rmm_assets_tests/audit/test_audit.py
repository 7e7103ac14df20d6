"""Tests that an audit finds every difference in a table, and reports what it cannot decide as unverified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rmm_assets.simulator import Simulator
from rmm_assets_tests.audit.auditing import audited, copied, found, listing, parameters, tamper
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import connection, devices, resource, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a correct table of 500 devices, and one with values of many kinds, to be copied."""
    folder = tmp_path_factory.mktemp("loaded")
    (folder / "values").mkdir()
    with Simulator(tables={"devices": devices(500)}) as rmm:
        run(folder, rmm.base_url)
        rmm.set_rows("devices", VALUES)
        run(folder / "values", rmm.base_url, VALUES_IN)
    return folder


# A correct table


def test_a_correct_table_is_equal_and_the_audit_changes_nothing(tmp_path: Path) -> None:
    with Simulator() as rmm:
        for name in ("devices", "organizations"):
            run(tmp_path, rmm.base_url, connection(resource(name)), name)
            before = (tmp_path / "rmm.duckdb").read_bytes()
            result = audited(tmp_path, rmm.base_url, connection(resource(name)), name)
            assert (result.verdict, result.sentences()) == ("equal", [])
            assert result.rows_api == result.rows_table > 0
            assert (tmp_path / "rmm.duckdb").read_bytes() == before


def test_it_reads_different_pages_than_the_load_sequentially(tmp_path: Path) -> None:
    with Scripted(listing(devices(200), around=lambda offset, number: {"total": 200})) as server:
        run(tmp_path, server.url)
        server.seen.clear()
        server.most_at_once = 0
        assert audited(tmp_path, server.url).verdict == "equal"
        assert {parameters(seen)["limit"] for seen in server.seen} == {"97"}
        assert server.most_at_once == 1


VALUES: list[dict[str, Any]] = [
    {
        "id": 1,
        "at": "2024-05-01T10:00:00+02:00",
        "n": 1.5,
        "big": 2**53 + 1,
        "on": True,
        "tags": ["a", 1.0],
        "o": {"X": {"y": 1}},
    },
    {"id": 2, "at": "2024-05-01T10:00:00.123Z", "n": 2, "big": 1, "on": False, "tags": [], "o": {"X": {"y": 2}}},
    {"id": 3, "at": None, "n": None, "big": None, "on": None, "tags": None, "o": None},
    {"id": 4, "text": 'a"b\\ \u00fc\u2028 {"x":1}', "mixed": "7"},
    {"id": 5, "text": "", "mixed": 7},
]


VALUES_IN = connection(resource(columns={"at": {"data_type": "timestamp"}}))


def test_values_that_are_stored_in_another_form_are_equal(loaded: Path, tmp_path: Path) -> None:
    copied(loaded / "values", tmp_path)
    with Simulator(tables={"devices": VALUES}) as rmm:
        assert audited(tmp_path, rmm.base_url, VALUES_IN).sentences() == []


# A table that was changed


CHANGES: dict[str, tuple[str, dict[str, int]]] = {
    "deleted": ("DELETE FROM acme.devices WHERE id > 450", {"missing": 50}),
    "truncated": ("DELETE FROM acme.devices", {"missing": 500}),
    "marked": ("UPDATE acme.devices SET _absent_since = now() WHERE id <= 447", {"marked_absent": 447}),
    "added": (
        "INSERT INTO acme.devices BY NAME (SELECT * REPLACE (id + 1000 AS id) FROM acme.devices WHERE id <= 7)", {"extra": 7}
    ),
    "doubled": ("INSERT INTO acme.devices BY NAME (SELECT * FROM acme.devices WHERE id <= 3)", {"extra": 3}),
    "value": ("UPDATE acme.devices SET status = 'offline' WHERE id = 17", {"different": 1}),
    "null": ("UPDATE acme.devices SET name = NULL WHERE id IN (1, 2)", {"different": 2}),
    "stale column": ("ALTER TABLE acme.devices ADD COLUMN old_name VARCHAR DEFAULT 'x'", {"different": 500}),
    "lost column": ("ALTER TABLE acme.devices DROP COLUMN status", {"different": 500}),
    "no table": ("DROP TABLE acme.devices", {"missing": 500}),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_table_is_found(change: str, loaded: Path, tmp_path: Path) -> None:
    statement, expected = CHANGES[change]
    copied(loaded, tmp_path)
    tamper(tmp_path, statement)
    with Simulator(tables={"devices": devices(500)}) as rmm:
        result = audited(tmp_path, rmm.base_url)
    assert result.verdict == "differences"
    assert found(result) == expected
    assert all(result.examples[kind] for kind in expected)


def test_examples_name_keys_and_columns_and_no_sensitive_value(tmp_path: Path) -> None:
    made = connection(resource(primary_key=["id", "name"], columns={"name": {"sensitive": True}}))
    with Simulator(tables={"devices": devices(20)}) as rmm:
        run(tmp_path, rmm.base_url, made)
        tamper(tmp_path, "UPDATE acme.devices SET status = 'secret-status' WHERE id = 3")
        result = audited(tmp_path, rmm.base_url, made)
    assert result.examples == {"different": ("id 3, name ***",)}
    assert result.columns == {"status": 1}
    assert not [word for word in ("PC-", "secret-status", "online") if word in str(result.as_json())]


WRONG_VALUES = {
    "n": "1.5000001", "big": "9007199254740992", '"at"': "TIMESTAMPTZ '2024-05-01 10:00:00+00'", '"on"': "false",
    "tags": "'[1]'", "o__x__y": "2",
}  # fmt: skip


@pytest.mark.parametrize("column", WRONG_VALUES)
def test_each_kind_of_value_is_compared_exactly(column: str, loaded: Path, tmp_path: Path) -> None:
    copied(loaded / "values", tmp_path)
    tamper(tmp_path, f"UPDATE acme.devices SET {column} = {WRONG_VALUES[column]} WHERE id = 1")
    with Simulator(tables={"devices": VALUES}) as rmm:
        result = audited(tmp_path, rmm.base_url, VALUES_IN)
    assert result.columns == {column.strip('"'): 1}


def test_a_row_that_changes_during_the_audit_is_read_again(tmp_path: Path) -> None:
    rows = devices(100)
    with Scripted(lambda seen: listing(rows)(seen)) as server:
        run(tmp_path, server.url)
        walks = 0

        def moving(seen: Seen) -> Say:
            nonlocal walks
            walks += parameters(seen)["offset"] == "0"
            return listing(
                [{**row, "status": "busy" if walks == 1 and row["id"] == 9 else row["status"]} for row in rows]
            )(seen)

        with Scripted(moving) as busy:
            assert audited(tmp_path, busy.url).verdict == "equal"
    assert walks == 2
